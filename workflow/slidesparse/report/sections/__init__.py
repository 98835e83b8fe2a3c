"""Rows -> the sections of a report."""
