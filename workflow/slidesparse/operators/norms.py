"""Triton: everything in front of a BitNet linear in one pass: sum or gate, RMSNorm, quantise, lift.

One program serves one row and reads its inputs once. It makes two reductions: the sum of squares, and the largest
magnitude after the norm's weight. The root mean square is a factor of the scale alone, so codes do not depend on it.
They equal the reference's bit for bit, whatever the order of the sum.

Values stay in float32 registers until they are codes. Windows are then made of codes, not of inputs. If the row's codes
are its even windows (dense, L a multiple of 4, 2:inf), they are written to their final place. Otherwise the row's first
bytes hold them for a while. After a barrier the program reads the pairs of codes for the other windows from the cache.
That is K bytes for a row. Reading the inputs again would take 2K to 8K bytes, and their arithmetic once more.

The kernel is compiled without fusing products and sums. So every operation is rounded as in the reference. Where fusion
is meant, the code calls `tl.fma`.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl

from slidesparse.operators import launches
from slidesparse.operators.codes import (
    INFINITY,
    INTERPRETED,
    NAN,
    accumulators_as_floats,
    as_pair,
    codes_of,
    load_quad,
    pack_codes,
    quad_as_floats,
    round_to_int,
    row_of,
    store_quad,
    store_word,
)
from slidesparse.operators.quantize_lift import constants
from slidesparse.sparsity.quantize import DTYPES, SMALLEST_AMAX

FEW, FEW_ROWS = 256, launches.Launch(warps=8, chunk=256)
"""Up to FEW rows a kernel is bound by the latency of one row. FEW_ROWS is the launch for them."""

_SMALLEST = tl.constexpr(SMALLEST_AMAX)


@triton.jit
def _relu2(gate, up, factor, SCALED: tl.constexpr):
    gate = tl.maximum(gate, 0.0, propagate_nan=NAN)
    if SCALED:
        up = up * factor
    return gate * gate * up


@triton.jit
def _round_once(x, factor, PORTABLE: tl.constexpr):
    """x * factor, rounded once and half to even, in the lowest byte of an int32. The interpreter's fma rounds twice."""
    if PORTABLE:
        exact = x.to(tl.float64) * factor.to(tl.float64)
        return (exact + 6755399441055744.0).to(tl.int64, bitcast=True).to(tl.int32)  # 1.5 * 2^52
    else:
        return round_to_int(x, factor)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=NAN)


@triton.jit
def _sum_and_largest(sum_a, largest_a, sum_b, largest_b):
    return sum_a + sum_b, tl.maximum(largest_a, largest_b)


