"""The graphs of the first screen: speed beside quality, and speed-up over M, for each type, stage and denominator."""

from slidesparse.plan import prompts
from slidesparse.report.document.model import Figure, Table, fixed, number, say
from slidesparse.report.sections import tradeoffs
from slidesparse.report.sections.figures import line
from slidesparse.report.sections.verdict import STAGES, row_names
from slidesparse.sparsity.patterns import Pattern

MOST_LINES = 5
"""Most patterns in its figure."""

DRAWN = {
    ("prefill", "step_ms"): "prefill",
    ("prefill", "tokens_per_s"): "prefill, tokens/s",
    ("decode", "gpu_step_ms"): "decode, GPU time",
    ("decode", "step_ms"): "decode, clock",
    ("decode", "tokens_per_s"): "decode, tokens/s",
    ("kernel", "linear_us"): "kernel, whole linears",
    ("kernel", "latency_us"): "kernel, products",
}
"""(stage, figure) -> its name among the figures."""


def figure_choices(comparisons, types, label, prefix):
    """(type, graph, denominator) -> Figure.

    Speed beside quality comes first where both are known. Then come ratios over M with their intervals, of at most
    MOST_LINES patterns.
    """
    found = {}
    for model, dtype in types:
        for stage in STAGES:
            name = f"{prefix}_answer_{dtype}_{stage}_quality_{model}"
            if picture := tradeoffs.of_model(comparisons, model, [dtype], name, [stage]):
                found[label[model, dtype], f"quality, {stage}", "dense"] = picture
        for stage, metric in DRAWN:
            said, weights = DRAWN[stage, metric], (prompts.apart(model)[0], dtype)
            if stage == "kernel" and weights != (model, dtype) and weights in types:
                continue  # its kernels are those of the usual prompt
            # The first figure of a stage that there is; in decode GPU time and the clock.
            there = any(place[:1] == (label[model, dtype],) and place[1].startswith(stage) for place in found)
            if there and metric not in ("step_ms", "gpu_step_ms"):
                continue
            for over, kinds in (("dense", ("linear", "best_dense", "dense")), ("stock vLLM", ("stock",))):
                same = [c for c in comparisons if (c.stage, c.dtype, c.metric) == (stage, dtype, metric) and c.ratios]
                same = [c for c in same if model == c.model or stage == "kernel"]
                one = next((c for kind in kinds for c in same if c.kind == kind and c.sparse_names()), None)
                if one:
                    place = label[model, dtype], said, over
                    found[place] = drawn(one, f"{prefix}_answer_{dtype}_{stage}_{metric}_{one.kind}_{model}")
    return found


def drawn(comparison, name):
    """The figure of one comparison."""
    names = comparison.sparse_names()
    labels = row_names(names)
    names = list(labels)[:MOST_LINES]
    series, rows = [], []
    for each in names:
        values = {M: ratio for M, ratio in comparison.of(each).items() if ratio.sparse}
        bands = [None if value.low is None else [value.low, value.high] for value in values.values()]
        out = [bool(comparison.left_out(each, M)) for M in values]
        bound = Pattern(each.sparsity).bound if each.sparsity != "2_inf" and comparison.kind != "stock" else None
        y = [value.value for value in values.values()]
        series.append(line(each, names, list(values), y, band=bands, hollow=out, bound=bound))
        series[-1] |= {"label": labels[each]}
        for (M, value), left in zip(values.items(), out, strict=True):
            shown = [fixed(each_, 3) for each_ in (value.value, value.low, value.high)]
            rows.append((labels[each], number(str(M), M), *shown, "yes" if left else ""))
    panel = {"kind": "lines", "title": "", "y": comparison.axis, "series": series, "one": True, "flat": True}
    caption = say(
        "{stage} {model} {dtype}, {what}, over {over}. Above 1 sparse is faster.{bands} Hollow: left out. Thin line,"
        " ▲: a pattern's bound.",
        bands=say(" Bars: intervals.") if any(any(each["band"] or ()) for each in series) else "",
        stage=comparison.stage,
        model=comparison.model,
        dtype=comparison.dtype,
        what=comparison.what,
        over=comparison.over,
    )
    if more := list(labels.values())[MOST_LINES:]:
        caption = say("{caption} Not drawn: {names}.", caption=caption, names=", ".join(more))
    heads = ("pattern", "M", "speed-up", "low", "high", "left out")
    return Figure(name, caption, [panel], Table(name, heads, rows, "l"))
