"""The table of the first screen: stock vLLM, the fastest dense engine and each pattern, with speed-ups and costs."""

from statistics import median

from slidesparse.report.document.model import NONE, Table, fixed, joined, number, say
from slidesparse.report.sections.ratios import ACROSS, HOST_BOUND
from slidesparse.report.sections.speedups import HOST
from slidesparse.report.sections.verdict import (
    FIGURES,
    STAGES,
    deciding,
    fastest_over_stock,
    over_dense,
    over_stock,
    row_names,
    verdict,
)
from slidesparse.report.sources.rows import configuration_order

CELLS = say(
    "Cells: median (smallest to largest) of the ratios that count, over M. Dense: the fastest engine and its step at"
    " the largest M. Pays, even, loses: at the largest M that counts, the interval of the ratio over the fastest dense"
    " engine lies above 1, holds 1, lies below 1; from the named M on, all ratios that count say so. Unknown: no ratio"
    " counts, or that one has no interval, or two GPUs measured its sides (⇄). †: some figures do not count. The"
    " host bounds them, which means that the GPU waits for the CPU, or a check disqualifies them. The column of decode"
    " by the clock, which is wall time, shows them all the same."
)
AUTO = say(
    "`auto` takes the fastest measured library for each linear and M. Where these are two for a linear, it holds that"
    " linear's weights twice."
)
ENERGY = say("Energy is the whole GPU's, idle times included, in decode with the prompt step.")


def rule(source, types):
    """What cells and words of the tables mean, as far as these types need it."""
    rows = [row for row in source.rows if row.stage != "kernel" and row.configuration[:2] in types]
    parts = [CELLS]
    parts += [AUTO] if any(row.configuration.backend == "auto" for row in rows) else []
    parts += [ENERGY] if any(row.values.get("energy_j_per_token") for row in rows) else []
    return joined(parts, " ")


def table(source, comparisons, model, dtype, label, prefix):
    """The table of one model and type: stock vLLM, the fastest dense engine, and a row for each pattern."""
    by_stage = {stage: deciding(comparisons, stage, model, dtype) for stage in STAGES}
    shown = row_names(
        sorted({name for c in by_stage.values() if c for name in c.sparse_names()}, key=configuration_order)
    )
    ends = {stage: largest(source, stage, model, dtype) for stage in STAGES}
    dense = {stage: (M, base_of(by_stage[stage], M)) for stage, M in ends.items()}
    first = next((name for _, name in dense.values() if name), None)
    rows = []
    good = [row.configuration for row in source.rows if row.configuration[:2] == (model, dtype) and row.status == "ok"]
    if stock := next((name for name in good if name.stock), None):
        cells = [cell for stage in STAGES for cell in stock_cells(comparisons, stage, model, dtype)]
        one = [number("1", 1) if over_stock(comparisons, stage, model, dtype) else NONE for stage in STAGES]
        costs = cost_cells(source, {stage: (M, stock) for stage, M in ends.items()}, stock)
        rows.append([say("stock vLLM"), *cells, *one, *costs])
    over = [dense_over_stock(comparisons, stage, model, dtype) for stage in STAGES]
    rows.append(
        [say("dense"), *reference_cells(source, comparisons, by_stage, dense), *over, *cost_cells(source, dense, first)]
    )
    for name, text in shown.items():
        cells = [cell for stage in STAGES for cell in speed_cells(comparisons, by_stage[stage], stage, name)]
        over = [stock_cell(comparisons, stage, name) for stage in STAGES]
        costs = cost_cells(source, {stage: (M, name) for stage, M in ends.items()}, name)
        rows.append([text, *cells, *over, *costs])
    return without_empty(f"{prefix}_answer_{model}_{dtype}", headers(label, by_stage, ends), rows if shown else [])


def without_empty(name, heads, rows):
    """A Table without columns of which nothing is known in any row but for the dense engine's own."""
    known = [i for i in range(len(heads)) if any(row[i] != NONE for row in rows if row[0] != say("dense"))]
    sides = "".join("lrlrrlrrrrrrl"[i] for i in known)
    return Table(name, tuple(heads[i] for i in known), [[row[i] for i in known] for row in rows], sides)


