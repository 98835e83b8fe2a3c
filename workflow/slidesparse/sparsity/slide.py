"""Sliding Z:L weights into 2:4 windows, lifting activations to match, and the inverses. Pure functions on tensors.

For a Z:L weight W [N, K] and any activations X [M, K]: lift(X) @ slide(W).T == X @ W.T, exactly in integers. Every
non-zero weight stands in exactly one window, and every window reads the inputs of its weights.
"""

from functools import lru_cache

import torch

from slidesparse.sparsity.patterns import KEPT, WINDOW

_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}  # weights slid at once: they stay in the cache, or fill the GPU


def slide(codes, pattern):
    """Z:L codes [N, K] int8 to overlapping 2:4 windows [N, K'] int8, in `pattern.window_starts` order.

    Windows are filled from left to right (paper, section 4). A window takes the weights of its first two inputs, unless
    an earlier window has them. While it holds fewer than two, it takes weights of its last two inputs. Codes are bytes,
    and all but 0 are kept as they are. Raises ValueError if a group has fewer than Z zeros.
    """
    if pattern.dense:
        return codes
    N, K = codes.shape
    groups, length = pattern.groups(K)
    slid = torch.zeros(N, pattern.K_slid(K), dtype=torch.int8, device=codes.device)
    even = 4 * ((pattern.windows(K) + 1) // 2)  # entries of a group's even windows, which read its inputs 0 … even-1
    odd = 4 * (pattern.windows(K) // 2)  # entries of its odd windows, which read the inputs 2 … odd+1
    rows = max(1, _ELEMENTS[codes.device.type] // K)
    for first in range(0, N, rows):
        part = torch.nn.functional.pad(codes[first : first + rows], (0, groups * length - K))
        part = part.view(-1, length)
        target = slid[first : first + rows]
        kept = _halves(part) if pattern.L is None else _kept(part, pattern)
        run = groups * even
        torch.bitwise_and(part[:, :even], kept[0], out=kept[0])
        target[:, :run] = kept[0].view(-1, run)
        if odd:
            shifted = part if pattern.L else torch.nn.functional.pad(part, (0, 2))
            torch.bitwise_and(shifted[:, 2 : 2 + odd], kept[1], out=kept[1])
            target[:, run : run + groups * odd] = kept[1].view(-1, groups * odd)
    return slid


def _halves(part):
    """2:inf: every window keeps its first two inputs, so each weight stands in exactly one window."""
    half = torch.tensor([-1, -1, 0, 0], dtype=torch.int8, device=part.device)
    return [half.repeat(len(part), part.shape[1] // WINDOW) for _ in range(2)]


def _kept(part, pattern):
    """Masks (bytes -1 or 0) of the entries that hold a weight, for groups [R, L]: even windows [R, …] and odd ones."""
    filled = (part != 0).view(torch.int16)  # pairs of inputs
    pairs = (filled | (filled >> 7)) & 3
    if pattern.L > LARGEST_TABLE:
        even, odd, fits = _filled(pairs)
    else:
        weights = 4 ** torch.arange(pattern.L // 2, device=part.device)
        which = (pairs.float() @ weights.float()).to(torch.int32)  # the group's filled inputs as the bits of a number
        even, odd, fits = (table.to(part.device).index_select(0, which) for table in _tables(pattern.L))
    if not fits.all():
        raise ValueError(f"a group of {pattern.L} weights has fewer than {pattern.Z} zeros; prune before sliding")
    return even, odd


LARGEST_TABLE = 16
"""Largest L whose 2^L fillings of a group are tabulated."""


@lru_cache(maxsize=16)
def _tables(L):
    """For every filling of a group (set of non-zero inputs): what even and odd windows keep, and whether it fits."""
    numbers = torch.arange(1 << L, dtype=torch.int32).view(-1, 1)
    return _filled(((numbers >> torch.arange(0, L, 2)) & 3).to(torch.int16))


def _filled(pairs):
    """Fill the windows of groups from left to right.

    pairs: [R, L/2] int16, two bits for each pair of inputs, which say what inputs are non-zero. Returns what the even
    and the odd windows keep (bytes -1 or 0, [R, …]), and whether all weights found a place [R].
    """
    windows = []
    left = pairs[:, 0]
    for right in pairs[:, 1:].t():
        room = KEPT - (left & 1) - (left >> 1)
        first = right & -right  # the earlier of the two
        taken = torch.where(room == 2, right, torch.where(room == 1, first, torch.zeros_like(right)))
        lanes_kept = torch.stack([left & 1, left >> 1, taken & 1, taken >> 1], dim=-1)
        windows.append(-lanes_kept.to(torch.int8))
        left = right - taken
    R = len(pairs)
    even, odd = (
        torch.cat(windows[i::2], dim=-1) if windows[i::2] else pairs.new_empty(R, 0, dtype=torch.int8) for i in (0, 1)
    )
    return even, odd, left == 0


@lru_cache(maxsize=64)
def source(pattern, K):
    """The input that each entry of a slid row reads, [K'] int64; K if it reads a zero (padding)."""
    if pattern.dense:
        return torch.arange(K)
    starts = torch.tensor(pattern.window_starts(K), dtype=torch.int64)
    index = (starts[:, None] + torch.arange(WINDOW)).reshape(-1).clamp_(max=K)
    return torch.nn.functional.pad(index, (0, pattern.K_slid(K) - index.numel()), value=K)


def lift(x, pattern):
    """Activations [..., K] to [..., K'] in window order; inputs beyond K read as zero. Any dtype."""
    if pattern.dense:
        return x
    K = x.shape[-1]
    view = x.view(torch.int8) if x.dtype.is_floating_point and x.element_size() == 1 else x
    padded = torch.nn.functional.pad(view, (0, 1))
    return padded.index_select(-1, source(pattern, K).to(x.device)).view(x.dtype)


def unslide(slid, pattern, K):
    """Inverse of `slide`: [N, K'] int8 to [N, K] int8."""
    if pattern.dense:
        return slid
    dense = torch.zeros(slid.shape[0], K + 1, dtype=torch.int8)
    dense.index_add_(1, source(pattern, K), slid)
    return dense[:, :K].contiguous()


def compress(slid):
    """2:4 codes [N, K'] to (values [N, K'/2] int8, metadata [N, K'/8] uint8).

    Metadata has the hardware's form (PTX ISA, sparse mma: ordered metadata). It holds two bits per kept value: its lane
    in the window. The earlier kept value has the lower bits, and a byte holds two windows. A window with fewer than two
    non-zeros also keeps zeros, of its first free lanes. Raises ValueError if a window holds more than two non-zeros.
    """
    N = slid.shape[0]
    window = slid.view(N, -1, WINDOW)
    filled = window != 0
    if (filled.sum(-1) > KEPT).any():
        raise ValueError("a window of four holds more than two non-zero weights")
    # Kept lanes: non-zeros first, ties by lane; then in ascending lane order.
    order = torch.argsort(filled.logical_not().to(torch.int8), dim=-1, stable=True)[..., :KEPT].sort(-1).values
    values = window.gather(-1, order).reshape(N, -1)
    nibble = (order[..., 0] | (order[..., 1] << 2)).to(torch.uint8).view(N, -1, 2)
    return values.contiguous(), (nibble[..., 0] | (nibble[..., 1] << 4)).contiguous()


def lanes(metadata):
    """Column in the slid row of every kept value: metadata [N, K'/8] uint8 to [N, K'/2] int64."""
    N = metadata.shape[0]
    bits = torch.stack([(metadata >> shift) & 3 for shift in (0, 2, 4, 6)], dim=-1).to(torch.int64)
    columns = bits.view(N, -1, KEPT)
    return (columns + WINDOW * torch.arange(columns.shape[1]).view(1, -1, 1)).reshape(N, -1)


def decompress(values, metadata):
    """Inverse of `compress`: the 2:4 codes [N, K'] int8."""
    slid = torch.zeros(values.shape[0], values.shape[1] * 2, dtype=torch.int8)
    return slid.scatter_(1, lanes(metadata), values)
