"""Sparse GEMM on CPUs, from compressed 2:4 values and their metadata: half the multiplications, like the hardware.

Each output channel is a weighted sum of K'/2 lifted inputs. The metadata of its kept values point at these inputs. Two
algorithms compute this sum: `embedding_bag` (a table of lifted activations, one bag a channel) and sparse CSR. Both use
float32, which holds integers below 2^24 exactly. Partial sums of INT8 codes stay below it if the weights are ternary,
or if 127 * 127 * K'/2 < 2^24. Larger sums are refused.
"""

import warnings
from dataclasses import dataclass

import torch

from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm import Algorithm
from slidesparse.sparsity.slide import compress, lanes

BLOCK = 128
"""Rows of x that are multiplied at once: their lifted inputs stay in a core's cache."""


@dataclass
class Operand:
    """A compressed 2:4 weight, as it is stored, and the two forms that the algorithms read."""

    values: torch.Tensor
    metadata: torch.Tensor
    columns: torch.Tensor
    weights: torch.Tensor
    csr: torch.Tensor
    dtype: torch.dtype

    @property
    def N(self):
        return self.values.shape[0]

    @property
    def K(self):
        return self.values.shape[1] * 2

    @property
    def bytes(self):
        return self.values.numel() + self.metadata.numel()

    @property
    def footprint(self):
        return self.columns.numel() * (self.columns.element_size() + self.weights.element_size())

    def clone(self):
        copies = (tensor.clone() for tensor in (self.values, self.metadata, self.columns, self.weights, self.csr))
        return Operand(*copies, self.dtype)


class Backend(gemm.OnCpu, gemm.Backend):
    name = "reference"
    sparse = True

    def prepare(self, codes):
        values, metadata = compress(codes.view(torch.int8))
        columns = lanes(metadata)
        weights = values.view(codes.dtype).to(torch.float32)
        if codes.dtype == torch.int8 and 127 * int(weights.abs().sum(1).max()) >= 1 << 24:
            raise MeasurementError(
                "backend reference: the sum of a row's absolute weights times 127 exceeds 2^24, which float32 cannot"
                " hold exactly; use weights of smaller magnitude or a dense backend"
            )
        N, half = values.shape
        rows = torch.arange(N + 1) * half
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch says that CSR is in beta and unchecked
            csr = torch.sparse_csr_tensor(rows, columns.reshape(-1), weights.reshape(-1), size=(N, 2 * half))
        return Operand(values, metadata, columns, weights, csr, codes.dtype)

    def algorithms(self, operand, M, output=None):
        return [Algorithm(0, "gather (embedding_bag)"), Algorithm(1, "sparse CSR")]

    def matmul(self, operand, x, algorithm=None, output=None, out=None):
        if out is None:
            dtype = torch.int32 if operand.dtype == torch.int8 else torch.float32
            out = torch.empty(x.shape[0], operand.N, dtype=dtype)
        for rows, result in zip(x.split(BLOCK), out.split(BLOCK), strict=True):
            result.copy_(_product(operand, rows.to(torch.float32).t().contiguous(), algorithm).t())
        return out


def _product(operand, inputs, algorithm):
    """[N, rows] of inputs [K', rows], both float32."""
    if algorithm == 1:
        return operand.csr @ inputs
    return torch.nn.functional.embedding_bag(operand.columns, inputs, mode="sum", per_sample_weights=operand.weights)
