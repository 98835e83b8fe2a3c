"""The kernel stage: products, whole linears and their points."""
