"""Paged caches as vLLM's FLASH_ATTN backend has them, exact attention on them, and what sets a result apart from it."""

import torch

BLOCK_MAJOR, HEAD_MAJOR = "blocks, tokens, heads", "blocks, heads, tokens"
"""Orders of a cache in memory: vLLM's default since 0.33, and the other one. Keys and values of a head lie together."""


def filled(lengths, kv_heads=5, D=128, block=16, order=BLOCK_MAJOR, unused=None, device="cpu", seed=0, layers=1):
    """([(key_cache, value_cache)] of layers, lengths [M], pages [M, n]) for sequences of these lengths.

    The sequences' blocks are permuted. unused: what slots hold that belong to no token; None for random numbers.
    """
    generator = torch.Generator(device).manual_seed(seed)
    per = max(1, -(-max(lengths) // block))
    blocks = len(lengths) * per + 1  # the first is vLLM's null block
    permuted = torch.randperm(blocks - 1, generator=torch.Generator().manual_seed(seed)) + 1
    pages = permuted.view(len(lengths), per).int().to(device)
    shape = (blocks, block, kv_heads, 2 * D) if order == BLOCK_MAJOR else (blocks, kv_heads, block, 2 * D)
    found = []
    for _ in range(layers):
        memory = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(generator=generator)
        cache = memory.transpose(1, 2) if order == BLOCK_MAJOR else memory  # vLLM's [blocks, kv_heads, slots, 2 D]
        keys, values = cache.transpose(1, 2).split(D, dim=-1)
        if unused is not None:
            stored = torch.zeros(blocks, block, dtype=torch.bool)
            for row, length in enumerate(lengths):
                used = torch.zeros(per * block, dtype=torch.bool)
                used[:length] = True
                stored[pages[row].long().cpu()] = used.view(per, block)
            keys[~stored], values[~stored] = unused, unused
        found.append((keys, values))
    return found, torch.tensor(lengths, dtype=torch.int32, device=device), pages


def queries(M, heads=20, D=128, device="cpu", seed=1):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(M, heads * D, dtype=torch.bfloat16, device=device).normal_(generator=generator)


def exact(query, keys, values, lengths, pages, scale, rows=None):
    """Attention in float64 of some rows, [rows, heads D]; zeros where there are no tokens."""
    rows = range(len(query)) if rows is None else rows
    block, kv_heads, D = keys.shape[1:]
    out = torch.zeros(len(rows), query.shape[1], dtype=torch.float64, device=query.device)
    for at, row in enumerate(rows):
        length = int(lengths[row])
        used = pages[row, : -(-length // block)].long()
        k, v = (cache[used].flatten(0, 1)[:length].double() for cache in (keys, values))
        groups = query[row].double().view(kv_heads, -1, D)
        weights = (torch.einsum("kgd,nkd->kgn", groups, k) * scale).softmax(-1)
        out[at] = torch.einsum("kgn,nkd->kgd", weights, v).flatten()
    return out


def error(out, right):
    """Relative error of a result, over all its numbers."""
    return ((out.double() - right).norm() / right.norm()).item()
