"""Trains BitNet-small, a BitNet of about five million ternary weights, on the text of `small_text.py`.

    python benchmarks/train_small.py --hidden 256 --layers 6 --seconds 480 --out resources/trained/BitNet-small

It takes minutes on a GPU and hours on a CPU. It writes a model that the registry can name as `local`, with a card
(README.md) and its curves (training.json).

Training computes what engines compute. Linears have ternary weights with one scale for each matrix, and activations of
8 bits with one scale for each token. Gradients pass through the rounding as if it were not there. Each figure of the
stop and held-out texts is of the weights as stored: rounded to BF16, and made ternary by the workflow's own functions.
"""

import argparse
import math
import time
from pathlib import Path

import small_text
import torch
from small_card import card
from torch.nn import functional as F

from slidesparse.files import write_atomic, write_json
from slidesparse.models import bitnet, generate, safetensors_io
from slidesparse.sparsity.quantize import LARGEST, SMALLEST_AMAX, SMALLEST_MEAN, absmean_scale, ternary

START = time.monotonic()
HEAD = 64
VOCABULARY = 320
"""256 bytes, bos and eos, rounded up to a multiple of 64."""

COMMON = bitnet.config({}, generate.POSITIONS, generate.BOS, generate.EOS)
"""What config.json says of every shape."""

Weights = dict[str, torch.Tensor]


def shape_of(hidden: int, layers: int) -> dict[str, int]:
    """The shape, with the MLP of BitNet b1.58 2B 4T. Two query heads share a key head; an odd number shares one."""
    heads = hidden // HEAD
    return {
        "hidden_size": hidden,
        "intermediate_size": math.ceil(2.7 * hidden / 64) * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2 if heads % 2 == 0 else 1,
        "vocab_size": VOCABULARY,
    }


def initial(shape: dict[str, int], device: str) -> Weights:
    """Random weights as float32 leaves, by the names and in the order of a checkpoint."""
    weights = {}
    for name, size, kind in bitnet.tensors(shape):
        values = torch.ones(size) if kind == "norm" else torch.randn(size) * 0.02
        weights[name] = values.to(device).requires_grad_()
    return weights


def deployed(weights: Weights, device: str) -> tuple[dict, Weights, float]:
    """(what an engine multiplies, the BF16 weights to store, share of zeros). A linear is its codes and their scale."""
    stored = {name: weight.detach().to("cpu", torch.bfloat16) for name, weight in weights.items()}
    runs, zeros, count = {}, 0, 0
    for name, weight in stored.items():
        runs[name] = weight.float().to(device)
        if bitnet.LINEAR.fullmatch(name):
            scale = absmean_scale(weight)
            codes = ternary(weight, scale)
            zeros, count = zeros + int((codes == 0).sum()), count + codes.numel()
            runs[name] = codes.float().to(device), torch.tensor(1 / scale, device=device)
    return runs, stored, zeros / count


def normed(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + COMMON["rms_norm_eps"]) * weight


def quantised(x):
    """(codes, scale) of activations. The gradient of the codes is that of x / scale."""
    scale = x.detach().abs().amax(-1, keepdim=True).clamp(min=SMALLEST_AMAX) / LARGEST["INT8"]
    share = x / scale
    return share + (share.round() - share).detach(), scale


def product(codes, scale, weight, dtype):
    """A linear of quantised activations. Its weight is a latent one, or the pair (codes, scale) of `deployed`."""
    if isinstance(weight, tuple):
        weight, size = weight
    else:
        size = weight.detach().abs().mean().clamp(min=SMALLEST_MEAN)
        share = weight / size
        weight = share + (share.round().clamp(-1, 1) - share).detach()
    return F.linear(codes.to(dtype), weight.to(dtype)).float() * (scale * size)


def rotated(x, cosine, sine):
    low, high = x.chunk(2, -1)
    return torch.cat([low * cosine - high * sine, high * cosine + low * sine], -1)


