"""Sections with figures: prefill and decode tables, kernel latencies and searches, speed-ups."""

from slidesparse.patterns import Pattern
from slidesparse.report.checks import WORDS, linears_of
from slidesparse.report.columns import STEPS
from slidesparse.report.markdown import NONE, fixed, table
from slidesparse.report.rows import DENSE_BACKENDS, configuration_order, configurations, linear_order


def throughput_section(source, stage, labels):
    """One table for every configuration of a stage: the published columns, then the steady-state ones if measured."""
    lines = []
    for name in configurations(source.stage(stage)):
        rows = sorted((row for row in source.stage(stage) if row.configuration == name), key=lambda row: row.M)
        marks = {label_of(source, row, labels) for row in rows} - {""}
        steady = any(row.values.get("step_ms") is not None for row in rows)
        headers = ["M", "requests/s", "tokens/s", "elapsed (s)"]
        headers += ["step (ms)", "95 % CI of step (ms)", "steady tokens/s"] if steady else []
        headers += ["provenance"] if len(marks) > 1 else []
        cells = [
            throughput_cells(row, steady) + ([label_of(source, row, labels)] if len(marks) > 1 else []) for row in rows
        ]
        lines += [f"#### {stage} {name.model} {name.dtype} {name.column}", ""]
        lines += notes(protocol_note(stage, rows), marks)
        lines += table(headers, cells)
    return lines or ["Nothing measured.", ""]


def throughput_cells(row, steady):
    """Cells of one M, or what became of it."""
    if row.status != "ok":
        return [str(row.M), WORDS[row.status]] + [NONE] * (5 if steady else 2)
    values = row.values
    cells = [
        str(row.M),
        fixed(values["requests_per_s"], 2),
        fixed(values["tokens_per_s"], 0, thousands=True),
        fixed(values["elapsed_time_s"], 2),
    ]
    if steady:
        low, high = values.get("step_ms_ci_low"), values.get("step_ms_ci_high")
        interval = f"{fixed(low, 3)} to {fixed(high, 3)}" if low is not None and high is not None else NONE
        tokens = fixed(values.get("steady_tokens_per_s"), 0, thousands=True)
        cells += [fixed(values.get("step_ms"), 3), interval, tokens]
    return cells


def protocol_note(stage, rows):
    """A sentence if the run was not as long as the published protocol asks."""
    column, published = STEPS[stage]
    lengths = sorted({row.values[column] for row in rows if row.values.get(column) is not None} - {published})
    if not lengths:
        return ""
    what = {"prefill": "steps", "decode": "output tokens"}[stage]
    return f"Not the published protocol: {', '.join(map(str, lengths))} {what} instead of {published}."


def notes(note, marks):
    """Lines above a table: a note and where its figures come from, either of which may be absent."""
    origin = f"Provenance {', '.join(sorted(marks))}." if marks else ""
    return [" ".join(filter(None, (note, origin))), ""] if note or origin else []


def label_of(source, row, labels):
    """Label of the provenance of a row; empty where nothing was measured."""
    return labels.get((source.root, row.provenance), "") if row.status != "failed" else ""


def kernel_section(source, labels):
    """Latency of every linear at every M side by side, the sum over the linears, and what the searches found."""
    lines = []
    rows = source.stage("kernel")
    for model, dtype in dict.fromkeys((name.model, name.dtype) for name in configurations(rows)):
        group = [row for row in rows if (row.configuration.model, row.configuration.dtype) == (model, dtype)]
        marks = {label_of(source, row, labels) for row in group} - {""}
        for linear in sorted({row.linear for row in group if row.linear}, key=linear_order):
            cells = {
                (row.configuration, row.M): kernel_cell(source, row, labels, len(marks) > 1)
                for row in group
                if row.linear in (linear, None)
            }
            N, K = next(((r.values["N"], r.values.get("K")) for r in group if r.linear == linear), (None, None))
            title = f"{model} {dtype} {linear} (N={N}, K={K}), latency (µs)"
            lines += [f"#### kernel {title}", "", *wide_table(cells)]
        for column, title in (("latency_us", "latency"), ("latency_hot_us", "latency with warm caches")):
            sums = kernel_sums(source, group, column)
            if sums:
                cells = {key: fixed(value, 3) for key, (value, _) in sums.items()}
                lines += [f"#### kernel {model} {dtype} sum over the linears of a layer, {title} (µs)", ""]
                lines += wide_table(cells)
        lines += [f"#### kernel {model} {dtype} searches", "", *notes("", marks)]
        lines += search_table(group)
    return lines or ["Nothing measured.", ""]


def kernel_cell(source, row, labels, labelled):
    """Latency of one linear, or what became of it; with its provenance where there are several."""
    if row.status != "ok":
        return WORDS[row.status]
    label = f" ({label_of(source, row, labels)})" if labelled else ""
    return fixed(row.values["latency_us"], 3) + label


