"""The figures of a source, as panels for slidesparse.report.document.drawing, each with the table behind it."""

from functools import partial

from slidesparse.plan.backends import DENSE_BACKENDS
from slidesparse.report.document.drawing import short
from slidesparse.report.document.model import Figure, Table, fixed, number, say
from slidesparse.report.sections.coverage import covers
from slidesparse.report.sections.performance import PARTS
from slidesparse.report.sections.ratios import beside_best, beside_cublaslt
from slidesparse.report.sources.rows import (
    caches_of,
    configuration_order,
    grouped,
    linear_order,
    pattern_length,
    step_value,
)
from slidesparse.report.tables.columns import CUBLASLT
from slidesparse.report.tables.roofline import moved, weight_bits
from slidesparse.sparsity.patterns import Pattern

PATTERN_COLOURS = {"2_4": 1, "2_6": 2, "2_8": 3, "2_10": 4, "2_12": 5, "2_14": 6, "2_16": 7, "2_inf": 8}
"""Colours of patterns, the same in every figure."""
DENSE_COLOURS = {"cublaslt": 0, "cutlass": 9, "torch": 10, "vllm": 11, "auto": 12, "ternary": 13}
"""Colours of dense backends, the same in every figure."""
AUTO_FORM = 1
"""The form of `auto` in the colour of its pattern."""
SHOWN_BARS = 12
"""Most bars in a panel."""


def look(name, names):
    """(colour, form) of a configuration in a figure. A pattern has one colour, and each of its backends a form."""
    if name.sparsity == "dense":
        return DENSE_COLOURS.get(name.backend, names.index(name)), 0
    colour = PATTERN_COLOURS.get(name.sparsity, pattern_length(name.sparsity) % 10)
    if name.backend == "auto":
        return colour, AUTO_FORM
    alike = [other for other in names if other.sparsity == name.sparsity and other.backend != "auto"]
    return colour, 2 * alike.index(name)


def figures(source, comparisons, prefix):
    """All figures of a source: engines by stage, then kernels. The names of their files begin with `prefix`."""
    models = sorted({row.configuration.model for row in source.rows})
    drawers = [partial(speedup_figures, stage=stage) for stage in ("prefill", "decode")]
    drawers += [step_figure, throughput_figure, partial(speedup_figures, stage="kernel"), roofline_figure, heat_figures]
    blocks = []
    for draw in drawers:
        for model in models:
            more = (comparisons,) if isinstance(draw, partial) else ()
            blocks += draw(source, model, f"{prefix}_{model}", *more)
    return blocks


def throughput_figure(source, model, prefix):
    """A figure of tokens/s over M, with a panel for every stage and dtype."""
    panels, rows = [], []
    for stage in ("prefill", "decode"):
        for (name, dtype), group in grouped(source.stage(stage)).items():
            good = [row for row in group if row.status == "ok" and row.values.get("tokens_per_s") is not None]
            if name != model or not good:
                continue
            names = sorted({row.configuration for row in good}, key=configuration_order)
            series = []
            for configuration in names:
                mine = sorted((row.M, row.values["tokens_per_s"]) for row in good if row.configuration == configuration)
                series.append(line(configuration, names, [M for M, _ in mine], [value for _, value in mine]))
                rows += [
                    (stage, dtype, configuration.column, number(str(M), M), fixed(value, 0, True)) for M, value in mine
                ]
            panels.append(
                {"kind": "lines", "title": f"{stage} {dtype}", "y": "tokens/s", "log": True, "series": series}
            )
    if not panels:
        return []
    table = Table(f"{prefix}_throughput", ("stage", "dtype", "backend/sparsity", "M", "tokens/s"), rows, "lll")
    caption = say("Tokens/s of the published protocol over M, {model}. Both axes are logarithmic.", model=model)
    return [Figure(f"{prefix}_throughput", caption, panels, table)]


def line(configuration, names, x, y, **more):
    """A series of a configuration."""
    return {"label": configuration.column, "style": look(configuration, names), "x": x, "y": y, **more}


