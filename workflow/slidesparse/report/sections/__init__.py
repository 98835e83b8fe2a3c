"""Rows -> the parts of a report."""
