"""Triton: quantise activations per token and lift them into the windows of a pattern. Memory is read only once.

One program serves one row. A window is four codes, one 32-bit word. Every store of a warp is a run of words.

- The even windows may be the row itself: for dense, for L a multiple of 4 and for 2:inf. They are then stored from the
  registers that gave the row's maximum.
- All other windows read their two pairs of the row again, from the cache, and quantise them again.

Words after the last window are zeros. So every byte of the output is written, once.

Codes and scales equal those of `sparsity.quantize.quantize_per_token`, bit for bit. A row that holds NaN or infinity
has codes 0 and the scale NaN or infinity. Its products become NaN, and no other row changes.
"""

from functools import lru_cache
from math import ceil

import torch
import triton
import triton.language as tl

from slidesparse.operators.codes import (
    INFINITY,
    INTERPRETED,
    NAN,
    ROUND,
    as_floats,
    codes_of,
    load_pair,
    load_quad,
    pack_codes,
    round_to_int,
    row_of,
    store_word,
)
from slidesparse.sparsity.patterns import WINDOW, Pattern
from slidesparse.sparsity.quantize import DTYPES, LARGEST, SMALLEST_AMAX

_SMALLEST = tl.constexpr(SMALLEST_AMAX)


@triton.jit
def _largest(pair):
    a, b = as_floats(pair)
    return tl.maximum(tl.abs(a), tl.abs(b), propagate_nan=NAN)


@triton.jit
def _factor_int8(amax, scale):
    """A float32 y such that x * y rounds to the code of x / scale, for every BF16 |x| <= amax.

    This quotient is nearly 127 x / amax, where x and amax have eight significant bits. For |x| = amax / 2 it is an
    exact half. For other x it is so only if scale is a power of two. Otherwise its relative distance from a half is at
    least 1.5e-5. So y = RN(1 / scale) serves all x but amax / 2. If it rounds amax / 2 to the wrong side, a y that is 4
    ulp larger or smaller serves all x.
    """
    inverse = tl.math.div_rn(1.0, scale)
    half = 0.5 * amax
    right = (tl.math.div_rn(half, scale) + ROUND).to(tl.int32, bitcast=True)
    return (inverse.to(tl.int32, bitcast=True) + 4 * (right - round_to_int(half, inverse))).to(tl.float32, bitcast=True)


@triton.jit
def _divide(x, scale, inverse, PORTABLE: tl.constexpr):
    """x / scale, correctly rounded: x * RN(1 / scale), corrected by the exact remainder. Keeps the sign of a zero."""
    if PORTABLE:
        return tl.math.div_rn(x, scale)
    quotient = x * inverse
    return tl.fma(tl.fma(quotient, scale, -1.0 * x), -1.0 * inverse, quotient)


@triton.jit
def _codes(low, high, scale, factor, live, FP8: tl.constexpr, PORTABLE: tl.constexpr):
    """A word of four codes from four inputs, which come as two pairs; zeros where not `live`."""
    a, b = as_floats(low)
    c, d = as_floats(high)
    if FP8:
        a = _divide(a, scale, factor, PORTABLE)
        b = _divide(b, scale, factor, PORTABLE)
        c = _divide(c, scale, factor, PORTABLE)
        d = _divide(d, scale, factor, PORTABLE)
    else:
        a, b = round_to_int(a, factor), round_to_int(b, factor)
        c, d = round_to_int(c, factor), round_to_int(d, factor)
    return pack_codes(a, b, c, d, live, FP8, PORTABLE)


