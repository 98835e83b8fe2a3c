"""The quantisation method `slidesparse`: W8A8 linears of dense and slid checkpoints on our GEMM backends.

All linears run on the backend that was asked for. With `auto` each runs on the one that was chosen for its shape and M.

A slid checkpoint has a block `slidesparse` in its quantization_config and always uses this method. A dense
compressed-tensors checkpoint uses it if the engine is given `quantization="slidesparse"`. Otherwise it uses vLLM's own
path.
"""

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.parameter import ChannelQuantScaleParameter, ModelWeightParameter

from slidesparse import gemm
from slidesparse.errors import CheckpointError, ConfigurationError
from slidesparse.machine import families
from slidesparse.models import checkpoints
from slidesparse.operators import launches
from slidesparse.sparsity import slide
from slidesparse.sparsity.patterns import ALIGNMENT, Pattern
from slidesparse.sparsity.quantize import DTYPES
from slidesparse.tuning.choices import Choices
from slidesparse.tuning.table import Table

NAME = "slidesparse"


@register_quantization_config(NAME)
class SlideSparseConfig(QuantizationConfig):
    """What the checkpoint says: stored type and pattern."""

    def __init__(self, dtype, pattern):
        super().__init__()
        self.dtype = dtype
        self.pattern = pattern
        self._running = None

    @classmethod
    def get_name(cls):
        return NAME

    @classmethod
    def get_supported_act_dtypes(cls):
        return [torch.bfloat16]

    @classmethod
    def get_min_capability(cls):
        return min(families.FIRST.values())

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
        if self._running is None:
            self._running = self._kernels(chosen["backend"], chosen.get("tuning"))
        return SlideSparseLinearMethod(self.dtype, self.pattern, *self._running)

    def _kernels(self, backend, table):
        """({name: Kernel} that linears run on, Choices among them or None)."""
        if backend != "auto":
            return {backend: Kernel(backend, table, self.dtype, self.pattern)}, None
        choices = Choices(table)
        kernels = {name: Kernel(name, own, self.dtype, self.pattern) for name, own in choices.tables.items()}
        return kernels, choices


class Kernel:
    """A GEMM backend for a checkpoint of type `dtype` and pattern `stored`, and its tuning table (path or None).

    pattern: the window order of the codes that it multiplies.
    epilogue: whether its products have both scales applied.
    Raises ConfigurationError if the backend cannot run the checkpoint.
    """

    def __init__(self, backend, table, dtype, stored):
        self.backend = gemm.backend(backend)
        if self.backend.sparse and stored.dense:
            raise ConfigurationError(f"backend {backend} needs a slid checkpoint and this one is dense")
        self.pattern = stored if self.backend.sparse else Pattern("dense")
        self.epilogue = {"token", "channel"} <= set(self.backend.scales(dtype))
        self._output = self.backend.outputs(dtype)[0]
        self._table = Table.read(table, self.backend.version()) if table else None
        for quantiser in self._table.quantize_lift if self._table else []:
            launches.use(quantiser)

    def algorithm(self, operand, M):
        """Id of the algorithm that its table has for M, or None for the library's default."""
        return self._table and self._table.algorithm(self.backend, operand, M, self._output)


class SlideSparseLinearMethod(LinearMethodBase):
    """The product of a linear: codes in, accumulators out. The model class does everything between products.

    kernels: {backend: Kernel}. choices: Choices among them, or None if there is only one.
    """

    def __init__(self, dtype, stored, kernels, choices):
        self.dtype, self._stored, self._kernels, self._choices = dtype, stored, kernels, choices
        self._at = {}  # M -> (Kernel, its operand, id of the algorithm or None)

    def create_weights(
        self, layer, input_size_per_partition, output_partition_sizes, input_size, output_size, params_dtype, **extra
    ):
        if input_size_per_partition != input_size or sum(output_partition_sizes) != output_size:
            raise ConfigurationError("slid checkpoints are not sharded: use tensor_parallel_size 1")
        self._N, self._K, self._parts = output_size, input_size, output_partition_sizes
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
        codes = {self._stored: layer.weight.data}
        self._operands = {}
        for name in self._choices.backends(self._N, self._K) if self._choices else self._kernels:
            kernel = self._kernels[name]
            if kernel.pattern not in codes:
                codes[kernel.pattern] = self._dense(layer.weight.data)
            self._operands[name] = kernel.backend.prepare(codes[kernel.pattern])
        self.channel_scale = layer.weight_scale.data.flatten().contiguous()
        parts = self.channel_scale.split(self._parts)
        self.weight_scale = torch.stack([part[0] for part in parts])
        """One scale for each original matrix of the linear, float32."""
        if any((part != part[0]).any() for part in parts):
            raise CheckpointError("a weight matrix has several scales, and a BitNet matrix has one: convert it again")
        layer.register_parameter("weight", None)

    def _dense(self, codes):
        """The stored codes [N, K'] without windows, as [N, K]."""
        return slide.unslide(codes.view(torch.int8).cpu(), self._stored, self._K).view(codes.dtype).to(codes.device)

    @property
    def bytes(self):
        """Bytes of the weight in memory, in the forms of all backends that may run it."""
        return sum(operand.bytes for operand in self._operands.values())

    def pattern(self, M):
        """The window order of the codes that it multiplies at M."""
        return self._run(M)[0].pattern

    def choice(self, M):
        """What runs at M: {"backend", "algorithm" (id, or None for the library's default), "tuned" (has an id)}."""
        kernel, _, algorithm = self._run(M)
        return {"backend": kernel.backend.name, "algorithm": algorithm, "tuned": algorithm is not None}

    def multiply(self, codes, token_scale):
        """codes [M, K'] and scales [M] -> (product [M, N], token_scale, weight_scale), arguments of `operators.fused`.

        The codes are in the window order `pattern(M)`. The scales are None if they were applied to the product.
        """
        kernel, operand, algorithm = self._run(len(codes))
        scales = {}
        if kernel.epilogue:
            scales = {"token_scale": token_scale[:, None], "channel_scale": self.channel_scale}
        product = kernel.backend.matmul(operand, codes, algorithm, **scales)
        return (product, None, None) if kernel.epilogue else (product, token_scale, self.weight_scale)

    def _run(self, M):
        """(Kernel, operand, algorithm or None) of M."""
        if M not in self._at:
            name, algorithm = next(iter(self._kernels)), None
            if self._choices:
                name, algorithm = self._choices.at(self._N, self._K, M)
            kernel, operand = self._kernels[name], self._operands[name]
            self._at[M] = kernel, operand, kernel.algorithm(operand, M) if algorithm is None else algorithm
        return self._at[M]

    def apply(self, layer, x, bias=None):
        raise ConfigurationError("the quantisation method slidesparse runs in the BitNet model class only")
