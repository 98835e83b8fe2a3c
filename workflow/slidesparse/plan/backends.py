"""What planning knows of GEMM backends; slidesparse/gemm runs them."""

from typing import NamedTuple

from slidesparse.plan import stock

STAGES = ("kernel", "prefill", "decode")

DTYPES = ("INT8", "FP8")


class Backend(NamedTuple):
    """What planning knows of a GEMM backend; slidesparse/gemm runs it."""

    sparse: bool
    """Runs a stage's sparsity patterns instead of the dense checkpoint."""
    processor: str
    """gpu, cpu or any."""
    stages: tuple = STAGES
    engine_dtypes: tuple = DTYPES
    """Types that it runs in prefill and decode."""
    module: str | None = None
    """Module of slidesparse.gemm that runs its products; None for a backend without products of its own."""
    peer: bool = False
    """Whether every kernel point on its processor is measured in turn with it."""
    searched: bool = True
    """Whether it has algorithms to search, and so a tuning table."""
    int32: bool = False
    """Whether its INT8 products can be left as INT32, which is then measured beside BF16."""


ENGINES = ("prefill", "decode")

BACKENDS = {
    "cublaslt": Backend(False, "gpu", module="cublaslt", peer=True, int32=True),
    "cutlass": Backend(False, "gpu", module="cutlass", peer=True, searched=False),
    # The INT8 product of torch is cuBLASLt's, by default heuristics.
    "torch": Backend(False, "gpu", engine_dtypes=("FP8",), module="torch_mm", peer=True, searched=False, int32=True),
    stock.BACKEND: Backend(False, "any", ENGINES),
    "cusparselt": Backend(True, "gpu", module="cusparselt"),
    "auto": Backend(True, "any", ENGINES),
    "onednn": Backend(False, "cpu", module="onednn"),
    "reference": Backend(True, "cpu", module="reference"),
}

DENSE_BACKENDS = tuple(name for name, backend in BACKENDS.items() if not backend.sparse)
"""Backends that multiply dense weights; the first one that was measured, other than stock vLLM, is the denominator of
speed-ups."""

PEERS = {
    processor: {name: one.searched for name, one in BACKENDS.items() if one.peer and one.processor == processor}
    for processor in ("gpu", "cpu")
}
"""Dense backends that every kernel point is measured in turn with: name -> has algorithms to search."""


def configurable(processor):
    """{key under `backends` of the configuration: names of the backends that it may list} for gpu or cpu."""
    runs = {name: one for name, one in BACKENDS.items() if one.processor in (processor, "any")}
    return {
        "dense": [name for name, one in runs.items() if not one.sparse],
        "sparse": [name for name, one in runs.items() if one.sparse],
        "dense_on_pruned": [
            name for name, one in runs.items() if not one.sparse and one.module and one.engine_dtypes == DTYPES
        ],
    }


def peers(root, hardware_key, model, dtype, backend):
    """{dense backend that a kernel point of `backend` is measured in turn with: path of its tuning table, or None}.

    root: where results lie, such as `results`.
    """
    known = PEERS[BACKENDS[backend].processor] if backend in BACKENDS else {}
    return {
        peer: f"{root}/{hardware_key}/tuning/{model}/{dtype}/{peer}/dense.json" if searched else None
        for peer, searched in known.items()
        if peer != backend
    }


def deciding(stage, parameters):
    """The measuring parameters that decide a point's value; an engine's time limit only ends what takes too long."""
    ends = {"time_limit_s"} if stage in ("prefill", "decode") else set()
    return {name: value for name, value in parameters.items() if name not in ends}
