"""Triton: scale the accumulators of the qkv GEMM, rotate queries and keys, and write queries, keys and values.

One program serves one token. A thread reads four inputs of a head and the four that lie D/2 after them. It rotates each
pair by its angle at the token's position (neox style). If a chunk holds whole heads, the thread takes the same place in
further heads and reads its angles once. Keys and values go into rows of their own or into the pages of a cache.

The kernel is compiled without fusing products and sums. So every operation is rounded as in the reference.
"""

import torch
import triton
import triton.language as tl

from slidesparse.operators.codes import (
    INTERPRETED,
    accumulators_as_floats,
    as_pair,
    load_pairs,
    load_quad,
    quad_as_floats,
    row_of,
)

WARPS = (1, 2, 4, 8)
DEFAULT = 4


@triton.jit
def _angles(table, quad, D: tl.constexpr, WIDE: tl.constexpr):
    """Four cosines and their sines of a position. Its D numbers, at `table`, are BF16, or float32 if `WIDE`."""
    cosines = load_quad(row_of(table, 0, 0, True), quad, D // 2, True, "", WIDE)
    sines = load_quad(row_of(table + D // 2, 0, 0, True), quad, D // 2, True, "", WIDE)
    return quad_as_floats(cosines, WIDE), quad_as_floats(sines, WIDE)


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
    tokens,  # number of tokens that have a slot
    stride,
    key_block,  # stride of a block of the cache, in elements
    key_slot,  # stride of a slot of the cache
    key_head,  # stride of a head of the cache
    value_block,
    value_slot,
    value_head,
    BLOCK: tl.constexpr,  # slots of a block
    HEADS: tl.constexpr,  # heads of queries
    KV: tl.constexpr,  # heads of keys, and also of values
    D: tl.constexpr,  # inputs of a head, a multiple of 8
    SCALED: tl.constexpr,
    WIDE: tl.constexpr,
    CACHE: tl.constexpr,
    PORTABLE: tl.constexpr,
    CHUNK: tl.constexpr,  # pairs of quads that are read and stored at once
):
    row = tl.program_id(0).to(tl.int64)
    half: tl.constexpr = D // 8  # quads of half a head
    queries: tl.constexpr = HEADS * half
    keys: tl.constexpr = queries + KV * half  # end of the keys, which follow the queries
    total: tl.constexpr = keys + KV * half
    INT32: tl.constexpr = qkv.dtype.element_ty == tl.int32  # else BF16
    qkv += row * stride
    query = (query + row * (HEADS * D)).to(tl.pointer_type(tl.int64))
    table += tl.load(positions + row) * D
    query_factor, key_factor, value_factor = 1.0, 1.0, 1.0
    if SCALED:
        token = tl.load(token_scale + row)
        query_factor = token * tl.load(weight_scale)
        key_factor, value_factor = token * tl.load(weight_scale + 1), token * tl.load(weight_scale + 2)
    if CACHE:
        slot = tl.load(slots + row, mask=row < tokens, other=-1)
        stored = slot >= 0
        block, slot = slot // BLOCK, slot % BLOCK
        key = (key + block * key_block + slot * key_slot).to(tl.pointer_type(tl.int64))
        value = (value + block * value_block + slot * value_slot).to(tl.pointer_type(tl.int64))
        key_quads, value_quads = key_head // 4, value_head // 4
    else:
        stored = True
        key = (key + row * (KV * D)).to(tl.pointer_type(tl.int64))
        value = (value + row * (KV * D)).to(tl.pointer_type(tl.int64))
        key_quads, value_quads = 2 * half, 2 * half

    read = ()
    for start in tl.static_range(0, total, CHUNK):
        item = start + tl.arange(0, CHUNK)
        if INT32:
            quad = item // half * (2 * half) + item % half
            first = load_quad(qkv, quad, 8 * total, True, "evict_first", True)
            second = load_quad(qkv, quad + half, 8 * total, True, "evict_first", True)
        else:  # as load_quad, but with addresses summed in the order of the measured version
            at = qkv.to(tl.pointer_type(tl.int64)) + item // half * (2 * half) + item % half
            first = load_pairs(at, item < total, "evict_first")
            second = load_pairs(at + half, item < total, "evict_first")
        read = read + ((first, second),)
    quad = tl.arange(0, CHUNK) % half
    cosines, sines = _angles(table, quad, D, WIDE)
    for start in tl.static_range(0, total, CHUNK):
        item = start + tl.arange(0, CHUNK)
        head, quad = item // half, item % half
        if CHUNK % half:
            cosines, sines = _angles(table, quad, D, WIDE)
        rotates = item < keys
        first, second = read[start // CHUNK]
        a, b, c, d = accumulators_as_floats(first, INT32, PORTABLE)
        e, f, g, h = accumulators_as_floats(second, INT32, PORTABLE)
        if SCALED:
            factor = tl.where(item < queries, query_factor, tl.where(rotates, key_factor, value_factor))
            a, b, c, d = a * factor, b * factor, c * factor, d * factor
            e, f, g, h = e * factor, f * factor, g * factor, h * factor
        a, e = _rotated(a, e, cosines[0], sines[0], rotates)
        b, f = _rotated(b, f, cosines[1], sines[1], rotates)
        c, g = _rotated(c, g, cosines[2], sines[2], rotates)
        d, h = _rotated(d, h, cosines[3], sines[3], rotates)
        first, second = _quad(a, b, c, d, PORTABLE), _quad(e, f, g, h, PORTABLE)
        if start < queries:
            at = query + head * (2 * half) + quad
            tl.store(at, first, mask=item < queries)
            tl.store(at + half, second, mask=item < queries)
        if start + CHUNK > queries and start < keys:
            at = key + (head - HEADS) * key_quads + quad
            tl.store(at, first, mask=(item >= queries) & (item < keys) & stored)
            tl.store(at + half, second, mask=(item >= queries) & (item < keys) & stored)
        if start + CHUNK > keys:
            at = value + (head - HEADS - KV) * value_quads + quad
            tl.store(at, first, mask=(item >= keys) & (item < total) & stored)
            tl.store(at + half, second, mask=(item >= keys) & (item < total) & stored)


def start(
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
    """Write query [M, heads D] and key and value [M, kv_heads D]; key and value are caches if `slots` is given.

    qkv is BF16, or INT32 with scales. A cache is [blocks, slots, kv_heads, D], in any order of memory with D last.
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
        "SCALED": token_scale is not None,
        "WIDE": table_dtype == torch.float32,
        "CACHE": cache,
        "PORTABLE": INTERPRETED,
        "CHUNK": 32 * warps,
        "num_warps": warps,
        "enable_fp_fusion": False,
    }
