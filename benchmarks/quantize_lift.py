"""Quantise + lift against a copy that moves the same bytes, both cold, on the GPU of this machine.

    python benchmarks/quantize_lift.py --json table.json

It tunes the kernel and prints a line for every M, K, pattern and dtype. The line has the times of the kernel and of two
copies (the driver's and a Triton one). It also has the ratio of the kernel's time to the faster copy's. All are CUDA
graphs over rotated buffers that exceed the L2 cache twice, sampled in turn.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from statistics import median

import torch
import triton
import triton.language as tl

from slidesparse.operators import launches, search
from slidesparse.timing import cuda, protocol

PATTERNS = ["dense", *(f"2_{L}" for L in range(4, 18, 2)), "2_inf"]
STOPPING = protocol.Stopping(warmup_s=0.01, min_samples=16, max_samples=64, relative_ci=0.002, time_limit_s=0.1)


@triton.jit
def _copy(source, target, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at, mask=at < n), mask=at < n)


def copies(operands):
    """(driver's copy, Triton copy, number of sets). A copy is a function of i and moves as many bytes as the kernel."""
    n = operands.bytes_moved // 8
    sources = [torch.randint(1 << 30, (n,), device="cuda", dtype=torch.int32) for _ in range(operands.sets + 1)]
    targets = [torch.empty_like(source) for source in sources]

    def driver(i):
        targets[i].copy_(sources[i])

    def own(i):
        _copy[(triton.cdiv(n, 2048),)](sources[i], targets[i], n, BLOCK=2048, num_warps=4)

    return driver, own, operands.sets + 1


def compare(M, K, pattern, dtype):
    """One row of the table. Both copies and the kernel are timed in turn."""
    operands = search.Operands(M, K, pattern, dtype)
    driver, own, sets = copies(operands)
    own(0)
    right = operands.right()
    samplers = {
        "driver_copy": cuda.Replays(driver, sets),
        "triton_copy": cuda.Replays(own, sets),
        "kernel": cuda.Replays(operands.call(), operands.sets),
    }
    samples = protocol.measure(samplers, STOPPING)
    summaries = {name: protocol.summarize(seconds) for name, seconds in samples.items()}
    copy = min(("driver_copy", "triton_copy"), key=lambda name: summaries[name].median_s)
    ratio = median(a / b for a, b in zip(samples["kernel"], samples[copy], strict=True))
    row = {"M": M, "K": K, "pattern": pattern, "dtype": dtype, "ratio": ratio, "bytes_moved": operands.bytes_moved}
    row |= {f"{name}_us": summary.median_s * 1e6 for name, summary in summaries.items()}
    row |= {"relative_ci": summaries["kernel"].relative_ci, "n": summaries["kernel"].n}
    row["right"] = right and operands.right()
    row["configuration"] = list(launches.look_up(M, K, pattern, dtype))
    return row


def line(row):
    text = (
        "{M:6} {K:5} {pattern:>6} {dtype:4}  copy {driver_copy_us:7.2f} (driver) {triton_copy_us:7.2f} (Triton)"
        "  kernel {kernel_us:7.2f} us  ratio {ratio:.3f}  {configuration}"
    )
    return text.format(**row) + ("" if row["right"] else "  WRONG")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", nargs="+", type=int, default=[1024, 4096, 16384])
    parser.add_argument("--k", nargs="+", type=int, default=[2560, 6912])
    parser.add_argument("--patterns", nargs="+", default=PATTERNS)
    parser.add_argument("--dtypes", nargs="+", default=["INT8", "FP8"])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that compile; 0: as needed")
    parser.add_argument("--tables", type=Path, help="tables to use, as stored by --store, instead of tuning")
    parser.add_argument("--store", type=Path, help="write the tuned tables here")
    parser.add_argument("--json", type=Path, help="write the measured table here")
    arguments = parser.parse_args()
    start = time.perf_counter()

    def step(text):
        print(f"{time.perf_counter() - start:6.1f} s  {text}", flush=True)

    shapes = list(itertools.product(arguments.k, arguments.patterns, arguments.dtypes))
    if arguments.tables:
        launches.read_tables(arguments.tables)
    else:
        if arguments.processes:
            with search.compiling(shapes, arguments.processes) as finish:
                step(f"compiled {finish()} kernels")
        tables = [search.tune(*shape, Ms=arguments.m) for shape in shapes]
        step("tuned")
        for table in tables:
            launches.use(table)
        if arguments.store:
            launches.write_tables(arguments.store, tables)
    rows = []
    for M, shape in itertools.product(arguments.m, shapes):
        rows.append(compare(M, *shape))
        print(line(rows[-1]), flush=True)
    step("done")
    if arguments.json:
        report = {"device": torch.cuda.get_device_name(), "triton": triton.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
