"""A tiny model as a hub holds the real one: the files of microsoft/bitnet-b1.58-2B-4T-bf16, and their form.

Its config.json names code that nobody may run, and weights that are ternary only when a layer multiplies. Its tokenizer
is byte-level BPE with merges, whose tokens that begin and end a text stand behind all others, as in LLaMA 3.
"""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from places import ROOT
from slidesparse.models import bitnet, generate

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
BOS = SHAPE["vocab_size"] - len(SPECIAL)
TEXT = (ROOT / "resources" / "text" / "held_out.txt").read_text()

UNUSED = ("README.md", "LICENSE", ".gitattributes", "configuration_bitnet.py", "modeling_bitnet.py")
"""Files beside those of the model, which are not fetched."""


def tokenizer():
    """A Tokenizer with merges of the default text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=BOS, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([*SPECIAL])
    first = (SPECIAL[0], made.token_to_id(SPECIAL[0]))
    made.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[first])
    return made


def files(directory):
    """{name: content} of the repository, made in the empty `directory`."""
    generate.generate(directory, 1, SHAPE)
    tokenizer().save(str(directory / "tokenizer.json"))
    config = bitnet.config(SHAPE, 4096, BOS, BOS + 1)
    names = {name: f"{module}_bitnet.BitNet{kind}" for name, module, kind in AUTO_MAP}
    online = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    texts = {
        "config.json": config | {"auto_map": names, "quantization_config": online},
        "generation_config.json": {"bos_token_id": BOS, "eos_token_id": [BOS + 1, BOS + 2], "do_sample": True},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0]},
        "special_tokens_map.json": {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1]},
    }
    for name, content in texts.items():
        (directory / name).write_text(json.dumps(content))
    for name in UNUSED:
        (directory / name).write_text("raise SystemExit('this must never run')\n")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


AUTO_MAP = (("AutoConfig", "configuration", "Config"), ("AutoModelForCausalLM", "modeling", "ForCausalLM"))
