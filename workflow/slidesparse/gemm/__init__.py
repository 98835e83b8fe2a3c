"""GEMM backends behind one protocol: prepare a weight, list the algorithms, multiply.

Y = X W^T with X [M, K] activations and W [N, K] weights, both 8-bit codes. A dense backend takes W itself. A sparse one
takes W slid to 2:4 windows [N, K'] and activations lifted to [M, K'] (`sparsity.slide`).
"""

from importlib import import_module
from typing import NamedTuple

import torch

from slidesparse.errors import MeasurementError
from slidesparse.plan.backends import BACKENDS
from slidesparse.sparsity.quantize import DTYPES

NAMES = {stored: name for name, stored in DTYPES.items()}
"""Our name, INT8 or FP8, of a torch dtype."""


class Algorithm(NamedTuple):
    """One way of a library to compute a product. The stored `id` is valid only for one version of the library."""

    id: int | str
    name: str
    workspace: int = 0
    """Bytes that it needs in addition to operands and output."""


class Backend:
    """What tuning, measuring and the vLLM plugin ask of a GEMM library.

    A subclass must have the attributes and methods in REQUIRED. Otherwise its module cannot be imported. On a GPU a
    product without `out` is a torch operator (`torch.library.custom_op`), which engines can capture and compile. The
    names of its kernels hold `gemm`, by which a step's parts are told apart (`timing.breakdown`).
    """

    REQUIRED = ("name", "sparse", "device", "version", "outputs", "prepare", "algorithms", "matmul")

    name: str
    sparse: bool
    device: str
    """Where operands, inputs and outputs lie: `cuda` or `cpu`."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        missing = [name for name in cls.REQUIRED if getattr(cls, name, None) is getattr(Backend, name, None)]
        if missing:
            raise TypeError(f"{cls.__module__}.{cls.__name__} lacks {', '.join(missing)}, which a backend must have")

    def version(self) -> str:
        """Version of the library. An algorithm that was stored under another version is refused."""

    def outputs(self, dtype) -> tuple:
        """Types that a product of `dtype` (INT8 or FP8) can have: INT32, BF16 or FP32. The first is the default."""

    def default(self, operand, output=None):
        """`output`, or the default type of an operand's product if `output` is None."""
        return output or self.outputs(NAMES[operand.dtype])[0]

    def scales(self, dtype) -> tuple:
        """Scales that the epilogue of a product can apply: "token", "channel", both or none.

        `matmul` then takes token_scale [M, 1] or channel_scale [N], float32.
        """
        return ()

    def prepare(self, codes):
        """codes [N, K or K'] int8 or float8_e4m3fn -> an operand on the backend's device.

        It has `clone()` and the attributes N, K, dtype, `bytes` (size in the library's format) and `footprint` (bytes
        of it that a product reads).
        """

    def algorithms(self, operand, M, output=None) -> list[Algorithm]:
        """Every algorithm that can multiply `operand` with M rows; the first is the library's default."""

    def compile_ahead(self, products, processes=None):
        """Compile what all algorithms of `products`, [(N, K, M)], need, if that takes long. Called before a search.

        processes: how many compile, or None for some.
        """

    def workspace(self, operand, M, algorithm, output=None) -> int:
        """Bytes of workspace that an algorithm needs at M. Raises MeasurementError if it cannot do the product."""
        return 0

    def found(self, operand, x, output=None):
        """Id of the algorithm that the library's own search finds for a product, or None if it has no search."""
        return None

    def matmul(self, operand, x, algorithm=None, output=None, out=None):
        """x [M, K or K'] codes -> accumulators [M, N] of the type `output`, without scales.

        algorithm: an id, or None for the library's default.
        out: where the product goes, or None for a new tensor.
        """


class OnCpu:
    """What the CPU backends that run in torch share."""

    device = "cpu"

    def version(self):
        return f"torch {torch.__version__}"

    def outputs(self, dtype):
        return ("INT32",) if dtype == "INT8" else ("FP32",)


def backend(name):
    """The backend `name`. Raises MeasurementError if this version cannot run it."""
    module = BACKENDS[name].module if name in BACKENDS else None
    if module is None:
        known = ", ".join(name for name, one in BACKENDS.items() if one.module)
        raise MeasurementError(f"backend {name} cannot be run by itself; this version has {known}")
    return import_module(f"{__name__}.{module}").Backend()
