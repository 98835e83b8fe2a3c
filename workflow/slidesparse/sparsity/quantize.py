"""W8A8 for BitNet: absmean ternary weights, dynamic per-token activations. Pure functions on tensors."""

import torch

from slidesparse.errors import CheckpointError

DTYPES = {"INT8": torch.int8, "FP8": torch.float8_e4m3fn}
LARGEST = {"INT8": 127.0, "FP8": 448.0}
SMALLEST_MEAN = 1e-5
SMALLEST_AMAX = 1e-10

_CHUNK = 1 << 18  # elements handled at once, so that temporaries stay in the cache


def absmean_scale(weight):
    """s = 1 / max(mean|W|, 1e-5) of a latent weight matrix [N, K] (arXiv 2402.17764, eq. 3), a Python float.

    The mean is summed in float64, so that it does not depend on the number of threads, and rounded once to float32.

    Raises CheckpointError if the matrix holds NaN or infinity.
    """
    total = 0.0
    for piece in weight.reshape(-1).split(_CHUNK):
        total += piece.abs().sum(dtype=torch.float64).item()
    if not total < float("inf"):
        raise CheckpointError("a weight matrix holds NaN or infinity; the checkpoint is damaged, fetch it again")
    mean = torch.tensor(total / weight.numel(), dtype=torch.float32)
    return (1.0 / mean.clamp(min=SMALLEST_MEAN)).item()


def ternary(weight, scale):
    """clamp(round_half_even(W * s), -1, 1) in float32, as int8 [N, K]."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    for piece, out in zip(weight.reshape(-1).split(_CHUNK), codes.reshape(-1).split(_CHUNK), strict=True):
        out.copy_(piece.float().mul_(scale).round_().clamp_(-1, 1))
    return codes


def store_as(codes, dtype):
    """Integer codes (int8, -1, 0 or 1) as the stored type `INT8` or `FP8` (E4M3: 1.0 is 0x38); same shape."""
    if dtype == "INT8":
        return codes
    stored = torch.empty_like(codes, dtype=torch.uint8)
    for bits, out in zip(codes.view(-1).view(torch.uint8).split(_CHUNK), stored.view(-1).split(_CHUNK), strict=True):
        torch.mul(bits & 1, 0x38, out=out)
        out |= bits & 0x80
    return stored.view(torch.float8_e4m3fn)


def quantize_per_token(x, dtype):
    """Dynamic symmetric per-token quantisation of activations.

    x: [M, K] floating point. Returns (codes [M, K] of `dtype`, scale [M, 1] float32) with x ~ codes * scale. The scale
    is max|row| / 127 for INT8 and max|row| / 448 for FP8 (E4M3). INT8 codes are rounded half to even. A row of zeros
    has codes 0 and the smallest scale, 1e-10 / largest code.
    """
    x = x.float()
    amax = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_AMAX)
    # Divided by a tensor: for a Python number, torch on CUDA multiplies by the reciprocal.
    scale = amax / torch.full_like(amax, LARGEST[dtype])
    codes = x / scale
    if dtype == "INT8":
        codes = codes.round_().clamp_(-127, 127)
    return codes.to(DTYPES[dtype]), scale
