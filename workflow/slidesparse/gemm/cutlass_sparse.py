"""2:4 sparse GEMM by kernels of CUTLASS for Hopper: INT8 -> BF16 or INT32 and E4M3 -> BF16, of slid weights.

BF16 products have both scales applied in the epilogue, so quantising and one product are a whole linear. An algorithm
is a kernel of the menu, `128x256:2x1:Cooperative`: a tile of channels and tokens, the tiles of a cluster, and how the
two warp groups of a block share the work. There is a file for each in csrc/cutlass_sparse/. Sums of E4M3 stay in the
tensor core.
"""

from ctypes import POINTER, c_char_p, c_uint64, c_void_p, create_string_buffer
from dataclasses import dataclass
from functools import lru_cache

import torch

from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm import Algorithm
from slidesparse.gemm.dense import OUTPUTS
from slidesparse.gemm.library import Problem, load, problem, stream
from slidesparse.sparsity.patterns import ALIGNMENT
from slidesparse.sparsity.slide import compress

VERSION = 1
"""Version of csrc/cutlass_sparse. It is raised when a kernel changes, so that tables of an older one are refused."""

CHANNELS = 8
"""N must be a multiple of this: a row of BF16 then has whole units of 16 bytes, which a tile is stored in."""

ROWS = 64
"""Channels are rounded up to a multiple of this in the metadata."""

ADDRESS = 16

_BYTES = 1 << 26  # of codes compressed at once, so that temporaries stay small

SIGNATURES = (
    ("slidesparse_menu", (POINTER(Problem), c_char_p, c_uint64)),
    ("slidesparse_prepare", (POINTER(Problem), c_char_p)),
    ("slidesparse_matmul", (POINTER(Problem), c_char_p, *[c_void_p] * 7)),
)


def library():
    return load("cutlass_sparse", SIGNATURES)


@dataclass
class Operand:
    """A 2:4 weight [N, K]: its values [N, K/2], behind them its metadata, in the order of `pack`."""

    packed: torch.Tensor
    N: int
    K: int
    dtype: torch.dtype

    @property
    def bytes(self):
        return self.packed.numel()

    footprint = bytes

    def clone(self):
        return Operand(self.packed.clone(), self.N, self.K, self.dtype)


