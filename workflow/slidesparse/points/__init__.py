"""What a point is, when it is stale, and how it is measured and stored. Imports neither torch nor vLLM."""
