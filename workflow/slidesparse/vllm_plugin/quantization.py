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
from slidesparse.kernels import configurations
from slidesparse.patterns import ALIGNMENT, Pattern
from slidesparse.quantize import DTYPES

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
        for quantiser in table.quantize_lift if table else []:
            configurations.use(quantiser)
        return SlideSparseLinearMethod(self.dtype, self.pattern, backend, table)


class SlideSparseLinearMethod(LinearMethodBase):
    """The product of a linear, codes in and accumulators out; what stands between products is the model's."""

    def __init__(self, dtype, pattern, backend, table):
        self.dtype, self.backend, self.table = dtype, backend, table
        self._stored = pattern
        self.pattern = pattern if backend.sparse else Pattern("dense")
        """The window order of the codes that it multiplies."""
        self.epilogue = {"token", "channel"} <= set(backend.scales(dtype))
        """True if products leave with both scales applied."""
        self._algorithms = {}

    def create_weights(
        self, layer, input_size_per_partition, output_partition_sizes, input_size, output_size, params_dtype, **extra
    ):
        if input_size_per_partition != input_size or sum(output_partition_sizes) != output_size:
            raise ConfigurationError("slid checkpoints are not sharded: use tensor_parallel_size 1")
        self._K, self._parts = input_size, output_partition_sizes
        loader = extra["weight_loader"]
        weight = torch.empty((output_size, self._stored.K_slid(input_size)), dtype=DTYPES[self.dtype])
        scale = torch.empty((output_size, 1), dtype=torch.float32)
        layer.register_parameter(
            "weight", ModelWeightParameter(data=weight, input_dim=1, output_dim=0, weight_loader=loader)
        )
        layer.register_parameter(
            "weight_scale", ChannelQuantScaleParameter(data=scale, output_dim=0, weight_loader=loader)
        )

    def process_weights_after_loading(self, layer):
        codes = layer.weight.data
        if self.pattern != self._stored:
            dense = slide.unslide(codes.view(torch.int8).cpu(), self._stored, self._K)
            codes = dense.view(codes.dtype).to(codes.device)
        self.operand = self.backend.prepare(codes)
        self.channel_scale = layer.weight_scale.data.flatten().contiguous()
        parts = self.channel_scale.split(self._parts)
        self.weight_scale = torch.stack([part[0] for part in parts])
        """One scale for each original matrix of the linear, float32."""
        if any((part != part[0]).any() for part in parts):
            raise CheckpointError("a weight matrix has several scales, and a BitNet matrix has one: convert it again")
        layer.register_parameter("weight", None)

    def multiply(self, codes, token_scale):
        """codes [M, K'] and scales [M] -> product [M, N], token_scale, weight_scale, as `kernels.fused` takes them.

        The scales are None if they were applied to the product.
        """
        scales = {}
        if self.epilogue:
            scales = {"token_scale": token_scale[:, None], "channel_scale": self.channel_scale}
        product = self.backend.matmul(self.operand, codes, self._algorithm(len(codes)), **scales)
        return (product, None, None) if self.epilogue else (product, token_scale, self.weight_scale)

    def _algorithm(self, M):
        if self.table and M not in self._algorithms:
            output = self.backend.outputs(self.dtype)[0]
            self._algorithms[M] = self.table.algorithm(self.backend, self.operand, M, output)
        return self._algorithms.get(M)

    def apply(self, layer, x, bias=None):
        raise ConfigurationError("the quantisation method slidesparse runs in the BitNet model class only")
