"""Write the figures of README.md and docs/results.md from the kept points. Needs no GPU.

    python benchmarks/figures.py            # writes the blocks between the marks
    python benchmarks/figures.py --check    # exit 1 if a block differs

A block stands between `<!-- figures: NAME -->` and `<!-- end -->`. BLOCKS has the function that gives its lines. A
speed-up is the other side's time over ours. Engines are held against the fastest of the dense engines with our fusion
(cuBLASLt, CUTLASS), stock vLLM by the fastest of its variants; by GPU time, each side has its least.
"""

import argparse
import json
import re
import sys
import tarfile
import textwrap
from functools import cache
from pathlib import Path
from statistics import median

from slidesparse.report.document.model import fixed
from slidesparse.report.sources.read import read_source
from slidesparse.report.sources.rows import Row

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "resources" / "measured"
H200, H100 = "H200_cc90_py312_cu130_x86_64", "H100_cc90_py312_cu130_x86_64"
MARK = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
TYPES = ("INT8", "FP8")
PATTERNS = ("2_4", "2_6", "2_8")
PREFILL = (1024, 2048, 4096, 8192, 16384, 32768)
DECODE = (64, 128, 256, 512)
KERNEL = (64, 256, 1024, 2048, 8192, 16384)
DENSE = ("cublaslt", "cutlass")
NAMES = {"cublaslt": "cuBLASLt", "cutlass": "CUTLASS", "torch": "torch"}
WALL, GPU = "step_ms", "gpu_step_ms"
LINEARS = 4


@cache
def rows(key):
    """(stage, dtype, backend, sparsity, M) -> the rows of a point that was measured."""
    found: dict[tuple, list[Row]] = {}
    for row in read_source(MEASURED, key).rows:
        if row.status == "ok":
            found.setdefault((row.stage, *row.configuration[1:], row.M), []).append(row)
    return found


def value(key, stage, dtype, backend, sparsity, M, column):
    """A figure of an engine, in ms; GPU times of stock vLLM are those of its variant with the least."""
    values = rows(key)[stage, dtype, backend, sparsity, M][0].values
    return values.get("least_gpu_step_ms") or values[column] if column == GPU else values[column]


def dense(key, stage, dtype, M, column=WALL):
    """The time of our fastest dense engine."""
    return min(value(key, stage, dtype, backend, "dense", M, column) for backend in DENSE)


def over_dense(key, stage, dtype, pattern, M, column=WALL):
    return dense(key, stage, dtype, M, column) / value(key, stage, dtype, "cusparselt", pattern, M, column)


def over_stock(key, stage, dtype, pattern, M, column=WALL):
    """pattern: of the sparse engine, or "dense" for our fastest dense one."""
    stock = value(key, stage, dtype, "vllm", "dense", M, column)
    ours = dense(key, stage, dtype, M, column) if pattern == "dense" else None
    return stock / (ours or value(key, stage, dtype, "cusparselt", pattern, M, column))


def host(key, stage, dtype, pattern, M):
    """Whether the host bounds the sparse engine, or the dense one that it is held against."""
    best = min(DENSE, key=lambda backend: value(key, stage, dtype, backend, "dense", M, WALL))
    sides = (best, "dense"), ("cusparselt", pattern)
    return any(rows(key)[stage, dtype, *side, M][0].values["host_bound"] for side in sides)


def shown(ratio):
    """A ratio as the report rounds it: halves up, in decimal."""
    return str(fixed(ratio, 2))


def span(ratios):
    low, high = shown(min(ratios)), shown(max(ratios))
    return low if low == high else f"{low} to {high}"


def name(pattern):
    return pattern.replace("_", ":")


