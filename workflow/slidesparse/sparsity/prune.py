"""Pruning a ternary weight to Z:L by the magnitude of its latent (BF16 master) weight. Pure functions on tensors."""

import torch

_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}  # weights handled at once: they stay in the cache, or fill the GPU


def prune(codes, latent, pattern):
    """Set the Z least important weights of every group of L to zero.

    codes: [N, K] int8, the ternary weight.
    latent: [N, K] floating point, the BF16 master weight.

    Within a group the ternary zeros go first, then the smallest |latent|. Position breaks ties. The last group is
    filled up with zeros, which count as zeros of the group.

    Returns (pruned codes [N, K], number of weights that became zero). `dense` and `2_inf` prune nothing.
    """
    if pattern.Z == 0:
        return codes, 0
    pruned = torch.empty_like(codes)
    rows = max(1, _ELEMENTS[codes.device.type] // codes.shape[1])
    for part, master, out in zip(codes.split(rows), latent.split(rows), pruned.split(rows), strict=True):
        torch.mul(part, _keep(part, master, pattern.L), out=out)
    return pruned, int(codes.count_nonzero() - pruned.count_nonzero())


def _keep(codes, latent, L):
    """[n, K] bool: False for the two weights of every group that `prune` sets to zero."""
    n, K = codes.shape
    rank = _magnitude(latent).mul_(codes != 0)
    rank = torch.nn.functional.pad(rank, (0, -K % L))
    # (magnitude, position) packed into one integer: no ties inside a group. A row per position: [L, n * groups].
    rank = rank.view(-1, L).t().contiguous()
    rank <<= (L - 1).bit_length()
    rank += torch.arange(L, dtype=rank.dtype, device=rank.device).view(L, 1)
    smallest, second = torch.minimum(rank[0], rank[1]), torch.maximum(rank[0], rank[1])
    for row in rank[2:]:
        torch.minimum(second, torch.maximum(smallest, row), out=second)
        torch.minimum(smallest, row, out=smallest)
    return (rank > second).t().reshape(n, -1)[:, :K]


def _magnitude(latent):
    """Integers in the order of |latent|: the bits without the sign, plus one, so that 0 is left for ternary zeros."""
    if latent.dtype in (torch.bfloat16, torch.float16):
        return (latent.contiguous().view(torch.int16) & 0x7FFF).to(torch.int32).add_(1)
    return (latent.float().contiguous().view(torch.int32) & 0x7FFFFFFF).to(torch.int64).add_(1)


def violations(codes, pattern):
    """Number of groups of [N, K] codes with fewer than Z zeros."""
    if pattern.Z == 0:
        return 0
    N, K = codes.shape
    filled = torch.nn.functional.pad((codes != 0).to(torch.int16), (0, -K % pattern.L))
    return int((filled.view(N, -1, pattern.L).sum(-1) > pattern.L - pattern.Z).sum())
