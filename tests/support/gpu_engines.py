"""A small BitNet for tests on a GPU, how its points are measured, and what an engine computes."""

import math

ENTRY = {
    "source": "generated",
    "seed": 7,
    "shape": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}
REPEATS = {"warmup_steps": 2, "min_repeats": 2, "max_repeats": 2, "relative_ci": 0.5, "time_limit_s": 120}
PREFILL = REPEATS | {"steps": 8, "prompt_cap": 256}
DECODE = REPEATS | {"prompt_len": 16, "output_len": 32}


def logits(engine, lengths=(64,) * 4, output_len=1):
    """Last-token logits of prompts that run in one step; of several output tokens, those of the second."""
    found, compute = [], engine.model.compute_logits

    def record(hidden):
        found.append(compute(hidden))
        return found[-1]

    engine.model.compute_logits = record
    engine.run(list(lengths), output_len, (sum(lengths), len(lengths)), math.inf)
    engine.model.compute_logits = compute
    return found[min(1, output_len - 1)].float().cpu()