def pack(codes):
    """2:4 codes [N, K] int8 to the bytes that the kernels read, uint8, K a multiple of 128.

    They are the values [N, K/2] and the metadata [K/128, N rounded up to 64, 16]. 16 bytes say for 128 entries of a
    channel which of them are kept, as `slide.compress` has them. Raises ValueError if the codes are not 2:4.
    """
    N, K = codes.shape
    rows = -(-N // ROWS) * ROWS
    packed = torch.zeros(N * K // 2 + rows * K // 8, dtype=torch.uint8, device=codes.device)
    values = packed[: N * K // 2].view(N, K // 2)
    metadata = packed[N * K // 2 :].view(K // ALIGNMENT, rows, ALIGNMENT // 8)[:, :N]
    at_once = max(1, _BYTES // max(1, K))
    for first in range(0, N, at_once):
        kept, lanes = compress(codes[first : first + at_once])
        values[first : first + at_once] = kept.view(torch.uint8)
        metadata[:, first : first + at_once] = lanes.view(len(lanes), -1, ALIGNMENT // 8).transpose(0, 1)
    return packed


class Backend(gemm.Backend):
    name = "cutlass_sparse"
    sparse = True
    device = "cuda"

    def version(self):
        return f"{library().version}, kernels {VERSION}"

    def outputs(self, dtype):
        return ("BF16", "INT32") if dtype == "INT8" else ("BF16",)

    def scales(self, dtype):
        return ("token", "channel")

    def prepare(self, codes):
        N, K = codes.shape
        if N % CHANNELS or K % ALIGNMENT:
            raise MeasurementError(
                f"backend cutlass_sparse needs N in multiples of {CHANNELS} and K of {ALIGNMENT}, and a weight has"
                f" N={N} K={K}: use cusparselt"
            )
        try:
            packed = pack(codes.to(self.device).contiguous().view(torch.int8))
        except ValueError as error:
            raise MeasurementError(f"backend cutlass_sparse: {error}; prune and slide the weight first") from None
        return Operand(packed, N, K, codes.dtype)

    def algorithms(self, operand, M, output=None):
        output = self.default(operand, output)
        return [Algorithm(name, _described(name)) for name in _menu(operand.dtype, output)]

    def workspace(self, operand, M, algorithm, output=None):
        """None is needed. Loads the kernel, so that it is there before a CUDA graph is captured."""
        output = self.default(operand, output)
        _loaded(operand.N, operand.K, operand.dtype, output, _known(algorithm, operand.dtype, output))
        return 0

    def matmul(self, operand, x, algorithm=None, output=None, out=None, token_scale=None, channel_scale=None):
        """token_scale [M, 1] and channel_scale [N], float32, multiply a BF16 product. None stands for ones."""
        output = self.default(operand, output)
        if out is None:
            return cutlass_sparse_mm(x, operand.packed, operand.N, output, algorithm or "", token_scale, channel_scale)
        return _multiply(x, operand.packed, operand.N, output, algorithm, token_scale, channel_scale, out)


@torch.library.custom_op("slidesparse::cutlass_sparse_mm", mutates_args=())
def cutlass_sparse_mm(
    x: torch.Tensor,
    packed: torch.Tensor,
    N: int,
    output: str,
    algorithm: str,
    token_scale: torch.Tensor | None,
    channel_scale: torch.Tensor | None,
) -> torch.Tensor:
    """x [M, K] times a packed weight of [N, K] transposed; an empty `algorithm` is the first of the menu."""
    out = torch.empty(x.shape[0], N, dtype=OUTPUTS[output], device=x.device)
    return _multiply(x, packed, N, output, algorithm or None, token_scale, channel_scale, out)


@cutlass_sparse_mm.register_fake
def _(x, packed, N, output, algorithm, token_scale, channel_scale):
    return x.new_empty(x.shape[0], N, dtype=OUTPUTS[output])


def _multiply(x, packed, N, output, algorithm, token_scale, channel_scale, out):
    M, K = x.shape
    if not M:
        return out
    x = x.contiguous()
    if x.data_ptr() % ADDRESS or out.data_ptr() % ADDRESS:
        raise MeasurementError(
            f"backend cutlass_sparse needs activations and products at a multiple of {ADDRESS} bytes in memory"
        )
    values = packed.data_ptr()
    library().call(
        "matmul",
        problem(M, N, K, x.dtype, output),
        _known(algorithm, x.dtype, output),
        values,
        values + N * K // 2,
        x.data_ptr(),
        out.data_ptr(),
        None if token_scale is None else token_scale.data_ptr(),
        None if channel_scale is None else channel_scale.data_ptr(),
        stream(x),
    )
    return out


@lru_cache(maxsize=64)
def _menu(dtype, output):
    """Names of the kernels for a type of codes (torch's) and of products, large tiles and small clusters first."""
    names = create_string_buffer(1 << 14)
    library().call("menu", problem(0, 0, 0, dtype, output), names, len(names))

    def order(name):
        channels, tokens, *cluster = _tile(name)
        return -channels, -tokens, cluster

    return sorted(names.value.decode().split(), key=order)


@lru_cache(maxsize=4096)
def _known(algorithm, dtype, output):
    """The name of a stored algorithm, or of the first one, as bytes. Raises MeasurementError if there is none."""
    menu = _menu(dtype, output)
    if algorithm not in (None, *menu):
        raise MeasurementError(
            f"{algorithm!r} is no kernel of backend cutlass_sparse for {gemm.NAMES[dtype]} to {output}, which has"
            f" {', '.join(menu)}"
        )
    return (algorithm or menu[0]).encode()


@lru_cache(maxsize=4096)
def _loaded(N, K, dtype, output, name):
    """Check that a kernel can multiply with a weight [N, K], and load it onto the GPU."""
    library().call("prepare", problem(1, N, K, dtype, output), name)


def _tile(name):
    """(channels, tokens of a tile; tiles along channels, along tokens of a cluster) of a kernel's name."""
    tile, cluster, _ = name.split(":")
    return [int(number) for part in (tile, cluster) for number in part.split("x")]


def _described(name):
    channels, tokens, along, across = _tile(name)
    return f"{channels} channels, {tokens} tokens, clusters of {along} x {across}, {name.rpartition(':')[2].lower()}"