def wide_table(cells):
    """Table of (configuration, M) -> text: a row for every M, a column for every configuration."""
    names = sorted({name for name, _ in cells}, key=configuration_order)
    Ms = sorted({M for _, M in cells})
    rows = [(str(M), *(cells.get((name, M)) for name in names)) for M in Ms]
    return table(("M", *(name.column for name in names)), rows)


def kernel_sums(source, rows, column):
    """(configuration, M) -> (sum over all linears, provenance), where every linear was measured."""
    points = {}
    for row in rows:
        if row.status == "ok" and row.values.get(column) is not None:
            points.setdefault((row.configuration, row.M), []).append(row)
    whole = {model: linears_of(source, model) for model in {name.model for name, _ in points}}
    return {
        key: (sum(row.values[column] for row in found), found[0].provenance)
        for key, found in points.items()
        if len(found) == whole[key[0].model]
    }


def search_table(rows):
    """Statistics of the algorithm searches of one model and dtype."""
    cells = []
    for name in configurations(rows):
        mine = [row for row in rows if row.configuration == name]
        good = [row.values for row in mine if row.status == "ok"]
        counts = [values["alg_count"] for values in good if values.get("alg_count") is not None]
        exact = [values["exact"] for values in good if values.get("exact") is not None]
        errors = [values["error_max_abs"] for values in good if values.get("error_max_abs") is not None]
        cells.append(
            (
                name.column,
                f"{len(good)}/{len(mine)}",
                str(sum(row.status == "failed" for row in mine)),
                span(counts),
                str(len({values["alg_id"] for values in good})),
                f"{sum(exact)}/{len(exact)}" if exact else "not checked",
                f"{max(errors):g}" if errors else "not checked",
                ", ".join(sorted({values["output"] for values in good if values.get("output")})),
            )
        )
    headers = ("backend/sparsity", "(M, linear) passed", "failed", "algorithms searched", "different winners")
    return table((*headers, "bit-exact", "largest error", "output"), cells, "l")


def span(values):
    """Smallest and largest of some counts."""
    if not values:
        return NONE
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def speedup_section(source):
    """Ratios to the dense backend of the same source, model, dtype and M, with the bound of each pattern."""
    lines = []
    for stage, column, title, higher in (
        ("prefill", "tokens_per_s", "tokens/s of the published protocol", True),
        ("prefill", "step_ms", "steady-state step time", False),
        ("decode", "tokens_per_s", "tokens/s of the published protocol", True),
        ("decode", "step_ms", "steady-state step time", False),
        ("kernel", "latency_us", "sum of GEMM latencies of a layer", False),
    ):
        rows = source.stage(stage)
        for model, dtype in dict.fromkeys((name.model, name.dtype) for name in configurations(rows)):
            group = [row for row in rows if (row.configuration.model, row.configuration.dtype) == (model, dtype)]
            if stage == "kernel":
                values = kernel_sums(source, group, column)
            else:
                values = {
                    (row.configuration, row.M): (row.values[column], row.provenance)
                    for row in group
                    if row.status == "ok" and row.values.get(column) is not None
                }
            if values:
                lines += [f"#### {stage} {model} {dtype}, {title}", "", *speedup_table(values, higher)]
    return lines or ["Nothing measured.", ""]


def speedup_table(values, higher):
    """Lines with the ratios of (configuration, M) -> (value, provenance) to the dense backend."""
    dense = [name for name, _ in values if name.sparsity == "dense" and name.backend in DENSE_BACKENDS]
    if not dense:
        return ["No speed-up: no dense backend was measured.", ""]
    base = min(dense, key=lambda name: DENSE_BACKENDS.index(name.backend))
    ratios, apart, above = {}, 0, []
    for name, M in sorted(values, key=lambda key: (configuration_order(key[0]), key[1])):
        value, provenance = values[name, M]
        if name == base or (base, M) not in values:
            continue
        reference, origin = values[base, M]
        if origin.machine != provenance.machine:
            apart += 1
            continue
        ratios[name, M] = value / reference if higher else reference / value
        if name.sparse_kernel and ratios[name, M] > Pattern(name.sparsity).bound:
            above.append(f"{name.column} at M={M}")
    if not ratios:
        lines = ["No speed-up: nothing beside the dense backend was measured at the same M and provenance.", ""]
    else:
        names = sorted({name for name, _ in ratios}, key=configuration_order)
        bounds = {(n, "bound"): fixed(Pattern(n.sparsity).bound, 2) for n in names if n.sparse_kernel}
        rows = [
            (str(M), *(cells.get((name, M)) for name in names))
            for cells in ({key: fixed(ratio, 2) for key, ratio in ratios.items()} | bounds,)
            for M in [*sorted({M for _, M in ratios}), "bound"]
        ]
        lines = [f"Denominator: {base.column} of the same M. Bound: L/(L-2).", ""]
        lines += table(("M", *(name.column for name in names)), rows)
    if above:
        lines += [f"Above the bound, which supposes GEMMs of equal efficiency: {', '.join(above)}.", ""]
    if apart:
        lines += [f"Left out: {apart} ratios of points that differ in hardware name, driver, versions or protocol.", ""]
    return lines
