"""The stages prefill and decode: an engine whose M is set for each measurement, and what it reports."""