@triton.jit
def _lift(
    x,
    codes,
    scale,
    factor,
    finite,
    FIRST: tl.constexpr,  # first word to write
    END: tl.constexpr,  # word after the last one to write
    BASE: tl.constexpr,  # word of the first window of this parity
    N: tl.constexpr,  # windows of this parity in a row
    COUNT: tl.constexpr,  # windows of this parity in a group
    LENGTH: tl.constexpr,
    ODD: tl.constexpr,
    K: tl.constexpr,
    K_SLID: tl.constexpr,
    FP8: tl.constexpr,
    WORDS: tl.constexpr,
    PORTABLE: tl.constexpr,
    CHUNK: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Write words FIRST … END-1: the windows of one parity, which begin at word BASE, and zeros elsewhere."""
    for first in tl.range(FIRST, END, DEPTH * CHUNK):
        held = ()
        for i in tl.static_range(DEPTH):
            n = (first - BASE + i * CHUNK + tl.arange(0, CHUNK)).to(tl.uint32)
            reads = n < N
            if COUNT == N:
                pair = (2 * n + ODD).to(tl.int32)
            else:
                pair = (n // COUNT * (LENGTH // 2) + n % COUNT * 2 + ODD).to(tl.int32)
            pairs = (load_pair(x, pair, reads, K, WORDS), load_pair(x, pair + 1, reads, K, WORDS), finite & reads)
            held = held + (pairs,)
        for i in tl.static_range(DEPTH):
            low, high, live = held[i]
            p = first + i * CHUNK + tl.arange(0, CHUNK)
            store_word(codes, p, _codes(low, high, scale, factor, live, FP8, PORTABLE), p < END, K_SLID)


@triton.jit
def _quantize_lift(
    x,
    codes,
    scales,
    stride,
    K: tl.constexpr,
    K_SLID: tl.constexpr,
    LENGTH: tl.constexpr,  # inputs of a group
    COUNT: tl.constexpr,  # odd windows of a group
    EVEN: tl.constexpr,  # even windows of a row
    ODD: tl.constexpr,  # odd windows of a row
    PLAIN: tl.constexpr,  # the even windows are the row itself
    LARGEST_CODE: tl.constexpr,
    FP8: tl.constexpr,
    WORDS: tl.constexpr,  # rows begin at multiples of 8 bytes and K is a multiple of 4
    PORTABLE: tl.constexpr,  # without fused multiply-add and inline assembly, which the interpreter lacks
    CHUNK: tl.constexpr,  # words of a row that are read and stored at once
    LIFT_CHUNK: tl.constexpr,  # words of windows that are lifted at once
    DEPTH: tl.constexpr,  # chunks of windows that are read before the first is written
):
    row = tl.program_id(0).to(tl.int64)
    x = row_of(x, row, stride, WORDS)
    codes = codes_of(codes, row, K_SLID)

    quads: tl.constexpr = (K + 3) // 4
    held = ()
    for first in tl.static_range(0, quads, CHUNK):
        held = held + (load_quad(x, first + tl.arange(0, CHUNK), K, WORDS, ""),)
    top = tl.zeros([CHUNK], tl.float32)
    for i in tl.static_range(len(held)):
        low, high = held[i]
        top = tl.maximum(top, tl.maximum(_largest(low), _largest(high), propagate_nan=NAN), propagate_nan=NAN)
    # Non-negative floats have the order of their bits, and NaN lies above infinity.
    bits = tl.max(top.to(tl.int32, bitcast=True))
    finite = bits < INFINITY
    amax = tl.maximum(bits.to(tl.float32, bitcast=True), _SMALLEST, propagate_nan=NAN)
    scale = tl.math.div_rn(amax, LARGEST_CODE)
    tl.store(scales + row, scale)
    factor = tl.math.div_rn(1.0, scale) if FP8 else _factor_int8(amax, scale)

    if PLAIN:
        for i in tl.static_range(len(held)):
            low, high = held[i]
            p = i * CHUNK + tl.arange(0, CHUNK)
            store_word(codes, p, _codes(low, high, scale, factor, finite, FP8, PORTABLE), p < quads, K_SLID)
    else:
        _lift(
            x, codes, scale, factor, finite, 0, EVEN, 0, EVEN, COUNT, LENGTH, 0,
            K, K_SLID, FP8, WORDS, PORTABLE, LIFT_CHUNK, DEPTH,
        )  # fmt: skip
    done: tl.constexpr = quads if PLAIN else EVEN
    if done < K_SLID // 4:
        _lift(
            x, codes, scale, factor, finite, done, K_SLID // 4, EVEN, ODD, COUNT, LENGTH, 1,
            K, K_SLID, FP8, WORDS, PORTABLE, LIFT_CHUNK, DEPTH,
        )  # fmt: skip


def constants(name, K, dtype):
    """The kernel's constants for a pattern, a row length and a dtype. Windows are in the order of `patterns`."""
    pattern = Pattern(name)
    groups, length = pattern.groups(K)
    windows = pattern.windows(K)
    plain = pattern.dense or length % WINDOW == 0
    return {
        "K": K,
        "K_SLID": pattern.K_slid(K),
        "LENGTH": length,
        "COUNT": max(1, windows // 2),
        "EVEN": groups * ceil(windows / 2),
        "ODD": groups * (windows // 2),
        "PLAIN": plain,
        "LARGEST_CODE": LARGEST[dtype],
        "FP8": dtype == "FP8",
    }


def cut(launch, known):
    """The kernel's constants for a launch, given `constants`. Raises ValueError if the launch is invalid."""
    lift = 32 * launch.warps
    if min(launch) < 1 or any(n & (n - 1) for n in launch):
        raise ValueError(f"{launch} is no way to cut the kernel: both must be powers of two")
    done = ceil(known["K"] / WINDOW) if known["PLAIN"] else known["EVEN"]
    left = max(1, ceil((known["K_SLID"] // WINDOW - done) / lift))
    # Prefer steps of whole groups, which need no division in the loop. Then prefer the fewest idle chunks.
    steps = sorted(
        range(3, 7), key=lambda depth: (depth * lift % known["COUNT"] > 0, ceil(left / depth) * depth, -depth)
    )
    return {"CHUNK": launch.chunk, "LIFT_CHUNK": lift, "DEPTH": min(left, steps[0])}


def start(x, name, dtype, codes, scale, launch):
    """Write codes [M, K'] and scale [M] of x [M, K]. The rows of x may be strided, its columns may not."""
    M, K = x.shape
    if M:
        words = K % 4 == 0 and x.stride(0) % 4 == 0 and x.data_ptr() % 8 == 0
        known = settings(name, K, dtype, launch, words)
        _quantize_lift[(M,)](x, codes, scale, x.stride(0), **known)


def compile_ahead(name, K, dtype, launch):
    """Compile the kernel for `launch` and contiguous rows into Triton's cache on disk."""
    known = settings(name, K, dtype, launch, K % 4 == 0)
    _quantize_lift.warmup(torch.bfloat16, DTYPES[dtype], torch.float32, K, grid=(1,), **known)


@lru_cache(maxsize=1024)
def settings(name, K, dtype, launch, words):
    known = constants(name, K, dtype)
    cuts = cut(launch, known)
    return {**known, **cuts, "WORDS": words, "PORTABLE": INTERPRETED, "num_warps": launch.warps}
