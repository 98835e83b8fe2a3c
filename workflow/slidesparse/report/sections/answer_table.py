"""The table of the first screen: stock vLLM, the fastest dense engine and each pattern, with speed-ups and costs."""

from statistics import median

from slidesparse.report.document.model import NONE, Table, fixed, joined, number, say
from slidesparse.report.sections import answer_clock, losses, quality
from slidesparse.report.sections.quantities import ACROSS, NARROW
from slidesparse.report.sections.ratios import MISSING, OTHERWISE
from slidesparse.report.sections.speedups import HOST
from slidesparse.report.sections.unfit import reasons
from slidesparse.report.sections.verdict import (
    FIGURES,
    STAGES,
    alike,
    deciding,
    fastest_over_stock,
    over_dense,
    over_stock,
    reasons_of,
    row_names,
    verdict,
)
from slidesparse.report.sources.rows import configuration_order

CELLS = say(
    "Cells: median (smallest to largest) of the ratios that count, over M. Dense: the fastest engine and its step at"
    " the largest M. Pays, even, loses: at the largest M that counts, the interval of the ratio over the fastest dense"
    " engine lies above 1, holds 1 and lies within {narrow}, lies below 1; from the named M on, all ratios that count"
    " say so. Unknown: no ratio counts, or that one has no interval that covers 90 %, or one that holds 1 and is wider,"
    " or two GPUs measured its sides (⇄). †: some figures are missing, or do not count. The host bounds them, which"
    " means that the GPU waits for the CPU, or a check disqualifies them. The column of decode by the clock, which is"
    " wall time, shows them all the same; what it says at all M stands in brackets.",
    narrow=NARROW,
)
AUTO = say(
    "`auto` takes the fastest measured library for each linear and M. Where these are two for a linear, it holds that"
    " linear's weights twice."
)
STOCK = "stock vLLM"
"""The name of its row."""
ENERGY = say("Energy is the whole GPU's, idle times included, in decode with the prompt step.")


def rule(source, types):
    """What cells and words of the tables mean, as far as these types need it."""
    rows = [row for row in source.rows if row.stage != "kernel" and row.configuration[:2] in types]
    parts = [CELLS]
    parts += [AUTO] if any(row.configuration.backend == "auto" for row in rows) else []
    parts += [ENERGY] if any(row.values.get("energy_j_per_token") for row in rows) else []
    parts += [quality.COLUMNS] if any(losses.scores(source, *each) for each in types) else []
    parts += [losses.WORDS] if any(losses.losses(source, *each) for each in types) else []
    return joined(parts, " ")


def table(source, comparisons, model, dtype, label, prefix):
    """The table of one model and type: stock vLLM, the fastest dense engine, and a row for each pattern."""
    by_stage = {stage: deciding(comparisons, stage, model, dtype) for stage in STAGES}
    shown = row_names(sorted({name for c in by_stage.values() if c for name in c.patterns()}, key=configuration_order))
    ends = {stage: largest(source, stage, model, dtype) for stage in STAGES}
    dense = {stage: (M, base_of(by_stage[stage], M)) for stage, M in ends.items()}
    first = next((name for _, name in dense.values() if name), None)
    rows = []
    good = [row.configuration for row in source.rows if row.configuration[:2] == (model, dtype) and row.status == "ok"]
    asked = {name for c in by_stage.values() if c for name in c.asked}
    if stock := next((name for name in [*good, *asked] if name.stock), None):
        cells = [cell for stage in STAGES for cell in stock_cells(comparisons, stage, model, dtype)]
        one = [number("1", 1) if over_stock(comparisons, stage, model, dtype) else NONE for stage in STAGES]
        costs = cost_cells(source, {stage: (M, stock) for stage, M in ends.items()}, stock)
        rows.append([say("stock vLLM"), *cells, *one, *costs, *quality.cells(source, model, dtype, stock)])
    over = [dense_over_stock(comparisons, stage, model, dtype) for stage in STAGES]
    costs = [*cost_cells(source, dense, first), *quality.cells(source, model, dtype, first)]
    rows.append([say("dense"), *reference_cells(source, comparisons, by_stage, dense), *over, *costs])
    for name, text in shown.items():
        cells = [cell for stage in STAGES for cell in speed_cells(comparisons, by_stage[stage], stage, name)]
        over = [stock_cell(comparisons, stage, name) for stage in STAGES]
        costs = cost_cells(source, {stage: (M, name) for stage, M in ends.items()}, name)
        rows.append([text, *cells, *over, *costs, *quality.cells(source, model, dtype, name)])
    heads = [*headers(label, by_stage, ends), *quality.heads(source, model, dtype)]
    return without_empty(f"{prefix}_answer_{model}_{dtype}", heads, rows if shown else [])


