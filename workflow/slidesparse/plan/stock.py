"""The backend `vllm`: stock vLLM as a user would set it. A few variants are measured at each M; the fastest counts."""

from typing import NamedTuple

BACKEND = "vllm"
"""A point of this backend is that of the fastest variant. Points of variants have the variant's name as backend."""

LARGEST_STOCK_GRAPH = 4096
"""Tokens of the largest step that the stock engine captures as a CUDA graph."""


class Variant(NamedTuple):
    """Settings of stock vLLM. All others keep their defaults."""

    graphs: str
    """Mode of the CUDA graphs: FULL, FULL_AND_PIECEWISE or NONE."""
    num_splits: int
    """Most splits of a sequence's keys that attention makes inside a graph."""
    own_process: bool
    """Whether the engine core runs in a process of its own, as by default, or in the caller's."""


VARIANTS = {
    f"{BACKEND}-{word}-{splits}{suffix}": Variant(graphs, splits, own)
    for own, suffix in ((False, ""), (True, "-own"))
    for word, graphs in (("full", "FULL"), ("piecewise", "FULL_AND_PIECEWISE"))
    for splits in (1, 32)
} | {f"{BACKEND}-eager": Variant("NONE", 1, False)}
"""name: variant. The name is also the backend of its points. vllm-eager is for CPUs, all others are for GPUs."""


def in_process(backend):
    """Name of the same variant in the caller's process; None if `backend` is no variant with a process of its own."""
    if backend not in VARIANTS or not VARIANTS[backend].own_process:
        return None
    return next(name for name, variant in VARIANTS.items() if variant == VARIANTS[backend]._replace(own_process=False))


def ran(name, graph_mode):
    """Name of the variant that ran where `name` was asked for, whose steps had the CUDA graph mode of a point.

    vLLM makes piecewise graphs where its attention does not support full ones, as FlashAttention 2 in prefill.
    """
    if VARIANTS[name].graphs != "FULL" or "PIECEWISE" not in graph_mode.split("+"):
        return name
    return name.replace("-full-", "-piecewise-")


def variants_at(stage, M, attention):
    """Names of the variants that are measured at M (tokens of a prefill step, or sequences of decode).

    attention: version of FlashAttention that vLLM takes there (`machine.families`); None on a CPU. Variants that would
    run like another one are left out:

    - On CPUs there are no graphs.
    - With FlashAttention 2 prefill has no full graphs, and kernels choose their splits themselves.
    - A prefill step above LARGEST_STOCK_GRAPH is captured in no mode and runs as compiled, so modes and splits make no
      difference.
    - A batch of decodes is one full graph in either mode, so only splits and processes make a difference.
    """
    if attention is None:
        return [f"{BACKEND}-eager"]
    if attention == 2 or (stage == "prefill" and M > LARGEST_STOCK_GRAPH):
        settings = ("piecewise-32",)
    elif stage == "decode":
        settings = ("piecewise-1", "piecewise-32")
    else:
        settings = ("full-1", "full-32", "piecewise-1", "piecewise-32")
    return [f"{BACKEND}-{setting}{suffix}" for suffix in ("", "-own") for setting in settings]