def speedup_figures(source, model, prefix, comparisons, stage):
    """Speed-up over M of a stage with bound and noise: a figure for every denominator, a panel for every dtype.

    Of kernels, whole linears come first.
    """
    together = {}
    mine = [c for c in comparisons if (c.model, c.stage) == (model, stage) and c.ratios]
    for comparison in sorted(drawn(mine), key=lambda comparison: comparison.kind != "linear"):
        together.setdefault((comparison.metric, comparison.kind, str(comparison.over)), []).append(comparison)
    figures = []
    for (metric, kind, _), same in together.items():
        panels, rows = [], []
        for comparison in same:
            names, sparse, series = comparison.names(), comparison.sparse_names(), []
            for name in names:
                values = comparison.of(name)
                bands = [None if value.low is None else [value.low, value.high] for value in values.values()]
                bound = (
                    Pattern(name.sparsity).bound
                    if name in sparse and name.sparsity != "2_inf" and kind != "linear"
                    else None
                )
                y = [value.value for value in values.values()]
                out = [bool(comparison.left_out(name, M)) for M in values]
                shown = {"band": bands if any(bands) else None, "hollow": out, "bound": bound}
                series.append(line(name, names, list(values), y, **shown))
                for M, value in values.items():
                    rows.append(
                        (
                            comparison.dtype,
                            name.column,
                            number(str(M), M),
                            fixed(value.value, 3),
                            fixed(value.low, 3),
                            fixed(value.high, 3),
                            fixed(bound, 3),
                        )
                    )
            title = f"{stage} {comparison.dtype}" + (f", {comparison.caches}" if comparison.caches else "")
            panels.append(
                {
                    "kind": "lines",
                    "title": title,
                    "y": comparison.axis,
                    "one": True,
                    "series": series,
                }
            )
        first = same[0]
        name = "_".join(
            dict.fromkeys((prefix, "speedup", stage, metric, kind, *(["paired"] if first.over == CUBLASLT else [])))
        )
        caption = say(
            "{stage} {model}, {what}: speed-up over {over}. Hollow: left out. Thin line, or ▲ beyond the edge: the"
            " bound L/(L-2) of a pattern. Bars: intervals made of ones that cover their medians with {coverage}, where"
            " they are known.",
            stage=stage,
            model=first.model,
            what=first.what,
            over=first.over,
            coverage=covers(source, same),
        )
        headers = ("dtype", "backend/sparsity", "M", "speed-up", "interval, low", "interval, high", "bound")
        figures.append(Figure(name, caption, panels, Table(name, headers, rows, "ll")))
    return figures


def drawn(comparisons):
    """The comparisons that get a figure, one for each stage, model, dtype and kind of denominator.

    GPU time of a step is preferred to steady-state steps by the clock, and these to the published protocol's tokens/s.
    Products that took turns are preferred to products of two processes, and cold caches to hot ones. Comparisons over
    2:4 or stock vLLM get no figure.
    """
    order = (None, "latency_us", "step_ms", "gpu_step_ms")
    best = {}
    for comparison in comparisons:
        if comparison.kind not in ("half", "stock") and comparison.ratios:
            place = (comparison.stage, comparison.model, comparison.dtype, comparison.kind)
            metric = comparison.metric if comparison.metric in order else None
            rank = comparison.over == CUBLASLT, order.index(metric)
            if place not in best or rank > best[place][0]:
                best[place] = rank, comparison
    return [comparison for _, comparison in best.values()]


