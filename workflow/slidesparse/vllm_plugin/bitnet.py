"""BitNet b1.58 for vLLM: Llama's blocks with relu² gating and a norm before each output projection.

Source: arXiv 2504.12285 (BitNet b1.58 2B4T), section 2; checkpoint names as in transformers' BitNetForCausalLM.
"""

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM, LlamaModel


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


class BitNetDecoderLayer(nn.Module):
    """One block: norm, attention, norm, MLP, with the residual carried beside the hidden states."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        quant_config = vllm_config.quant_config
        if config.hidden_act != "relu2":
            raise ValueError(f"BitNet's activation is relu2, config.json says {config.hidden_act}")
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


@support_torch_compile
class BitNetModel(LlamaModel):
    """Embedding, blocks and final norm."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", layer_type=BitNetDecoderLayer):
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)


class BitNetForCausalLM(LlamaForCausalLM):
    """The model with its (tied) output head."""

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", layer_type=BitNetDecoderLayer):
        return BitNetModel(vllm_config=vllm_config, prefix=prefix)
