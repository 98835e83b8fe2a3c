"""Points -> CSVs: of configurations, of tasks, and in the published layout."""
