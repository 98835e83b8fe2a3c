"""All that is specific to BitNet: its name, its linears, its tensors and its config.json.

Source: arXiv 2504.12285 (BitNet b1.58 2B4T), section 2. Names are those of transformers' BitNetForCausalLM. A `shape`
is the six numbers of slidesparse.models.shape. A second family of models would be a module with the same functions.
"""

import re

ARCHITECTURE = "BitNetForCausalLM"
MODEL_TYPE = "bitnet"

ACTIVATION = "relu2"
"""The activation between gate and down, relu squared."""

QUANTIZATION = {
    "quant_method": ("bitnet",),
    "linear_class": ("bitlinear", "autobitlinear"),
    "quantization_mode": ("offline", "online"),
    "use_rms_norm": (False,),
}
"""What may stand in a quantization_config; where a key is missing, the first value holds (transformers' defaults)."""

HEAD = "lm_head.weight"
"""The output head, of a model that does not use the embedding for it."""

VALUES_PER_BYTE = 4
"""Ternary weights in a byte of a packed matrix."""

HEAD_MULTIPLE, LARGEST_HEAD = 8, 256
"""Channels of a head that FlashAttention takes (vLLM 0.33, v1/attention/backends/flash_attn.py)."""

LINEAR = re.compile(r"model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight")
"""Names of the weights that become ternary. All others are copied."""


def describes(config):
    """Whether the content of a config.json (a dict) describes a model of this family."""
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    return config.get("model_type") == MODEL_TYPE or ARCHITECTURE in named


def unfit(config, shape):
    """Why no engine here can run a model with this config.json (a dict): the predicate of a sentence, or None.

    Without this check, an engine would say so after the download, or compute something else.
    """
    if config.get("hidden_act", ACTIVATION) != ACTIVATION:
        return f"has hidden_act {config['hidden_act']!r:.80}, but BitNet's is {ACTIVATION!r}, and no other can be run"
    for bias in ("attention_bias", "mlp_bias"):
        if config.get(bias):
            return f"has {bias} {config[bias]!r:.80}, but linears with a bias cannot be run"
    if "head_dim" in config and config["head_dim"] is None:
        return f"has head_dim null: remove it, or write {shape['hidden_size'] // shape['num_attention_heads']}"
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    if not isinstance(quantization, dict):
        return "has a quantization_config that is no section"
    if "quant_method" in quantization and quantization["quant_method"] not in QUANTIZATION["quant_method"]:
        return (
            f"describes weights quantised by {quantization['quant_method']!r:.80}, which cannot be read: use the model"
            " in BF16, or as transformers' method bitnet stores it"
        )
    for key, known in QUANTIZATION.items():
        if quantization.get(key, known[0]) not in known:
            return f"has quantization_config.{key} {quantization[key]!r:.80}, which cannot be read"
    left_out = quantization.get("modules_to_not_convert") or []
    if left_out != [part for part in ["lm_head"] if part in left_out]:
        return f"leaves {left_out!r:.80} out of the quantisation, but all linears of BitNet's blocks are ternary"
    return None


def scale_of(config):
    """What the `<linear>.weight_scale` beside a ternary matrix does by config.json: `multiplies` or `divides`.

    None if there is no quantization_config, which says it. Source: transformers, integrations/bitnet.py: AutoBitLinear
    multiplies its product by the scale, BitLinear divides by it.
    """
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    linear = quantization.get("linear_class", QUANTIZATION["linear_class"][0])
    return "multiplies" if linear == "autobitlinear" else "divides"


def is_packed(name, dtype):
    """Whether tensor `name` of a model, stored as `dtype`, is a linear's matrix with four ternary weights to a byte."""
    return dtype == "U8" and LINEAR.fullmatch(name) is not None


def held_shape(name, dtype, shape):
    """Shape of the weights that tensor `name` holds, stored as `dtype` in `shape`: a packed one has more rows."""
    return (VALUES_PER_BYTE * shape[0], *shape[1:]) if shape and is_packed(name, dtype) else tuple(shape)


def is_tied(config):
    """Whether the output head is the embedding by a config.json (a dict); transformers' default is that it is not."""
    return bool(config.get("tie_word_embeddings", False))


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


def tensors(shape, tied=True):
    """(name, shape, kind) of every tensor in the order of the released checkpoint; kind: linear, embedding or norm.

    tied: whether the output head is the embedding. If not, it is the last tensor.
    """
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
    if not tied:
        yield HEAD, (shape["vocab_size"], hidden), "embedding"
