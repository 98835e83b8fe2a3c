"""GEMM backends behind one protocol: prepare a weight, list the algorithms, multiply.

Y = X W^T with X [M, K] activations and W [N, K] weights, both 8-bit codes. A dense backend takes W itself; a sparse
one takes W slid to 2:4 windows [N, K'] and activations lifted to [M, K'].
"""

from importlib import import_module
from typing import NamedTuple, Protocol

from slidesparse.errors import MeasurementError

MODULES = {"onednn": "slidesparse.gemm.onednn", "reference": "slidesparse.gemm.reference"}
"""Backends that this version runs; configuration.py knows all that can be planned for."""


class Algorithm(NamedTuple):
    """One way of a library to do a product; `id` is what is stored and valid only for the library's version."""

    id: int
    name: str


class Backend(Protocol):
    """What tuning, measuring and the vLLM plugin ask of a GEMM library."""

    name: str
    sparse: bool

    def version(self) -> str:
        """Version of the library; a stored algorithm is refused under another one."""

    def prepare(self, codes):
        """codes [N, K or K'] int8 or float8_e4m3fn -> an operand.

        It has the attributes N, K, dtype, `bytes` (what the library's format stores) and `footprint` (bytes that a
        product reads of it), and `clone()`.
        """

    def algorithms(self, operand, M) -> list[Algorithm]:
        """Every algorithm that can multiply `operand` with M rows; the first is the library's default."""

    def matmul(self, operand, x, algorithm=0, out=None):
        """x [M, K or K'] codes -> accumulators [M, N], int32 for INT8 and float32 for FP8, no scale applied."""


def backend(name):
    """The backend `name`. Raises MeasurementError if this version cannot run it."""
    if name not in MODULES:
        raise MeasurementError(
            f"backend {name} cannot be run by this version, which has {', '.join(MODULES)}; it can be planned for"
        )
    return import_module(MODULES[name]).Backend()