@triton.jit
def _windows(
    codes,
    K: tl.constexpr,
    K_SLID: tl.constexpr,
    LENGTH: tl.constexpr,
    COUNT: tl.constexpr,
    EVEN: tl.constexpr,
    ODD: tl.constexpr,
    PLAIN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Write the windows of a row, and zeros after them, from its codes. The codes are in the row's first bytes."""
    quads: tl.constexpr = (K + 3) // 4
    begin: tl.constexpr = quads if PLAIN else 0  # even windows that are the row itself are already there
    pairs = codes.to(tl.pointer_type(tl.int16))
    tl.debug_barrier()
    held = ()
    for first in tl.static_range(begin, K_SLID // 4, CHUNK):
        p = first + tl.arange(0, CHUNK)
        if PLAIN:
            odd = 1
            n = (p - EVEN).to(tl.uint32)
        else:
            odd = (p >= EVEN).to(tl.int32)
            n = (p - EVEN * odd).to(tl.uint32)
        if COUNT == ODD:
            pair = (2 * n).to(tl.int32) + odd
        else:
            pair = (n // COUNT * (LENGTH // 2) + n % COUNT * 2).to(tl.int32) + odd
        reads = n < ODD  # if L is no multiple of 4, there are as many even windows as odd ones
        low = tl.load(pairs + pair, mask=reads & (pair < 2 * quads), other=0).to(tl.int32)
        high = tl.load(pairs + pair + 1, mask=reads & (pair + 1 < 2 * quads), other=0).to(tl.int32)
        held = held + ((low & 0xFFFF) | (high << 16),)
    if not PLAIN:
        tl.debug_barrier()
    for i in tl.static_range(len(held)):
        p = begin + i * CHUNK + tl.arange(0, CHUNK)
        tl.store(codes + p, held[i], mask=p < K_SLID // 4)


@triton.jit
def _norm(
    x,
    residual,
    gamma,
    token_scale,
    weight_scale,
    total,
    out,
    scales,
    eps,
    stride,
    residual_stride,
    K: tl.constexpr,
    K_SLID: tl.constexpr,
    LENGTH: tl.constexpr,
    COUNT: tl.constexpr,
    EVEN: tl.constexpr,
    ODD: tl.constexpr,
    PLAIN: tl.constexpr,
    LARGEST_CODE: tl.constexpr,
    FP8: tl.constexpr,
    ADD: tl.constexpr,  # the row is x + residual
    GATED: tl.constexpr,  # the row is relu(x[:K])² * x[K:]
    SCALED: tl.constexpr,  # x are accumulators: multiply by the token's and the matrix's scale
    TOTAL: tl.constexpr,  # write the sum, too
    CODES: tl.constexpr,  # write codes and a scale; else the norm as BF16
    WIDE: tl.constexpr,  # gamma is float32
    WORDS: tl.constexpr,
    PORTABLE: tl.constexpr,
    CHUNK: tl.constexpr,  # quads of a row that are read and stored at once
    LIFT_CHUNK: tl.constexpr,  # words of windows that are read and stored at once
):
    row = tl.program_id(0).to(tl.int64)
    INT32: tl.constexpr = x.dtype.element_ty == tl.int32  # else BF16
    quads: tl.constexpr = (K + 3) // 4
    if GATED:
        up = row_of(x + K, row, stride, WORDS)
    x = row_of(x, row, stride, WORDS)
    gamma = row_of(gamma, 0, 0, WORDS)

    factor = 1.0
    if SCALED:
        token = tl.load(token_scale + row)
        factor = token * tl.load(weight_scale)
        if GATED:
            factor = factor * factor * (token * tl.load(weight_scale + 1))
    if ADD:
        residual = row_of(residual, row, residual_stride, WORDS)
    if TOTAL:
        total = row_of(total, row, K, WORDS)
    read = ()
    for first in tl.static_range(0, quads, CHUNK):
        quad = first + tl.arange(0, CHUNK)
        one = load_quad(x, quad, K, WORDS, "evict_first", INT32)
        if GATED:
            other = load_quad(up, quad, K, WORDS, "evict_first", INT32)
        elif ADD:
            other = load_quad(residual, quad, K, WORDS, "evict_first")
        else:
            other = one
        read = read + ((one, other),)
    weights = ()
    for first in tl.static_range(0, quads, CHUNK):
        weights = weights + (load_quad(gamma, first + tl.arange(0, CHUNK), K, WORDS, "evict_last", WIDE),)

    squares = tl.zeros([CHUNK], tl.float32)
    largest = tl.zeros([CHUNK], tl.float32)
    values = ()
    for i in tl.static_range(len(read)):
        one, other = read[i]
        a, b, c, d = accumulators_as_floats(one, INT32, PORTABLE)
        if GATED:
            a_up, b_up, c_up, d_up = accumulators_as_floats(other, INT32, PORTABLE)
            a, b = _relu2(a, a_up, factor, SCALED), _relu2(b, b_up, factor, SCALED)
            c, d = _relu2(c, c_up, factor, SCALED), _relu2(d, d_up, factor, SCALED)
        elif ADD:
            if SCALED:
                a, b, c, d = a * factor, b * factor, c * factor, d * factor
            a_old, b_old, c_old, d_old = quad_as_floats(other, False)
            low, high = as_pair(a + a_old, b + b_old, PORTABLE), as_pair(c + c_old, d + d_old, PORTABLE)
            if TOTAL:
                store_quad(total, i * CHUNK + tl.arange(0, CHUNK), low, high, K, WORDS)
            a, b, c, d = quad_as_floats((low, high), False)
        squares = tl.fma(d, d, tl.fma(c, c, tl.fma(b, b, tl.fma(a, a, squares))))
        a_weight, b_weight, c_weight, d_weight = quad_as_floats(weights[i], WIDE)
        a, b, c, d = a * a_weight, b * b_weight, c * c_weight, d * d_weight
        largest = _larger(largest, _larger(_larger(tl.abs(a), tl.abs(b)), _larger(tl.abs(c), tl.abs(d))))
        values = values + ((a, b, c, d),)
    # Non-negative floats have the order of their bits, and NaN lies above infinity.
    square, bits = tl.reduce((squares, largest.to(tl.int32, bitcast=True)), 0, _sum_and_largest)
    inverse = tl.math.rsqrt(square * (1.0 / K) + eps)

    if CODES:
        finite = bits < INFINITY
        amax = tl.maximum(bits.to(tl.float32, bitcast=True), _SMALLEST, propagate_nan=NAN)
        tl.store(scales + row, amax * (1.0 / LARGEST_CODE) * inverse)
        factor = tl.math.div_rn(LARGEST_CODE, amax)
        out = codes_of(out, row, K_SLID)
        for i in tl.static_range(len(values)):
            a, b, c, d = values[i]
            if FP8:
                a, b, c, d = a * factor, b * factor, c * factor, d * factor
            else:
                a, b = _round_once(a, factor, PORTABLE), _round_once(b, factor, PORTABLE)
                c, d = _round_once(c, factor, PORTABLE), _round_once(d, factor, PORTABLE)
            p = i * CHUNK + tl.arange(0, CHUNK)
            store_word(out, p, pack_codes(a, b, c, d, finite, FP8, PORTABLE), p < quads, K_SLID)
        if (quads if PLAIN else 0) < K_SLID // 4:
            _windows(out, K, K_SLID, LENGTH, COUNT, EVEN, ODD, PLAIN, LIFT_CHUNK)
    else:
        out = row_of(out, row, K, WORDS)
        for i in tl.static_range(len(values)):
            a, b, c, d = values[i]
            low, high = as_pair(a * inverse, b * inverse, PORTABLE), as_pair(c * inverse, d * inverse, PORTABLE)
            store_quad(out, i * CHUNK + tl.arange(0, CHUNK), low, high, K, WORDS)


def default(K, M):
    """The launch for M rows of length K. Few rows leave most of a GPU idle, so each of them gets more warps."""
    return FEW_ROWS if M <= FEW and FEW_ROWS in launches.launches_for(K) else launches.default(K)


@lru_cache(maxsize=1024)
def settings(K, pattern, dtype, launch, add, gated, scaled, total, codes, wide, words):
    """The kernel's constants and launch options."""
    if min(launch) < 1 or any(n & (n - 1) for n in launch):
        raise ValueError(f"{launch} is no way to cut the kernel: both must be powers of two")
    flags = {"ADD": add, "GATED": gated, "SCALED": scaled, "TOTAL": total, "CODES": codes, "WIDE": wide, "WORDS": words}
    return {
        **constants(pattern, K, dtype),
        **flags,
        "PORTABLE": INTERPRETED,
        "CHUNK": launch.chunk,
        "LIFT_CHUNK": 32 * launch.warps,
        "num_warps": launch.warps,
        "enable_fp_fusion": False,
    }


def start(
    x,
    gamma,
    eps,
    out,
    *,
    gated=False,
    residual=None,
    token_scale=None,
    weight_scale=None,
    total=None,
    scales=None,
    pattern="dense",
    dtype="INT8",
    launch=None,
):
    """Write `out`, and the sum into total [M, K] unless it is None.

    out: codes [M, K'], whose scales go into scales [M]; or the norm [M, K] as BF16 if scales is None.
    x: [M, K], or [M, 2K] if gated; BF16, or INT32 if it has scales to multiply it by.
    residual: [M, K]. Its rows and those of x may be strided. Everything else is contiguous.
    """
    M, K = len(x), len(gamma)
    rows = [x] if residual is None else [x, residual]
    words = K % 4 == 0 and all(t.stride(0) % 4 == 0 for t in rows)
    words = words and all(t.data_ptr() % 8 == 0 for t in (*rows, gamma, out if scales is None else x))
    known = settings(
        K,
        pattern,
        dtype,
        launch or default(K, M),
        residual is not None,
        gated,
        token_scale is not None,
        total is not None,
        scales is not None,
        gamma.dtype == torch.float32,
        words,
    )
    if M:
        _norm[(M,)](
            x,
            residual,
            gamma,
            token_scale,
            weight_scale,
            total,
            out,
            scales,
            eps,
            x.stride(0),
            rows[-1].stride(0),
            **known,
        )


def compile_ahead(K, pattern, dtype, launch, add=False, gated=False, codes=True, int32=False):
    """Compile the kernel for `launch`, contiguous rows and BF16 weights into Triton's cache on disk.

    The rows are BF16, or INT32 accumulators if `int32`.
    """
    scaled = add or gated
    known = settings(K, pattern, dtype, launch, add, gated, scaled, add and codes, codes, False, K % 4 == 0)
    _norm.warmup(
        torch.int32 if int32 else torch.bfloat16,
        torch.bfloat16 if add else None,
        torch.bfloat16,
        torch.float32 if scaled else None,
        torch.float32 if scaled else None,
        torch.bfloat16 if known["TOTAL"] else None,
        DTYPES[dtype] if codes else torch.bfloat16,
        torch.float32 if codes else None,
        1e-5,
        2 * K if gated else K,
        K,
        grid=(1,),
        **known,
    )
