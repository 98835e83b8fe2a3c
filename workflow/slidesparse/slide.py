"""Sliding Z:L weights into 2:4 windows, lifting activations to match, and the inverses. Pure functions on tensors.

For a Z:L weight W [N, K] and any activations X [M, K]:  lift(X) @ slide(W).T == X @ W.T, exactly in integers, because
every non-zero weight stands in exactly one window and every window reads the inputs it stands for.
"""

from functools import lru_cache

import torch

from slidesparse.patterns import KEPT, WINDOW

_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}  # weights slid at once: what stays in the cache, or fills the GPU


def slide(codes, pattern):
    """Z:L codes [N, K] int8 to overlapping 2:4 windows [N, K'] int8, in `pattern.window_starts` order.

    Windows are filled from left to right; a window takes what is left of its first two inputs and then, while it
    holds fewer than two, its last two (paper, section 4). Raises ValueError if a group has fewer than Z zeros.
    """
    if pattern.dense:
        return codes
    N, K = codes.shape
    groups, length = pattern.groups(K)
    windows = pattern.windows(K)
    slid = torch.zeros(N, pattern.K_slid(K), dtype=torch.int8, device=codes.device)
    even = groups * ((windows + 1) // 2) * WINDOW
    rows = max(1, _ELEMENTS[codes.device.type] // K)
    for first in range(0, N, rows):
        part = codes[first : first + rows]
        target = slid[first : first + rows]
        if pattern.L is None:
            _halve(part, target, even, length)
            continue
        part = torch.nn.functional.pad(part, (0, groups * length - K))
        pairs = part.view(torch.int16).view(-1, length // 2).t().contiguous()  # [L/2, rows * groups]
        out = torch.empty(windows, 2, pairs.shape[1], dtype=torch.int16, device=codes.device)
        left = pairs[0]
        for window in range(windows):
            right = pairs[window + 1]
            taken = _take(right, KEPT - _count(left))
            out[window, 0] = left
            out[window, 1] = taken
            left = right - taken
        if left.any():
            raise ValueError(f"a group of {length} weights has fewer than {pattern.Z} zeros; prune before sliding")
        n = part.shape[0]
        by_parity = (out[0::2], out[1::2])
        for columns, (start, stop) in zip(by_parity, ((0, even), (even, pattern.K_used(K))), strict=True):
            if stop > start:
                arranged = columns.permute(2, 0, 1).reshape(n, -1)  # [rows, groups * windows * 2] pairs
                target[:, start:stop] = arranged.contiguous().view(torch.int8).view(n, -1)
    return slid


def _halve(part, target, even, length):
    """2:inf: every window keeps its first two inputs, so each weight stands in the one window that starts with it."""
    n, K = part.shape
    padded = torch.nn.functional.pad(part, (0, length - K)).view(n, -1, WINDOW)
    target[:, :even].view(n, -1, WINDOW)[..., :2] = padded[..., :2]
    target[:, even : 2 * even].view(n, -1, WINDOW)[..., :2] = padded[..., 2:]


def _count(pair):
    """Non-zero bytes (0, 1 or 2) of each int16."""
    return (pair & 0xFF).ne(0).to(torch.int16) + (pair & -256).ne(0)


def _take(pair, room):
    """The first `room` non-zero bytes of each int16, the lower byte being the earlier input."""
    low = pair & 0xFF
    one = torch.where(low != 0, low, pair)
    return torch.where(room == 2, pair, torch.where(room == 1, one, torch.zeros_like(pair)))


@lru_cache(maxsize=64)
def source(pattern, K):
    """For every entry of a slid row the input it reads, [K'] int64; K where it reads a zero (padding)."""
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

    Metadata holds, as the hardware's does, two bits per kept value: its lane in the window, the earlier kept value
    in the lower bits, two windows a byte (PTX ISA, sparse mma: ordered metadata). A window with fewer than two
    non-zeros keeps zeros in the lanes that are left. Raises ValueError if a window holds more than two non-zeros.
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
