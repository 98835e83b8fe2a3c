"""The operators between the linears of a BitNet block. Each is one torch operator that passes over its bytes once.

    qkv GEMM  -> rope_scale or rope_scale_cache -> attention -> norm_quantize
    o GEMM    -> add_norm_quantize
    gate_up   -> relu2_mul_norm_quantize
    down GEMM -> add_norm_quantize of the next block, or add_norm in front of the output head

Common arguments. A GEMM leaves raw accumulators, BF16 or INT32. The scales token_scale [M] and weight_scale turn them
into values. The latter has one float32 for each original matrix of the GEMM, in its order. If both are None, the GEMM
left values in BF16. INT32 accumulators are first rounded to BF16. So a model computes the same, whether or not its GEMM
rounds. A norm has a weight gamma [K], BF16 or float32.

Arithmetic is float32, and each operation is rounded by itself. CPUs run the plain torch of the `*_reference` functions.
GPUs run Triton with the same results, with one exception. The order of a sum of squares moves a scale, and the BF16 of
`add_norm`, by a few units in the last place.

Codes [M, K'] are of `dtype` (INT8 or FP8), in the window order of `pattern`, and codes * scale is the norm. A row of
zeros has codes 0. Its scale is that of a largest |gamma * value| of 1e-10. A row that holds NaN or infinity, or
overflows, has codes 0 and the scale NaN or infinity. CUDA graphs can capture all operators, and torch.compile can trace
them.
"""

import torch
from torch import Tensor

from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import DTYPES, LARGEST, SMALLEST_AMAX
from slidesparse.sparsity.slide import lift


def _floats(accumulators):
    return accumulators.to(torch.bfloat16 if accumulators.dtype == torch.int32 else accumulators.dtype).float()


def scaled(accumulators, token_scale, factor):
    """Accumulators [M, N] as float32 values: times token_scale [M] and `factor`, their matrix's scale, unless None."""
    values = _floats(accumulators)
    return values if token_scale is None else values * (token_scale * factor)[:, None]


def root_mean_square(values, eps):
    """sqrt(mean(values²) + eps) of rows [M, K] float32 -> [M, 1]; the squares are summed in float64."""
    squares = (values * values).sum(-1, keepdim=True, dtype=torch.float64)
    return (squares.float() / torch.full_like(squares, values.shape[-1], dtype=torch.float32) + eps).sqrt()


def quantized(values, gamma, eps, pattern, dtype):
    """Codes [M, K'] and scales [M] of RMSNorm(values) * gamma, for values [M, K] float32.

    With v = gamma * value, code = round(v * (largest code / max|v|)) and scale = max|v| / (largest code * rms). For
    INT8 this product is rounded once, to the code. For FP8 it is rounded to float32 first.
    """
    weighted = values * gamma.float()
    amax = weighted.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_AMAX)
    largest = torch.full_like(amax, LARGEST[dtype])
    factor = largest / amax
    codes = (weighted.double() * factor).round() if dtype == "INT8" else weighted * factor
    codes = codes.to(DTYPES[dtype])
    codes.view(torch.int8).masked_fill_(~amax.isfinite(), 0)
    scale = amax / (largest * root_mean_square(values, eps))
    return lift(codes, Pattern(pattern)), scale[:, 0]


def summed(accumulators, token_scale, weight_scale, residual):
    """residual + values, rounded to BF16 as the model's own residual is."""
    values = scaled(accumulators, token_scale, None if weight_scale is None else weight_scale[0])
    return (values + residual.float()).to(torch.bfloat16)


def norm_quantize_reference(x, gamma, eps, pattern, dtype):
    return quantized(x.float(), gamma, eps, pattern, dtype)


def add_norm_quantize_reference(accumulators, token_scale, weight_scale, residual, gamma, eps, pattern, dtype):
    total = summed(accumulators, token_scale, weight_scale, residual)
    return total, *quantized(total.float(), gamma, eps, pattern, dtype)


def add_norm_reference(accumulators, token_scale, weight_scale, residual, gamma, eps):
    total = summed(accumulators, token_scale, weight_scale, residual).float()
    root = root_mean_square(total, eps)
    return (total * gamma.float() * (torch.ones_like(root) / root)).to(torch.bfloat16)


