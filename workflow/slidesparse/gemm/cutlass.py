"""Dense GEMM by vLLM's CUTLASS kernels, `cutlass_scaled_mm`: INT8 and E4M3 -> BF16, both scales in the epilogue."""

from functools import cache
from importlib import import_module, metadata

import torch

from slidesparse import gemm
from slidesparse.errors import HardwareError
from slidesparse.gemm import Algorithm
from slidesparse.gemm.dense import OUTPUTS, Operand, ones

MODULES = ("vllm._C_stable_libtorch", "vllm._C")
"""Modules that hold the operator in different versions of vLLM."""


@cache
def _operator():
    for module in MODULES:
        try:
            import_module(module)
        except ImportError:
            continue
        if hasattr(torch.ops._C, "cutlass_scaled_mm"):
            return torch.ops._C.cutlass_scaled_mm
    raise HardwareError("backend cutlass needs vLLM built for this GPU, whose operator cutlass_scaled_mm was not found")


class Backend(gemm.Backend):
    name = "cutlass"
    sparse = False
    device = "cuda"

    def version(self):
        _operator()
        try:
            return f"vLLM {metadata.version('vllm')}"
        except metadata.PackageNotFoundError:
            return "vLLM of unknown version"

    def outputs(self, dtype):
        return ("BF16",)

    def scales(self, dtype):
        return ("token", "channel")

    def prepare(self, codes):
        return Operand(codes.to(self.device).contiguous())

    def algorithms(self, operand, M, output=None):
        return [Algorithm(0, "the kernel that vLLM picks")]

    def matmul(self, operand, x, algorithm=None, output=None, out=None, token_scale=None, channel_scale=None):
        """token_scale [M, 1] and channel_scale [N], float32, multiply the product. None stands for ones."""
        M, N = x.shape[0], operand.N
        out = torch.empty(M, N, dtype=OUTPUTS["BF16"], device=x.device) if out is None else out
        token_scale = ones(M, 1, x.device) if token_scale is None else token_scale
        channel_scale = ones(N, 1, x.device) if channel_scale is None else channel_scale.view(N, 1)
        _operator()(out, x, operand.weight.t(), token_scale, channel_scale, None)
        return out
