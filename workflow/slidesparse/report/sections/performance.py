"""Sections with measured figures: prefill, decode, step times, kernel latencies and algorithm searches."""

from slidesparse.report.document.model import NONE, Section, Table, fixed, interval, number, say, whole
from slidesparse.report.sections.checks import WORDS
from slidesparse.report.sections.quantities import of_layers
from slidesparse.report.sources.rows import (
    by_configuration,
    caches_of,
    configuration_order,
    grouped,
    linear_order,
    step_value,
)
from slidesparse.report.tables.columns import STEPS

PARTS = ("gemm_ms", "attention_ms", "fused_ms", "rest_ms", "idle_ms")
"""The parts of a step's time, where they are known."""

STEP_EXTRAS = {
    "host_bound": "host-bound",
    "gpu_step_ms": "GPU time of a step (ms)",
    "energy_j_per_token": "energy (J/token)",
    "graph_mode": "graph mode",
    "variant": "variant",
}
"""Columns of a step that a table shows if any point has them: column -> head."""


def throughput_blocks(source, stage, labels):
    """A table for each configuration of a stage: the published columns, then the steady-state ones if measured."""
    blocks = []
    for name, rows in by_configuration(source.stage(stage)).items():
        marks = {label_of(source, row, labels) for row in rows} - {""}
        steady = any(row.values.get("step_ms") is not None for row in rows)
        headers = ["M", "requests/s", "tokens/s", "elapsed (s)"]
        headers += ["step (ms)", "interval of step (ms)", "covers (%)", "steady tokens/s"] if steady else []
        headers += ["provenance"] if len(marks) > 1 else []
        cells = [
            throughput_cells(row, steady) + ([label_of(source, row, labels)] if len(marks) > 1 else []) for row in rows
        ]
        table = Table(f"{stage}_{'_'.join(name)}", tuple(headers), cells)
        notes = [*protocol_note(stage, rows), *provenance_note(marks)]
        blocks.append(Section(f"{stage} {name.model} {name.dtype} {name.column}", [*notes, table], folded=True))
    return blocks or [say("Nothing measured.")]


def throughput_cells(row, steady):
    """Cells of one M, or its status if it has no figures."""
    M = number(str(row.M), row.M)
    if row.status != "ok":
        return [M, WORDS[row.status]] + [NONE] * (6 if steady else 2)
    values = row.values
    cells = [
        M,
        fixed(values["requests_per_s"], 2),
        fixed(values["tokens_per_s"], 0, thousands=True),
        fixed(values["elapsed_time_s"], 2),
    ]
    if steady:
        low, high = values.get("step_ms_ci_low"), values.get("step_ms_ci_high")
        known = low is not None and high is not None
        between = say("{low} to {high}", low=fixed(low, 3), high=fixed(high, 3)) if known else NONE
        coverage = values.get("step_ms_ci_coverage")
        covers = NONE if coverage is None else fixed(100 * coverage, 1)
        tokens = fixed(values.get("steady_tokens_per_s"), 0, thousands=True)
        cells += [fixed(values.get("step_ms"), 3), between, covers, tokens]
    return cells


def protocol_note(stage, rows):
    """A list with a sentence, if the run was shorter or longer than in the published protocol; else empty."""
    column, published = STEPS[stage]
    lengths = sorted({row.values[column] for row in rows if row.values.get(column) is not None} - {published})
    if not lengths:
        return []
    values = {"lengths": ", ".join(map(str, lengths)), "published": published}
    if stage == "prefill":
        return [say("Not the published protocol: {lengths} steps instead of {published}.", **values)]
    return [say("Not the published protocol: {lengths} output tokens instead of {published}.", **values)]


def provenance_note(marks):
    """A list with a sentence on the provenance of figures."""
    return [say("Provenance {marks}.", marks=", ".join(sorted(marks)))] if marks else []


def label_of(source, row, labels):
    """Label of the provenance of a row; empty if nothing was measured."""
    return labels.get((source.root, row.provenance), "") if row.measured else ""


