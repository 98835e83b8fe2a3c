"""What planning knows of GEMM backends; slidesparse/gemm runs them."""

from typing import NamedTuple

from slidesparse.plan import stock

STAGES = ("kernel", "prefill", "decode")


class Backend(NamedTuple):
    """What planning knows of a GEMM backend; slidesparse/gemm runs it."""

    sparse: bool
    """Runs a stage's sparsity patterns instead of the dense checkpoint."""
    processor: str
    """gpu, cpu or any."""
    stages: tuple = STAGES
    engine_dtypes: tuple = ("INT8", "FP8")
    """Types that it runs in prefill and decode."""


BACKENDS = {
    "cublaslt": Backend(False, "gpu"),
    "cutlass": Backend(False, "gpu"),
    "torch": Backend(False, "gpu", engine_dtypes=("FP8",)),  # its INT8 product is cuBLASLt's, by default heuristics
    stock.BACKEND: Backend(False, "any", ("prefill", "decode")),
    "cusparselt": Backend(True, "gpu"),
    "auto": Backend(True, "any", ("prefill", "decode")),
    "onednn": Backend(False, "cpu"),
    "reference": Backend(True, "cpu"),
}

DENSE_BACKENDS = tuple(name for name, backend in BACKENDS.items() if not backend.sparse)
"""Backends that multiply dense weights; the first one that was measured, other than stock vLLM, is the denominator of
speed-ups."""

PEERS = {"gpu": {"cublaslt": True, "cutlass": False, "torch": False}, "cpu": {}}
"""Dense backends that every kernel point is measured in turn with: name -> has algorithms to search."""
