"""Triton: attention of decode steps, one query for each sequence, on pages of BF16 keys and values.

One program serves one sequence, one head of keys, and one split of the sequence's tokens. The queries of a group share
these keys and values. They are the first of 16 rows of the products, because tensor cores multiply 16 rows; the other
rows are zeros. Tokens are read in tiles: a tile is one or two parts of 16 tokens, and a part lies in one page.

Where a split begins follows from the sequence's length on the device. So the plan depends on the batch alone, and one
CUDA graph serves all lengths. A second kernel merges the splits. It is left out if there is one split only.

Scores are kept in units of log2, so that the softmax needs no natural exponential.
"""

from functools import lru_cache
from typing import NamedTuple

import triton
import triton.language as tl

from slidesparse.operators.codes import INTERPRETED, _bits_bf16

LOG2E = 1.4426950408889634
PROGRAMS = 320
"""Programs that fill a GPU: some more than two for each multiprocessor of an H200, which has 132."""
MOST_SPLITS = 32

_ROWS = tl.constexpr(16)
_PART = tl.constexpr(16)
_LEAST = tl.constexpr(64)  # fewest tokens of a split, unless the sequence has fewer
_LOWEST = tl.constexpr(-1e30)  # the largest of no scores; finite, so that differences are no NaN


class Plan(NamedTuple):
    """How the work of a batch is cut: tokens of a tile, tiles in flight, warps, most splits of a sequence."""

    tile: int
    stages: int
    warps: int
    splits: int


@lru_cache(maxsize=1024)
def plan(M, kv_heads):
    """The plan for a batch. Splits, a power of two, fill the GPU where sequences and heads of keys alone do not."""
    programs = M * kv_heads
    splits = 1
    while 2 * splits * programs <= PROGRAMS and splits < MOST_SPLITS:
        splits *= 2
    return Plan(32 if programs <= PROGRAMS else 16, 3, 2 if splits == MOST_SPLITS else 1, splits)


@triton.jit
def _bf16(x, PORTABLE: tl.constexpr):
    """float32 rounded half to even to BF16, which the interpreter's own conversion does not do."""
    if PORTABLE:
        return _bits_bf16(x).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(tl.bfloat16)


@triton.jit
def _splits(length, TILE: tl.constexpr, SPLITS: tl.constexpr):
    """(tokens of a split, splits that are used) for a sequence. One split is used even if there are no tokens."""
    tokens = tl.maximum(tl.cdiv(tl.cdiv(length, SPLITS), TILE) * TILE, _LEAST)
    return tokens, tl.maximum(tl.cdiv(length, tokens), 1)


