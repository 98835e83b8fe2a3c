"""Tasks of EleutherAI's lm-evaluation-harness, scored by the engines that prefill and decode time."""
