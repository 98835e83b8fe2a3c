"""2:4 sparse GEMM by cuSPARSELt: INT8 -> BF16 or INT32 and E4M3 -> BF16, of slid weights and lifted activations.

An algorithm is the library's number and the split of K: `12:1` in one piece, `12:-1` in segments inside one kernel. The
compressed weight serves every M and every algorithm. The epilogue of INT8 products can apply one factor per output
channel.
"""

from contextlib import suppress
from ctypes import POINTER, byref, c_float, c_int32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import lru_cache

import torch

from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm import Algorithm
from slidesparse.gemm.dense import OUTPUTS, padded, whole_rows
from slidesparse.gemm.library import Problem, load, problem, stream

SPLITS = (1, -1)
"""Splits that Hopper's kernels accept: K in one piece, or in segments inside the kernel."""

PRESET = -1
"""Stands for the algorithm that the library picks by itself."""

ONE = c_float(1.0)

SIGNATURES = (
    ("slidesparse_compressed_size", (POINTER(Problem), POINTER(c_uint64), POINTER(c_uint64))),
    ("slidesparse_check_pattern", (POINTER(Problem), c_void_p, c_void_p, c_void_p)),
    ("slidesparse_compress", (POINTER(Problem), c_void_p, c_void_p, c_void_p, c_void_p)),
    ("slidesparse_algorithms", (POINTER(Problem), POINTER(c_int32), POINTER(c_int32))),
    ("slidesparse_workspace", (POINTER(Problem), c_int32, c_int32, POINTER(c_uint64))),
    (
        "slidesparse_search",
        (POINTER(Problem), *[c_void_p] * 6, POINTER(c_int32), POINTER(c_int32)),
    ),
    (
        "slidesparse_matmul",
        (POINTER(Problem), c_int32, c_int32, *[c_void_p] * 5, c_uint64, c_void_p),
    ),
)


def library():
    return load("cusparselt", SIGNATURES)


@dataclass
class Operand:
    """A 2:4 weight [N, K] in the library's compressed form."""

    compressed: torch.Tensor
    N: int
    K: int
    dtype: torch.dtype

    @property
    def bytes(self):
        return self.compressed.numel()

    footprint = bytes

    def clone(self):
        return Operand(self.compressed.clone(), self.N, self.K, self.dtype)


