"""Decode attention beside FlashAttention as vLLM calls it, from one to 512 sequences. Needs a GPU.

    python benchmarks/decode_attention.py

For every batch and context it prints microseconds of a call: ours, and FlashAttention's with one split, which engines
use, and with up to 32. The ratios are medians of FlashAttention's time over ours, sample by sample in turn. `TB/s` are
bytes of keys and values over our time. `error` is relative to float64, ours and FlashAttention's.

Both are CUDA graphs of calls over the caches of 30 layers, so that each call finds its cache cold. Short caches have
more layers, until they exceed the L2 cache twice, and long ones as many as fit into memory. Heads are those of BitNet
b1.58 2B4T. Contexts of `144` tokens are drawn from 129 to 160.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import torch
import triton

from slidesparse.operators import paged
from slidesparse.operators.attention import decode_attention
from slidesparse.timing import cuda, protocol

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from attention_cases import error, exact, filled, queries  # noqa: E402
from flash import Flash  # noqa: E402

HEADS, KV_HEADS, D, BLOCK = 20, 5, 128, 16
LAYERS, LONGEST = 30, 4096
SHARE = 0.6
"""Share of the free memory that caches may take."""

STOPPING = protocol.Stopping(warmup_s=0.01, min_samples=11, max_samples=31, relative_ci=0.003, time_limit_s=0.3)


def lengths_of(batch, context):
    """Tokens of each sequence."""
    if context != 144:
        return [context] * batch
    return torch.randint(129, 161, (batch,), generator=torch.Generator().manual_seed(batch)).tolist()


def layers_of(lengths):
    """Number of layers: 30, or more that exceed the L2 cache twice, or fewer that fit into memory."""
    token = KV_HEADS * 2 * D * 2
    most = int(SHARE * torch.cuda.mem_get_info()[0])
    cold = protocol.copies(sum(lengths) * token, torch.cuda.get_device_properties(0).L2_cache_size, most)
    blocks = len(lengths) * -(-max(lengths) // BLOCK) + 1
    return max(1, min(max(LAYERS, cold), most // (blocks * BLOCK * token)))


def measure(batch, context):
    """One row of the table."""
    lengths = lengths_of(batch, context)
    layers, lengths, pages = filled(lengths, KV_HEADS, D, BLOCK, device="cuda", layers=layers_of(lengths))
    query = queries(batch, HEADS, D, "cuda")
    out, scale = torch.empty_like(query), D**-0.5
    table = torch.zeros(batch, LONGEST // BLOCK, dtype=torch.int32, device="cuda")
    table[:, : pages.shape[1]] = pages  # as vLLM's, which has room for the longest sequence
    flash = {splits: Flash(lengths, table, HEADS, KV_HEADS, D, BLOCK, LONGEST, splits) for splits in (1, 32)}
    calls = {
        "ours": lambda i: decode_attention(query, *layers[i], lengths, table, scale),
        **{f"FA {n}": lambda i, one=one: one(query, *layers[i], out) for n, one in flash.items()},
    }
    rows = list(range(0, batch, max(1, batch // 8)))
    right = exact(query, *layers[0], lengths, table, scale, rows)
    ours = decode_attention(query, *layers[0], lengths, table, scale)
    calls["FA 32"](0)  # kernels are loaded before a graph captures them
    calls["FA 1"](0)
    errors = [error(result[rows], right) for result in (ours, out)]
    samplers = {name: cuda.Replays(call, len(layers)) for name, call in calls.items()}
    samples = protocol.measure(samplers, STOPPING)
    ratios = {
        name: median(theirs / own for theirs, own in zip(samples[name], samples["ours"], strict=True))
        for name in calls
        if name != "ours"
    }
    us = {name: median(taken) * 1e6 for name, taken in samples.items()}
    moved = int(lengths.sum()) * KV_HEADS * 2 * D * 2
    return {
        "batch": batch,
        "context": context,
        "layers": len(layers),
        "plan": paged.plan(batch, KV_HEADS)._asdict(),
        "us": us,
        "ratios": ratios,
        "tb_per_s": moved / us["ours"] / 1e6,
        "errors": errors,
        "version": flash[1].version,
    }


HEADER = (
    f"{'batch':>5} {'context':>7} {'layers':>6} {'tile':>4} {'splits':>6} {'ours us':>8} {'FA us':>8} {'FA 32 us':>8}"
    f" {'FA/ours':>7} {'FA 32/ours':>10} {'TB/s':>5}  error: ours, FA"
)


def line(row):
    us, ratios, plan = row["us"], row["ratios"], row["plan"]
    text = (
        f"{row['batch']:5} {row['context']:7} {row['layers']:6} {plan['tile']:4} {plan['splits']:6} {us['ours']:8.1f}"
        f" {us['FA 1']:8.1f} {us['FA 32']:8.1f} {ratios['FA 1']:7.2f} {ratios['FA 32']:10.2f} {row['tb_per_s']:5.2f}"
    )
    return text + "  " + " ".join(f"{one:.1e}" for one in row["errors"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--contexts", nargs="+", type=int, default=[144, 2048, 4000])
    parser.add_argument("--output", type=Path, help="write the measured table here, as JSON")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), "Triton", triton.__version__)
    print(HEADER)
    table = []
    for batch in arguments.batches:
        for context in arguments.contexts:
            table.append(measure(batch, context))
            print(line(table[-1]), flush=True)
            torch.cuda.empty_cache()
    print("FlashAttention", table[0]["version"])
    if arguments.output:
        report = {"device": torch.cuda.get_device_name(), "triton": triton.__version__, "rows": table}
        arguments.output.write_text(json.dumps(report, indent=1))
    if any(row["errors"][0] > 1.25 * row["errors"][1] + 1e-4 for row in table):
        sys.exit("some results are less exact than FlashAttention's")


if __name__ == "__main__":
    main()
