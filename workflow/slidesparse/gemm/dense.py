"""What GEMM libraries share: the dense weight, names of product types, padding of rows, and tensors that are kept."""

from dataclasses import dataclass
from functools import cache

import torch

OUTPUTS = {"INT32": torch.int32, "BF16": torch.bfloat16, "FP32": torch.float32}
"""Names of a product's type, as points and tables spell them."""

ROWS = 16
"""Tensor cores take rows of activations in multiples of this."""

LEAST_KEPT = 12
"""Binary logarithm of the fewest numbers of a tensor that is kept, so that most products share one."""


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


def kept(count, value, dtype, device):
    """`count` numbers of a tensor that is made once and kept for good, for CUDA graphs read it later.

    Raises RuntimeError if a CUDA graph is being captured and the tensor is not there yet: it would lie in the graph's
    memory, which other graphs write to.
    """
    return _kept(1 << max(LEAST_KEPT, (count - 1).bit_length()), value, dtype, device)[:count]


@cache
def _kept(size, value, dtype, device):
    capturing = torch.device(device).type == "cuda" and not torch.compiler.is_compiling()
    if capturing and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("run a product once before it is captured: what it keeps for later is made then")
    return torch.full((size,), value, dtype=dtype, device=device)


def ones(rows, columns, device):
    """Scales that change nothing, [rows, columns] float32. See `kept`."""
    return kept(rows * columns, 1, torch.float32, device).view(rows, columns)
