"""Triton: scale the accumulators of the qkv GEMM, rotate queries and keys, and write all three where they belong.

One program serves one token. A head's inputs i and i + D/2 are read together, as two quads, and rotated by the angle of
the token's position (neox style). Keys and values go into rows of their own or into the pages of a cache.

Compiled without fusing a product and a sum, so that every operation is rounded as it is in the reference.
"""

import torch
import triton
import triton.language as tl

from slidesparse.kernels.codes import INTERPRETED, as_floats, as_pair

WARPS = (1, 2, 4, 8)
DEFAULT = 4


@triton.jit
def _load(row, quad, mask):
    """Four BF16 as float32."""
    both = tl.load(row + quad, mask=mask, other=0, eviction_policy="evict_first")
    a, b = as_floats(both.to(tl.int32))
    c, d = as_floats((both >> 32).to(tl.int32))
    return a, b, c, d


@triton.jit
def _angles(table, quad, WIDE: tl.constexpr):
    """Four cosines or sines, BF16 or (`WIDE`) float32, as float32."""
    if WIDE:
        table = table.to(tl.pointer_type(tl.int64)) + 2 * quad
        low, high = tl.load(table), tl.load(table + 1)
        a, b = low.to(tl.int32).to(tl.float32, bitcast=True), (low >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        c, d = high.to(tl.int32).to(tl.float32, bitcast=True), (high >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    else:
        both = tl.load(table.to(tl.pointer_type(tl.int64)) + quad)
        a, b = as_floats(both.to(tl.int32))
        c, d = as_floats((both >> 32).to(tl.int32))
    return a, b, c, d


@triton.jit
def _rotated(x, y, cosine, sine, rotates):
    return tl.where(rotates, x * cosine - y * sine, x), tl.where(rotates, y * cosine + x * sine, y)


@triton.jit
def _quad(a, b, c, d, PORTABLE: tl.constexpr):
    low, high = as_pair(a, b, PORTABLE), as_pair(c, d, PORTABLE)
    return (low.to(tl.int64) & 0xFFFFFFFF) | (high.to(tl.int64) << 32)


@triton.jit
def _rope(
    qkv,
    token_scale,
    weight_scale,
    positions,
    table,
    query,
    key,
    value,
    slots,
    tokens,  # that have a slot
    stride,
    key_block,  # strides of the cache, in elements: of a block,
    key_slot,  # of a slot in it
    key_head,  # and of a head
    value_block,
    value_slot,
    value_head,
    BLOCK: tl.constexpr,  # slots of a block
    HEADS: tl.constexpr,  # of queries
    KV: tl.constexpr,  # heads of keys, and of values
    D: tl.constexpr,  # inputs of a head, a multiple of 8
    ROWS: tl.constexpr,  # HEADS + 2 KV, as a power of two
    COLUMNS: tl.constexpr,  # quads of half a head, as a power of two
    SCALED: tl.constexpr,
    WIDE: tl.constexpr,
    CACHE: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, ROWS)[:, None]
    quad = tl.arange(0, COLUMNS)[None, :] + tl.zeros([ROWS, 1], tl.int32)
    half: tl.constexpr = D // 8  # quads
    inside = quad < half
    rotates = head < HEADS + KV
    qkv = (qkv + row * stride).to(tl.pointer_type(tl.int64))
    at = head * (2 * half) + quad
    mask = inside & (head < HEADS + 2 * KV)
    a, b, c, d = _load(qkv, at, mask)
    e, f, g, h = _load(qkv, at + half, mask)

    if SCALED:
        token = tl.load(token_scale + row)
        key_factor, value_factor = token * tl.load(weight_scale + 1), token * tl.load(weight_scale + 2)
        factor = tl.where(rotates, key_factor, value_factor)
        factor = tl.where(head < HEADS, token * tl.load(weight_scale), factor)
        a, b, c, d = a * factor, b * factor, c * factor, d * factor
        e, f, g, h = e * factor, f * factor, g * factor, h * factor
    table += tl.load(positions + row) * D
    angle = tl.where(inside, quad, 0)
    cos_a, cos_b, cos_c, cos_d = _angles(table, angle, WIDE)
    sin_a, sin_b, sin_c, sin_d = _angles(table + D // 2, angle, WIDE)
    a, e = _rotated(a, e, cos_a, sin_a, rotates)
    b, f = _rotated(b, f, cos_b, sin_b, rotates)
    c, g = _rotated(c, g, cos_c, sin_c, rotates)
    d, h = _rotated(d, h, cos_d, sin_d, rotates)
    first, second = _quad(a, b, c, d, PORTABLE), _quad(e, f, g, h, PORTABLE)

    query = (query + row * (HEADS * D)).to(tl.pointer_type(tl.int64))
    mask = inside & (head < HEADS)
    tl.store(query + at, first, mask=mask)
    tl.store(query + at + half, second, mask=mask)
    key_heads, value_heads = head - HEADS, head - (HEADS + KV)
    is_key, is_value = inside & (key_heads >= 0) & (key_heads < KV), inside & (value_heads >= 0) & (value_heads < KV)
    if CACHE:
        slot = tl.load(slots + row, mask=row < tokens, other=-1)
        is_key, is_value = is_key & (slot >= 0), is_value & (slot >= 0)
        block, slot = slot // BLOCK, slot % BLOCK
        key = (key + block * key_block + slot * key_slot).to(tl.pointer_type(tl.int64))
        value = (value + block * value_block + slot * value_slot).to(tl.pointer_type(tl.int64))
        key_at, value_at = key_heads * (key_head // 4) + quad, value_heads * (value_head // 4) + quad
    else:
        key = (key + row * (KV * D)).to(tl.pointer_type(tl.int64))
        value = (value + row * (KV * D)).to(tl.pointer_type(tl.int64))
        key_at, value_at = key_heads * (2 * half) + quad, value_heads * (2 * half) + quad
    tl.store(key + key_at, first, mask=is_key)
    tl.store(key + key_at + half, second, mask=is_key)
    tl.store(value + value_at, first, mask=is_value)
    tl.store(value + value_at + half, second, mask=is_value)


def launch(
    qkv,
    token_scale,
    weight_scale,
    positions,
    table,
    query,
    key,
    value,
    slots=None,
    *,
    heads,
    kv_heads,
    warps=DEFAULT,
):
    """Write query [M, heads D], and key and value [M, kv_heads D], or the slots of a cache if `slots` is given.

    A cache is [blocks, slots, kv_heads, D] in any order of memory in which D comes last.
    """
    M, D = len(qkv), table.shape[1]
    strides = (0,) * 6 if slots is None else (*key.stride()[:3], *value.stride()[:3])
    if D % 8 or any(n % 4 for n in (qkv.stride(0), *strides)):
        raise ValueError(f"heads of {D} inputs, or rows or a cache with strides that are no multiples of 4")
    if M:
        _rope[(M,)](
            qkv,
            token_scale,
            weight_scale,
            positions,
            table,
            query,
            key,
            value,
            slots,
            0 if slots is None else len(slots),
            qkv.stride(0),
            *strides,
            **settings(heads, kv_heads, D, key.shape[1], token_scale, table.dtype, slots is not None, warps),
        )


def settings(heads, kv_heads, D, block, token_scale, table_dtype, cache, warps):
    """The kernel's constants and launch options."""
    return {
        "BLOCK": block,
        "HEADS": heads,
        "KV": kv_heads,
        "D": D,
        "ROWS": triton.next_power_of_2(heads + 2 * kv_heads),
        "COLUMNS": triton.next_power_of_2(D // 8),
        "SCALED": token_scale is not None,
        "WIDE": table_dtype == torch.float32,
        "CACHE": cache,
        "PORTABLE": INTERPRETED,
        "num_warps": warps,
        "enable_fp_fusion": False,
    }