def without_empty(name, heads, rows):
    """A Table without columns of which nothing is known in any row but for the dense engine's own."""
    known = [i for i in range(len(heads)) if any(row[i] != NONE for row in rows if row[0] != say("dense"))]
    sides = "".join(("lrlrrlrrrrrr" + "l" * (len(heads) == 13) + "rr")[i] for i in known)
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
        say("verdict, decode (clock)") if figure["decode"] is FIGURES["gpu_step_ms"] else say("verdict, decode"),
        *stock,
        *energy,
    )
    return (*heads, say("weights, GB"), say("weights pruned, %"))


def of_median(found, left, ends=True):
    """`median (low–high)` of ratios, with † if some are left out, and ⇄ if two GPUs measured one; a dash without."""
    if not found:
        return "†" if left else NONE
    values = [each.value for each in found]
    middle, low, high = median(values), min(values), max(values)
    text = f"{fixed(middle, 2)} ({fixed(low, 2)}–{fixed(high, 2)})" if ends and low < high else str(fixed(middle, 2))
    return number(text + ACROSS * any(each.across for each in found) + HOST * bool(left), middle)


def speed_cells(comparisons, comparison, stage, name):
    """Cells of one pattern at a stage: its ratios by the figure that decides, for decode by the clock, and the word."""
    found = verdict(comparison, name) if comparison else None
    cells = [of_median(found.counted.values(), found.left or found.missing) if found and comparison.of(name) else NONE]
    if stage == "decode" and comparison and comparison.metric == "step_ms":
        cells.append(NONE)  # the cell before says it
    elif stage == "decode":
        clock = over_dense(comparisons, stage, *name[:2], "step_ms")
        seen = answer_clock.by_clock(clock, name)
        bound = bool(clock) and (len(clock.sparse_counted(name)) < len(seen) or verdict(clock, name).missing)
        cells.append(of_median(seen, bound))
    if not found or (not comparison.of(name) and name not in comparison.patterns()):
        return [*cells, NONE]
    late = answer_clock.by_clock(answer_clock.beside(comparisons, comparison), name)
    return [*cells, answer_clock.beside_word(found.said if comparison.of(name) else why_none(found), late)]


def why_none(found):
    """The word on a pattern without any ratio: why, if it is one reason at all M. found: its Verdict."""
    words = {str(why): why for why in found.absent.values()}
    return next(iter(words.values())) if len(words) == 1 else say("no ratio")


def dashes(comparisons, label):
    """A list with a sentence on the rows of the tables that have no ratio at a stage, and why; empty without such."""
    parts = []
    for (model, dtype), of in label.items():
        by_stage = {stage: deciding(comparisons, stage, model, dtype) for stage in STAGES}
        names = {name for c in by_stage.values() if c for name in c.patterns()}
        names = row_names(sorted(names, key=configuration_order))
        for stage, comparison in by_stage.items():
            if not comparison:
                continue
            reasons = {}
            stock = next((name for name in comparison.asked if name.stock), None)
            if stock and not over_stock(comparisons, stage, model, dtype):
                why = reasons_of({M: comparison.lost.get((stock, M), MISSING) for M in comparison.Ms})
                apart = any(c.kind == "stock" and c.apart for c in of_place(comparisons, stage, model, dtype))
                reasons[STOCK] = OTHERWISE if apart else why
            for name, text in names.items():
                if not comparison.of(name):
                    planned = name in comparison.asked
                    reasons[text] = (
                        reasons_of(comparison.absent(name)) if planned else say("neither measured nor planned")
                    )
            of_stage = {"stage": say(stage), "of": of}
            for why, mine in alike(reasons):
                shown = [say("stock vLLM") if each == STOCK else each for each in mine]
                parts.append(say("{stage} {of} {names} ({why})", names=joined(shown, ", "), why=why, **of_stage))
            for mine, why in without_stock(over_stock(comparisons, stage, model, dtype), comparison, names):
                parts.append(say("{stage} {of} {names} over stock vLLM ({why})", names=mine, why=why, **of_stage))
    return [say("Without a ratio: {parts}.", parts=joined(parts))] if parts else []


def without_stock(stock, comparison, names):
    """[(names of patterns, why)]: those with a ratio over dense and none over stock vLLM, if that was measured."""
    found = {}
    for name, text in names.items() if stock else ():
        if comparison.of(name) and not any(each.sparse for each in stock.of(name).values()):
            why = joined([*{str(why): why for why in stock.absent(name).values()}.values()], ", ")
            found.setdefault(str(why), (why, []))[1].append(text)
    return [(", ".join(texts), why) for why, texts in found.values()]


