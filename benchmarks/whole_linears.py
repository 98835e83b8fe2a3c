"""Whole linears with 2:4 weights against the best dense ones, cold, on the GPU of this machine.

    python benchmarks/whole_linears.py --output table.json
    python benchmarks/whole_linears.py --ours reference --linears o=64x256 --m 4     # a dry run without a GPU

A whole linear takes BF16 activations and gives BF16: it quantises (and lifts), multiplies and applies both scales. At
each type and M every backend is searched and checked. Then the whole linears of all backends and linears, and their
products alone, are timed in turn. A line has the sums over the linears in microseconds, and the ratios rival over ours
as medians of paired samples. `best` is the sum of the fastest dense rivals of each linear. Above 1 ours is faster. The
table at the end has `best` of whole linears and of products. In its last column the best dense rivals are of any type,
which were not timed in turn. All but the first M of a type are left out, and named, if the budget does not last for
them. The shapes are those of BitNet b1.58 2B4T.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path
from statistics import median

import torch

from slidesparse import gemm
from slidesparse.errors import SlideSparseError
from slidesparse.kernel.products import Linear, Problem, Product, Weight
from slidesparse.machine import hardware
from slidesparse.plan.backends import BACKENDS
from slidesparse.sparsity.patterns import Pattern
from slidesparse.timing import protocol
from slidesparse.tuning import search

LINEARS = ["qkv=3840x2560", "o=2560x2560", "gate_up=13824x2560", "down=2560x6912"]
RIVALS = {"cuda": ["cublaslt", "cutlass", "torch", "cusparselt"], "cpu": ["onednn"]}
SEARCH = protocol.Stopping(warmup_s=0.01, min_samples=6, max_samples=12, relative_ci=0.02, time_limit_s=0.02)
FINAL = protocol.Stopping(warmup_s=0.5, min_samples=24, max_samples=100, relative_ci=0.003, time_limit_s=0.1)


def linear(text):
    """(name, N, K) of `name=NxK`."""
    match = re.fullmatch(r"(\w+)=(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no linear, which is written o=2560x2560")
    return match[1], int(match[2]), int(match[3])


def found(backend, products, most):
    """[(algorithm, its name)] of products: the fastest of the first `most` that a backend lists, or the only one."""
    if not BACKENDS[backend.name].searched:
        algorithms = [product.algorithms()[0] for product in products]
        for product, algorithm in zip(products, algorithms, strict=True):
            product.verify(algorithm.id, product.sets)
        return [(algorithm.id, algorithm.name) for algorithm in algorithms]
    for product in products:
        listed = product.algorithms()[:most]
        product.algorithms = lambda listed=listed: listed
    best = [entry["top"][0] for entry in search.search(backend, products, SEARCH)["entries"]]
    return [(each["algorithm"], each["name"]) for each in best]


def measure(dtype, M, weights, backends, cache, most):
    """One row of the table. backends: {name: Backend}, ours first."""
    ours, *rivals = backends
    problems = [Problem(weight, M) for weight in weights]
    runs, chosen, missing = {}, {}, {}
    for name, backend in backends.items():
        try:
            products = [Product(problem, backend, None, cache) for problem in problems]
            chosen[name] = found(backend, products, most)
            runs[name] = [Linear(product, each[0]) for product, each in zip(products, chosen[name], strict=True)]
        except (RuntimeError, SlideSparseError) as error:
            if name == ours or isinstance(error, torch.OutOfMemoryError):
                raise
            missing[name] = str(error).partition("\n")[0]
    samplers = {}
    for name, linears in runs.items():
        for i, each in enumerate(linears):
            each.poison()
            samplers["whole", name, i] = each.sampler(each.whole)
            samplers["product", name, i] = each.product.sampler(each.algorithm)
    samples = protocol.measure(samplers, FINAL)
    for (form, name, i), sampler in samplers.items():
        (runs[name][i] if form == "whole" else runs[name][i].product).check(sampler.used)
    for weight in weights:
        weight.release()
    clocks = [sampler.clock_mhz for sampler in samplers.values() if getattr(sampler, "clock_mhz", None)]
    dense = [name for name in rivals if name in runs and not BACKENDS[name].sparse]
    rows = {form: compared(form, samples, list(runs), dense, len(weights)) for form in ("whole", "product")}
    shown = {name: [each[1] for each in chosen[name]] for name in runs}
    return {"dtype": dtype, "M": M, "chosen": shown, "missing": missing, "clock_mhz": median(clocks or [0])} | rows


def compared(form, samples, names, dense, count):
    """The figures of a form: medians of sums and of linears, ratios rival over ours, the fastest dense rivals.

    samples: {(form, name, linear): seconds in the order of taking}, as many for all. names: ours first.
    """
    ours, *rivals = names
    each = {name: [samples[form, name, i] for i in range(count)] for name in names}
    sums = {name: [sum(together) for together in zip(*each[name], strict=True)] for name in names}
    fastest = [min(dense, key=lambda name: median(each[name][i])) for i in range(count)] if dense else []
    ratios = {name: paired(sums[name], sums[ours]) for name in rivals}
    if fastest:
        best = [sum(together) for together in zip(*(each[name][i] for i, name in enumerate(fastest)), strict=True)]
        ratios["best"] = paired(best, sums[ours])
    return {
        "ours_us": 1e6 * median(sums[ours]),
        "best_us": 1e6 * median(best) if fastest else None,
        "us": {name: 1e6 * median(sums[name]) for name in names},
        "linears_us": {name: [1e6 * median(one) for one in each[name]] for name in names},
        "ratios": ratios,
        "fastest": fastest,
    }


def summary(table):
    """Lines of the table at the end: for each type and M the ratios `best` over ours."""
    lines = [f"{'type':6}{'M':>7}{'whole':>9}{'product':>9}{'whole, any type':>17}"]
    for row in table:
        both = [other["whole"] for other in table if other["M"] == row["M"]]
        any_type = min((each["best_us"] or float("nan")) for each in both) / row["whole"]["ours_us"]
        ratios = [row[form]["ratios"].get("best", float("nan")) for form in ("whole", "product")]
        lines.append(f"{row['dtype']:6}{row['M']:>7}{ratios[0]:>9.3f}{ratios[1]:>9.3f}{any_type:>17.3f}")
    return lines


def paired(theirs, ours):
    return median(t / o for t, o in zip(theirs, ours, strict=True))


def line(row):
    parts = [f"{row['dtype']} M={row['M']}  {row['clock_mhz']:.0f} MHz  {row['missing'] or ''}".rstrip()]
    for form in ("whole", "product"):
        times = "  ".join(f"{name} {us:.1f}" for name, us in row[form]["us"].items())
        ratios = "  ".join(f"{name} {ratio:.3f}" for name, ratio in row[form]["ratios"].items())
        parts.append(f"  {form:7}  us: {times}\n           ratios: {ratios}")
    parts += [f"  {name}: {' | '.join(each)}" for name, each in list(row["chosen"].items())[:1]]
    return "\n".join(parts)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", nargs="+", type=int, default=[2048, 8192, 16384, 1024, 4096])
    parser.add_argument("--dtypes", nargs="+", default=["FP8", "INT8"])
    parser.add_argument("--pattern", default="2_4")
    parser.add_argument("--linears", nargs="+", type=linear, default=[linear(each) for each in LINEARS])
    parser.add_argument("--ours", default="cutlass_sparse")
    parser.add_argument(
        "--most", type=int, default=200, help="algorithms of a library that are searched, its own first"
    )
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--output", type=Path, help="write the table here, as JSON, after every row")
    arguments = parser.parse_args(argv)
    end, longest = time.perf_counter() + arguments.budget, {}
    ours = gemm.backend(arguments.ours)
    cache = hardware.detect().cache_bytes if ours.device == "cuda" else 0
    names = [ours.name, *(name for name in RIVALS[ours.device] if name != ours.name)]
    backends = {name: gemm.backend(name) for name in names}
    print(f"{ours.version()}; {end - time.perf_counter():.0f} s left", flush=True)
    table, out = [], []
    for M in arguments.m:
        for dtype in arguments.dtypes:
            before = time.perf_counter()
            if dtype in longest and end - before < longest[dtype]:
                out.append(f"{dtype} M={M}")
                continue
            pattern = Pattern(arguments.pattern)
            weights = [Weight(*each, dtype, pattern, ours.device) for each in arguments.linears]
            table.append(measure(dtype, M, weights, backends, cache, arguments.most))
            longest[dtype] = max(longest.get(dtype, 0), time.perf_counter() - before)
            print(f"{line(table[-1])}\n  {end - time.perf_counter():.0f} s left", flush=True)
            if arguments.output:
                report = {"device": ours.device, "library": ours.version(), "linears": arguments.linears, "rows": table}
                arguments.output.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print("\n".join(summary(table)))
    if out:
        print(f"left out, because the budget does not suffice: {', '.join(out)}")
    return table


if __name__ == "__main__":
    sys.exit(not main())