def roofline_figure(source, model, prefix):
    """A figure of useful operations/s over operations per byte for every linear, with a panel for every dtype."""
    panels, rows, caches = [], [], "cold"
    for (name, dtype), group in grouped(source.stage("kernel")).items():
        good = [row for row in group if row.status == "ok" and row.values.get("N") and row.values.get("K")]
        if name != model or not good:
            continue
        caches = caches_of(good)
        names = sorted({row.configuration for row in good}, key=configuration_order)
        shown = [n for n in names if n.sparsity in ("dense", "2_4", "2_8", "2_inf")] or names
        series = []
        for configuration in names:
            points, roof = [], []
            for row in good:
                if row.configuration == configuration:
                    intensity, tops, best = roofline_point(row)
                    points.append((intensity, tops))
                    roof += [(intensity, best)] if best else []
                    rows.append(
                        (
                            dtype,
                            configuration.column,
                            row.linear,
                            number(str(row.M), row.M),
                            fixed(intensity, 1),
                            fixed(tops, 2),
                            fixed(best, 2),
                            fixed(row.values.get("roofline_pct"), 1),
                        )
                    )
            if configuration in shown:
                x, y = zip(*points, strict=True)
                series.append(line(configuration, names, x, y, roof=sorted(roof)))
        panels.append(
            {
                "kind": "points",
                "title": f"kernel {dtype}, {caches}",
                "x": "useful operations per byte",
                "y": "useful TOPS",
                "series": series,
            }
        )
    if not panels:
        return []
    headers = (
        "dtype",
        "backend/sparsity",
        "linear",
        "M",
        "operations per byte",
        "useful TOPS",
        "roof (TOPS)",
        "of the roofline (%)",
    )
    table = Table(f"{prefix}_roofline", headers, rows, "lll")
    known = any(series["roof"] for panel in panels for series in panel["series"])
    values = {"model": model, "caches": say(caches)}
    caption = (
        say(
            "Useful TOPS (2·M·N·K of the unpruned product over {caches} latency) over useful "
            "operations per byte of operands and product, {model}. Lines: the roof of each "
            "configuration at the clock under its load.",
            **values,
        )
        if known
        else say(
            "Useful TOPS (2·M·N·K of the unpruned product over {caches} latency) over useful "
            "operations per byte of operands and product, {model}. The roofline is unknown: "
            "either the peak of this GPU or the clock under the load.",
            **values,
        )
    )
    return [Figure(f"{prefix}_roofline", caption, panels, table)]


def roofline_point(row):
    """(useful operations per byte, useful TOPS, roof in TOPS or None) of a linear with 8-bit inputs."""
    values = row.values
    operations = 2 * row.M * values["N"] * values["K"]
    slid = values.get("K_slid") or values["K"]
    sparse = row.configuration.sparsity != "dense" and row.configuration.backend not in DENSE_BACKENDS
    bits = weight_bits(row.configuration.backend)
    bytes_moved = moved(row.M, values["N"], slid, values.get("output"), sparse, bits)
    best = operations / values["roofline_us"] / 1e6 if values.get("roofline_us") else None
    return operations / bytes_moved, operations / values["latency_us"] / 1e6, best


def heat_figures(source, model, prefix):
    """Speed-up of every linear (N x K) and M: a figure for every dtype, with a panel for every pattern."""
    figures = []
    for (name, dtype), group in grouped(source.stage("kernel")).items():
        if name != model:
            continue
        ratios, over = linear_ratios(group)
        if not ratios:
            continue
        names = sorted({key[0] for key in ratios}, key=configuration_order)
        Ms = sorted({key[2] for key in ratios})
        linears = sorted({key[1] for key in ratios}, key=linear_order)
        shape = {row.linear: (row.values.get("N"), row.values.get("K")) for row in group if row.linear}
        top = max(1.5, *(max(value, 1 / value) for value in ratios.values()))
        panels = [
            {
                "kind": "heat",
                "title": configuration.column,
                "rows": linears,
                "columns": Ms,
                "values": [[ratios.get((configuration, linear, M)) for M in Ms] for linear in linears],
                "top": round(top, 2),
            }
            for configuration in names
        ]
        rows = [
            (n.column, linear, *(number(str(v), v) for v in shape[linear]), number(str(M), M), fixed(value, 3))
            for (n, linear, M), value in sorted(
                ratios.items(), key=lambda i: (configuration_order(i[0][0]), linear_order(i[0][1]), i[0][2])
            )
        ]
        table = Table(f"{prefix}_heat_{dtype}", ("backend/sparsity", "linear", "N", "K", "M", "speed-up"), rows, "ll")
        caption = say(
            "{model} {dtype}: speed-up of every linear (down) by M (across), over {over}, "
            "{caches}. Purple: sparse is faster; orange: slower.",
            model=model,
            dtype=dtype,
            over=over,
            caches=say(caches_of(group)),
        )
        figures.append(Figure(f"{prefix}_heat_{dtype}", caption, panels, table))
    return figures


