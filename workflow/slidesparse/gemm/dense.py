"""What GEMM libraries share: the stored dense weight, names of product types, and padding of rows."""

from dataclasses import dataclass
from functools import lru_cache

import torch

OUTPUTS = {"INT32": torch.int32, "BF16": torch.bfloat16, "FP32": torch.float32}
"""Names of a product's type, as points and tables spell them."""

ROWS = 16
"""Tensor cores take rows of activations in multiples of this."""


@dataclass
class Operand:
    """A dense weight [N, K], row-major."""

    weight: torch.Tensor

    @property
    def N(self):
        return self.weight.shape[0]

    @property
    def K(self):
        return self.weight.shape[1]

    @property
    def dtype(self):
        return self.weight.dtype

    @property
    def bytes(self):
        return self.weight.numel()

    footprint = bytes

    def clone(self):
        return Operand(self.weight.clone())


def whole_rows(M):
    """Number of rows that a product of M rows is computed with."""
    return -(-M // ROWS) * ROWS


def padded(x):
    """x [M, K] with rows of zeros up to `whole_rows(M)`."""
    missing = -x.shape[0] % ROWS
    return torch.nn.functional.pad(x.view(torch.int8), (0, 0, 0, missing)).view(x.dtype) if missing else x


@lru_cache(maxsize=64)
def ones(rows, columns, device):
    """Scales that change nothing, [rows, columns] float32. They are kept.

    Raises RuntimeError if a CUDA graph is being captured: they would lie in its memory, which other graphs write to.
    """
    if torch.device(device).type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("run a product once before it is captured: its scales of ones are made then")
    return torch.ones(rows, columns, dtype=torch.float32, device=device)
