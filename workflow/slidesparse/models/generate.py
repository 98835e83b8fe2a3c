"""BitNet checkpoints from a seed: the real architecture, and the same bytes on every machine and library version.

Only the raw bits of PCG64 are used, whose stream NumPy guarantees (NEP 19). Sums of integers make normal-like values
from them, and exact arithmetic makes BF16. So nothing depends on how a library samples or rounds.
"""

import math

from slidesparse.errors import ConfigurationError
from slidesparse.files import write_json
from slidesparse.models import safetensors_io
from slidesparse.models.bitnet import config, tensors
from slidesparse.models.verified import measure
from slidesparse.plan.prompts import POSITIONS

GENERATOR = 2
"""Version of all code that decides the bytes. If it changes, every generated model is made anew."""

BYTES = 256
BOS, EOS = BYTES, BYTES + 1  # token ids behind the 256 bytes

# value = offset + k / 2^exponent, where k is the sum of eight random bytes minus its mean (standard deviation 209).
# Embeddings have a standard deviation of 0.10, so tied logits spread by 0.1 * sqrt(hidden_size). Norms scatter about 1.
# Linears are k * (HEAVY + |k|) / 2^exponent (0.030). 42 % of them become ternary zeros, as in the trained model (median
# over the layers of BitNet b1.58 2B 4T). Of normal values it would be 31 %.
VALUES = {"linear": (0, 22), "embedding": (0, 11), "norm": (1, 11)}
HEAVY = 261
MEAN = 8 * 255 // 2
CHUNK = 1 << 16  # values made at a time; their words fit into a core's cache


def generate(directory, seed, shape, positions=POSITIONS):
    """Write a complete BitNet checkpoint into the existing `directory`; returns {file: {"size", "sha256"}}.

    The same seed and shape (the six numbers of slidesparse.models.shape) give the same weights, for sequences of up to
    `positions` tokens. It needs memory for the largest tensor. ConfigurationError if the vocabulary is smaller than the
    tokens; OSError if the disk fails.
    """
    if shape["vocab_size"] <= EOS:
        raise ConfigurationError(f"a generated model needs a vocab_size of at least {EOS + 1} (256 bytes, bos, eos)")
    texts = {
        "config.json": config(shape, positions, BOS, EOS),
        "generation_config.json": {"bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": tokenizer_config(positions),
    }
    for file, content in texts.items():
        write_json(directory / file, content)
    entries = [
        (name, "BF16", size, lambda index=index, size=size, kind=kind: values(seed, index, size, kind))
        for index, (name, size, kind) in enumerate(tensors(shape))
    ]
    weights = safetensors_io.write(directory / "model.safetensors", entries, {"format": "pt"})
    return {file: measure(directory / file) for file in texts} | {"model.safetensors": weights}


def size(shape):
    """Bytes of the weights of a model of this shape."""
    none, one = (
        sum(math.prod(dimensions) for _, dimensions, _ in tensors(shape | {"num_hidden_layers": layers}))
        for layers in (0, 1)
    )
    return 2 * (none + shape["num_hidden_layers"] * (one - none))


def values(seed, index, size, kind):
    """Tensor number `index` of the model, as BF16 bit patterns (little-endian uint16 of shape `size`)."""
    import numpy as np

    stream = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,)))
    table = bfloat16_table(kind)
    flat = np.empty(size, dtype="<u2").reshape(-1)
    low, eight = np.uint64(0x00FF00FF00FF00FF), np.uint64(8)
    ones, top = np.uint64(0x0001000100010001), np.uint64(48)
    for start in range(0, flat.size, CHUNK):
        words = stream.random_raw(min(CHUNK, flat.size - start))
        sums = (words & low) + (words >> eight & low)  # four 16-bit lanes, each the sum of two bytes
        sums = sums * ones >> top  # the highest lane is the sum of all four
        np.take(table, sums.view(np.int64), out=flat[start : start + CHUNK], mode="clip")
    return flat.reshape(size)


def bfloat16_table(kind):
    """BF16 bit patterns of the values of all sums of eight bytes, ties rounded to even.

    Each value has few enough bits to be exact in binary32. The 16 bits that BF16 drops are rounded as integers.
    """
    import numpy as np

    offset, exponent = VALUES[kind]
    k = np.arange(-MEAN, MEAN + 1)
    if kind == "linear":
        k *= HEAVY + abs(k)
    exact = (offset + k / 2.0**exponent).astype(np.float32).view(np.uint32)
    return ((exact + 0x7FFF + (exact >> 16 & 1)) >> 16).astype("<u2")


def tokenizer():
    """tokenizer.json: one token for each byte (token id = byte), then bos and eos; no merges."""
    # Byte-level BPE writes each byte as a visible character: printable Latin-1 as itself, all others from U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(BYTES) if byte not in printable]
    vocabulary = {chr(BYTES + hidden.index(byte) if byte in hidden else byte): byte for byte in range(BYTES)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": BOS, "content": "<|begin_of_text|>", **special},
            {"id": EOS, "content": "<|end_of_text|>", **special},
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def tokenizer_config(positions=POSITIONS):
    """tokenizer_config.json, for transformers' AutoTokenizer."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
    }
