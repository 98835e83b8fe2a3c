"""The fused kernels against copies that move the same bytes, all cold, on the GPU of this machine.

    python benchmarks/fused_kernels.py --output table.json

A row of the table is one kernel, pattern, dtype, M and type of accumulators. Every candidate launch runs over poisoned
outputs, is compared with the reference, and is timed. The two fastest and the default are then timed in turn with two
copies (the driver's and a Triton one). The row gives the fastest launch, with its share of the faster copy's speed. All
are CUDA graphs over rotated buffers that exceed the L2 cache twice. The shapes are BitNet b1.58 2B4T's. INT32
accumulators are those of cuBLASLt's dense INT8 GEMM, so only its rows have them.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch
import triton
from quantize_lift import _copy

from slidesparse.operators import fused, launches, norms, rope
from slidesparse.timing import cuda, protocol

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from fused_cases import differences, norm_arguments, rope_arguments  # noqa: E402

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, D = 2560, 6912, 20, 5, 128
QUANTIZING = {
    "norm_quantize": HIDDEN,
    "add_norm_quantize": HIDDEN,
    "relu2_mul_norm_quantize": INTERMEDIATE,
}
OTHERS = {"add_norm": HIDDEN, "rope_scale": None, "rope_scale_cache": None}

FIRST = protocol.Stopping(warmup_s=0, min_samples=3, max_samples=3, relative_ci=0.01, time_limit_s=1)
FINAL = protocol.Stopping(warmup_s=0.01, min_samples=16, max_samples=64, relative_ci=0.003, time_limit_s=0.05)


class Norm:
    """A norm operator in one row of the table: enough sets of arguments and outputs to exceed the L2 cache twice."""

    def __init__(self, name, M, pattern, dtype, int32):
        self.name, self.pattern, self.dtype = name, pattern, dtype
        self.K = {**QUANTIZING, **OTHERS}[name]
        self.candidates, self.default = launches.launches_for(self.K), norms.default(self.K, M)
        first = norm_arguments(name, M, self.K, pattern, dtype, "cuda", int32=int32)
        self.expected = outputs(getattr(fused, f"{name}_reference")(*first))
        tensors = [a for a in first if isinstance(a, torch.Tensor)]
        read = sum(a.nbytes for a in tensors)
        self.bytes_moved = read + sum(out.nbytes for out in self.expected)
        self.sets = max(2, protocol.copies(read, cache_bytes()))
        self.arguments = [first]
        for i in range(1, self.sets):
            self.arguments.append(norm_arguments(name, M, self.K, pattern, dtype, "cuda", seed=2 * i, int32=int32))
        self.out = [[torch.empty_like(out) for out in self.expected] for _ in range(self.sets)]

    def call(self, launch):
        """A function that runs the kernel on set i."""
        calls = []
        for arguments, out in zip(self.arguments, self.out, strict=True):
            x, *rest = [a for a in arguments if isinstance(a, torch.Tensor)]
            keywords = {"pattern": self.pattern, "dtype": self.dtype, "launch": launch}
            keywords["gated"] = self.name.startswith("relu2")
            if len(rest) > 1:
                keywords |= {"token_scale": rest[0], "weight_scale": rest[1]}
            if self.name.startswith("add"):
                keywords["residual"] = rest[2]
            if self.name == "add_norm_quantize":
                keywords["total"] = out[0]
            if self.name != "add_norm":
                keywords["scales"] = out[-1]
            calls.append((x, rest[-1], 1e-5, out[-2 if self.name != "add_norm" else 0], keywords))

        def call(i):
            x, gamma, eps, out, keywords = calls[i]
            norms.start(x, gamma, eps, out, **keywords)

        return call

    def wrong(self, launch):
        """Differences from the reference, after a run over poisoned outputs."""
        for out in self.out[0]:
            out.view(torch.uint8).fill_(0x55)
        self.call(launch)(0)
        return differences(self.name, self.out[0], self.expected)


class Rope:
    """The same for `rope_scale` and `rope_scale_cache`."""

    candidates, default = rope.WARPS, rope.DEFAULT

    def __init__(self, name, M, pattern, dtype, int32):
        self.name, self.cache, self.int32 = name, name == "rope_scale_cache", int32
        first = self._arguments(M, 0)
        self.expected = outputs(getattr(fused, f"{name}_reference")(*first)) + (first[7:9] if self.cache else [])
        written = 2 * first[0].numel()
        self.bytes_moved = written + sum(a.nbytes for a in first[:4]) + 8 * M * self.cache
        self.sets = max(2, protocol.copies(first[0].nbytes, cache_bytes()))
        self.arguments = [self._arguments(M, 2 * i) for i in range(self.sets)]
        widths = (HEADS,) if self.cache else (HEADS, KV_HEADS, KV_HEADS)
        empty = [[self.expected[0].new_empty(M, n * D) for n in widths] for _ in range(self.sets)]
        self.out = [out + a[7:9] for out, a in zip(empty, self.arguments, strict=True)]

    def _arguments(self, M, seed):
        coding = {"dtype": torch.bfloat16, "int32": self.int32}
        return rope_arguments(M, HEADS, KV_HEADS, D, "cuda", cache=self.cache, seed=seed, **coding)

    def call(self, warps):
        calls = []
        for arguments, out in zip(self.arguments, self.out, strict=True):
            calls.append((*arguments[:5], *out, arguments[9] if self.cache else None))

        def call(i):
            rope.start(*calls[i], heads=HEADS, kv_heads=KV_HEADS, warps=warps)

        return call

    def wrong(self, warps):
        poisoned = self.out[0][: 1 if self.cache else 3]
        for out in poisoned:
            out.view(torch.uint8).fill_(0x55)
        for page in self.out[0][len(poisoned) :]:
            page.zero_()
        self.call(warps)(0)
        return differences(self.name, self.out[0], self.expected)


def outputs(result):
    return list(result) if isinstance(result, tuple) else [result]


def cache_bytes():
    return torch.cuda.get_device_properties(0).L2_cache_size


def copies(bytes_moved, sets):
    """Samplers of the driver's copy and a Triton one; each reads half of the bytes and writes the other half."""
    n = bytes_moved // 8
    sources = [torch.randint(1 << 30, (n,), device="cuda", dtype=torch.int32) for _ in range(sets + 1)]
    targets = [torch.empty_like(source) for source in sources]

    def driver(i):
        targets[i].copy_(sources[i])

    def own(i):
        _copy[(triton.cdiv(n, 2048),)](sources[i], targets[i], n, BLOCK=2048, num_warps=4)

    own(0)
    return {"driver copy": cuda.Replays(driver, sets + 1), "copy": cuda.Replays(own, sets + 1)}


