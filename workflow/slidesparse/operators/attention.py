"""Attention of decode steps on a paged cache as one torch operator: plain torch on CPUs, Triton on GPUs.

Source: the online softmax of FlashAttention (arXiv 2205.14135), and splits of a sequence as in Flash-Decoding
(pytorch.org/blog/flash-decoding).
"""

import torch
from torch import Tensor

HEAD_SIZES = (64, 128)
LARGEST_GROUP = 16
"""Most heads of queries for one of keys: the rows that tensor cores multiply at once."""
BLOCK = 16
"""The size of a page is a multiple of it."""


def decode_attention_reference(query, key_cache, value_cache, lengths, pages, scale):
    """The same in float32, sequence by sequence, on any device."""
    block, kv_heads, D = key_cache.shape[1:]
    out = torch.zeros_like(query)
    for row, length in enumerate(lengths.tolist()):
        if length > 0:
            used = pages[row, : -(-length // block)].long()
            keys, values = (cache[used].flatten(0, 1)[:length].float() for cache in (key_cache, value_cache))
            groups = query[row].float().view(kv_heads, -1, D)
            weights = (torch.einsum("kgd,nkd->kgn", groups, keys) * scale).softmax(-1)
            out[row] = torch.einsum("kgn,nkd->kgd", weights, values).flatten()
    return out


@torch.library.custom_op("slidesparse::decode_attention", mutates_args=(), device_types="cuda")
def decode_attention(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, lengths: Tensor, pages: Tensor, scale: float
) -> Tensor:
    """softmax(scale * query keys) values for the newest token of each sequence -> [M, heads D] BF16.

    query: [M, heads D] BF16 with contiguous rows: one rotated query for each sequence.
    key_cache, value_cache: [blocks, slots, kv_heads, D] BF16. The stride of D is 1, the others are free. So vLLM's
    cache [blocks, kv_heads, slots, 2 D] fits: `cache.transpose(1, 2).split(D, -1)`.
    lengths: [M] int32: cached tokens of each sequence, the newest included. A length of 0 gives zeros.
    pages: [M, n] int32: the blocks of each sequence, in the order of its tokens. Those behind its last token are not
    read.

    D is 64 or 128, slots are a multiple of 16, and at most 16 heads of queries share one of keys. Products are of BF16
    with float32 sums, and the weights of values are rounded to BF16. Lengths stay on the device: a CUDA graph that
    captured the operator serves all lengths.

    Raises ValueError if types, shapes or layouts are others. It does not check that blocks and lengths are within the
    cache and `pages`.
    """
    from slidesparse.operators import paged  # imports Triton, which CPUs do not need

    _check(query, key_cache, value_cache, lengths, pages)
    M, D, kv_heads = len(query), key_cache.shape[3], key_cache.shape[2]
    out = _empty(query, key_cache, value_cache, lengths, pages, scale)
    cut, partial, sums = paged.plan(M, kv_heads), None, None
    if cut.splits > 1:
        partial = query.new_empty(M, cut.splits, query.shape[1] // D, D, dtype=torch.float32)
        sums = partial.new_empty(partial.shape[:3])
    if M:
        with torch.cuda.device_of(query):
            paged.start(query, key_cache, value_cache, lengths, pages, scale, out, partial, sums, cut)
    return out


decode_attention.register_kernel("cpu")(decode_attention_reference)


@decode_attention.register_fake
def _empty(query, key_cache, value_cache, lengths, pages, scale):
    return query.new_empty(query.shape)


def serves(heads, kv_heads, D, block):
    """Whether `decode_attention` knows such heads and pages."""
    grouped = kv_heads > 0 and heads % kv_heads == 0 and heads // kv_heads <= LARGEST_GROUP
    return grouped and D in HEAD_SIZES and block % BLOCK == 0


def _check(query, key_cache, value_cache, lengths, pages):
    for cache in (key_cache, value_cache):
        if cache.dtype != torch.bfloat16 or cache.dim() != 4 or cache.stride(3) != 1:
            raise ValueError(f"a cache is {list(cache.shape)} {cache.dtype}: it must be BF16 in four dimensions")
    block, kv_heads, D = key_cache.shape[1:]
    if key_cache.shape != value_cache.shape or query.dim() != 2 or query.shape[1] % D:
        raise ValueError(
            f"queries {list(query.shape)}, keys {list(key_cache.shape)} and values {list(value_cache.shape)} do not fit"
        )
    if query.dtype != torch.bfloat16 or query.stride(1) != 1:
        raise ValueError(f"queries are {query.dtype} and must be bfloat16 with contiguous rows")
    heads = query.shape[1] // D
    if not serves(heads, kv_heads, D, block):
        raise ValueError(
            f"{heads} heads of queries on {kv_heads} of keys with {D} numbers, in pages of {block} tokens: a head must"
            f" have {' or '.join(map(str, HEAD_SIZES))} numbers, a page a multiple of {BLOCK} tokens, and a group at"
            f" most {LARGEST_GROUP} heads"
        )
    for index, dimensions in ((lengths, 1), (pages, 2)):
        if index.dtype != torch.int32 or index.dim() != dimensions or len(index) != len(query) or index.stride(-1) != 1:
            raise ValueError(
                f"lengths or pages are {list(index.shape)} {index.dtype} and must be [{len(query)}] and"
                f" [{len(query)}, n] int32 with contiguous rows"
            )
