"""The graph of the comparison: what the first screen's table says, and kernels, as bars side by side."""

from statistics import median

from slidesparse.report.document.model import Figure, Table, fixed, number, say
from slidesparse.report.sections.across_headline import row_order
from slidesparse.report.sections.figures import look
from slidesparse.report.sections.quantities import ACROSS
from slidesparse.report.sections.verdict import STAGES, row_names
from slidesparse.report.sources.rows import DTYPES, configuration_order

SHOWN_BARS, SHOWN_PATTERNS = 12, 4
"""Most hardware keys and patterns that a figure shows."""


def speedup_figures(summaries, labels):
    """A list with the figure of speed-ups by hardware: a panel for each stage, model and type; empty without any.

    Engines: the ratios of the first screen, over each one's fastest dense engine. Kernels: over what the panel says.
    """
    panels, rows, left = [], [], set()
    groups = [*engines(summaries, labels), *kernels(summaries, labels)]
    several = len({having[0][0].model for _, having in groups if having[0][0].stage == "kernel"}) > 1
    for axis, having in groups:
        first, (series, more, absent) = having[0][0], bars(having)
        rows += more
        left |= {*absent, *(label for _, label in having[SHOWN_BARS:])}
        if series:
            model = [first.model] if several and first.stage == "kernel" else []
            title = " ".join((*model, first.stage, first.dtype))
            title += f", {first.caches}" if first.caches else ""
            panels.append(panel(title, axis, [label for _, label in having[:SHOWN_BARS]], series))
    if not panels:
        return []
    headers = ("stage", "figure", "over", "model", "dtype", "hardware", "backend/sparsity", "median")
    table = Table("comparison_speedup", headers, rows, "lllllll")
    caption = say(
        "Speed-up by hardware: median over the M that count. Prefill and decode: as in the table of the first screen,"
        " over the fastest dense engine of each GPU. Kernels: over what their axis says."
    )
    if left:
        caption = say("{caption} Only in its table: {absent}.", caption=caption, absent=", ".join(sorted(left)))
    return [Figure("comparison_speedup", caption, panels, table)]


def bars(having):
    """(series of a panel, rows of the table, patterns that are only there). having: [(Comparison, label)]."""
    named = [{text: name for name, text in row_names(one.sparse_names()).items()} for one, _ in having]
    texts, series, rows = sorted({text for names in named for text in names}, key=row_order), [], []
    for text in texts:
        middles = [middle(one, names.get(text)) for (one, _), names in zip(having, named, strict=True)]
        if text in texts[:SHOWN_PATTERNS] and any(middles[:SHOWN_BARS]):
            names = next(names for names in named if text in names)
            series.append({"label": text, "style": look(names[text], [*names.values()]), "y": middles[:SHOWN_BARS]})
        for (one, label), names, value in zip(having, named, middles, strict=True):
            if text in names:
                of = one.stage, one.what, one.over, one.model, one.dtype
                mark = ACROSS * any(each.across for each in one.sparse_counted(names[text]).values())
                rows.append((*of, label, names[text].column, value and number(fixed(value, 3) + mark, value)))
    return series, rows, texts[SHOWN_PATTERNS:]


def middle(comparison, name):
    """The median of the ratios of a configuration that count; None without."""
    return median([each.value for each in comparison.sparse_counted(name).values()] or [None]) if name else None


def panel(title, axis, names, series):
    """A panel of bars."""
    turn = 0 if len(names) <= 4 and all(len(name) < 16 for name in names) else 90
    return {
        "kind": "grouped",
        "title": title,
        "y": axis,
        "one": True,
        "labels": names,
        "series": series,
        "turn": turn,
    }


def engines(summaries, labels):
    """[(title of the axis, [(Comparison, label)])] of those that decide on the first screen, by stage and type."""
    found = {}
    for item, label in zip(summaries, labels, strict=True):
        models = {model for (model, _), stages in item.answers.items() if any(stages.values())}
        for (model, dtype), stages in item.answers.items():
            for stage in [each for each in STAGES if stages[each]]:
                name = f"{label} {model}" if len(models) > 1 else label
                found.setdefault(([*STAGES].index(stage), DTYPES.index(dtype)), []).append((stages[stage], name))
    return [("speed-up over the fastest dense", found[key]) for key in sorted(found)]


def kernels(summaries, labels):
    """The same of kernels: in turn with the fastest dense library, or else over the dense one."""
    found = {}
    for item, label in zip(summaries, labels, strict=True):
        of = [
            one for one in item.ratios.values() if one.stage == "kernel" and one.sparse_names() and one.kind != "linear"
        ]
        for model, dtype in dict.fromkeys((one.model, one.dtype) for one in of):
            mine = [one for one in of if (one.model, one.dtype) == (model, dtype)]
            best = [one for one in mine if one.in_turn and one.kind == "best_dense"]
            for one in best or [one for one in mine if one.kind == "dense"]:
                found.setdefault((str(one.what), str(one.over), model, dtype), []).append((one, label))
    order = sorted(found, key=lambda key: (*configuration_order((*key[2:], "", "")), key[:2]))
    return [(found[key][0][0].axis, found[key]) for key in order]
