"""Dense GEMM on CPUs: torch._int_mm (INT8 -> INT32), run by oneDNN, and E4M3 codes multiplied as FP32 (-> FP32).

torch's own product of E4M3 codes (_scaled_mm) takes a hundred times as long on some CPUs. As FP32 their products are
exact, and only the sums are rounded.
"""

from dataclasses import dataclass

import torch

from slidesparse import gemm
from slidesparse.gemm import Algorithm, dense


@dataclass
class Operand(dense.Operand):
    """A dense weight [N, K] and a transposed copy for the algorithm that needs it. A product reads one of the two."""

    packed: torch.Tensor

    def clone(self):
        return Operand(self.weight.clone(), self.packed.clone())


class Backend(gemm.OnCpu, gemm.Backend):
    name = "onednn"
    sparse = False

    def prepare(self, codes):
        return Operand(codes.contiguous(), codes.t().contiguous())

    def algorithms(self, operand, M, output=None):
        if operand.dtype != torch.int8:
            return [Algorithm(0, "codes converted to FP32")]
        view = Algorithm(0, "weight [N, K] read as a transposed view")
        return [view, Algorithm(1, "weight stored as [K, N]")]

    def matmul(self, operand, x, algorithm=None, output=None, out=None):
        if operand.dtype == torch.int8:
            weight = operand.packed if algorithm == 1 else operand.weight.t()
            return torch._int_mm(x, weight) if out is None else torch._int_mm(x, weight, out=out)
        return torch.mm(x.float(), operand.weight.t().float(), out=out)
