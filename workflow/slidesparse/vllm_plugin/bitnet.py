"""BitNet b1.58 for vLLM: Llama's blocks with relu² gating and a norm before each output projection.

Source: arXiv 2504.12285 (BitNet b1.58 2B4T), section 2; checkpoint names as in transformers' BitNetForCausalLM.

With the quantisation method `slidesparse` a block is its four products and the operators of `operators.fused` between
them. Activations then exist only as codes, as accumulators and as the residual. With vLLM's own methods a block runs
module by module (`forward`), and vLLM compiles it.
"""

from itertools import pairwise

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM, LlamaModel
from vllm.sequence import IntermediateTensors

from slidesparse.models.bitnet import ACTIVATION
from slidesparse.operators import fused
from slidesparse.operators.attention import decode_attention, serves
from slidesparse.vllm_plugin.quantization import SlideSparseConfig


def codes_for(linear, M):
    """Window order and type of the codes that a linear multiplies at M."""
    return linear.quant_method.pattern(M).name, linear.quant_method.dtype


class BitNetAttention(LlamaAttention):
    """Grouped-query attention with `attn_sub_norm` on its output."""

    def __init__(self, config, **arguments):
        super().__init__(config=config, hidden_size=config.hidden_size, **arguments)
        self.attn_sub_norm = RMSNorm(self.num_heads * self.head_dim, eps=config.rms_norm_eps)

    def forward(self, positions, hidden_states):
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q, k = self.rotary_emb(positions, q, k)
        output, _ = self.o_proj(self.attn_sub_norm(self.attn(q, k, v)))
        return output

    def fused(self, positions, codes, scale):
        """Codes [M, K'] and scales [M] of the block's input -> the product of o_proj with its scales."""
        qkv = self.qkv_proj.quant_method.multiply(codes, scale)
        heads = (positions, self.rotary_emb.cos_sin_cache, self.num_heads, self.num_kv_heads)
        cache = self._cache()
        if cache:
            query = fused.rope_scale_cache(*qkv, *heads, *cache)
            step = self._decode_step(len(query), *cache[:2])
            y = decode_attention(query, *step, self.scaling) if step else self.attn(query, None, None)
        else:
            y = self.attn(*fused.rope_scale(*qkv, *heads))
        norm = self.attn_sub_norm
        codes = fused.norm_quantize(y, norm.weight, norm.variance_epsilon, *codes_for(self.o_proj, len(y)))
        return self.o_proj.quant_method.multiply(*codes)

    def _cache(self):
        """(keys, values, slots) if the attention backend leaves it to others to fill its cache, else None."""
        slots = get_forward_context().slot_mapping
        slots = slots.get(self.attn.layer_name) if isinstance(slots, dict) else None
        cache = self.attn.kv_cache
        if slots is None or self.attn.attn_backend.get_name() != "FLASH_ATTN" or not cache.numel():
            return None
        return *cache.transpose(1, 2).split(self.head_dim, dim=-1), slots

    def _decode_step(self, M, keys, values):
        """(keys, values, lengths, pages) if this step has one token of each of M sequences, else None.

        `decode_attention` takes half of FlashAttention's time there. Inside a CUDA graph this is decided when the graph
        is captured. A graph of M tokens and M sequences (vllm_plugin.graphs) replays only such steps.
        """
        metadata = get_forward_context().attn_metadata
        step = metadata.get(self.attn.layer_name) if isinstance(metadata, dict) else None
        if step is None or step.max_query_len != 1 or len(step.seq_lens) != M or keys.dtype != torch.bfloat16:
            return None
        if self.attn.sliding_window or not serves(self.num_heads, self.num_kv_heads, self.head_dim, keys.shape[1]):
            return None
        return keys, values, step.seq_lens, step.block_table


class BitNetMLP(nn.Module):
    """down(ffn_sub_norm(relu(gate)² * up))."""

    def __init__(self, config, quant_config, prefix):
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(
            config.hidden_size,
            [config.intermediate_size] * 2,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.gate_up_proj",
        )
        self.down_proj = RowParallelLinear(
            config.intermediate_size,
            config.hidden_size,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.down_proj",
        )
        self.ffn_sub_norm = RMSNorm(config.intermediate_size, eps=config.rms_norm_eps)

    def forward(self, x):
        gate_up, _ = self.gate_up_proj(x)
        gate, up = gate_up.chunk(2, dim=-1)
        output, _ = self.down_proj(self.ffn_sub_norm(torch.relu(gate).square() * up))
        return output

    def fused(self, codes, scale):
        """Codes [M, K'] and scales [M] of the MLP's input -> the product of down_proj with its scales."""
        gate_up = self.gate_up_proj.quant_method.multiply(codes, scale)
        norm, order = self.ffn_sub_norm, codes_for(self.down_proj, len(codes))
        codes = fused.relu2_mul_norm_quantize(*gate_up, norm.weight, norm.variance_epsilon, *order)
        return self.down_proj.quant_method.multiply(*codes)


class BitNetDecoderLayer(nn.Module):
    """One block: norm, attention, norm, MLP. The residual is a tensor of its own."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        quant_config = vllm_config.quant_config
        if config.hidden_act != ACTIVATION:
            raise ValueError(f"BitNet's activation is {ACTIVATION}, config.json says {config.hidden_act}")
        self.self_attn = BitNetAttention(
            config,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            quant_config=quant_config,
            cache_config=vllm_config.cache_config,
            prefix=f"{prefix}.self_attn",
        )
        self.mlp = BitNetMLP(config, quant_config, prefix=f"{prefix}.mlp")
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, positions, hidden_states, residual):
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions, hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual

    def fused(self, positions, codes, scale, residual):
        """Codes and scales of the block's input, and the residual -> the product of down_proj, and the residual."""
        norm, y = self.post_attention_layernorm, self.self_attn.fused(positions, codes, scale)
        residual, *codes = fused.add_norm_quantize(
            *y, residual, norm.weight, norm.variance_epsilon, *codes_for(self.mlp.gate_up_proj, len(codes))
        )
        return self.mlp.fused(*codes), residual


class BitNetModel(LlamaModel):
    """Embedding, blocks and final norm. As a LlamaModel it can be compiled by vLLM."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", layer_type=BitNetDecoderLayer):
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if not isinstance(self.quant_config, SlideSparseConfig):
            return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds)
        residual = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        order = codes_for(self.layers[0].self_attn.qkv_proj, len(residual))
        norm = self.layers[0].input_layernorm
        codes = fused.norm_quantize(residual, norm.weight, norm.variance_epsilon, *order)
        for layer, following in pairwise([*self.layers, None]):
            y, residual = layer.fused(positions, *codes, residual)
            if following:
                norm = following.input_layernorm
                residual, *codes = fused.add_norm_quantize(*y, residual, norm.weight, norm.variance_epsilon, *order)
        return fused.add_norm(*y, residual, self.norm.weight, self.norm.variance_epsilon)


class BitNetForCausalLM(LlamaForCausalLM):
    """The model with its (tied) output head."""

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", layer_type=BitNetDecoderLayer):
        return BitNetModel(vllm_config=vllm_config, prefix=prefix)