def relu2_mul_norm_quantize_reference(gate_up, token_scale, weight_scale, gamma, eps, pattern, dtype):
    gate, up = gate_up.chunk(2, dim=-1)
    gate, up = _floats(gate).relu(), _floats(up)
    if token_scale is not None:
        gate_factor, up_factor = (token_scale * factor for factor in weight_scale)
        up = up * (gate_factor * gate_factor * up_factor)[:, None]
    return quantized(gate * gate * up, gamma, eps, pattern, dtype)


def rope_scale_reference(qkv, token_scale, weight_scale, positions, cos_sin_cache, heads, kv_heads):
    M, D = len(qkv), cos_sin_cache.shape[1]
    cosine, sine = cos_sin_cache[positions].float()[:, None].chunk(2, dim=-1)
    parts = qkv.split([heads * D, kv_heads * D, kv_heads * D], dim=-1)
    factors = (None,) * 3 if weight_scale is None else weight_scale
    query, key, value = (scaled(part, token_scale, factor) for part, factor in zip(parts, factors, strict=True))

    def rotated(x):
        first, second = x.view(M, -1, D).chunk(2, dim=-1)
        rotated = (first * cosine - second * sine, second * cosine + first * sine)
        return torch.cat(rotated, dim=-1).view(M, -1)

    return tuple(x.to(torch.bfloat16) for x in (rotated(query), rotated(key), value))


def rope_scale_cache_reference(
    qkv, token_scale, weight_scale, positions, cos_sin_cache, heads, kv_heads, key_cache, value_cache, slot_mapping
):
    query, key, value = rope_scale_reference(qkv, token_scale, weight_scale, positions, cos_sin_cache, heads, kv_heads)
    tokens = (slot_mapping >= 0).nonzero()[:, 0]
    slots = slot_mapping[tokens]
    at = slots // key_cache.shape[1], slots % key_cache.shape[1]
    shape = (len(tokens), kv_heads, -1)
    key_cache[at], value_cache[at] = key[tokens].view(shape), value[tokens].view(shape)
    return query


def _operator(reference, mutates=()):
    """Decorator: makes a function of CUDA tensors the torch operator of its name. CPUs run `reference`."""

    def decorate(function):
        name = f"slidesparse::{function.__name__}"
        operator = torch.library.custom_op(name, function, mutates_args=mutates, device_types="cuda")
        operator.register_kernel("cpu")(reference)
        return operator

    return decorate


@_operator(norm_quantize_reference)
def norm_quantize(x: Tensor, gamma: Tensor, eps: float, pattern: str, dtype: str) -> tuple[Tensor, Tensor]:
    """Codes [M, K'] and scales [M] of the norm of x [M, K]: the attention's output, or the first block's input."""
    _check([(x, len(gamma))], gamma)
    codes, scales = _codes(x, gamma, pattern, dtype)
    _norm(x, gamma, eps, codes, scales=scales, pattern=pattern, dtype=dtype)
    return codes, scales


