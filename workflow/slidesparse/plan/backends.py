"""The table of GEMM backends that planning uses. slidesparse/gemm runs them."""

from typing import NamedTuple

from slidesparse.plan import stock

STAGES = ("kernel", "prefill", "decode")

DTYPES = ("INT8", "FP8")


class Backend(NamedTuple):
    """One GEMM backend, as planning knows it."""

    sparse: bool
    """Whether it runs a stage's sparsity patterns. Others run the dense checkpoint."""
    processor: str
    """gpu, cpu or any."""
    stages: tuple = STAGES
    engine_dtypes: tuple = DTYPES
    """Types of weights and activations that it runs in prefill and decode."""
    module: str | None = None
    """Module of slidesparse.gemm that runs its products; None if it has none of its own."""
    peer: bool = False
    """Whether every kernel point on its processor is measured in turn with it."""
    searched: bool = True
    """Whether it has algorithms to search, and so a tuning table."""
    also_dense: bool = False
    """Whether it runs the dense checkpoint as well, if it is listed for that."""
    int32: bool = False
    """Whether its INT8 products can have INT32 outputs, which are then measured beside BF16."""


ENGINES = ("prefill", "decode")

BACKENDS = {
    "cublaslt": Backend(False, "gpu", module="cublaslt", peer=True, int32=True),
    "cutlass": Backend(False, "gpu", module="cutlass", peer=True, searched=False),
    # torch runs INT8 products with cuBLASLt and its default heuristics.
    "torch": Backend(False, "gpu", engine_dtypes=("FP8",), module="torch_mm", peer=True, searched=False, int32=True),
    stock.BACKEND: Backend(False, "any", ENGINES),
    "cusparselt": Backend(True, "gpu", module="cusparselt"),
    "auto": Backend(True, "any", ENGINES, also_dense=True),
    "onednn": Backend(False, "cpu", module="onednn"),
    "reference": Backend(True, "cpu", module="reference"),
}

DENSE_BACKENDS = tuple(name for name, backend in BACKENDS.items() if not backend.sparse)
"""Backends that multiply dense weights. Speed-ups are over the first one that was measured, stock vLLM left out."""

PEERS = {
    processor: {name: one.searched for name, one in BACKENDS.items() if one.peer and one.processor == processor}
    for processor in ("gpu", "cpu")
}
"""Dense backends that take turns with every kernel point, by processor: name -> whether it has algorithms to search."""


def configurable(processor):
    """{key under `backends` of the configuration: names that it may list}; processor: gpu or cpu."""
    runs = {name: one for name, one in BACKENDS.items() if one.processor in (processor, "any")}
    return {
        "dense": [name for name, one in runs.items() if not one.sparse or one.also_dense],
        "sparse": [name for name, one in runs.items() if one.sparse],
        "dense_on_pruned": [
            name for name, one in runs.items() if not one.sparse and one.module and one.engine_dtypes == DTYPES
        ],
    }


def peers(root, hardware_key, model, dtype, backend):
    """{dense backend that takes turns with a kernel point of `backend`: path of its tuning table, or None}.

    root: where results lie, such as `results`.
    """
    known = PEERS[BACKENDS[backend].processor] if backend in BACKENDS else {}
    return {
        peer: f"{root}/{hardware_key}/tuning/{model}/{dtype}/{peer}/dense.json" if searched else None
        for peer, searched in known.items()
        if peer != backend
    }


def deciding(stage, parameters):
    """The measuring parameters that decide a point's value. An engine's time limit does not; it only stops a point."""
    ends = {"time_limit_s"} if stage in ("prefill", "decode") else set()
    return {name: value for name, value in parameters.items() if name not in ends}
