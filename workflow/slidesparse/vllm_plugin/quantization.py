"""The quantisation method `slidesparse`: W8A8 linears of dense and slid checkpoints on the backend that was asked for.

A slid checkpoint (its quantization_config has a block `slidesparse`) always uses it; a dense compressed-tensors one
uses it when the engine is given `quantization="slidesparse"`, and vLLM's own path otherwise.
"""

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.parameter import ChannelQuantScaleParameter, ModelWeightParameter

from slidesparse import checkpoints, gemm, slide, tuning
from slidesparse.errors import CheckpointError, ConfigurationError
from slidesparse.patterns import ALIGNMENT, Pattern
from slidesparse.quantize import DTYPES, quantize_per_token

NAME = "slidesparse"


@register_quantization_config(NAME)
class SlideSparseConfig(QuantizationConfig):
    """What the checkpoint says: stored type and pattern."""

    def __init__(self, dtype, pattern):
        super().__init__()
        self.dtype = dtype
        self.pattern = pattern

    @classmethod
    def get_name(cls):
        return NAME

    @classmethod
    def get_supported_act_dtypes(cls):
        return [torch.bfloat16]

    @classmethod
    def get_min_capability(cls):
        return 80

    @staticmethod
    def get_config_filenames():
        return []

    @classmethod
    def from_config(cls, config):
        weights = config["config_groups"]["group_0"]["weights"]
        block = config.get(NAME)
        if block is None:
            pattern = Pattern("dense")
        else:
            pattern = Pattern(block["sparsity"])
            expected = {"version": checkpoints.CONVERTER, "window_order": "even-odd", "alignment": ALIGNMENT}
            for key, value in expected.items():
                if block.get(key) != value:
                    raise CheckpointError(
                        f"the checkpoint was slid with {key} {block.get(key)!r}, this version reads {value!r}: convert"
                        " it again"
                    )
        return cls("INT8" if weights["type"] == "int" else "FP8", pattern)

    @classmethod
    def override_quantization_method(cls, hf_quant_cfg, user_quant, hf_config=None):
        if NAME in hf_quant_cfg or (user_quant == NAME and hf_quant_cfg.get("quant_method") == "compressed-tensors"):
            return NAME
        return None

    def get_quant_method(self, layer, prefix):
        if not isinstance(layer, LinearBase) or prefix.endswith("lm_head"):
            return None
        chosen = get_current_vllm_config().additional_config.get(NAME, {})
        if "backend" not in chosen:
            raise ConfigurationError(
                "the engine was not told which GEMM backend to use: pass additional_config={'slidesparse': {'backend':"
                " …}}"
            )
        backend = gemm.backend(chosen["backend"])
        if backend.sparse and self.pattern.dense:
            raise ConfigurationError(f"backend {backend.name} needs a slid checkpoint and this one is dense")
        table = tuning.Table.read(chosen["tuning"], backend.version()) if chosen.get("tuning") else None
        return SlideSparseLinearMethod(self.dtype, self.pattern, backend, table)


class SlideSparseLinearMethod(LinearMethodBase):
    """y = (codes(x) W^T) * s_x * s_w: quantise per token, lift if the backend is sparse, multiply, scale."""

    def __init__(self, dtype, pattern, backend, table):
        self.dtype, self.pattern, self.backend, self.table = dtype, pattern, backend, table

    def create_weights(
        self, layer, input_size_per_partition, output_partition_sizes, input_size, output_size, params_dtype, **extra
    ):
        if input_size_per_partition != input_size or sum(output_partition_sizes) != output_size:
            raise ConfigurationError("slid checkpoints are not sharded: use tensor_parallel_size 1")
        N, self.K = output_size, input_size
        loader = extra["weight_loader"]
        shape = (N, self.pattern.K_slid(self.K))
        weight = torch.empty(shape, dtype=DTYPES[self.dtype])
        scale = torch.empty((N, 1), dtype=torch.float32)
        layer.register_parameter(
            "weight", ModelWeightParameter(data=weight, input_dim=1, output_dim=0, weight_loader=loader)
        )
        layer.register_parameter(
            "weight_scale", ChannelQuantScaleParameter(data=scale, output_dim=0, weight_loader=loader)
        )

    def process_weights_after_loading(self, layer):
        codes = layer.weight.data
        if not self.backend.sparse and not self.pattern.dense:
            bits = slide.unslide(codes.view(torch.int8), self.pattern, self.K)
            codes = bits.view(codes.dtype)
        self.operand = self.backend.prepare(codes)
        self.scale = layer.weight_scale.data.t().contiguous()  # [1, N]
        layer.register_parameter("weight", None)

    def accumulate(self, x):
        """x [M, K] BF16 -> (accumulators [M, N], per-token scales [M, 1])."""
        codes, scale = quantize_per_token(x, self.dtype)
        if self.backend.sparse:
            codes = slide.lift(codes, self.pattern)
        M = codes.shape[0]
        output = self.backend.outputs(self.dtype)[0]
        algorithm = self.table.algorithm(self.backend, self.operand, M, output) if self.table else None
        return self.backend.matmul(self.operand, codes, algorithm, output), scale

    def apply(self, layer, x, bias=None):
        rows = x.reshape(-1, x.shape[-1])
        accumulators, scale = self.accumulate(rows)
        y = (accumulators.to(torch.float32) * scale * self.scale).to(x.dtype)
        if bias is not None:
            y = y + bias
        return y.reshape(*x.shape[:-1], -1)