@triton.jit
def _page(pages, token, end, BLOCK: tl.constexpr):
    """The page that holds a token before `end`; else any."""
    return tl.load(pages + token // BLOCK, mask=token < end, other=0)


@triton.jit
def _decode_attention(
    query,
    keys,
    values,
    lengths,
    pages,
    out,
    partial,  # attention of each split
    sums,  # log2 of the sum of each split's exponentials
    scale,  # of scores, times log2(e)
    query_stride,
    pages_stride,
    key_block,
    key_slot,
    key_head,
    value_block,
    value_slot,
    value_head,
    BLOCK: tl.constexpr,  # tokens of a page, a multiple of 16
    HEADS: tl.constexpr,  # heads of queries
    GROUP: tl.constexpr,  # heads of queries for one of keys, at most 16
    D: tl.constexpr,  # numbers of a head
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    KV: tl.constexpr = HEADS // GROUP
    head, split = tl.program_id(0) % KV, tl.program_id(0) // KV
    row = tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + row)
    tokens, used = _splits(length, TILE, SPLITS)
    if split >= used:
        return
    begin = split * tokens
    end = tl.minimum(begin + tokens, length)

    d, member, inner = tl.arange(0, D), tl.arange(0, _ROWS), tl.arange(0, _PART)
    live = member < GROUP
    member += head * GROUP
    wide = tl.load(query + row * query_stride + member[:, None] * D + d[None, :], mask=live[:, None], other=0.0)
    if PORTABLE:
        wide = wide.to(tl.float32)
    keys += head * key_head + inner[:, None] * key_slot + d[None, :]
    values += head * value_head + inner[:, None] * value_slot + d[None, :]
    pages += row * pages_stride

    largest = tl.full([_ROWS], _LOWEST, tl.float32)
    total = tl.zeros([_ROWS], tl.float32)
    acc = tl.zeros([_ROWS, D], tl.float32)
    ahead = ()
    for part in tl.static_range(TILE // _PART):
        ahead = ahead + (_page(pages, begin + part * _PART, end, BLOCK),)
    for start in tl.range(begin, end, TILE, num_stages=STAGES):
        now = largest
        scores, operands, blocks = (), (), ahead
        ahead = ()
        for part in tl.static_range(TILE // _PART):
            first = start + part * _PART
            page, slot = blocks[part].to(tl.int64), first % BLOCK
            ahead = ahead + (_page(pages, first + TILE, end, BLOCK),)  # of the next tile, so that no load waits for it
            seen = inner < end - first
            key = tl.load(keys + page * key_block + slot * key_slot, mask=seen[:, None], other=0.0)
            value = tl.load(values + page * value_block + slot * value_slot, mask=seen[:, None], other=0.0)
            if PORTABLE:
                key, value = key.to(tl.float32), value.to(tl.float32)
            score = tl.where(seen[None, :], tl.dot(wide, tl.trans(key)) * scale, float("-inf"))
            now = tl.maximum(now, tl.max(score, axis=1))
            scores, operands = scores + (score,), operands + (value,)
        old = tl.exp2(largest - now)
        largest = now
        total *= old
        acc *= old[:, None]
        for part in tl.static_range(TILE // _PART):
            weight = tl.exp2(scores[part] - now[:, None])
            total += tl.sum(weight, axis=1)
            weight = _bf16(weight, PORTABLE)
            acc = tl.dot(weight.to(tl.float32) if PORTABLE else weight, operands[part], acc)

    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    if SPLITS == 1:
        at = row * HEADS + member
        tl.store(out + at[:, None] * D + d[None, :], _bf16(acc, PORTABLE), mask=live[:, None])
    else:
        at = (row * SPLITS + split) * HEADS + member
        tl.store(partial + at[:, None] * D + d[None, :], acc, mask=live[:, None])
        tl.store(sums + at, tl.where(total > 0, largest + tl.log2(total), _LOWEST), mask=live)


@triton.jit
def _merge_attention(
    lengths,
    partial,
    sums,
    out,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """One program for each head of queries of a sequence. It reads all splits at once."""
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    _, used = _splits(tl.load(lengths + row), TILE, SPLITS)
    split, d = tl.arange(0, SPLITS), tl.arange(0, D)
    there = split < used
    at = (row * SPLITS + split) * HEADS + head
    exponents = tl.load(sums + at, mask=there, other=float("-inf"))
    parts = tl.load(partial + at[:, None] * D + d[None, :], mask=there[:, None], other=0.0)
    share = tl.exp2(exponents - tl.max(exponents, axis=0))
    whole = tl.sum(parts * share[:, None], axis=0) / tl.sum(share, axis=0)
    tl.store(out + (row * HEADS + head) * D + d, _bf16(whole, PORTABLE))


def start(query, keys, values, lengths, pages, scale, out, partial, sums, cut):
    """Write attention to out [M, heads D] BF16. The other arguments are those of `attention.decode_attention`.

    partial [M, splits, heads, D] and sums [M, splits, heads]: float32, written and read again; None for one split.
    cut: the Plan.
    """
    M, block, kv_heads, D = len(query), *keys.shape[1:]
    heads = query.shape[1] // D
    known = {"HEADS": heads, "D": D, "TILE": cut.tile, "SPLITS": cut.splits, "PORTABLE": INTERPRETED}
    _decode_attention[(kv_heads * cut.splits, M)](
        query,
        keys,
        values,
        lengths,
        pages,
        out,
        partial,
        sums,
        scale * LOG2E,
        query.stride(0),
        pages.stride(0),
        *keys.stride()[:3],
        *values.stride()[:3],
        BLOCK=block,
        GROUP=heads // kv_heads,
        STAGES=cut.stages,
        num_warps=cut.warps,
        num_stages=cut.stages,
        **known,
    )
    if cut.splits > 1:
        _merge_attention[(heads, M)](lengths, partial, sums, out, num_warps=4, **known)
