"""Dense GEMM on CPUs: torch._int_mm (INT8 -> INT32) and torch._scaled_mm (E4M3 -> FP32), both run by oneDNN."""

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
        view = Algorithm(0, "weight [N, K] read as a transposed view")
        if operand.dtype != torch.int8:
            return [view]
        return [view, Algorithm(1, "weight stored as [K, N]")]

    def matmul(self, operand, x, algorithm=None, output=None, out=None):
        weight = operand.packed if algorithm == 1 else operand.weight.t()
        if operand.dtype == torch.int8:
            return torch._int_mm(x, weight) if out is None else torch._int_mm(x, weight, out=out)
        one = torch.ones((), dtype=torch.float32)
        product = torch._scaled_mm(x, weight, scale_a=one, scale_b=one, out_dtype=torch.float32)
        return product if out is None else out.copy_(product)