@_operator(add_norm_quantize_reference)
def add_norm_quantize(
    accumulators: Tensor,
    token_scale: Tensor | None,
    weight_scale: Tensor | None,
    residual: Tensor,
    gamma: Tensor,
    eps: float,
    pattern: str,
    dtype: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum residual + values [M, K] BF16, and the codes [M, K'] and scales [M] of its norm.

    weight_scale: [1]. The norm is of the rounded sum, as in the model.
    """
    _check([(accumulators, len(gamma)), (residual, len(gamma))], gamma, token_scale, weight_scale)
    total = residual.new_empty(residual.shape)
    codes, scales = _codes(residual, gamma, pattern, dtype)
    _norm(
        accumulators,
        gamma,
        eps,
        codes,
        residual=residual,
        token_scale=token_scale,
        weight_scale=weight_scale,
        total=total,
        scales=scales,
        pattern=pattern,
        dtype=dtype,
    )
    return total, codes, scales


@_operator(add_norm_reference)
def add_norm(
    accumulators: Tensor,
    token_scale: Tensor | None,
    weight_scale: Tensor | None,
    residual: Tensor,
    gamma: Tensor,
    eps: float,
) -> Tensor:
    """The norm [M, K] BF16 of residual + values, in front of the output head. weight_scale: [1]."""
    _check([(accumulators, len(gamma)), (residual, len(gamma))], gamma, token_scale, weight_scale)
    out = residual.new_empty(residual.shape)
    _norm(accumulators, gamma, eps, out, residual=residual, token_scale=token_scale, weight_scale=weight_scale)
    return out


@_operator(relu2_mul_norm_quantize_reference)
def relu2_mul_norm_quantize(
    gate_up: Tensor,
    token_scale: Tensor | None,
    weight_scale: Tensor | None,
    gamma: Tensor,
    eps: float,
    pattern: str,
    dtype: str,
) -> tuple[Tensor, Tensor]:
    """Codes [M, K'] and scales [M] of the norm of relu(gate)² * up; gate_up [M, 2K]. weight_scale: [2]."""
    _check([(gate_up, 2 * len(gamma))], gamma, token_scale, weight_scale, 2)
    codes, scales = _codes(gate_up, gamma, pattern, dtype)
    _norm(
        gate_up,
        gamma,
        eps,
        codes,
        gated=True,
        token_scale=token_scale,
        weight_scale=weight_scale,
        scales=scales,
        pattern=pattern,
        dtype=dtype,
    )
    return codes, scales


@_operator(rope_scale_reference)
def rope_scale(
    qkv: Tensor,
    token_scale: Tensor | None,
    weight_scale: Tensor | None,
    positions: Tensor,
    cos_sin_cache: Tensor,
    heads: int,
    kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [M, heads D] and keys [M, kv_heads D], and values [M, kv_heads D], all BF16.

    qkv: [M, (heads + 2 kv_heads) D].
    weight_scale: [3].
    positions: [M] int64.
    cos_sin_cache: [positions, D], BF16 or float32: the cosines of a position's D/2 angles, then their sines.
    """
    query, key, value = _heads(qkv, cos_sin_cache, heads, kv_heads)
    _rope(qkv, token_scale, weight_scale, positions, cos_sin_cache, query, key, value, None, heads, kv_heads)
    return query, key, value


@_operator(rope_scale_cache_reference, mutates=("key_cache", "value_cache"))
def rope_scale_cache(
    qkv: Tensor,
    token_scale: Tensor | None,
    weight_scale: Tensor | None,
    positions: Tensor,
    cos_sin_cache: Tensor,
    heads: int,
    kv_heads: int,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
) -> Tensor:
    """Like `rope_scale`, but writes keys and values into their slots of a paged cache. Returns the queries.

    key_cache, value_cache: [blocks, slots, kv_heads, D] BF16. The stride of D is 1, the others are free.
    slot_mapping: int64, block * slots + slot for the first tokens. Tokens with a negative slot, or with none, are not
    stored.

    Not for torch.compile of torch 2.11, which may lose other slots of the value cache (docs/findings.md).
    """
    for cache in (key_cache, value_cache):
        if cache.dtype != torch.bfloat16 or cache.dim() != 4 or cache.stride(3) != 1:
            raise ValueError(f"a cache is {list(cache.shape)} {cache.dtype}: it must be BF16 in four dimensions")
    query = _queries(qkv, cos_sin_cache, heads)
    _rope(
        qkv, token_scale, weight_scale, positions, cos_sin_cache, query, key_cache, value_cache, slot_mapping, heads,
        kv_heads,
    )  # fmt: skip
    return query


@norm_quantize.register_fake
def _(x, gamma, eps, pattern, dtype):
    return _codes(x, gamma, pattern, dtype)


@add_norm_quantize.register_fake
def _(accumulators, token_scale, weight_scale, residual, gamma, eps, pattern, dtype):
    return residual.new_empty(residual.shape), *_codes(residual, gamma, pattern, dtype)


@add_norm.register_fake
def _(accumulators, token_scale, weight_scale, residual, gamma, eps):
    return residual.new_empty(residual.shape)


@relu2_mul_norm_quantize.register_fake
def _(gate_up, token_scale, weight_scale, gamma, eps, pattern, dtype):
    return _codes(gate_up, gamma, pattern, dtype)


@rope_scale.register_fake
def _(qkv, token_scale, weight_scale, positions, cos_sin_cache, heads, kv_heads):
    return _heads(qkv, cos_sin_cache, heads, kv_heads)


@rope_scale_cache.register_fake
def _(qkv, token_scale, weight_scale, positions, cos_sin_cache, heads, kv_heads, key_cache, value_cache, slot_mapping):
    return _queries(qkv, cos_sin_cache, heads)


def _codes(x, gamma, pattern, dtype):
    M = x.shape[0]
    codes = x.new_empty(M, Pattern(pattern).K_slid(gamma.shape[0]), dtype=DTYPES[dtype])
    return codes, x.new_empty(M, dtype=torch.float32)


def _queries(qkv, cos_sin_cache, heads):
    return qkv.new_empty(qkv.shape[0], heads * cos_sin_cache.shape[1], dtype=torch.bfloat16)


def _heads(qkv, cos_sin_cache, heads, kv_heads):
    return tuple(_queries(qkv, cos_sin_cache, n) for n in (heads, kv_heads, kv_heads))


def _norm(x, *arguments, **keywords):
    from slidesparse.operators import norms  # imports Triton, which CPUs do not need

    with torch.cuda.device_of(x):
        norms.start(x, *arguments, **keywords)


def _rope(qkv, token_scale, weight_scale, positions, cos_sin_cache, query, key, value, slots, heads, kv_heads):
    _check([(qkv, (heads + 2 * kv_heads) * cos_sin_cache.shape[1])], None, token_scale, weight_scale, 3)
    if cos_sin_cache.dtype not in (torch.bfloat16, torch.float32) or not cos_sin_cache.is_contiguous():
        raise ValueError(f"the cosines and sines are {cos_sin_cache.dtype}: contiguous bfloat16 or float32 it must be")
    for index in (positions, slots):
        if index is not None and (index.dtype != torch.int64 or index.dim() != 1 or not index.is_contiguous()):
            raise ValueError(f"positions or slots are {list(index.shape)} {index.dtype} and must be [M] int64")
    if len(positions) != len(qkv):
        raise ValueError(f"{len(qkv)} tokens have {len(positions)} positions")
    from slidesparse.operators import rope

    with torch.cuda.device_of(qkv):
        rope.start(
            qkv, token_scale, weight_scale, positions, cos_sin_cache, query, key, value, slots, heads=heads,
            kv_heads=kv_heads,
        )  # fmt: skip


def _check(matrices, gamma, token_scale=None, weight_scale=None, parts=1):
    """Raise ValueError if a matrix, the norm's weight or a scale has a wrong type, shape or layout.

    matrices: [(matrix, width that it must have)]. Only the first may be INT32, and only with scales.
    """
    M = len(matrices[0][0])
    if matrices[0][0].dtype == torch.int32 and token_scale is None:
        raise ValueError("INT32 accumulators need scales")
    dtypes = (torch.bfloat16,) if token_scale is None else (torch.bfloat16, torch.int32)
    for x, width in matrices:
        if x.dtype not in dtypes or x.shape != (M, width) or x.stride(1) != 1:
            kind = " or ".join(map(str, dtypes))
            raise ValueError(f"{list(x.shape)} {x.dtype} must be [{M}, {width}] {kind} with contiguous rows")
        dtypes = (torch.bfloat16,)
    if gamma is not None and (gamma.dtype not in (torch.bfloat16, torch.float32) or not gamma.is_contiguous()):
        raise ValueError(f"the norm's weight is {gamma.dtype} and must be contiguous bfloat16 or float32")
    if (token_scale is None) != (weight_scale is None):
        raise ValueError("accumulators need both scales, values neither")
    for scale, count in ((token_scale, M), (weight_scale, parts)):
        if scale is not None and (scale.dtype != torch.float32 or scale.shape != (count,) or not scale.is_contiguous()):
            raise ValueError(f"a scale is {list(scale.shape)} {scale.dtype} and must be [{count}] float32")
