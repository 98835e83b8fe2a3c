"""Dense GEMM of INT8 activations and ternary weights in two bits (W2A8), by our own Triton kernels.

Products are INT32, which are the sums of the INT8 codes bit for bit, or BF16 with both scales applied in the epilogue.
An algorithm is how a product is cut, a `ternary_kernels.Tile`. In Triton's interpreter the backend runs on CPUs.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton

from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm import Algorithm
from slidesparse.gemm.dense import OUTPUTS, ones
from slidesparse.gemm.ternary_kernels import INTERPRETED, Tile, compile_all, gpu, start, tiles
from slidesparse.gemm.two_bits import pack

VERSION = 2
"""Version of the kernels. It is raised when one changes, so that tables of an older one are refused."""


@dataclass
class Operand:
    """A ternary weight [N, K] in two bits: packed [N, `two_bits.quarter(K)`] uint8."""

    packed: torch.Tensor
    K: int
    dtype = torch.int8

    @property
    def N(self):
        return self.packed.shape[0]

    @property
    def bytes(self):
        return self.packed.numel()

    footprint = bytes

    def clone(self):
        return Operand(self.packed.clone(), self.K)


class Backend(gemm.Backend):
    name = "ternary"
    sparse = False
    device = "cpu" if INTERPRETED else "cuda"

    def version(self):
        gpu()
        return f"ternary kernels {VERSION}, Triton {triton.__version__}"

    def outputs(self, dtype):
        if dtype != "INT8":
            raise MeasurementError(f"backend ternary multiplies INT8 activations only, and these are {dtype}")
        return ("BF16", "INT32")

    def scales(self, dtype):
        return ("token", "channel")

    def prepare(self, codes):
        if codes.dtype != torch.int8:
            raise MeasurementError("backend ternary multiplies INT8 activations only, and the weight is another type")
        try:
            return Operand(pack(codes.to(self.device)), codes.shape[1])
        except ValueError as error:
            raise MeasurementError(f"backend ternary: {error}; use another dense backend") from None

    def algorithms(self, operand, M, output=None):
        return [
            Algorithm(tile.id, _described(tile), tile.workspace(M, operand.N))
            for tile in tiles(M, operand.N, operand.K, gpu())
        ]

    def workspace(self, operand, M, algorithm, output=None):
        return _tile(algorithm, M, operand.N, operand.K).workspace(M, operand.N)

    def compile_ahead(self, products, processes=None):
        """Compile all kernels of the products' algorithms into Triton's cache on disk. Returns how many there are."""
        cuts = [(M, N, K, tile) for N, K, M in products for tile in tiles(M, N, K, gpu())]
        return compile_all(cuts, processes)

    def matmul(self, operand, x, algorithm=None, output=None, out=None, token_scale=None, channel_scale=None):
        """token_scale [M, 1] and channel_scale [N], float32, multiply a BF16 product. None stands for ones."""
        output = self.default(operand, output)
        if out is None:
            return ternary_mm(x, operand.packed, output, algorithm or "", token_scale, channel_scale)
        return _multiply(x, operand.packed, algorithm, token_scale, channel_scale, out)


@torch.library.custom_op("slidesparse::ternary_mm", mutates_args=())
def ternary_mm(
    x: torch.Tensor,
    packed: torch.Tensor,
    output: str,
    algorithm: str,
    token_scale: torch.Tensor | None,
    channel_scale: torch.Tensor | None,
) -> torch.Tensor:
    """x [M, K] times a packed weight of [N, K] transposed; an empty `algorithm` is the default."""
    out = torch.empty(x.shape[0], packed.shape[0], dtype=OUTPUTS[output], device=x.device)
    return _multiply(x, packed, algorithm or None, token_scale, channel_scale, out)


@ternary_mm.register_fake
def _(x, packed, output, algorithm, token_scale, channel_scale):
    return x.new_empty(x.shape[0], packed.shape[0], dtype=OUTPUTS[output])


def _multiply(x, packed, algorithm, token_scale, channel_scale, out):
    (M, K), N = x.shape, packed.shape[0]
    tile = _tile(algorithm, M, N, K)
    workspace = torch.empty(tile.workspace(M, N) // 4, dtype=torch.int32, device=x.device)
    token_scale = ones(M, 1, x.device) if token_scale is None else token_scale
    channel_scale = ones(N, 1, x.device) if channel_scale is None else channel_scale
    try:
        start(x.contiguous(), packed, out, workspace, token_scale, channel_scale, tile)
    except triton.runtime.errors.OutOfResources as error:
        raise MeasurementError(f"backend ternary cannot run {tile.id} on this GPU: {error}") from None
    return out


@lru_cache(maxsize=4096)
def _tile(algorithm, M, N, K):
    """The tile of a stored algorithm, or the default of a product."""
    if algorithm is None:
        return tiles(M, N, K, gpu())[0]
    try:
        return Tile.of(algorithm)
    except ValueError as error:
        raise MeasurementError(str(error)) from None


def _described(tile):
    parts = f", K in {tile.splits} parts" if tile.splits > 1 else ""
    return (
        f"{tile.channels} channels, {tile.tokens} tokens, {4 * tile.depth} of K, {tile.warps} warps,"
        f" {tile.stages} stages{parts}"
    )