def listed(values):
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def paragraph(*parts, first="", rest=""):
    return textwrap.wrap(" ".join(parts), 119, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def bullet(*parts):
    return paragraph(*parts, first="- ", rest="  ")


def table(head, Ms, lines):
    """Lines of a Markdown table. lines: (first cell, type, function of M that gives a cell)."""
    text = [f"| {head} | | " + " | ".join(map(str, Ms)) + " |", "|" + "---|" * (len(Ms) + 2)]
    return text + [f"| {first} | {dtype} | " + " | ".join(cell(M) for M in Ms) + " |" for first, dtype, cell in lines]


def marked(key, stage, dtype, pattern, M):
    """A ratio by the wall clock over the fastest dense engine, with a mark if the host bounds a side of it."""
    ratio = shown(over_dense(key, stage, dtype, pattern, M))
    return f"{ratio} †" if host(key, stage, dtype, pattern, M) else ratio


def prefill_rows(patterns, word=""):
    return [
        (
            f"{name(pattern)}{word}" if dtype == "INT8" else "",
            dtype,
            lambda M, d=dtype, p=pattern: marked(H200, "prefill", d, p, M),
        )
        for pattern in patterns
        for dtype in TYPES
    ]


# Kernels: products of a layer, cold, in turn


def rivals(row, output=None):
    """{library and output type: µs} of the dense products that took turns with a sparse one."""
    libraries = ("cublaslt", "torch", "cutlass")
    found = {f"{each}{end}": row.values.get(f"{each}{end}_us") for each in libraries for end in ("", "_int32")}
    found = {each: us for each, us in found.items() if us}
    return {each: us for each, us in found.items() if not output or each.endswith("_int32") == (output == "INT32")}


def product(dtype, pattern, M, output=None):
    """Sum of the fastest rivals' median times over the sum of the sparse products' median times."""
    linears = rows(H200)["kernel", dtype, "cusparselt", pattern, M]
    assert len(linears) == LINEARS
    theirs = sum(min(rivals(row, output).values()) for row in linears)
    return theirs / sum(row.values["latency_us"] for row in linears)


def turns(dtype, M):
    """Times of dense products in turn over those of the same library alone, of all sparse patterns."""
    ratios = []
    for (stage, d, backend, _, m), linears in rows(H200).items():
        if (stage, d, backend, m) == ("kernel", dtype, "cusparselt", M):
            for row in linears:
                for library in DENSE:
                    alone = alone_us(dtype, library, M, row.linear)
                    ratios += [row.values[f"{library}_us"] / alone] if row.values.get(f"{library}_us") and alone else []
    return median(ratios)


def alone_us(dtype, library, M, linear):
    """Median time of a dense BF16 product in a process without sparse ones, or None."""
    for row in rows(H200).get(("kernel", dtype, library, "dense", M), ()):
        if row.linear == linear and row.values["output"] == "BF16" and row.values.get("process"):
            return row.values["latency_us"]
    return None


def product_alone(dtype, pattern, M, together=False):
    """As `product`, over the faster of cuBLASLt and CUTLASS, measured alone or (together) in turn."""
    linears = rows(H200)["kernel", dtype, "cusparselt", pattern, M]
    theirs = 0
    for row in linears:
        found = [row.values.get(f"{each}_us") if together else alone_us(dtype, each, M, row.linear) for each in DENSE]
        theirs += min(filter(None, found))
    return theirs / sum(row.values["latency_us"] for row in linears)


# Blocks


def answer():
    of = {p: [over_dense(H200, "prefill", dtype, p, M) for dtype in TYPES for M in PREFILL[1:]] for p in PATTERNS}
    small = listed(
        f"{shown(over_dense(key, 'prefill', dtype, '2_4', 512))} ({dtype}, {key[:4]})"
        for key in (H200, H100)
        for dtype in TYPES
    )
    assert min(of["2_4"]) > 1 > max(of["2_8"]), "the sentences below are no longer true"
    return [
        *paragraph(
            f"On NVIDIA H200s, 2:4 makes prefill {span(of['2_4'])} times as fast from 2,048 tokens a step on. 2:6 has",
            f"{span(of['2_6'])}, and 2:8 is slower: {span(of['2_8'])}. A figure is the step time of our fastest dense",
            "engine in [vLLM](https://docs.vllm.ai) over the sparse engine's, by the wall clock, both on one GPU in",
            "one run. Above 1 sparse is faster. M is the number of tokens in a step. † marks where a GPU waited for",
            "its host.",
        ),
        "",
        *table("prefill, M", PREFILL, prefill_rows(PATTERNS)),
        "",
        *paragraph(
            "Synthetic weights in the shape of BitNet b1.58 2B 4T, prompts of at most 1,024 tokens; accuracy is not",
            f"measured. At 512 tokens (†) 2:4 has {small}.",
        ),
    ]


def runs():
    """What was measured when, with which commit, protocol and GPU. A GPU is a letter for its hashed UUID."""
    letters, lines = {}, []
    for stage in ("kernel", "prefill", "decode"):
        for dtype in TYPES:
            groups = {}
            for (s, d, _, sparsity, _), found in rows(H200).items():
                if (s, d) == (stage, dtype):
                    of = found[0].provenance
                    gpu = letters.setdefault(of.gpu_uuid, chr(ord("A") + len(letters)))
                    what = (
                        "dense"
                        if stage == "kernel" and sparsity == "dense"
                        else "sparse"
                        if stage == "kernel"
                        else "all"
                    )
                    groups.setdefault((what, of.git_commit[:7], of.protocol, gpu), set()).update(
                        r.utc[:10] for r in found
                    )
            for (what, commit, protocol, gpu), dates in sorted(groups.items()):
                lines.append(
                    f"| {stage} | {dtype} | {what} | {', '.join(sorted(dates))} | {commit} | {protocol} | {gpu} |"
                )
    return ["| stage | type | points | dates | commit | protocol | GPU |", "|---|---|---|---|---|---|---|", *lines]


def stock_again():
    """How far a later run of stock vLLM was from the kept one."""
    steps, gpu = [], []
    with tarfile.open(MEASURED / H200 / "stock_again.tar.xz") as archive:
        for member in archive:
            if re.search(r"/M[0-9]+\.json$", member.name):
                again = json.load(archive.extractfile(member))
                before = kept(H200)[member.name[member.name.index(H200) :]]
                stage, M = again["key"]["stage"], again["key"]["M"]
                if stage == "prefill" and M >= 1024:
                    steps.append(again["results"]["step_s"]["median"] / before["results"]["step_s"]["median"] - 1)
                if stage == "decode":
                    gpu.append(again["results"]["gpu_step_ms"] / before["results"]["gpu_step_ms"] - 1)
    wall, clock = (fixed(100 * max(map(abs, each)), 1) for each in (steps, gpu))
    return bullet(
        f"Stock vLLM was measured once more after everything else: {len(steps)} points of prefill from 1,024 tokens on",
        f"came within {wall} % of what they were, and the GPU's time of {len(gpu)} points of decode within {clock} %.",
    )


@cache
def kept(key):
    """Name in the archive -> content of every kept point."""
    with tarfile.open(MEASURED / key / "points.tar.xz") as archive:
        return {member.name: json.load(archive.extractfile(member)) for member in archive if member.isfile()}


def kernel_table():
    lines = []
    for pattern in PATTERNS:
        for dtype in TYPES:
            first = name(pattern) if dtype == "INT8" else ""
            lines.append((first, dtype, lambda M, d=dtype, p=pattern: shown(product(d, p, M))))
    return table("M", KERNEL, lines)


def kernel_rivals():
    same = ", ".join(f"{shown(product('INT8', '2_4', M, 'BF16'))} (M={M})" for M in KERNEL)
    points = [rivals(row) for M in KERNEL for p in PATTERNS for row in rows(H200)["kernel", "FP8", "cusparselt", p, M]]
    fastest = sorted({NAMES[min(found, key=found.get)] for found in points})
    return paragraph(
        f"In FP8 the fastest rivals are products of {listed(fastest)}. In INT8, cuBLASLt and torch leave INT32, which",
        "a linear still has to scale, while CUTLASS and cuSPARSELt leave BF16. Over CUTLASS by itself, whose kernels",
        f"nobody searched, 2:4 has in INT8 {same}.",
    )


def turns_cost():
    Ms = [M for M in KERNEL if M >= 1024]
    cost = [100 * (turns("FP8", M) - 1) for M in Ms]
    alone = [shown(product_alone("FP8", "2_4", M)) for M in Ms]
    turn = [shown(product_alone("FP8", "2_4", M, together=True)) for M in Ms]
    return paragraph(
        f"At M = {listed(Ms)}, dense FP8 products took {fixed(min(cost), 0)} to {fixed(max(cost), 0)} % longer in turn",
        "than alone, at the median over libraries, linears and patterns. Over the faster of cuBLASLt and CUTLASS",
        f"alone, 2:4 has {listed(alone)} there; over the same two libraries in turn, {listed(turn)}.",
    )


def prefill_table():
    lines = []
    for pattern, first in (("dense", "our dense over stock"), *((p, f"{name(p)} over our dense") for p in PATTERNS)):
        for dtype in TYPES:
            if pattern == "dense":
                cell = lambda M, d=dtype: shown(over_stock(H200, "prefill", d, "dense", M))  # noqa: E731
            else:
                cell = lambda M, d=dtype, p=pattern: marked(H200, "prefill", d, p, M)  # noqa: E731
            lines.append((first if dtype == "INT8" else "", dtype, cell))
    for dtype in TYPES:
        first = "2:4 over stock" if dtype == "INT8" else ""
        lines.append((first, dtype, lambda M, d=dtype: shown(over_stock(H200, "prefill", d, "2_4", M))))
    return table("M", PREFILL, lines)


def prefill_512():
    heads = [f"{key[:4]}, {clock}" for key in (H200, H100) for clock in ("wall clock", "GPU time")]
    text = [f"| M = 512 | | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 2)]
    for what, of, pattern in (("our dense over stock", over_stock, "dense"), ("2:4 over our dense", over_dense, "2_4")):
        for dtype in TYPES:
            cells = [shown(of(key, "prefill", dtype, pattern, 512, by)) for key in (H200, H100) for by in (WALL, GPU)]
            text.append(f"| {what if dtype == 'INT8' else ''} | {dtype} | {' | '.join(cells)} |")
    return text


def decode_table():
    lines = []
    for first, of in (
        ("our dense over stock", over_stock),
        ("2:4 over our dense", over_dense),
        ("2:4 over stock", over_stock),
    ):
        pattern = "dense" if first.startswith("our") else "2_4"
        for column, clock in ((GPU, "GPU time"), (WALL, "wall clock")):
            for dtype in TYPES:
                cell = lambda M, o=of, d=dtype, p=pattern, c=column: shown(o(H200, "decode", d, p, M, c))  # noqa: E731
                lines.append((f"{first}, {clock}" if dtype == "INT8" else "", dtype, cell))
    return table("M", DECODE, lines)


def follows():
    pays = {dtype: [over_dense(H200, "prefill", dtype, "2_4", M) for M in PREFILL[1:]] for dtype in TYPES}
    gpu = {dtype: [over_dense(H200, "decode", dtype, "2_4", M, GPU) for M in DECODE] for dtype in TYPES}
    wall = {dtype: [shown(over_dense(H200, "decode", dtype, "2_4", M)) for M in DECODE] for dtype in TYPES}
    most = {p: max(over_dense(H200, "prefill", dtype, p, M) for dtype in TYPES for M in PREFILL) for p in PATTERNS}
    first = [over_dense(H200, "prefill", dtype, "2_4", PREFILL[0]) for dtype in TYPES]
    assert all(host(H200, "decode", dtype, "2_4", M) for dtype in TYPES for M in DECODE)
    return [
        *bullet(
            f"In prefill 2:4 on cuSPARSELt pays from 2,048 tokens on: {span(pays['INT8'])} (INT8) and",
            f"{span(pays['FP8'])} (FP8) over our dense engine. At 1,024 tokens it has {span(first)}.",
        ),
        *bullet(
            "In decode the GPU time of a step comes from one profile, without an interval. So whether 2:4 is faster",
            f"there is unknown. Its ratios over our dense engine are {span(gpu['INT8'])} (INT8) and {span(gpu['FP8'])}",
            "(FP8).",
        ),
        *bullet(
            "A user of decode waits for the wall clock, in which the host has its share at all four M. By it, on these",
            "hosts, 2:4 has",
            f"{listed(wall['INT8'])} (INT8) and {listed(wall['FP8'])} (FP8) at M = {listed(DECODE)}.",
        ),
        *bullet(
            f"From 1,024 tokens on, 2:6 has at most {shown(most['2_6'])} over our dense engine in prefill, and 2:8 at",
            f"most {shown(most['2_8'])}.",
        ),
    ]


def h100():
    text = ["| | INT8 | FP8 |", "|---|---|---|"]
    for first, of, pattern in (
        ("our dense over stock", over_stock, "dense"),
        ("2:4 over our dense", over_dense, "2_4"),
        ("2:6 over our dense, across two GPUs", over_dense, "2_6"),
        ("2:8 over our dense", over_dense, "2_8"),
    ):
        cells = [span([of(H100, "prefill", dtype, pattern, M) for M in PREFILL]) for dtype in TYPES]
        text.append(f"| {first} | {' | '.join(cells)} |")
    best = max((over_dense(H100, "prefill", "INT8", "2_6", M), M) for M in PREFILL)
    return [*text, "", f"In INT8, 2:6 has the most at M = {best[1]:,}, {shown(best[0])}."]


BLOCKS = {
    "answer": answer,
    "runs": runs,
    "stock-again": stock_again,
    "kernel": kernel_table,
    "kernel-rivals": kernel_rivals,
    "turns": turns_cost,
    "prefill": prefill_table,
    "prefill-512": prefill_512,
    "decode": decode_table,
    "follows": follows,
    "h100": h100,
}
FILES = ("README.md", "docs/results.md")


def written(text):
    """A page with all of its blocks written anew. KeyError for a block that nobody writes."""
    return MARK.sub(lambda block: block[1] + "\n".join(BLOCKS[block[2]]()) + "\n" + block[4], text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a block differs")
    check, different = parser.parse_args().check, []
    for page in (ROOT / file for file in FILES):
        text = page.read_text()
        if written(text) != text:
            different.append(page.name)
            if not check:
                page.write_text(written(text))
    if check and different:
        sys.exit(f"figures that are not those of the kept points: {', '.join(different)}; run {Path(__file__).name}")


if __name__ == "__main__":
    main()