def measure(name, pattern, dtype, accumulators, M):
    """One row of the table."""
    operands = (Rope if name.startswith("rope") else Norm)(name, M, pattern, dtype, accumulators == "INT32")
    wrong, samplers = {}, {}
    for launch in operands.candidates:
        if found := operands.wrong(launch):
            wrong[str(launch)] = found
        samplers[launch] = cuda.Replays(operands.call(launch), operands.sets)
    tried = {one: median(samples) for one, samples in protocol.measure(samplers, FIRST).items()}
    finalists = dict.fromkeys([*sorted(tried, key=tried.get)[:2], operands.default])
    both = copies(operands.bytes_moved, operands.sets)
    samples = protocol.measure({one: samplers[one] for one in finalists} | both, FINAL)
    seconds = {one: median(taken) for one, taken in samples.items()}
    best, copy = min(finalists, key=seconds.get), min(both, key=seconds.get)
    share = [
        median(c / s for c, s in zip(samples[copy], samples[one], strict=True)) for one in (best, operands.default)
    ]
    return {
        "kernel": name,
        "pattern": pattern,
        "dtype": dtype,
        "accumulators": accumulators,
        "M": M,
        "us": seconds[best] * 1e6,
        "copy_us": seconds[copy] * 1e6,
        "share": share[0],
        "configuration": best,
        "default_share": share[1],
        "default": operands.default,
        "bytes_moved": operands.bytes_moved,
        "tried_us": {str(one): taken * 1e6 for one, taken in tried.items()},
        "wrong": wrong,
    }


HEADER = (
    f"{'kernel':24} {'pattern':7} {'dtype':5} {'from':5} {'M':>6} {'us':>8} {'copy us':>8} {'% copy':>6}  "
    "best, default (% copy)"
)


def line(row):
    text = (
        "{kernel:24} {pattern:7} {dtype:5} {accumulators:5} {M:6} {us:8.2f} {copy_us:8.2f} {percent:6.1f}  {best} "
        "{given} ({default_percent:.1f})"
    )
    best, given = (
        "x".join(map(str, one)) if isinstance(one, tuple) else one for one in (row["configuration"], row["default"])
    )
    percents = {"percent": 100 * row["share"], "default_percent": 100 * row["default_share"]}
    return text.format(**row, **percents, best=best, given=given) + (f"  WRONG {row['wrong']}" if row["wrong"] else "")


def compile_ahead(rows, processes):
    """Compile every candidate of the norm kernels that rows ask for into Triton's cache on disk; returns how many."""
    shapes = {row[:4] for row in rows if not row[0].startswith("rope")}
    jobs = []
    for name, pattern, dtype, accumulators in sorted(shapes):
        K = {**QUANTIZING, **OTHERS}[name]
        flags = (name.startswith("add"), name.startswith("relu2"), name != "add_norm", accumulators == "INT32")
        jobs += [(K, pattern, dtype, launch, *flags) for launch in launches.launches_for(K)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_compile, jobs))
    return len(jobs)


def _compile(job):
    norms.compile_ahead(*job)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", nargs="+", type=int, default=[64, 256, 2048, 16384])
    parser.add_argument("--kernels", nargs="+", default=[*QUANTIZING, *OTHERS], choices=[*QUANTIZING, *OTHERS])
    parser.add_argument("--patterns", nargs="+", default=["dense", "2_4", "2_8"])
    parser.add_argument("--dtypes", nargs="+", default=["INT8", "FP8"])
    parser.add_argument("--accumulators", nargs="+", default=["BF16", "INT32"], choices=["BF16", "INT32"])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that compile; 0: as needed")
    parser.add_argument("--output", type=Path, help="write the measured table here, as JSON")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = []
    for name in arguments.kernels:
        codings = itertools.product(arguments.patterns, arguments.dtypes) if name in QUANTIZING else [("dense", "INT8")]
        for coding, accumulators in itertools.product(codings, arguments.accumulators):
            if accumulators == "BF16" or (coding == ("dense", "INT8") and name != "norm_quantize"):
                rows += [(name, *coding, accumulators, M) for M in arguments.m]
    if arguments.processes:
        count = compile_ahead(rows, arguments.processes)
        print(f"{time.perf_counter() - start:.1f} s: compiled {count} kernels", flush=True)
    print(HEADER)
    table = []
    for row in rows:
        table.append(measure(*row))
        print(line(table[-1]), flush=True)
    print(f"{time.perf_counter() - start:.1f} s")
    if arguments.output:
        report = {"device": torch.cuda.get_device_name(), "triton": triton.__version__, "rows": table}
        arguments.output.write_text(json.dumps(report, indent=1))
    sys.exit(any(row["wrong"] for row in table))


if __name__ == "__main__":
    main()
