"""The card of BitNet-small: what it is, what it was trained on, its figures and its curves."""

import argparse

import torch

from slidesparse.models import bitnet

CARD = """# BitNet-small

A language model of bytes with the architecture of BitNet b1.58 2B 4T: MLP with squared ReLU, norms in front of the
output projections, grouped-query attention, tied embeddings. Its weights come from training. It exists to measure what
a change of the weights costs in accuracy. It is no chatbot.

| | |
|---|---|
| shape | {shape} |
| weights | {weights} |
| zeros among the ternary weights | {zero_share:.2f} % |
| **held-out text** | **{held_out:.4f} bits per byte** |
| stop text | {stop:.4f} bits per byte |

The text is cut into pieces of {context} bytes. A bos stands before each piece, and nothing of the text before it is
known. Weights are as stored and made ternary, activations have 8 bits, and everything else is float32.

Others need for the same held-out text:

| bits per byte | |
|---|---|
{rivals}

## Data

The King James Version of the Bible, in the public domain, from Debian's package `bible-kjv-text`
(`resources/text/README.md`). {train_bytes:,} bytes are for training, {stop_bytes:,} say when to stop, and
{held_out_bytes:,} are held out.

## Training

{steps:,} steps of {tokens:,} bytes ({epochs:.0f} times the training text) in {seconds:.0f} s on {processor}, with torch
{torch}. The weights are those of step {best_step:,}, which had the fewest bits on the stop text. AdamW has a cosine
schedule. Weight decay acts on the linears in the first half. Gradients pass straight through the rounding.

    python benchmarks/train_small.py {command}

On a GPU the same seed gives another model of about the same quality, because sums have no fixed order. On a CPU it
gives the same bytes. The training curve is with dropout and of the weights in training. The stop curve is without
dropout and of the weights as they would be stored.

| step | training, bits per byte | stop, bits per byte | zeros |
|---|---|---|---|
{curve}
"""

SHAPE = (
    "{hidden_size} hidden, {num_hidden_layers} layers, {intermediate_size} in the MLP, {num_attention_heads} query"
    " heads and {num_key_value_heads} key-value heads, vocabulary of {vocab_size} (bytes, bos, eos, and unused)"
)
WEIGHTS = "{:,}, stored as BF16 latents. {:,} of them are in linears and become ternary (absmean, one scale a matrix)"
OPTIONS = ("hidden", "layers", "steps", "batch", "context", "dropout", "decay", "lr", "seed")


def card(arguments: argparse.Namespace, report: dict, weights: dict, parts: dict[str, bytes], rivals: dict) -> str:
    """The model's README.md."""
    sizes = {name: weight.numel() for name, weight in weights.items()}
    tokens = arguments.batch * arguments.context
    return CARD.format(
        **{name: report[name] for name in ("held_out", "stop", "steps", "best_step", "seconds")},
        **{f"{name}_bytes": len(part) for name, part in parts.items()},
        shape=SHAPE.format(**report["shape"]),
        weights=WEIGHTS.format(
            sum(sizes.values()), sum(n for name, n in sizes.items() if bitnet.LINEAR.fullmatch(name))
        ),
        zero_share=100 * report["zeros"],
        context=arguments.context,
        tokens=tokens,
        epochs=report["steps"] * tokens / len(parts["train"]),
        processor="a CPU" if arguments.device == "cpu" else torch.cuda.get_device_name(),
        torch=torch.__version__,
        command=" ".join(f"--{name} {vars(arguments)[name]}" for name in OPTIONS),
        rivals="\n".join(f"| {bits:.4f} | {name} |" for name, bits in rivals.items()),
        curve="\n".join(
            "| {step} | {train} | {stop:.4f} | {zeros:.4f} |".format(
                **row | {"train": "" if row["train"] is None else format(row["train"], ".4f")}
            )
            for row in report["curve"]
        ),
    )