def linear_ratios(rows):
    """({(configuration, linear, M): speed-up}, denominator).

    Speed-ups are the paired ratios if rivals took turns, or else ratios over the dense backend.
    """
    good = [row for row in rows if row.status == "ok" and row.linear and row.values.get("latency_us")]
    for sides, over in ((beside_best, say("the fastest dense library")), (beside_cublaslt, CUBLASLT)):
        ratios = {}
        for row in good:
            mine, theirs, *_ = sides(row.values)
            if mine and theirs and row.configuration.sparse_kernel:
                ratios[row.configuration, row.linear, row.M] = theirs / mine
        if ratios:
            return ratios, over
    dense = sorted(
        {row.configuration for row in good if row.configuration.sparsity == "dense"},
        key=lambda n: DENSE_BACKENDS.index(n.backend) if n.backend in DENSE_BACKENDS else 99,
    )
    if not dense:
        return {}, ""
    base = {(row.linear, row.M): row.values["latency_us"] for row in good if row.configuration == dense[0]}
    return {
        (row.configuration, row.linear, row.M): base[row.linear, row.M] / row.values["latency_us"]
        for row in good
        if row.configuration.sparse_kernel and (row.linear, row.M) in base
    }, dense[0].column


def few_bars(rows):
    """Of rows sorted by M those for bars: at the smallest and largest M stock vLLM, dense backends, 2:4 and 2:8."""
    ends = rows[0].M, rows[-1].M
    sparse = {row.configuration for row in rows if row.configuration.sparsity != "dense"}
    wanted = {name for name in sparse if name.sparsity in ("2_4", "2_8") and name.backend != "auto"} or sparse
    kept = [row for row in rows if row.M in ends]
    kept = [row for row in kept if row.configuration.sparsity == "dense" or row.configuration in wanted]
    return kept[:SHOWN_BARS]


def bar_name(row):
    """A short name of a bar: the pattern, or a dense backend, and M."""
    name = row.configuration
    return f"{name.backend if name.sparsity == 'dense' else name.sparsity.replace('_', ':')} {short(row.M)}"


def step_figure(source, model, prefix):
    """A figure of the parts of a step, or of step times over M if the parts are not known."""
    panels, rows = [], []
    for stage in ("prefill", "decode"):
        for (name, dtype), group in grouped(source.stage(stage)).items():
            if name != model:
                continue
            taken = [row for row in group if row.values.get("gemm_ms") is not None]
            taken.sort(key=lambda row: (row.M, configuration_order(row.configuration)))
            if taken:
                shown = few_bars(taken)
                labels = [bar_name(row) for row in shown]
                parts = {part[:-3]: [1000 * (row.values.get(part) or 0.0) / row.M for row in shown] for part in PARTS}
                panels.append(
                    {"kind": "bars", "title": f"{stage} {dtype}", "x": "µs per token", "labels": labels, "parts": parts}
                )
                rows += [
                    (
                        stage,
                        dtype,
                        row.configuration.column,
                        number(str(row.M), row.M),
                        part[:-3],
                        fixed(row.values.get(part), 3),
                    )
                    for row in taken
                    for part in PARTS
                ]
                continue
            steps = {(row.configuration, row.M): step_value(row) for row in group}
            steps = {key: value[0] for key, value in steps.items() if value}
            names = sorted({key[0] for key in steps}, key=configuration_order)
            series = []
            for configuration in names:
                mine = sorted((M, value) for (n, M), value in steps.items() if n == configuration)
                series.append(line(configuration, names, [M for M, _ in mine], [value for _, value in mine]))
                rows += [
                    (stage, dtype, configuration.column, number(str(M), M), "step", fixed(value, 3))
                    for M, value in mine
                ]
            if series:
                panels.append(
                    {"kind": "lines", "title": f"{stage} {dtype}", "y": "step (ms)", "log": True, "series": series}
                )
    if not panels:
        return []
    table = Table(f"{prefix}_steps", ("stage", "dtype", "backend/sparsity", "M", "part", "ms"), rows, "lll")
    caption = say(
        "What a step takes, {model}: its parts per token at the smallest and the largest M, the other M in the table;"
        " its whole time over M where parts were not recorded.",
        model=model,
    )
    return [Figure(f"{prefix}_steps", caption, panels, table)]
