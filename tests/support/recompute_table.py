"""Recompute from the kept points, without the report's code, the tables and graphs of a report's first screen."""

import json
from functools import cache
from statistics import median

from kept import DENSE, MEASURED, MODEL, Figure, engine, points, ratios, rounded, sparse
from recompute_answer import BEST, BY, CLOCK, GPU, STAGES, STOCK, TYPES, decided, late, named, order, seen

GRAPHS = (
    ("prefill", CLOCK, "prefill", "step_ms"),
    ("decode", GPU, "decode, GPU time", "gpu_step_ms"),
    ("decode", CLOCK, "decode, clock", "step_ms"),
    ("kernel", "whole linears in turn", "kernel, whole linears", "linear_us"),
)
LINES = 5
"""Most patterns in a graph."""


def over_stock(key, stage, dtype, by=None):
    """M -> ratio of our fastest dense engine over stock vLLM, None if it does not count. by: as `engine`, or what
    decides; if given, ratios that the host bounds count.
    """
    found, given = {}, by
    by = by or ("step" if decided(key, stage, dtype) == CLOCK else "gpu")
    for M in sorted({w[4] for w in points(key) if w[:2] == (stage, dtype) and w[2] in DENSE}):
        stock = engine(key, stage, dtype, "vllm", "dense", M, by)
        best = max((stock.over(engine(key, stage, dtype, b, "dense", M, by)) for b in DENSE), key=lambda r: r.value)
        found[M] = best if not best.out or (given and best.out == "bound by the host") else None
    return found


def middle(found, left, ends=False):
    """Median of ratios with marks, and with their span (ends). left: whether some do not count."""
    if not found:
        return "—"
    values = [ratio.value for ratio in found]
    span = f" ({rounded(min(values), 2)}–{rounded(max(values), 2)})" if ends and min(values) < max(values) else ""
    return unmarked(found) + span + " ⇄" * any(ratio.gpu == "⇄" for ratio in found) + " †" * bool(left)


def unmarked(found):
    return rounded(median(ratio.value for ratio in found), 2)


def clock_word(ratios):
    """What ratios by the clock say, as a word, or as two for the worst and the best; and that some say nothing."""
    said = [ratio.verdict for ratio in ratios]
    known = [verdict for verdict in ("slower", "even", "faster") if verdict in said]
    words = " to ".join(dict.fromkeys([known[0], known[-1]])) if known else "unknown"
    return words + ", some unknown" * bool(known and "unknown" in said)


def cost(key, dtype, sides, last):
    """Energy at both stages (mJ a token), memory of weights (GB), percent of weights that pruning changed, quality.

    sides: (backend, sparsity) at both stages. last: stage -> M.
    """
    cells = []
    for stage, side in zip(STAGES, sides, strict=True):
        where = dtype, *side, last[stage]
        joules = rounded(1000 * points(key)[stage, *where]["results"]["energy_j_per_token"], 2)
        bound = engine(key, stage, *where, "step").out == "bound by the host"
        cells.append(joules + " †" * bound if side[1] == "dense" or sparse(key, stage, where) else "—")
    memory = points(key)["prefill", dtype, *sides[0], last["prefill"]]["results"]["weight_bytes"]
    manifest = MEASURED / "checkpoints" / MODEL / dtype / f"{sides[0][1]}.json"
    item = json.loads(manifest.read_text())
    changed = "0" if sides[0][1] == "dense" else rounded(100 * item["changed"] / item["weights"], 1)
    return [*cells, rounded(memory / 1e9, 2), changed, "not measured"]