def step_blocks(source):
    """Tables of step times of all configurations and M, of what else was recorded of a step, and of its parts."""
    blocks = []
    for stage in ("prefill", "decode"):
        for (model, dtype), rows in grouped(source.stage(stage)).items():
            steps = {(row.configuration, row.M): step_value(row) for row in rows}
            steps = {key: value for key, value in steps.items() if value}
            title = f"{stage} {model} {dtype}"
            name = f"{stage}_{model}_{dtype}"
            if steps:
                cells = {key: fixed(value[0], 3) for key, value in steps.items()}
                elapsed = [value[1] for value in steps.values()]
                notes = [say("Elapsed time over steps where no step was measured.")] if any(elapsed) else []
                notes = [say("Elapsed time over steps, not a measured step.")] if all(elapsed) else notes
                parts = [*notes, wide_table(f"step_{name}", cells)]
                blocks.append(Section(say("{what}, step time (ms)", what=title), parts))
            columns = [column for column in STEP_EXTRAS if any(row.values.get(column) is not None for row in rows)]
            if columns:
                heads = ("backend/sparsity", "M", *(STEP_EXTRAS[column] for column in columns))
                having = [row for row in rows if any(row.values.get(column) is not None for column in columns)]
                table = Table(f"step_more_{name}", heads, [extra_cells(row, columns) for row in having], "l")
                blocks.append(Section(say("{what}, more about the step", what=title), [table], folded=True))
            taken = [row for row in rows if row.values.get("gemm_ms") is not None]
            if taken:
                heads = ("backend/sparsity", "M", *(f"{part[:-3]} (ms)" for part in PARTS), "GEMM share (%)")
                table = Table(f"step_parts_{name}", heads, [part_cells(row) for row in taken], "l")
                blocks.append(Section(say("{what}, what a step is made of", what=title), [table], folded=True))
            else:
                blocks += estimated_share(source, stage, model, dtype, steps)
    return blocks or [say("Nothing measured.")]


def extra_cells(row, columns):
    """The cells of one point in the table of further columns of a step."""
    cells = []
    for column in columns:
        value = row.values.get(column)
        if isinstance(value, bool):
            cells.append("yes" if value else "no")
        else:
            cells.append(
                fixed(value, 6 if column == "energy_j_per_token" else 3) if isinstance(value, float) else value
            )
    return (row.configuration.column, number(str(row.M), row.M), *cells)


def part_cells(row):
    """The cells of one point in the table of the parts of a step."""
    parts = [row.values.get(part) for part in PARTS]
    total = sum(part for part in parts if part is not None)
    return (
        row.configuration.column,
        number(str(row.M), row.M),
        *(fixed(part, 3) for part in parts),
        fixed(100 * parts[0] / total, 1) if total else NONE,
    )


def estimated_share(source, stage, model, dtype, steps):
    """Estimated GEMM share of a step, from the kernel stage's sums at the same M and the number of layers."""
    shape = source.shape_of(model)
    layers = source.layers.get(shape)
    rows = [row for row in source.stage("kernel") if row.configuration[:2] == (shape, dtype)]
    sums = of_layers(source, shape, dtype, "latency_us")
    sums = {(name._replace(model=model), M): value for (name, M), value in sums.items()}
    cells = {
        key: fixed(100 * layers * sums[key].value / 1000 / step, 1)
        for key, (step, _) in steps.items()
        if layers and key in sums
    }
    if not cells:
        return []
    note = say(
        "{layers} layers times the sum of {caches} GEMM latencies at the same M, over the step time: "
        "an estimate, no trace.",
        layers=layers,
        caches=say(caches_of(rows)),
    )
    what = f"{stage} {model} {dtype}"
    name = f"gemm_share_{stage}_{model}_{dtype}"
    return [Section(say("{what}, estimated GEMM share of a step (%)", what=what), [note, wide_table(name, cells)])]


def kernel_blocks(source, labels):
    """Tables of kernel latencies at every M, of their sums, of the roofline, and of the algorithm searches."""
    blocks = []
    for (model, dtype), group in grouped(source.stage("kernel")).items():
        marks = {label_of(source, row, labels) for row in group} - {""}
        caches = say(caches_of(group))
        by_linear = {}
        for row in group:
            by_linear.setdefault(row.linear, []).append(row)
        whole_points = by_linear.pop(None, [])
        for linear in sorted(by_linear, key=linear_order):
            rows = by_linear[linear]
            cells = {
                (row.configuration, row.M): kernel_cell(source, row, labels, len(marks) > 1)
                for row in whole_points + rows
            }
            N, K = rows[0].values["N"], rows[0].values.get("K")
            title = say("{caches} latency (µs)", caches=caches)
            what = f"kernel {model} {dtype} {linear} (N={N}, K={K})"
            table = wide_table(f"kernel_{model}_{dtype}_{linear}", cells)
            blocks.append(Section(say("{what}, {title}", what=what, title=title), [table], folded=True))
        titles = {
            "latency_us": say("{caches} latency (µs)", caches=caches),
            "latency_hot_us": say("{caches} latency (µs)", caches=say("hot")),
            "linear_us": say("cold latency of whole linears (µs)"),
            "linear_folded_us": say("cold latency of whole linears with folded scales (µs)"),
        }
        for column, title in titles.items():
            sums = of_layers(source, model, dtype, column)
            if sums:
                cells = {key: interval(value.value, value.low, value.high, 3) for key, value in sums.items()}
                what = say("kernel {model} {dtype} sum over the linears of a layer", model=model, dtype=dtype)
                title = say("{what}, {title}", what=what, title=title)
                blocks.append(Section(title, [wide_table(f"kernel_{model}_{dtype}_sum_{column}", cells)]))
        blocks += whole_blocks(group, model, dtype)
        blocks += roofline_blocks(group, model, dtype)
        searches = [*provenance_note(marks), search_table(group, f"kernel_{model}_{dtype}_searches")]
        blocks.append(Section(say("kernel {model} {dtype} searches", model=model, dtype=dtype), searches))
    return blocks or [say("Nothing measured.")]


