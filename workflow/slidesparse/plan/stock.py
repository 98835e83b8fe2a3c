"""The backend `vllm`: stock vLLM as a user would set it for each M, the best of a few variants, all measured."""

from typing import NamedTuple

BACKEND = "vllm"
"""A point of this backend is the fastest of its candidates' points; those have the name of a variant as backend."""

LARGEST_STOCK_GRAPH = 4096
"""Tokens of the largest step that the stock engine captures as a CUDA graph."""


class Variant(NamedTuple):
    """How stock vLLM is set; what is not named here is its default."""

    graphs: str
    """Mode of its CUDA graphs: FULL, FULL_AND_PIECEWISE or NONE."""
    num_splits: int
    """Most splits of a sequence's keys that attention inside a graph makes."""
    own_process: bool
    """The engine core in a process of its own, as by default, or in the caller's."""


VARIANTS = {
    f"{BACKEND}-{word}-{splits}{suffix}": Variant(graphs, splits, own)
    for own, suffix in ((False, ""), (True, "-own"))
    for word, graphs in (("full", "FULL"), ("piecewise", "FULL_AND_PIECEWISE"))
    for splits in (1, 32)
} | {f"{BACKEND}-eager": Variant("NONE", 1, False)}
"""name, which is also that of a backend of points: variant. vllm-eager is for CPUs, the others are for GPUs."""


def in_process(backend):
    """The variant that runs as `backend` does, in the caller's process; None if `backend` runs there itself."""
    if backend not in VARIANTS or not VARIANTS[backend].own_process:
        return None
    return next(name for name, variant in VARIANTS.items() if variant == VARIANTS[backend]._replace(own_process=False))


def variants_at(stage, M, processor):
    """Names of the variants among which the best at M (tokens of a prefill step, or sequences that decode) is found.

    processor: gpu or cpu. Left out are those that would run as another one does: on CPUs there are no graphs; a prefill
    step above LARGEST_STOCK_GRAPH is captured in no mode and runs as compiled, so that modes and splits do not differ;
    a batch of decodes is one full graph in either mode, so that only splits and processes do.
    """
    if processor == "cpu":
        return [f"{BACKEND}-eager"]
    if stage == "decode":
        settings = ("piecewise-1", "piecewise-32")
    elif M > LARGEST_STOCK_GRAPH:
        settings = ("piecewise-32",)
    else:
        settings = ("full-1", "full-32", "piecewise-1", "piecewise-32")
    return [f"{BACKEND}-{setting}{suffix}" for suffix in ("", "-own") for setting in settings]
