"""Dense engines against one another, and the factors from stock vLLM to a sparse engine: fusion, library, sparsity."""

from slidesparse.report.document.model import NONE, Figure, Section, Table, fixed, joined, number, say
from slidesparse.report.sections.performance import wide_table
from slidesparse.report.sections.quantities import ACROSS_NOTE, of_points, quotient
from slidesparse.report.sections.ratios import FIGURES, RAN, asked, is_dense_engine, lost, why_lacking
from slidesparse.report.sections.speedups import cell, notes_on
from slidesparse.report.sources.rows import configuration_order, grouped, pattern_length

GAINS = ("M", "variant", "stock vLLM (ms)", "best dense", "best dense (ms)", "gain of fusion and graphs")
GAINS += ("backend/sparsity", "step (ms)", "gain of sparsity", "total gain", "of the first gain, the library's")

STOCK_LIBRARY = "cutlass"
"""The backend with the library that stock vLLM multiplies with on a GPU."""

COLOURS = (0, 9, 1)
"""Colours of the factors: none is that of a pattern but the last, which is one."""

FACTORS = {"fusion": "fusion and graphs", "library": "library", "sparsity": "sparsity"}
"""The factors of which the whole gain is the product, in order."""


def steps(source):
    """(stage, column, name of the figure, model, dtype, (configuration, M) -> step time) of all steps."""
    for stage, figures in FIGURES.items():
        for column, what, unit in figures:
            if unit == "ms":
                for (model, dtype), rows in grouped(source.stage(stage)).items():
                    yield stage, column, what, model, dtype, of_points(source, rows, column)


def machines_of(values):
    """(M, machine) -> {configuration: step}, of steps that may be compared."""
    groups = {}
    for (name, M), step in sorted(values.items(), key=lambda item: item[0][1]):
        groups.setdefault((M, step.machine), {})[name] = step
    return groups


def dense_of(same):
    """Our dense configurations of {configuration: step}, without those that a check disqualifies, or all."""
    dense = [name for name in same if name.sparsity == "dense" and not name.stock]
    return [name for name in dense if not same[name].unfit] or dense


def rival_blocks(source):
    """For each stage, model, type and kind of time a table of how fast every dense engine is beside the fastest."""
    blocks = []
    for stage, column, what, model, dtype, values in steps(source):
        cells, ratios, groups = {}, {}, machines_of(values)
        usual = {M: max((same for (m, _), same in groups.items() if m == M), key=len) for M, _ in groups}
        for (M, _), same in groups.items():
            if not (dense := dense_of(same)):
                continue
            if same is not usual[M]:
                cells |= {(name, M): say("measured otherwise") for name in same if name.sparsity == "dense"}
                continue
            best = min(dense, key=lambda name: same[name].value)
            for name in (each for each in same if each.sparsity == "dense"):
                ratios[name, M] = quotient(same[best], same[name])
                cells[name, M] = number("1", 1) if name == best else cell(ratios[name, M])
        if len({name for name, _ in cells}) < 2:
            continue
        note = say(
            "Speed of every dense engine over the fastest of ours at the same M, which is 1. Below 1: slower. vllm is"
            " stock vLLM."
        )
        title = say("{stage} {model} {dtype}, {what}", stage=stage, model=model, dtype=dtype, what=what)
        name = f"rivals_{stage}_{model}_{dtype}_{column}"
        blocks.append(Section(title, [note, *notes_on(ratios), wide_table(name, cells)]))
    return blocks or [say("No two dense engines of one stage, model and type have a measured step.")]


def factor_figures(source, prefix):
    """A figure of the three factors over M for each model, with a panel for every stage and type.

    By the clock in prefill. In decode by GPU time where it is known, because the host may need longer.
    """
    found = {}
    for stage, _, what, model, dtype, values in steps(source):
        series, rows = factor_lines(values)
        if series:
            panel = {"kind": "lines", "title": f"{stage} {dtype}", "y": "factor", "one": True, "series": series}
            found[model, stage, dtype] = panel, [(stage, dtype, what, *row) for row in rows]
    figures = []
    for model in sorted({key[0] for key in found}):
        mine = [each for key, each in found.items() if key[0] == model]
        caption = say(
            "{model}: what each step from stock vLLM to a sparse engine gives. Fusion and graphs: our dense engine with"
            " stock's library, over stock vLLM. Library: our fastest dense engine over that one. Sparsity: {pattern}"
            " over our fastest dense engine. The whole gain is their product. Prefill by the clock, decode by GPU time"
            " where it is known. Hollow: bound by the host, or disqualified by a check.",
            model=model,
            pattern=", ".join(dict.fromkeys(row[4] for _, rows in mine for row in rows if row[3] == "sparsity")),
        )
        name = f"{prefix}_{model}_factors"
        heads = ("stage", "dtype", "figure", "factor", "engine", "M", "value", "low", "high")
        table = Table(name, heads, [row for _, rows in mine for row in rows], "lllll")
        figures.append(Figure(name, caption, [panel for panel, _ in mine], table))
    return figures