def kernel_cell(source, row, labels, labelled):
    """Latency of one linear, or its status; with its provenance if there are several."""
    if row.status != "ok":
        return WORDS[row.status]
    shown = fixed(row.values["latency_us"], 3)
    return number(f"{shown} ({label_of(source, row, labels)})", shown.value) if labelled else shown


def wide_table(name, cells):
    """A table of (configuration, M) -> text, with a row for every M and a column for every configuration."""
    names = sorted({name for name, _ in cells}, key=configuration_order)
    Ms = sorted({M for _, M in cells})
    rows = [(number(str(M), M), *(cells.get((name, M)) for name in names)) for M in Ms]
    return Table(name, ("M", *(name.column for name in names)), rows)


def having(column, rows):
    """The measured rows that have a value in this column."""
    return [row for row in rows if row.status == "ok" and row.values.get(column) is not None]


def linear_cells(row):
    """The first cells of a table of linears: configuration, linear and M."""
    return row.configuration.column, row.linear, number(str(row.M), row.M)


def whole_blocks(rows, model, dtype):
    """A table of every whole linear and its product, if whole linears were measured."""
    rows = having("linear_us", rows)
    if not rows:
        return []
    cells = [
        (
            *linear_cells(row),
            *(fixed(row.values.get(column), 3) for column in ("latency_us", "linear_us", "linear_folded_us")),
        )
        for row in rows
    ]
    note = say(
        "A whole linear quantises, multiplies and scales, BF16 in and out. With folded scales what follows applies"
        " them, which costs what a pass that scales takes longer than one that copies."
    )
    headers = ("backend/sparsity", "linear", "M", "cold latency (µs)", "whole linear (µs)", "scales folded (µs)")
    title = say("kernel {model} {dtype} whole linears", model=model, dtype=dtype)
    return [Section(title, [note, Table(f"whole_{model}_{dtype}", headers, cells, "ll")], folded=True)]


def roofline_blocks(rows, model, dtype):
    """A table of the share of the roofline that each linear reaches with cold caches, if a bound was computed."""
    rows = having("roofline_pct", rows)
    if not rows:
        return []
    cells = [
        (
            *linear_cells(row),
            fixed(row.values["latency_us"], 3),
            fixed(row.values.get("roofline_us"), 3),
            fixed(row.values["roofline_pct"], 1),
            row.values.get("roofline_limit"),
            fixed(row.values.get("clock_mhz"), 0),
            fixed(row.values.get("effective_tops"), 1),
        )
        for row in rows
    ]
    headers = ("backend/sparsity", "linear", "M", "cold latency (µs)", "roofline (µs)", "of the roofline (%)", "limit")
    headers += ("clock (MHz)", "effective TOPS")
    title = say("kernel {model} {dtype} roofline", model=model, dtype=dtype)
    return [Section(title, [Table(f"roofline_{model}_{dtype}", headers, cells, "llrrrrl")], folded=True)]


def search_table(rows, name):
    """Statistics of the algorithm searches of one model and dtype."""
    cells = []
    for configuration, mine in by_configuration(rows).items():
        good = [row.values for row in mine if row.status == "ok"]
        counts = [values["alg_count"] for values in good if values.get("alg_count") is not None]
        exact = [values["exact"] for values in good if values.get("exact") is not None]
        errors = [values["error_max_abs"] for values in good if values.get("error_max_abs") is not None]
        cells.append(
            (
                configuration.column,
                f"{len(good)}/{len(mine)}",
                whole(sum(row.status == "failed" for row in mine)),
                span(counts),
                whole(len({values.get("alg_id") for values in good})),
                f"{sum(exact)}/{len(exact)}" if exact else "not checked",
                f"{max(errors):g}" if errors else "not checked",
                ", ".join(sorted({values["output"] for values in good if values.get("output")})),
            )
        )
    headers = ("backend/sparsity", "(M, linear) passed", "failed", "algorithms searched", "different winners")
    return Table(name, (*headers, "bit-exact", "largest error", "output"), cells, "l")


def span(values):
    """Smallest and largest of some counts."""
    if not values:
        return NONE
    if min(values) == max(values):
        return number(str(min(values)), min(values))
    return say("{low} to {high}", low=min(values), high=max(values))
