"""Per-token quantisation and lifting as one torch operator: plain torch on CPUs, Triton on GPUs.

Lifting copies inputs into the windows of a sparsity pattern (`sparsity.slide.lift`). Callers use `quantize`. It calls
`torch.ops.slidesparse.quantize_lift`, which CUDA graphs can capture and torch.compile can trace.
"""

import torch

from slidesparse.operators.launches import look_up
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import DTYPES, quantize_per_token
from slidesparse.sparsity.slide import lift


def quantize(x: torch.Tensor, pattern: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise activations x [M, K] BF16 and lift them: codes of `dtype` [M, K'] and scales [M] float32.

    Codes are in the window order of `pattern`; `dense` does not lift. A row of zeros has codes 0 and the smallest
    scale. A row that holds NaN or infinity has codes 0 and the scale NaN or infinity.
    """
    return torch.ops.slidesparse.quantize_lift(x, pattern, dtype)


@torch.library.custom_op("slidesparse::quantize_lift", mutates_args=(), device_types="cuda")
def _operator(x: torch.Tensor, pattern: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scale = _empty(x, pattern, dtype)
    run(x, pattern, dtype, codes, scale)
    return codes, scale


@_operator.register_fake
def _empty(x, pattern, dtype):
    M, K = x.shape
    codes = x.new_empty(M, Pattern(pattern).K_slid(K), dtype=DTYPES[dtype])
    return codes, x.new_empty(M, dtype=torch.float32)


@_operator.register_kernel("cpu")
def reference(x, pattern, dtype):
    """The same result from `quantize_per_token` and `lift`, on any device."""
    codes, scale = quantize_per_token(x, dtype)
    codes.view(torch.int8).masked_fill_(~scale.isfinite(), 0)
    return lift(codes, Pattern(pattern)), scale.squeeze(-1)


def run(x, pattern, dtype, codes, scale, launch=None):
    """Quantise and lift on a GPU. Writes every byte of the given codes [M, K'] and scale [M]."""
    from slidesparse.operators import quantize_lift  # imports Triton, which CPUs do not need

    if x.dtype != torch.bfloat16 or x.dim() != 2:
        raise ValueError(f"activations are {list(x.shape)} {x.dtype} and must be [M, K] bfloat16")
    if x.stride(1) != 1:
        x = x.contiguous()
    with torch.cuda.device_of(x):
        quantize_lift.start(x, pattern, dtype, codes, scale, launch or look_up(*x.shape, pattern, dtype))
