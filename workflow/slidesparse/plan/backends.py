"""The table of GEMM backends that planning uses. slidesparse/gemm runs them."""

from typing import NamedTuple

from slidesparse.plan import stock

TIMED = ("kernel", "prefill", "decode")
STAGES = (*TIMED, "quality")

DTYPES = ("INT8", "FP8")


class Backend(NamedTuple):
    """One GEMM backend, as planning knows it."""

    sparse: bool
    """Whether it runs a stage's sparsity patterns. Others run the dense checkpoint."""
    processor: str
    """gpu, cpu or any."""
    stages: tuple = TIMED
    dtypes: tuple = DTYPES
    """Types of weights and activations that it multiplies."""
    engine_dtypes: tuple = DTYPES
    """Those of them that it runs in prefill, decode and quality."""
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
    weight_bits: int = 8
    """Bits of a weight that a dense product reads."""
    capabilities: tuple = ()
    """Compute capabilities times ten of the only GPUs that it runs on; empty if it runs on all that run its types."""


ENGINES = ("prefill", "decode")

BACKENDS = {
    "cublaslt": Backend(False, "gpu", STAGES, module="cublaslt", peer=True, int32=True),
    "cutlass": Backend(False, "gpu", module="cutlass", peer=True, searched=False),
    # torch runs INT8 products with cuBLASLt and its default heuristics.
    "torch": Backend(False, "gpu", engine_dtypes=("FP8",), module="torch_mm", peer=True, searched=False, int32=True),
    "ternary": Backend(False, "gpu", dtypes=("INT8",), module="ternary", weight_bits=2),
    stock.BACKEND: Backend(False, "any", ENGINES),
    "cusparselt": Backend(True, "gpu", STAGES, module="cusparselt"),
    "cutlass_sparse": Backend(True, "gpu", module="cutlass_sparse", capabilities=(90,)),
    "auto": Backend(True, "any", ENGINES, also_dense=True),
    "onednn": Backend(False, "cpu", STAGES, module="onednn"),
    "reference": Backend(True, "cpu", STAGES, module="reference"),
}
"""name -> Backend. Quality depends on the checkpoint. So one dense and one sparse backend of each processor run it."""

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


def compared_with(root, key, shape):
    """{dense backend of the checkpoint that a point's scores are compared with: path of its tuning table}.

    key: plan.key.Key. shape: the model under whose name tuning tables lie. Only quality points of patterns have one.
    """
    if key.stage != "quality" or key.sparsity == "dense" or key.backend not in BACKENDS:
        return {}
    dense = next(
        name
        for name, one in BACKENDS.items()
        if not one.sparse and one.processor == BACKENDS[key.backend].processor and key.stage in one.stages
    )
    return {dense: f"{root}/{key.hardware}/tuning/{shape}/{key.dtype}/{dense}/dense.json"}


def deciding(stage, parameters):
    """The measuring parameters that decide a point's value. An engine's time limit does not; it only stops a point."""
    ends = {"time_limit_s"} if stage in ("prefill", "decode", "quality") else set()
    return {name: value for name, value in parameters.items() if name not in ends}