def factor_lines(values):
    """(series, rows of the table) of the factors of one stage, model, type and kind of time; empty without stock."""
    sparse = sorted(
        {name for name, _ in values if name.sparse_kernel and name.backend != "auto"},
        key=lambda name: (pattern_length(name.sparsity), configuration_order(name)),
    )
    found = {factor: {} for factor in FACTORS}
    for (M, _), same in machines_of(values).items():
        before = next((step for name, step in same.items() if name.stock), None)
        if not before or not (dense := dense_of(same)):
            continue
        best = min(dense, key=lambda name: same[name].value)
        own = next((name for name in dense if name.backend == STOCK_LIBRARY), None)
        if own:
            found["fusion"][M] = own, quotient(before, same[own])
            found["library"][M] = best, quotient(same[own], same[best])
        if sparse and sparse[0] in same:
            found["sparsity"][M] = sparse[0], quotient(same[best], same[sparse[0]])
    series, rows = [], []
    for place, (factor, points) in enumerate(found.items()):
        if points:
            bands = [None if ratio.low is None else [ratio.low, ratio.high] for _, ratio in points.values()]
            out = [bool(ratio.host_bound or ratio.unfit) for _, ratio in points.values()]
            series.append(
                {
                    "label": FACTORS[factor],
                    "style": (COLOURS[place], 0),
                    "x": list(points),
                    "y": [ratio.value for _, ratio in points.values()],
                    "band": bands if any(bands) else None,
                    "hollow": out,
                }
            )
        for M, (name, ratio) in points.items():
            shown = [fixed(each, 3) for each in (ratio.value, ratio.low, ratio.high)]
            rows.append((factor, name.column, number(str(M), M), *shown))
    return (series, rows) if found["fusion"] else ([], [])


def gain_blocks(source):
    """Steps of stock vLLM, of the fastest dense backend with our fusion, and of each sparse one, with the gains.

    Each stage, model and dtype has a table, with a row for every M and sparse configuration.
    """
    blocks = []
    times = [(stage, *figure) for stage, figures in FIGURES.items() for figure in figures if figure[2] == "ms"]
    for stage, column, what, _ in times:
        for (model, dtype), rows in grouped(source.stage(stage)).items():
            named = ("least_gpu_variant", "variant") if column == "gpu_step_ms" else ("variant",)
            variants = {
                row.M: next(filter(None, map(row.values.get, named)), None) for row in rows if row.configuration.stock
            }
            values = of_points(source, rows, column)
            ran = {place: why for place, why in lost(rows, column).items() if any(why is each for each in RAN)}
            cells = gain_rows(values, variants, ran)
            if cells:
                notes = [
                    say(
                        "The best dense backend of each M is one of those that run as the sparse ones do: over it a"
                        " sparse one shows what sparsity gives, and it shows over stock vLLM what fusion and graphs"
                        " give. On Hopper stock vLLM multiplies with CUTLASS. What another library gives is in the last"
                        " column: the best dense engine over ours with CUTLASS."
                    )
                ]
                if len({step.gpu_uuid for step in values.values()}) > 1:
                    notes.append(ACROSS_NOTE)
                notes += [*notes_on(values), *lacking_note(source, stage, column, rows, values)]
                name = f"gains_{stage}_{model}_{dtype}{'_gpu' if column == 'gpu_step_ms' else ''}"
                title = say(
                    "{stage} {model} {dtype}, {what}, from stock vLLM to sparse",
                    stage=stage,
                    model=model,
                    dtype=dtype,
                    what=what,
                )
                blocks.append(Section(title, [*notes, Table(name, GAINS, cells, "rlrlrrlrrr")]))
    return blocks


def lacking_note(source, stage, column, rows, values):
    """A list with a sentence on dense engines that lack a figure beside one of stock vLLM; empty if none does.

    rows: those of one stage, model and type. values: (configuration, M) -> step time of a column.
    """
    every = asked(source, stage, *rows[0].configuration[:2], rows)["asked"]
    rivals, reasons, found = sorted(filter(is_dense_engine, every)), lost(rows, column), {}
    for M, before in sorted((M, step) for (name, M), step in values.items() if name.stock):
        for name in rivals:
            if why := why_lacking(values, reasons, (name, M), before):
                found.setdefault((name.backend, str(why)), (why, []))[1].append(str(M))
    parts = [
        say("{name} at M={Ms} ({why})", name=name, Ms=", ".join(Ms), why=why) for (name, _), (why, Ms) in found.items()
    ]
    text = say("Dense backends without a figure here, which may be faster: {lacking}.", lacking=joined(parts))
    return [text] if parts else []


def gain_rows(values, variants, ran):
    """Rows of the table of gains. values: (configuration, M) -> step time. variants: M -> variant of stock vLLM.

    ran: (configuration, M) -> what ran there, if no sparse kernel is known to have run: sparsity gains nothing then.
    """
    rows = []
    stock = {M: step for (name, M), step in values.items() if name.stock}
    for M, before in sorted(stock.items()):
        same = {name: step for (name, m), step in values.items() if m == M and step.machine == before.machine}
        if not (dense := dense_of(same)):
            continue
        fastest = min(dense, key=lambda name: same[name].value)
        between = same[fastest]
        first = (number(str(M), M), variants[M], fixed(before.value, 3), fastest.column, fixed(between.value, 3))
        first += (cell(quotient(before, between)),)
        own = next((name for name in dense if name.backend == STOCK_LIBRARY), None)
        library = NONE if not own else number("1", 1) if own == fastest else cell(quotient(same[own], between))
        sparse = sorted((name for name in same if name.sparse_kernel), key=configuration_order)
        for name in sparse:
            gain = ran.get((name, M)) or cell(quotient(between, same[name]))
            whole = cell(quotient(before, same[name]))
            rows.append((*first, name.column, fixed(same[name].value, 3), gain, whole, library))
        if not sparse:
            rows.append((*first, NONE, NONE, NONE, NONE, library))
    return rows
