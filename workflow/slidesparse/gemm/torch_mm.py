"""Dense GEMM by torch on GPUs: `_int_mm` (INT8 -> INT32) and `_scaled_mm` with one scale per row (E4M3 -> BF16)."""

import torch

from slidesparse import gemm
from slidesparse.gemm import Algorithm
from slidesparse.gemm.dense import OUTPUTS, Operand, ones


class Backend(gemm.Backend):
    name = "torch"
    sparse = False
    device = "cuda"

    def version(self):
        return f"torch {torch.__version__}"

    def outputs(self, dtype):
        return ("INT32",) if dtype == "INT8" else ("BF16",)

    def scales(self, dtype):
        return ("token", "channel") if dtype == "FP8" else ()

    def prepare(self, codes):
        return Operand(codes.to(self.device).contiguous())

    def algorithms(self, operand, M, output=None):
        if operand.dtype == torch.int8:
            return [Algorithm(0, "_int_mm")]
        return [Algorithm(0, "_scaled_mm, row-wise"), Algorithm(1, "_scaled_mm, row-wise, fast accumulation")]

    def matmul(self, operand, x, algorithm=None, output=None, out=None, token_scale=None, channel_scale=None):
        """token_scale [M, 1] and channel_scale [N], float32, multiply an FP8 product. None stands for ones."""
        M, N = x.shape[0], operand.N
        weight = operand.weight.t()
        if operand.dtype == torch.int8:
            out = torch.empty(M, N, dtype=torch.int32, device=x.device) if out is None else out
            return torch._int_mm(x, weight, out=out)
        out = torch.empty(M, N, dtype=OUTPUTS["BF16"], device=x.device) if out is None else out
        return torch._scaled_mm(
            x,
            weight,
            scale_a=ones(M, 1, x.device) if token_scale is None else token_scale,
            scale_b=ones(1, N, x.device) if channel_scale is None else channel_scale.view(1, N),
            out_dtype=out.dtype,
            use_fast_accum=algorithm == 1,
            out=out,
        )
