"""Ternary codes in two bits, four to a byte, and back. Pure functions on tensors.

A row of K codes is cut into four quarters of Q codes, Q = `quarter(K)`. Byte j of a packed row holds the codes j,
Q + j, 2Q + j and 3Q + j, from the lowest bits up. Each is a two's complement number of two bits: 00 is 0, 01 is 1, 11
is -1. Codes beyond K are 0.

Neighbouring bytes thus hold neighbours of all four quarters. A word of packed bytes becomes a word of codes by one
shift and one mask, `(word << 6 - 2 i) & 0xC0C0C0C0`. These are four neighbouring codes of quarter i, times 64, as
signed bytes. No byte moves to another place or another thread.
"""

import torch

ALIGNMENT = 16
"""Bytes of a packed row are a multiple of this, the widest load of a thread."""

FACTOR = 64
"""A code that was masked out of a packed byte is this times its value."""

_BYTES = 1 << 26  # packed at once, so that temporaries stay small


def quarter(K):
    """Bytes of a packed row of K codes."""
    return -(-K // (4 * ALIGNMENT)) * ALIGNMENT


def pack(codes):
    """Codes [N, K] int8 to packed bytes [N, quarter(K)] uint8. Raises ValueError if a code is not -1, 0 or 1."""
    N, K = codes.shape
    Q = quarter(K)
    packed = torch.empty(N, Q, dtype=torch.uint8, device=codes.device)
    rows = max(1, _BYTES // max(1, K))
    for part, out in zip(codes.split(rows), packed.split(rows), strict=True):
        if ((part < -1) | (part > 1)).any():
            raise ValueError("a weight that is not -1, 0 or 1 cannot be stored in two bits")
        quarters = torch.nn.functional.pad(part, (0, 4 * Q - K)).view(-1, 4, Q).view(torch.uint8) & 3
        torch.bitwise_or(quarters[:, 0], quarters[:, 1] << 2, out=out)
        out |= (quarters[:, 2] << 4) | (quarters[:, 3] << 6)
    return packed


def unpack(packed, K):
    """The inverse of `pack`: packed bytes [N, quarter(K)] uint8 to codes [N, K] int8."""
    quarters = [(packed << (6 - 2 * i)).view(torch.int8) >> 6 for i in range(4)]
    return torch.cat(quarters, 1)[:, :K].contiguous()