def headers(label, by_stage, ends):
    """Heads of the table: with the figure that decides at each stage, and the M of the energy."""
    figure = {stage: FIGURES[c.metric] if c else "" for stage, c in by_stage.items()}
    prefill, decode = (say("{stage} over dense, {figure}", stage=say(stage), figure=figure[stage]) for stage in STAGES)
    stock = [say("{stage} over stock", stage=say(stage)) for stage in STAGES]
    energy = [say("mJ/token, {stage} {M}", stage=say(s), M=M) if M else say("mJ/token") for s, M in ends.items()]
    heads = (
        label,
        prefill,
        say("verdict, prefill"),
        decode,
        say("decode over dense, by the clock"),
        say("verdict, decode"),
        *stock,
        *energy,
    )
    return (*heads, say("weights, GB"), say("weights pruned, %"), say("quality"))


def of_median(found, left, ends=True):
    """`median (low–high)` of ratios, with † if some are left out, and ⇄ if two GPUs measured one; a dash without."""
    if not found:
        return "†" if left and ends else NONE
    values = [each.value for each in found]
    middle, low, high = median(values), min(values), max(values)
    text = f"{fixed(middle, 2)} ({fixed(low, 2)}–{fixed(high, 2)})" if ends and low < high else str(fixed(middle, 2))
    return number(text + ACROSS * any(each.across for each in found) + HOST * bool(left), middle)


def speed_cells(comparisons, comparison, stage, name):
    """Cells of one pattern at a stage: its ratios by the figure that decides, for decode by the clock, and the word."""
    found = verdict(comparison, name) if comparison else None
    cells = [of_median(found.counted.values(), found.left) if found else NONE]
    if stage == "decode" and comparison and comparison.metric == "step_ms":
        cells.append(NONE)  # the cell before says it
    elif stage == "decode":
        clock = over_dense(comparisons, stage, *name[:2], "step_ms")
        seen = clock.of(name) if clock else {}
        seen = [each for M, each in seen.items() if each.sparse and clock.left_out(name, M) in (None, HOST_BOUND)]
        bound = bool(clock) and len(clock.sparse_counted(name)) < len(seen)
        cells.append(of_median(seen, bound))
    if not found or not comparison.of(name):
        return [*cells, NONE]
    return [*cells, found.said]


def stock_cell(comparisons, stage, name):
    """The ratios of one configuration over stock vLLM."""
    comparison = over_stock(comparisons, stage, *name[:2])
    ran = [each for each in comparison.of(name).values() if each.sparse] if comparison else []
    if not ran:
        return NONE
    counted = comparison.sparse_counted(name).values()
    return of_median(counted, len(counted) < len(ran), ends=False)


def dense_over_stock(comparisons, stage, model, dtype):
    """The ratios of the fastest dense engine over stock vLLM."""
    comparison = over_stock(comparisons, stage, model, dtype)
    best = fastest_over_stock(comparisons, stage, model, dtype)
    every = {M for name, M in comparison.ratios if name.sparsity == "dense"} if comparison else ()
    return of_median(best.values(), len(best) < len(every), ends=False)


def stock_cells(comparisons, stage, model, dtype):
    """Cells of stock vLLM at a stage: one over the ratios of the fastest dense engine; it has no word."""
    best = fastest_over_stock(comparisons, stage, model, dtype)
    comparison = over_stock(comparisons, stage, model, dtype)
    every = {M for name, M in comparison.ratios if name.sparsity == "dense"} if comparison else ()
    cells = [of_median(turned(best), len(best) < len(every))]
    if stage == "decode" and comparison and comparison.metric != "step_ms":
        late = fastest_over_stock(comparisons, stage, model, dtype, "step_ms")
        cells.append(of_median(turned(late), any(each.host_bound for each in late.values())))
    elif stage == "decode":
        cells.append(NONE)  # the cell before says it
    return [*cells, NONE]


def turned(ratios):
    """Ratios the other way round. ratios: M -> Quantity."""
    return [each._replace(value=1 / each.value) for each in ratios.values()]


def base_of(comparison, M):
    """The dense configuration that is the denominator at M; None without."""
    return next((base for (_, m), base in comparison.bases.items() if m == M), None) if comparison else None


