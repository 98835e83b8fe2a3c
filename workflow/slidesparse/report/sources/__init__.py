"""Files in our layout, in the published one, or as tidy tables -> rows, the one tidy form."""