def block(x, weights, angles, dropout, dtype):
    """One layer. `weights` are in the order of a checkpoint."""
    attention_norm, q, k, v, attention_sub_norm, o, mlp_norm, gate, up, mlp_sub_norm, down = weights
    drop = dropout > 0
    codes = quantised(normed(x, attention_norm))
    q, k, v = [product(*codes, w, dtype).unflatten(-1, (-1, HEAD)).transpose(1, 2) for w in (q, k, v)]
    k, v = [y.repeat_interleave(q.shape[1] // k.shape[1], 1) for y in (rotated(k, *angles), v)]
    q, k, v = [y.to(dtype) for y in (rotated(q, *angles), k, v)]
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2).float()
    x = x + F.dropout(product(*quantised(normed(y, attention_sub_norm)), o, dtype), dropout, drop)
    codes = quantised(normed(x, mlp_norm))
    y = F.relu(product(*codes, gate, dtype)).square() * product(*codes, up, dtype)
    return x + F.dropout(product(*quantised(normed(y, mlp_sub_norm)), down, dtype), dropout, drop)


def logits(weights, tokens, dropout=0.0, dtype=torch.float32, block=block):
    """Logits [sequences, length, vocabulary] of a whole network."""
    embedding, *layers, norm = weights.values()
    turn = COMMON["rope_theta"] ** (-torch.arange(0, HEAD, 2, device=tokens.device) / HEAD)
    angle = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * turn
    x = F.dropout(F.embedding(tokens, embedding), dropout, dropout > 0)
    for first in range(0, len(layers), 11):
        x = block(x, layers[first : first + 11], (angle.cos(), angle.sin()), dropout, dtype)
    return F.linear(normed(x, norm).to(dtype), embedding.to(dtype)).float()


def loss(weights, pieces, **options):
    """Nats per byte of pieces of text [sequences, length]. Each byte is predicted from those before it and bos."""
    inputs = F.pad(pieces[:, :-1], (1, 0), value=generate.BOS)
    return F.cross_entropy(logits(weights, inputs, **options).flatten(0, 1), pieces.flatten())


@torch.no_grad()
def bits(runs: dict, text: torch.Tensor, context: int) -> float:
    """Bits per byte of a text that is cut into pieces of `context` bytes. Nothing is known before a piece."""
    whole = len(text) // context * context
    total = sum(loss(runs, batch).item() * batch.numel() for batch in text[:whole].view(-1, context).split(16))
    rest = text[whole:]
    if len(rest):
        total += loss(runs, rest[None]).item() * len(rest)
    return total / math.log(2) / len(text)


def train(arguments: argparse.Namespace, parts: dict[str, bytes]) -> tuple[Weights, dict]:
    """(BF16 weights with the fewest bits on the stop text, what happened)."""
    torch.manual_seed(arguments.seed)
    device, context, begin = arguments.device, arguments.context, time.monotonic()
    texts = {name: torch.tensor(bytearray(text), dtype=torch.long, device=device) for name, text in parts.items()}
    shape = shape_of(arguments.hidden, arguments.layers)
    weights, best, curve = initial(shape, device), {"stop": math.inf}, []
    linears = [weight for name, weight in weights.items() if bitnet.LINEAR.fullmatch(name)]
    others = [weight for name, weight in weights.items() if not bitnet.LINEAR.fullmatch(name)]
    optimizer = torch.optim.AdamW([{"params": linears}, {"params": others}], betas=(0.9, 0.95), fused=True)
    options = {"dropout": arguments.dropout, "dtype": torch.float32 if device == "cpu" else torch.bfloat16}
    options["block"] = torch.compile(block, dynamic=False) if arguments.compile else block
    step, due, lost = 0, 0.0, []
    print("  step  seconds   train    stop   zeros", flush=True)
    while True:
        spent = (time.monotonic() - begin) / max(1, START + arguments.seconds - begin)
        share = min(1, max(step / arguments.steps, spent))
        if share >= due:
            due = (math.floor(share * arguments.rows) + 1) / arguments.rows
            runs, stored, zeros = deployed(weights, device)
            row = {"step": step, "train": torch.stack(lost).mean().item() / math.log(2) if lost else None}
            row |= {"stop": bits(runs, texts["stop"], context), "zeros": zeros}
            curve.append(row)
            lost = []
            seconds, mean = time.monotonic() - START, row["train"] or math.nan
            print(f"{step:6}{seconds:9.1f}{mean:8.4f}{row['stop']:8.4f}{zeros:8.4f}", flush=True)
            if row["stop"] < best["stop"]:
                best, kept = row, stored
        if share == 1:
            break
        rate = arguments.lr * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * share)) / 2
        for group, decay in zip(optimizer.param_groups, (arguments.decay if share < 0.5 else 0, 0), strict=True):
            group.update(lr=rate, weight_decay=decay)
        first = torch.randint(len(texts["train"]) - context, (arguments.batch, 1)).to(device)
        value = loss(weights, texts["train"][first + torch.arange(context, device=device)], **options)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        lost.append(value.detach())
        step += 1
    held_out = bits(deployed(kept, device)[0], texts["held_out"], context)
    report = {"held_out": held_out, "stop": best["stop"], "zeros": best["zeros"], "best_step": best["step"]}
    report |= {"steps": step, "seconds": time.monotonic() - begin, "shape": shape, "curve": curve}
    return kept, report


def store(out: Path, weights: Weights, shape: dict[str, int]):
    """Write the model as the workflow reads it."""
    write_json(out / "config.json", bitnet.config(shape, generate.POSITIONS, generate.BOS, generate.EOS))
    ends = {"bos_token_id": generate.BOS, "eos_token_id": generate.EOS, "do_sample": False}
    write_json(out / "generation_config.json", ends)
    write_json(out / "tokenizer.json", generate.tokenizer())
    write_json(out / "tokenizer_config.json", generate.tokenizer_config())
    raw = {name: weight.contiguous().view(torch.int16).numpy() for name, weight in weights.items()}
    entries = [(name, "BF16", values.shape, lambda values=values: values) for name, values in raw.items()]
    safetensors_io.write(out / "model.safetensors", entries, {"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=small_text.TEXT)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--hidden", type=int, default=256, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=float, default=math.inf, help="end, and schedule, by the number of steps")
    parser.add_argument("--seconds", type=float, default=math.inf, help="end by the time since the start")
    parser.add_argument("--batch", type=int, default=32, help="pieces of text in a step")
    parser.add_argument("--context", type=int, default=1024, help="bytes of a piece")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=0.1, help="weight decay of the linears")
    parser.add_argument("--lr", type=float, default=2e-3, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=40, help="of the curves, after the first")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    arguments = parser.parse_args()
    if min(arguments.steps, arguments.seconds) == math.inf:
        arguments.seconds = 480
    parts = small_text.read(arguments.text)
    rivals = small_text.rivals(parts)
    weights, report = train(arguments, parts)
    arguments.steps = report["steps"]
    store(arguments.out, weights, report["shape"])
    write_json(arguments.out / "training.json", report | {"rivals": rivals})
    write_atomic(arguments.out / "README.md", card(arguments, report, weights, parts, rivals))
    print("{held_out:.4f} bits per byte held out, {stop:.4f} stop, {zeros:.4f} zeros, {steps} steps".format(**report))


if __name__ == "__main__":
    main()