def of_place(comparisons, stage, model, dtype):
    """The comparisons of one stage, model and type."""
    return [c for c in comparisons if (c.stage, c.model, c.dtype) == (stage, model, dtype)]


def stock_cell(comparisons, stage, name):
    """The ratios of one configuration over stock vLLM."""
    comparison = over_stock(comparisons, stage, *name[:2])
    ran = [each for each in comparison.of(name).values() if each.sparse] if comparison else []
    if not ran:
        return NONE
    counted = comparison.sparse_counted(name).values()
    return of_median(counted, len(counted) < len(ran) or verdict(comparison, name).missing, ends=False)


def dense_over_stock(comparisons, stage, model, dtype):
    """The ratios of the fastest dense engine over stock vLLM."""
    comparison = over_stock(comparisons, stage, model, dtype)
    best = fastest_over_stock(comparisons, stage, model, dtype)
    return of_median(best.values(), some_lacking(comparison, best), ends=False)


def some_lacking(comparison, best):
    """Whether ratios over stock vLLM have no fastest dense engine that counts at some M, or lack an engine there."""
    return bool(comparison) and (len(best) < len(comparison.Ms) or any(M in best for _, M in comparison.lacking))


def stock_cells(comparisons, stage, model, dtype):
    """Cells of stock vLLM at a stage: one over the ratios of the fastest dense engine; it has no word."""
    best = fastest_over_stock(comparisons, stage, model, dtype)
    comparison = over_stock(comparisons, stage, model, dtype)
    cells = [of_median(turned(best), some_lacking(comparison, best))]
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
    """Cells of the dense row: the step of the engine that is the denominator at the largest M, and its library."""
    cells = []
    for stage, (M, name) in dense.items():
        comparison = by_stage[stage]
        cells.append(reference(source, point(source, stage, name, M), comparison.metric) if comparison else NONE)
        if stage == "decode":
            clock = None
            if comparison and comparison.metric != "step_ms":
                clock = over_dense(comparisons, stage, comparison.model, comparison.dtype, "step_ms")
            cells.append(reference(source, point(source, stage, base_of(clock, M), M), "step_ms") if clock else NONE)
        cells.append(NONE)
    return cells


def reference(source, row, column):
    """`6.54 ms (cutlass)`, or `1 (cutlass)` if the step is not known, with † if a check disqualifies it."""
    if row is None:
        return NONE
    backend, step = row.configuration.backend, row.values.get(column)
    if column == "gpu_step_ms":
        step = row.values.get("least_gpu_step_ms") or step
    known = step and column != "tokens_per_s"
    text = f"{fixed(step, 1 if step >= 10 else 2)} ms" if known else "1"
    return f"{text} ({backend})" + HOST * (row.point in reasons(source))


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
    """Energy at both stages, memory of weights, share of weights that pruning changed."""
    rows = [point(source, stage, other, M) for stage, (M, other) in places.items()]
    rows = [row if row and (row.sparse or row.configuration.sparsity == "dense") else None for row in rows]
    held = [row for row in source.rows if row.configuration == name and row.values.get("weight_bytes")]
    joules = [row.values.get("energy_j_per_token") if row else None for row in rows]
    marks = [HOST * bool(row and (row.values.get("host_bound") or row.point in reasons(source))) for row in rows]
    memory = held[-1].values["weight_bytes"] if held else None
    cells = [
        NONE if each is None else number(str(fixed(1000 * each, 2)) + mark, 1000 * each)
        for each, mark in zip(joules, marks, strict=True)
    ]
    cells.append(fixed(memory / 1e9, 2 if memory >= 1e8 else 4) if memory else NONE)
    return [*cells, changed(source, name)]


def changed(source, name):
    """Percent of the weights that pruning changed: none of a dense engine; a dash if no manifest says it."""
    if name is None:
        return NONE
    if name.sparsity == "dense":
        return number("0", 0)
    key = name.weights, name.dtype, name.sparsity
    item = next((c for c in source.checkpoints if (c["model"], c["dtype"], c["sparsity"]) == key), {})
    weights, count = item.get("weights"), item.get("changed")
    return fixed(100 * count / weights, 1) if weights and count is not None else NONE


def costs_over_dense(source, comparison, name):
    """(memory of weights, energy of a token, place) of an engine over the denominator.

    Taken at its largest M with sparse kernels at which both sides have an energy, or else any. As texts; None and a
    dash where they are not known. ⇄: two GPUs measured the sides. †: the host bounds one, or a check disqualifies it.
    place: (M, backend of the denominator) if they are not those of the table, else None.
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
    bound = any(row and row.values.get("host_bound") for row in sides[M])
    late = ACROSS * comparison.ratios[name, M].across + HOST * bool(bound or comparison.left_out(name, M))
    return found[0], found[1] + late if found[1] else NONE, place