def stock_and_dense(key, dtype, last):
    """The rows of stock vLLM, as if over dense, and of the fastest dense engine with its steps at the largest M."""
    stock, dense, over, sides = [], [], [], []
    for stage in STAGES:
        for what in dict.fromkeys([decided(key, stage, dtype), CLOCK]):
            by, beside = "step" if what == CLOCK else "gpu", what != decided(key, stage, dtype)
            found = over_stock(key, stage, dtype, by if beside else None).values()
            good = [ratio for ratio in found if ratio]
            left = any(ratio.out for ratio in good) if beside else len(good) < len(found)
            stock.append(middle([Figure(1 / ratio.value, None, ratio.gpu) for ratio in good], left, ends=True))
            best = min((engine(key, stage, dtype, b, "dense", last[stage], by) for b in DENSE), key=lambda e: e.value)
            dense.append(f"{rounded(best.value, 1 if best.value >= 10 else 2)} ms ({best.name})")
            over += [] if beside else [middle(good, left)]
            sides += [] if beside else [(best.name, "dense")]
        stock.append("—")
        dense.append("—")
    stock += ["1", "1", *cost(key, dtype, [("vllm", "dense")] * 2, last)]
    return ["stock vLLM", *stock], ["dense", *dense, *over, *cost(key, dtype, sides, last)]


def table(key, dtype):
    """The table of one type."""
    last = {s: max(w[4] for w in points(key) if w[:3] == (s, dtype, "cusparselt")) for s in STAGES}
    prefill, decode = (f"{s} over dense, {BY[decided(key, s, dtype)]}" for s in STAGES)
    heads = [dtype, prefill, "verdict, prefill", decode, "decode over dense, by the clock", "verdict, decode (clock)"]
    heads += [*(f"{s} over stock" for s in STAGES), *(f"mJ/token, {s} {last[s]}" for s in STAGES)]
    sides = ["---:" if at in (1, 3, 4, *range(6, 12)) else "---" for at in range(13)]
    lines = [[*heads, "weights, GB", "weights pruned, %", "quality"], sides, *stock_and_dense(key, dtype, last)]
    for text in seen(key, "prefill", dtype):
        cells, over = [text], []
        for stage in STAGES:
            each, clock = seen(key, stage, dtype)[text], late(key, stage, dtype).get(text, [])
            cells.append(middle(each.counted.values(), each.out, ends=True))
            cells += [middle(clock, any(ratio.out for ratio in clock), ends=True)] if stage == "decode" else []
            cells.append(f"{each.said} ({clock_word(clock)})" if clock else each.said)
            mine = [r for (c, _), r in ratios(key, stage, dtype, each.what, STOCK).items() if c == each.column]
            good = [ratio for ratio in mine if not ratio.out]
            over.append(middle(good, len(good) < len(mine)))
        lines.append([*cells, *over, *cost(key, dtype, [each.column.split("/")] * 2, last)])
    return markdown(lines)


def markdown(lines):
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@cache
def graphs(key):
    """(type, graph, denominator) -> (name, patterns that are not drawn, lines of the graph's figures)."""
    found = {}
    for dtype in TYPES:
        for stage, what, said, column in GRAPHS:
            kinds = {"dense": "linear"} if stage == "kernel" else {"dense": "best_dense", "stock vLLM": "stock"}
            for over, kind in kinds.items():
                each = ratios(key, stage, dtype, what, STOCK if kind == "stock" else BEST)
                names = sorted({name for name, _ in each}, key=lambda name: order(named(name)))
                places = sorted((names.index(name), M) for name, M in each if name in names[:LINES])
                lines = [drawn(names[at], M, each[names[at], M]) for at, M in places]
                file = f"measured_answer_{dtype}_{stage}_{column}_{kind}_{MODEL}"
                found[dtype, said, over] = file, [named(name) for name in names[LINES:]], lines
    return found


def drawn(name, M, ratio):
    """A line of a graph's figures."""
    ends = ["—"] * 2 if ratio.spread is None else [ratio.value * (1 + side * ratio.spread) for side in (-1, 1)]
    figures = [each if each == "—" else rounded(each, 3) for each in (ratio.value, *ends)]
    return [named(name), str(M), *figures, "yes" if ratio.out else ""]
