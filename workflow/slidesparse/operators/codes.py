"""Triton device functions that the kernels share: they load inputs, round them to codes, and pack and store codes.

A row is read and written in quads of four BF16 inputs, 64 bits. The four codes of a quad are one word of 32 bits. If
rows do not begin at multiples of 8 bytes, or end within a quad, `WORDS` is false. Each input is then read and written
alone. Rows of 32-bit numbers (`WIDE`: INT32 or float32) are read in quads of 128 bits, if Triton knows this alignment.
`PORTABLE` is true in Triton's interpreter, which lacks inline assembly and the fused multiply-add.
"""

import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret

INFINITY = tl.constexpr(0x7F800000)
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds half to even; the lowest bits are the integer
NAN = tl.constexpr(tl.PropagateNan.ALL)
_PACK_INT8 = tl.constexpr(
    "{ .reg .b32 low, high; prmt.b32 low, $1, $2, 0x0040; prmt.b32 high, $3, $4, 0x0040;"
    " prmt.b32 $0, low, high, 0x5410; }"
)
# Not for inputs that are constant zeros at compile time: if both halves are one value, the ptxas of Triton 3.6 converts
# only the lower half. So `pack_codes` takes a mask `live`, instead of inputs that are set to zero.
_PACK_E4M3 = tl.constexpr(
    "{ .reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;"
    " cvt.rn.satfinite.e4m3x2.f32 high, $4, $3; mov.b32 $0, {low, high}; }"
)


