"""Ternary weights in two bits against the dense 8-bit libraries, cold, on the GPU of this machine.

    python benchmarks/ternary.py --output table.json
    TRITON_INTERPRET=1 python benchmarks/ternary.py --linears o=48x96 --m 1 5   # a dry run without a GPU

At each M the backend `ternary` and its rivals are searched and checked, and then their products of all linears are
timed in turn. cuBLASLt is searched as for a tuning table. It multiplies the next multiple of 16 rows, because it takes
no others. CUTLASS picks its kernel by itself. A line has the sums over the linears in microseconds, and the ratios
rival over ternary, as medians of paired samples. `best` is the sum of the fastest rivals of each linear. Above 1
ternary is faster. The INT32 product of every chosen cut must equal the sums of the INT8 codes bit for bit. An M is left
out, and named, if the budget does not last for it. The shapes are those of BitNet b1.58 2B4T.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from statistics import median

import torch
import triton

from slidesparse import gemm
from slidesparse.errors import MeasurementError, SlideSparseError
from slidesparse.gemm.dense import whole_rows
from slidesparse.kernel.products import Problem, Product, Weight
from slidesparse.machine import hardware
from slidesparse.plan.backends import BACKENDS
from slidesparse.sparsity.patterns import Pattern
from slidesparse.timing import protocol
from slidesparse.tuning import search

LINEARS = ["qkv=3840x2560", "o=2560x2560", "gate_up=13824x2560", "down=2560x6912"]
OURS = ("ternary", "INT8")
RIVALS = {
    "cuda": [("cublaslt", "INT8"), ("cutlass", "INT8"), ("cublaslt", "FP8"), ("cutlass", "FP8")],
    "cpu": [("onednn", "INT8"), ("onednn", "FP8")],  # so that a dry run has some
}
SEARCH = protocol.Stopping(warmup_s=0.01, min_samples=8, max_samples=16, relative_ci=0.01, time_limit_s=0.02)
FINAL = protocol.Stopping(warmup_s=0.25, min_samples=16, max_samples=100, relative_ci=0.005, time_limit_s=0.02)


def linear(text):
    """(name, N, K) of `name=NxK`."""
    match = re.fullmatch(r"(\w+)=(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no linear, which is written o=2560x2560")
    return match[1], int(match[2]), int(match[3])


def searched(backend, products):
    """[(algorithm, its name, how many there were)] of products, all with the same backend."""
    if not BACKENDS[backend.name].searched:
        algorithms = [product.algorithms()[0] for product in products]
        for product, algorithm in zip(products, algorithms, strict=True):
            product.verify(algorithm.id, product.sets)
        return [(algorithm.id, algorithm.name, 1) for algorithm in algorithms]
    found = []
    for entry in search.search(backend, products, SEARCH)["entries"]:
        if entry["wrong"] and backend.name == OURS[0]:
            raise MeasurementError(f"{entry['linear']}: {entry['wrong']}")
        found.append((entry["top"][0]["algorithm"], entry["top"][0]["name"], entry["algorithms"]))
    return found


def exact(problems, backend, chosen):
    """Check that the INT32 products of the chosen cuts are exact, whatever their BF16 products are."""
    for problem, (algorithm, _, _) in zip(problems, chosen, strict=True):
        Product(problem, backend, "INT32").verify(algorithm)  # which allows no error


def measure(M, weights, backends, cache):
    """One row: the chosen algorithms, and the samples of every contender and linear."""
    runs, chosen, missing = {}, {}, {}
    problems = {
        (dtype, rows): [Problem(weight, rows) for weight in held]
        for dtype, held in weights.items()
        for rows in {M, whole_rows(M)}
    }
    for (name, dtype), backend in backends.items():
        rows = whole_rows(M) if name == "cublaslt" else M
        try:
            products = [Product(problem, backend, None, cache) for problem in problems[dtype, rows]]
            chosen[name, dtype] = searched(backend, products)
        except (RuntimeError, SlideSparseError) as error:
            if (name, dtype) == OURS or isinstance(error, torch.OutOfMemoryError):
                raise
            missing[f"{name} {dtype}"] = str(error).partition("\n")[0]
            continue
        runs[name, dtype] = products
    exact(problems[OURS[1], M], backends[OURS], chosen[OURS])
    samplers = {
        (contender, i): product.sampler(chosen[contender][i][0])
        for contender, products in runs.items()
        for i, product in enumerate(products)
    }
    samples = protocol.measure(samplers, FINAL)
    for (contender, i), sampler in samplers.items():
        runs[contender][i].check(sampler.used)
    for held in weights.values():
        for weight in held:
            weight.release()
    clocks = [sampler.clock_mhz for sampler in samplers.values() if sampler.clock_mhz]
    return row(M, samples, chosen) | {"missing": missing, "clock_mhz": median(clocks) if clocks else None}


def row(M, samples, chosen):
    """The figures of an M: medians, sums over the linears, and paired ratios over ternary."""
    sums = {
        c: [sum(each) for each in zip(*(samples[c, i] for i in range(len(chosen[c]))), strict=True)] for c in chosen
    }
    middle = {c: [1e6 * median(samples[c, i]) for i in range(len(chosen[c]))] for c in chosen}
    rivals = [c for c in chosen if c != OURS]
    ratios = {" ".join(c): median(t / o for t, o in zip(sums[c], sums[OURS], strict=True)) for c in rivals}
    best = sum(min(middle[c][i] for c in rivals) for i in range(len(chosen[OURS]))) if rivals else None
    return {
        "M": M,
        "us": {" ".join(c): 1e6 * median(sums[c]) for c in chosen},
        "linears_us": {" ".join(c): middle[c] for c in chosen},
        "ratios": ratios | ({"best": best / sum(middle[OURS])} if rivals else {}),
        "chosen": {
            " ".join(c): [dict(zip(("id", "name", "of"), one, strict=True)) for one in chosen[c]] for c in chosen
        },
    }


def line(found):
    times = "  ".join(f"{name} {us:.2f}" for name, us in found["us"].items())
    ratios = "  ".join(f"{name} {ratio:.3f}" for name, ratio in found["ratios"].items())
    cuts = "  ".join(one["id"] for one in found["chosen"][" ".join(OURS)])
    return f"M={found['M']}  us: {times}\n     ratios: {ratios}\n     cuts: {cuts}  {found['missing'] or ''}".rstrip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", nargs="+", type=int, default=[16, 64, 1, 32, 128, 256])
    parser.add_argument("--linears", nargs="+", type=linear, default=[linear(each) for each in LINEARS])
    parser.add_argument("--budget", type=float, default=240, help="seconds for everything")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that compile")
    parser.add_argument("--output", type=Path, help="write the measured table here, as JSON")
    arguments = parser.parse_args()
    start = time.perf_counter()

    def left():
        return arguments.budget - (time.perf_counter() - start)

    ours = gemm.backend(OURS[0])
    cache = hardware.detect().cache_bytes if ours.device == "cuda" else 0
    count = ours.compile_ahead([(N, K, M) for _, N, K in arguments.linears for M in arguments.m], arguments.processes)
    print(f"{ours.version()}; compiled {count} kernels, {left():.0f} s left", flush=True)
    backends = {OURS: ours} | {key: gemm.backend(key[0]) for key in RIVALS[ours.device]}
    weights = {
        dtype: [Weight(*each, dtype, Pattern("dense"), ours.device) for each in arguments.linears]
        for dtype in ("INT8", "FP8")
    }
    table, longest, out = [], 0.0, []
    for M in arguments.m:
        before = left()
        if before < longest:
            out.append(M)
            continue
        table.append(measure(M, weights, backends, cache))
        longest = max(longest, before - left())
        print(f"{line(table[-1])}  {left():.0f} s left", flush=True)
    if out:
        print(f"left out, because {left():.0f} s do not suffice: M = {', '.join(map(str, out))}")
    if arguments.output:
        report = {
            "device": torch.cuda.get_device_name() if ours.device == "cuda" else "interpreter",
            "versions": {"torch": torch.__version__, "triton": triton.__version__},
            "linears": arguments.linears,
            "weight_bytes": {
                " ".join(key): sum(weight.operands(backend, 1)[0].bytes for weight in weights[key[1]])
                for key, backend in backends.items()
            },
            "rows": table,
            "left_out": out,
        }
        arguments.output.write_text(json.dumps(report, indent=1), encoding="utf-8")
    sys.exit(not table)


if __name__ == "__main__":
    main()