def reference_cells(source, comparisons, by_stage, dense):
    """Cells of the dense row: 1, with the engine that is the denominator, and its step, at the largest M."""
    cells = []
    for stage, (M, name) in dense.items():
        comparison = by_stage[stage]
        cells.append(reference(point(source, stage, name, M), comparison.metric) if comparison else NONE)
        if stage == "decode":
            clock = None
            if comparison and comparison.metric != "step_ms":
                clock = over_dense(comparisons, stage, comparison.model, comparison.dtype, "step_ms")
            cells.append(reference(point(source, stage, base_of(clock, M), M), "step_ms") if clock else NONE)
        cells.append(NONE)
    return cells


def reference(row, column):
    """`1: cutlass 6.54 ms`, as far as it is known."""
    if row is None:
        return NONE
    backend, step = row.configuration.backend, row.values.get(column)
    if column == "gpu_step_ms":
        step = row.values.get("least_gpu_step_ms") or step
    unit = step and column != "tokens_per_s"
    return f"1: {backend} {fixed(step, 1 if step >= 10 else 2)} ms" if unit else f"1: {backend}"


def largest(source, stage, model, dtype):
    """The largest M of a stage at which a dense and a sparse engine have a point; None without."""
    rows = [r for r in source.stage(stage) if r.configuration[:2] == (model, dtype) and r.status == "ok"]
    dense = {row.M for row in rows if row.configuration.sparsity == "dense" and not row.configuration.stock}
    return max(dense & {row.M for row in rows if row.sparse}, default=None)


def point(source, stage, name, M):
    """The good row of one configuration at M, or None."""
    found = (r for r in source.stage(stage) if r.M == M and r.configuration == name and r.status == "ok")
    return next(found, None)


def cost_cells(source, places, name):
    """Energy at both stages, memory of weights, share of weights that pruning changed, quality."""
    rows = [point(source, stage, other, M) for stage, (M, other) in places.items()]
    rows = [row if row and (row.sparse or row.configuration.sparsity == "dense") else None for row in rows]
    held = [row for row in source.rows if row.configuration == name and row.values.get("weight_bytes")]
    joules = [row.values.get("energy_j_per_token") if row else None for row in rows]
    marks = [" †" * bool(row and row.values.get("host_bound")) for row in rows]
    memory = held[-1].values["weight_bytes"] if held else None
    cells = [
        NONE if each is None else number(str(fixed(1000 * each, 2)) + mark, 1000 * each)
        for each, mark in zip(joules, marks, strict=True)
    ]
    cells.append(fixed(memory / 1e9, 2) if memory else NONE)
    return [*cells, changed(source, name), say("not measured")]


def changed(source, name):
    """Percent of the weights that pruning changed: none of a dense engine; a dash if no manifest says it."""
    if name is None:
        return NONE
    if name.sparsity == "dense":
        return number("0", 0)
    key = name.model, name.dtype, name.sparsity
    item = next((c for c in source.checkpoints if (c["model"], c["dtype"], c["sparsity"]) == key), {})
    weights, count = item.get("weights"), item.get("changed")
    return fixed(100 * count / weights, 1) if weights and count is not None else NONE


def costs_over_dense(source, comparison, name):
    """(memory of weights, energy of a token, place) of an engine over the denominator.

    Taken at its largest M with sparse kernels at which both sides have an energy, or else any. As texts; None and a
    dash where they are not known. place: (M, backend of the denominator) if they are not those of the table, else None.
    """
    Ms = [M for M, each in comparison.of(name).items() if each.sparse and (name, M) in comparison.bases]
    sides = {M: [point(source, comparison.stage, each, M) for each in (name, comparison.bases[name, M])] for M in Ms}
    known = [M for M in Ms if all(row and row.values.get("energy_j_per_token") for row in sides[M])]
    M = max(known or Ms, default=None)
    if M is None:
        return None, NONE, None
    found = []
    for column in ("weight_bytes", "energy_j_per_token"):
        own, dense = (row.values.get(column) if row else None for row in sides[M])
        found.append(fixed(own / dense, 2) if own and dense else None)
    usual = largest(source, comparison.stage, comparison.model, comparison.dtype)
    base = comparison.bases[name, M]
    place = None if (M, base) == (usual, base_of(comparison, usual)) else (M, base.backend)
    late = HOST * bool(comparison.left_out(name, M))
    return found[0], found[1] + late if found[1] else NONE, place