@triton.jit
def row_of(x, row, stride, WORDS: tl.constexpr):
    """Pointer to a row's first pair of BF16 (`WORDS`), to its first BF16, or to the first number of a 32-bit row."""
    if x.dtype.element_ty.primitive_bitwidth == 32:
        return x + row * stride
    elif WORDS:
        return x.to(tl.pointer_type(tl.int32)) + row * (stride // 2)
    else:
        return x.to(tl.pointer_type(tl.int16)) + row * stride


@triton.jit
def load_pair(row, pair, mask, K: tl.constexpr, WORDS: tl.constexpr):
    """BF16 inputs 2 pair and 2 pair + 1 as the low and high half of an int32. The pointer `row` is from `row_of`."""
    if WORDS:
        return tl.load(row + pair, mask=mask & (pair < K // 2), other=0)
    low = tl.load(row + 2 * pair, mask=mask & (2 * pair < K), other=0).to(tl.int32)
    high = tl.load(row + 2 * pair + 1, mask=mask & (2 * pair + 1 < K), other=0).to(tl.int32)
    return (low & 0xFFFF) | (high << 16)


@triton.jit
def load_pairs(quads, mask, POLICY: tl.constexpr):
    """The int64 values at the pointers `quads`, each as two pairs of BF16; zeros where not `mask`."""
    both = tl.load(quads, mask=mask, other=0, eviction_policy=POLICY)
    return both.to(tl.int32), (both >> 32).to(tl.int32)


@triton.jit
def load_quad(row, quad, K: tl.constexpr, WORDS: tl.constexpr, POLICY: tl.constexpr, WIDE: tl.constexpr = False):
    """Inputs 4 quad … 4 quad + 3 of a row (see `row_of`): two pairs, or four numbers if `WIDE`; zeros beyond K."""
    if WIDE:
        at = 4 * quad[:, None] + tl.arange(0, 4)[None, :]
        numbers = tl.load(row + at, mask=at < K, other=0, eviction_policy=POLICY)
        first, second = tl.split(numbers.reshape(quad.shape[0], 2, 2))
        a, c = tl.split(first)
        b, d = tl.split(second)
        return a, b, c, d
    elif WORDS:
        return load_pairs(row.to(tl.pointer_type(tl.int64)) + quad, quad < K // 4, POLICY)
    else:
        return load_pair(row, 2 * quad, quad >= 0, K, WORDS), load_pair(row, 2 * quad + 1, quad >= 0, K, WORDS)


@triton.jit
def store_quad(row, quad, low, high, K: tl.constexpr, WORDS: tl.constexpr):
    """The inverse of `load_quad`; writes nothing beyond K."""
    if WORDS:
        both = (low.to(tl.int64) & 0xFFFFFFFF) | (high.to(tl.int64) << 32)
        tl.store(row.to(tl.pointer_type(tl.int64)) + quad, both, mask=quad < K // 4)
    else:
        for i in tl.static_range(4):
            pair = low if i < 2 else high
            tl.store(row + 4 * quad + i, (pair >> (16 * (i % 2))).to(tl.int16), mask=4 * quad + i < K)


@triton.jit
def as_floats(pair):
    """The two BF16 of a pair as float32."""
    return (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)


@triton.jit
def quad_as_floats(loaded, WIDE: tl.constexpr):
    """The four float32 of a quad that `load_quad` returned."""
    if WIDE:
        a, b, c, d = loaded
        return a.to(tl.float32), b.to(tl.float32), c.to(tl.float32), d.to(tl.float32)
    else:
        low, high = loaded
        a, b = as_floats(low)
        c, d = as_floats(high)
        return a, b, c, d


@triton.jit
def as_pair(a, b, PORTABLE: tl.constexpr):
    """Two float32, rounded half to even to BF16, as the halves of an int32."""
    if PORTABLE:
        return (_bits_bf16(a) & 0xFFFF) | (_bits_bf16(b) << 16)
    return tl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [a, b], tl.int32, is_pure=True, pack=1)


@triton.jit
def accumulators_as_floats(loaded, INT32: tl.constexpr, PORTABLE: tl.constexpr):
    """Four float32 of a quad of accumulators. INT32 is rounded to BF16 first, as a GEMM with BF16 output does."""
    a, b, c, d = quad_as_floats(loaded, INT32)
    if INT32:
        a, b, c, d = quad_as_floats((as_pair(a, b, PORTABLE), as_pair(c, d, PORTABLE)), False)
    return a, b, c, d


@triton.jit
def _bits_bf16(x):
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(x == x, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FFF)


@triton.jit
def round_to_int(x, factor):
    """x * factor, rounded once and half to even, in the lowest byte of an int32."""
    return tl.fma(x, factor, ROUND).to(tl.int32, bitcast=True)


@triton.jit
def _byte_e4m3(x):
    """x rounded half to even to E4M3, in the lowest byte of an int32; |x| <= 464."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    small = (tl.abs(x) + 16384.0).to(tl.int32, bitcast=True) & 0xFF  # in units of 2^-9
    return tl.where(size < 0x3C800000, small, normal) | ((bits >> 24) & 0x80)


@triton.jit
def pack_codes(a, b, c, d, live, FP8: tl.constexpr, PORTABLE: tl.constexpr):
    """A word of four codes, zeros where not `live`. Inputs: float32 (FP8), or int32 with a code in the lowest byte."""
    if PORTABLE:
        if FP8:
            a, b, c, d = _byte_e4m3(a), _byte_e4m3(b), _byte_e4m3(c), _byte_e4m3(d)
        word = (a & 0xFF) | ((b & 0xFF) << 8) | ((c & 0xFF) << 16) | (d << 24)
    elif FP8:
        word = tl.inline_asm_elementwise(_PACK_E4M3, "=r,f,f,f,f", [a, b, c, d], tl.int32, is_pure=True, pack=1)
    else:
        word = tl.inline_asm_elementwise(_PACK_INT8, "=r,r,r,r,r", [a, b, c, d], tl.int32, is_pure=True, pack=1)
    return tl.where(live, word, 0)


@triton.jit
def codes_of(codes, row, K_SLID: tl.constexpr):
    """Pointer to the first word of a row of codes, or to its first byte if rows are not whole words."""
    if K_SLID % 4 == 0:
        return codes.to(tl.pointer_type(tl.int32)) + row * (K_SLID // 4)
    else:
        return codes.to(tl.pointer_type(tl.int8)) + row * K_SLID


@triton.jit
def store_word(row, p, word, mask, K_SLID: tl.constexpr):
    """Write word p of a row that `codes_of` points to."""
    if K_SLID % 4 == 0:
        tl.store(row + p, word, mask=mask)
    else:
        for byte in tl.static_range(4):
            code = (word >> (8 * byte)).to(tl.int8)
            tl.store(row + 4 * p + byte, code, mask=mask & (4 * p + byte < K_SLID))
