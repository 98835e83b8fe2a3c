"""Files of either layout -> rows, the one tidy form."""
