"""The quantisation method `slidesparse-unquantised`: ternary weights times their scale, activations not quantised.

It loads a dense W8A8 checkpoint. So a model and its W8A8 checkpoint differ in the activations of linears only. Blocks
run module by module, because between products there are activations and no codes. Nothing is timed with it.
"""

import torch
from torch.nn import functional as F
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from slidesparse.errors import CheckpointError
from slidesparse.sparsity.patterns import Pattern
from slidesparse.vllm_plugin import quantization

NAME = "slidesparse-unquantised"


@register_quantization_config(NAME)
class UnquantisedConfig(QuantizationConfig):
    """What the checkpoint says: the stored type of its codes."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    @classmethod
    def get_name(cls):
        return NAME

    @classmethod
    def get_supported_act_dtypes(cls):
        return [torch.bfloat16]

    @classmethod
    def get_min_capability(cls):
        return quantization.SlideSparseConfig.get_min_capability()

    @staticmethod
    def get_config_filenames():
        return []

    @classmethod
    def from_config(cls, config):
        if quantization.NAME in config:
            raise CheckpointError("the checkpoint is slid: the model itself is read from the dense checkpoint")
        return cls(quantization.SlideSparseConfig.from_config(config).dtype)

    @classmethod
    def override_quantization_method(cls, hf_quant_cfg, user_quant, hf_config=None):
        return NAME if user_quant == NAME else None

    def get_quant_method(self, layer, prefix):
        if not isinstance(layer, LinearBase) or prefix.endswith("lm_head"):
            return None
        return UnquantisedLinearMethod(self.dtype)


class UnquantisedLinearMethod(LinearMethodBase):
    """y = (x W) * scale, with the codes W in BF16 on a GPU, and in float32 on a CPU."""

    create_weights = quantization.SlideSparseLinearMethod.create_weights

    def __init__(self, dtype):
        self.dtype, self._stored = dtype, Pattern("dense")

    def process_weights_after_loading(self, layer):
        codes = layer.weight.data
        self._weight = codes.to(torch.bfloat16 if codes.is_cuda else torch.float32)
        self._scale = layer.weight_scale.data.flatten()
        layer.register_parameter("weight", None)

    def apply(self, layer, x, bias=None):
        product = F.linear(x.to(self._weight.dtype), self._weight)
        return (product.float() * self._scale).to(x.dtype)
