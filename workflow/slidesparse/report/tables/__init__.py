"""Points -> CSVs: gathered, of tasks, and in the published layout."""
