"""What a point is, when it is stale, and how it is measured from start to stored file. Light: no torch, no vLLM."""
