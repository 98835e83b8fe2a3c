"""All that is specific to BitNet: its name, its linears, its tensors and its config.json.

Source: arXiv 2504.12285 (BitNet b1.58 2B4T), section 2. Names are those of transformers' BitNetForCausalLM. A `shape`
is the six numbers of slidesparse.models.shape. A second family of models would be a module with the same functions.
"""

import re

ARCHITECTURE = "BitNetForCausalLM"
MODEL_TYPE = "bitnet"

ACTIVATION = "relu2"
"""The activation between gate and down, relu squared."""

LINEAR = re.compile(r"model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight")
"""Names of the weights that become ternary. All others are copied."""


def describes(config):
    """Whether the content of a config.json (a dict) describes a model of this family."""
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    return config.get("model_type") == MODEL_TYPE or ARCHITECTURE in named


def config(shape, positions, bos, eos):
    """config.json of a model for `positions` tokens; bos and eos: ids of the tokens that begin and end a text."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        **shape,
        "hidden_act": ACTIVATION,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def linears(shape):
    """The four linears of a layer, merged as for inference: [{"name", "N" (outputs), "K" (inputs)}].

    qkv stacks the projections of the queries and of the grouped keys and values. gate_up stacks those of the MLP.
    """
    hidden, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    head = hidden // heads
    return [
        {"name": "qkv", "N": (heads + 2 * shape["num_key_value_heads"]) * head, "K": hidden},
        {"name": "o", "N": hidden, "K": heads * head},
        {"name": "gate_up", "N": 2 * inner, "K": hidden},
        {"name": "down", "N": hidden, "K": inner},
    ]


def tensors(shape):
    """(name, shape, kind) of every tensor in the order of the released checkpoint; kind: linear, embedding or norm."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    grouped = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden), "embedding"
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,), "norm"
        yield f"{prefix}.self_attn.q_proj.weight", (hidden, hidden), "linear"
        yield f"{prefix}.self_attn.k_proj.weight", (grouped, hidden), "linear"
        yield f"{prefix}.self_attn.v_proj.weight", (grouped, hidden), "linear"
        yield f"{prefix}.self_attn.attn_sub_norm.weight", (hidden,), "norm"
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden), "linear"
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,), "norm"
        yield f"{prefix}.mlp.gate_proj.weight", (inner, hidden), "linear"
        yield f"{prefix}.mlp.up_proj.weight", (inner, hidden), "linear"
        yield f"{prefix}.mlp.ffn_sub_norm.weight", (inner,), "norm"
        yield f"{prefix}.mlp.down_proj.weight", (hidden, inner), "linear"
    yield "model.norm.weight", (hidden,), "norm"