class Backend(gemm.Backend):
    name = "cusparselt"
    sparse = True
    device = "cuda"

    def version(self):
        return library().version

    def outputs(self, dtype):
        return ("BF16", "INT32") if dtype == "INT8" else ("BF16",)

    def scales(self, dtype):
        return ("channel",) if dtype == "INT8" else ()

    def prepare(self, codes):
        codes = codes.to(self.device).contiguous()
        N, K = codes.shape
        shape = problem(16, N, K, codes.dtype, "BF16")
        size, buffer_size = c_uint64(), c_uint64()
        library().call("compressed_size", shape, byref(size), byref(buffer_size))
        invalid = torch.zeros(1, dtype=torch.int32, device=codes.device)
        library().call("check_pattern", shape, codes.data_ptr(), invalid.data_ptr(), stream(codes))
        if invalid.item():
            raise MeasurementError(
                f"a weight of N={N} K={K} is not 2:4, which cuSPARSELt needs: prune and slide it first"
            )
        compressed = torch.empty(size.value, dtype=torch.uint8, device=codes.device)
        buffer = torch.empty(buffer_size.value, dtype=torch.uint8, device=codes.device)
        library().call("compress", shape, codes.data_ptr(), compressed.data_ptr(), buffer.data_ptr(), stream(codes))
        return Operand(compressed, N, K, codes.dtype)

    def algorithms(self, operand, M, output=None):
        output = self.default(operand, output)
        count, preset = c_int32(), c_int32()
        shape = problem(whole_rows(M), operand.N, operand.K, operand.dtype, output)
        library().call("algorithms", shape, byref(count), byref(preset))
        pairs = [(id, split) for id in range(count.value) for split in SPLITS]
        listed = []
        for id, split in sorted(pairs, key=lambda pair: pair != (preset.value, SPLITS[0])):
            stored = f"{id}:{split}"
            with suppress(MeasurementError):  # an algorithm that is not for this shape
                workspace = self.workspace(operand, M, stored, output)
                listed.append(Algorithm(stored, f"algorithm {id}, split {split}", workspace))
        return listed

    def workspace(self, operand, M, algorithm, output=None):
        output = self.default(operand, output)
        return _workspace(whole_rows(M), operand.N, operand.K, operand.dtype, output, 0, algorithm)

    def found(self, operand, x, output=None):
        output = self.default(operand, output)
        M = x.shape[0]
        needed = max(algorithm.workspace for algorithm in self.algorithms(operand, M, output))
        workspace = torch.empty(needed, dtype=torch.uint8, device=x.device)
        out = torch.empty(M, operand.N, dtype=OUTPUTS[output], device=x.device)
        id, split = c_int32(), c_int32()
        library().call(
            "search",
            problem(M, operand.N, operand.K, operand.dtype, output),
            operand.compressed.data_ptr(),
            x.data_ptr(),
            out.data_ptr(),
            byref(ONE),
            workspace.data_ptr(),
            stream(x),
            byref(id),
            byref(split),
        )
        return f"{id.value}:{split.value}"

    def matmul(self, operand, x, algorithm=None, output=None, out=None, channel_scale=None):
        """channel_scale [N] float32, for INT8 only: one factor for each output channel of the product."""
        output = self.default(operand, output)
        if out is None:
            return cusparselt_mm(x, operand.compressed, operand.N, output, algorithm or "", channel_scale)
        return _multiply(x, operand.compressed, operand.N, output, algorithm, channel_scale, out)


@torch.library.custom_op("slidesparse::cusparselt_mm", mutates_args=())
def cusparselt_mm(
    x: torch.Tensor,
    compressed: torch.Tensor,
    N: int,
    output: str,
    algorithm: str,
    channel_scale: torch.Tensor | None,
) -> torch.Tensor:
    """x [M, K] times a compressed weight [N, K] transposed; an empty `algorithm` is the library's default."""
    rows = padded(x)
    out = torch.empty(rows.shape[0], N, dtype=OUTPUTS[output], device=x.device)
    return _multiply(rows, compressed, N, output, algorithm or None, channel_scale, out)[: x.shape[0]]


@cusparselt_mm.register_fake
def _(x, compressed, N, output, algorithm, channel_scale):
    return x.new_empty(x.shape[0], N, dtype=OUTPUTS[output])


def _multiply(x, compressed, N, output, algorithm, channel_scale, out):
    M, K = x.shape
    vector = int(channel_scale is not None)
    algorithm = algorithm or f"{PRESET}:1"
    needed = _workspace(M, N, K, x.dtype, output, vector, algorithm)
    workspace = torch.empty(needed, dtype=torch.uint8, device=x.device)
    library().call(
        "matmul",
        problem(M, N, K, x.dtype, output, vector),
        *_decoded(algorithm),
        compressed.data_ptr(),
        x.data_ptr(),
        out.data_ptr(),
        channel_scale.data_ptr() if vector else byref(ONE),
        workspace.data_ptr(),
        needed,
        stream(x),
    )
    return out


@lru_cache(maxsize=4096)
def _decoded(algorithm):
    """(number, split) of a stored algorithm."""
    try:
        id, split = map(int, algorithm.split(":"))
    except (AttributeError, ValueError):
        raise MeasurementError(f"{algorithm!r} is no algorithm of cuSPARSELt, which is written 12:1") from None
    return id, split


@lru_cache(maxsize=4096)
def _workspace(M, N, K, dtype, output, vector, algorithm):
    """Bytes of workspace. Makes the plan, so that it exists before a CUDA graph is captured."""
    needed = c_uint64()
    library().call("workspace", problem(M, N, K, dtype, output, vector), *_decoded(algorithm), byref(needed))
    return needed.value
