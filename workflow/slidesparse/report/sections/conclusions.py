"""What follows from the figures of one source, as sentences with computed values.

A sentence says of how many M it speaks. It counts what it leaves out: ratios that the host bounds, that a check
disqualifies, or that exceed the bound of their pattern. A ratio without an interval is neither faster nor slower.
"""

from statistics import geometric_mean, median

from slidesparse.report.document.model import Bullets, Table, fixed, interval, joined, number, say
from slidesparse.report.sections.checks import add, passed, ratio
from slidesparse.report.sections.ratios import (
    ACROSS,
    ACROSS_NOTE,
    DENSE_RAN,
    FIGURES,
    VERDICTS,
    of_layers,
    of_points,
    quotient,
)
from slidesparse.report.sources.rows import DTYPES, caches_of, configuration_order, grouped
from slidesparse.sparsity.patterns import Pattern

KINDS = ("best_dense", "dense")
"""Denominators for comparing the speed-ups of kernels and of prefill. The first one that both have is used."""


LEGEND = say(
    "Faster and slower: the confidence interval of the ratio lies above or below 1. Even: it holds 1. Unknown: there is"
    " no interval, or two GPUs measured the sides. Ratios that are left out are in the tables, and count nowhere here."
)


def totals(source):
    """Sentences on how many points of each stage passed, failed or ran out of memory, and what was refused."""
    sentences = []
    for stage in ("prefill", "decode", "kernel"):
        counts = passed(source, stage)
        if counts:
            failed = {(row.configuration, row.M) for row in source.stage(stage) if row.status == "failed"}
            memory = {(row.configuration, row.M) for row in source.stage(stage) if row.status == "out_of_memory"}
            sentences.append(
                say(
                    "{stage}: {passed} passed, {failed} points failed, {memory} out of memory.",
                    stage=stage,
                    passed=ratio(add(counts.values())),
                    failed=len(failed),
                    memory=len(memory),
                )
            )
    if source.refused:
        sentences.append(say("Files refused, and remarks on files: {n}.", n=len(source.refused)))
    return sentences or [say("Nothing was measured.")]


def conclusion_blocks(source, comparisons, anomalies):
    """Sentences on speed-ups, on kernels against prefill, on data types and on limits; then a table of all patterns.

    Engines are compared by their steps, or by the published protocol's tokens/s if nothing else is known.
    """
    steady = {place(comparison) for comparison in comparisons if comparison.metric == "step_ms"}
    chosen = [
        comparison
        for comparison in comparisons
        if comparison.kind != "half"
        and (comparison.caches != "hot" or only_hot(comparison, comparisons))
        and (comparison.metric != "tokens_per_s" or place(comparison) not in steady)
    ]
    clocks = {place(comparison): comparison for comparison in chosen if comparison.metric == "step_ms"}
    sentences = []
    for comparison in chosen:
        clock = clocks.get(place(comparison)) if comparison.metric == "gpu_step_ms" else None
        sentences += of_comparison(comparison, clock)
    sentences += kernel_against_model(source, comparisons)
    sentences += dtypes(source)
    sentences += dense_choices(source)
    if sentences:
        sentences.insert(0, LEGEND)
    if any(ACROSS in str(sentence) for sentence in sentences):
        sentences.append(ACROSS_NOTE)
    if anomalies:
        rules = [rule for rule, *_ in anomalies]
        sentences.append(say("Anomalies, which are listed below, limit these figures: {rules}.", rules=rules))
    if not sentences:
        return [say("Nothing to conclude: there is nothing to compare.")]
    rows = [row for comparison in chosen if comparison.kind != "stock" for row in pattern_rows(comparison)]
    headers = ("stage", "model", "dtype", "figure", "denominator", "backend/sparsity", "smallest", "median", "largest")
    headers += ("bound", "faster", "even", "slower", "unknown", "left out")
    return [Bullets(sentences), *([Table("conclusions", headers, rows, "llllll")] if rows else [])]


def place(comparison):
    """What is compared with what, regardless of the figure."""
    return comparison.stage, comparison.model, comparison.dtype, comparison.kind


def only_hot(comparison, comparisons):
    """Whether a comparison over the dense backend has no counterpart with cold caches."""
    return comparison.kind == "dense" and not any(
        other.caches == "cold"
        and other.kind == "dense"
        and (other.model, other.dtype) == (comparison.model, comparison.dtype)
        for other in comparisons
    )


def pattern_rows(comparison):
    """A row for every configuration that ran sparse kernels: range and median of its ratios, bound, and verdicts.

    Only ratios that count are in range and median; the last column has the number of the others.
    """
    rows = []
    for name in comparison.sparse_names():
        counted = {M: each for M, each in comparison.counted(name).items() if each.sparse}
        values = [each.value for each in counted.values()]
        ends = (min(values), median(values), max(values)) if values else (None, None, None)
        shown = [fixed(value, 2) for value in (*ends, Pattern(name.sparsity).bound)]
        verdicts = [each.verdict for each in counted.values()]
        counts = [number(str(n), n) for n in map(verdicts.count, VERDICTS)]
        left = sum(each.sparse for each in comparison.of(name).values()) - len(counted)
        over = (comparison.stage, comparison.model, comparison.dtype, comparison.what, comparison.over)
        rows.append((*over, name.column, *shown, *counts, number(str(left), left)))
    return rows


def of_comparison(comparison, clock=None):
    """One sentence: the largest speed-up that counts, and of each pattern at how many M it is faster, even, slower.

    clock: for GPU times, the same comparison by the clock, which then stands beside it.
    """
    names = comparison.sparse_names()
    if not names:
        return []
    of = {"stage": comparison.stage, "model": comparison.model, "dtype": comparison.dtype}
    of |= {"what": comparison.what, "over": comparison.over}
    counted = {(name, M): each for name in names for M, each in comparison.counted(name).items() if each.sparse}
    parts = joined([pattern_counts(comparison, name) for name in names])
    if not counted:
        return [say("{stage} {model} {dtype}, {what}, over {over}: no ratio counts. {parts}.", **of, parts=parts)]
    (name, M), best = max(counted.items(), key=lambda item: item[1].value)
    mine, theirs = comparison.sides[name, M]
    digits = 0 if comparison.unit == "tokens/s" else 3 if comparison.unit == "ms" else 1
    beside = clock.ratios.get((name, M)) if clock else None
    found = say(
        "{ratio} at M={M} with {name} ({mine} against {theirs} {unit})",
        ratio=marked(best, 2, ends=True),
        M=M,
        name=name.column,
        mine=fixed(mine, digits, True),
        theirs=fixed(theirs, digits, True),
        unit=comparison.unit,
    )
    if comparison.outputs:
        own, over = comparison.outputs
        found = say("{found}, {own} outputs against {over}", found=found, own=own, over=over)
    if M in comparison.lacking:
        found = say("{found}, without {names} there", found=found, names=", ".join(comparison.lacking[M]))
    if beside:
        ratio = marked(beside, 2, ends=True)
        if comparison.kind in ("best_dense", "stock"):
            found = say(
                "{found}; by the clock, over the side that is fastest by the clock, {ratio}", found=found, ratio=ratio
            )
        else:
            found = say("{found}, by the clock {ratio}", found=found, ratio=ratio)
    return [
        say(
            "{stage} {model} {dtype}, {what}, over {over}: the largest ratio is {found}. {parts}.",
            **of,
            found=found,
            parts=parts,
        )
    ]


def pattern_counts(comparison, name):
    """What became of the ratios of one configuration: `cusparselt/2_4: faster at 5, slower at 1 of 7 M, left out …`.

    M at which only dense kernels ran are none of the pattern's.
    """
    ratios = {M: each for M, each in comparison.of(name).items() if each.sparse}
    left, verdicts = {}, []
    for M, each in ratios.items():
        why = comparison.left_out(name, M)
        if why:
            left.setdefault(str(why), (why, []))[1].append(str(M))
        else:
            verdicts.append(each.verdict)
    found = [say("{verdict} at {n}", verdict=each, n=verdicts.count(each)) for each in VERDICTS if each in verdicts]
    absent = {M: why for M, why in comparison.absent(name).items() if why is not DENSE_RAN}
    for M, why in absent.items():
        left.setdefault(str(why), (why, []))[1].append(str(M))
    found += [say("left out M={Ms} ({why})", Ms=", ".join(Ms), why=why) for why, Ms in left.values()]
    return say("{name}, of {n} M: {found}", name=name.column, n=len(ratios) + len(absent), found=joined(found, ", "))


def dense_choices(source):
    """Sentences on engines of `auto`: that none was measured dense, and those in which no sparse kernel is known."""
    sentences = []
    for stage in ("prefill", "decode"):
        rows = [row for row in source.stage(stage) if row.status == "ok"]
        engines = {}
        for name in {row.configuration for row in rows}:
            if name.sparsity == "dense" and not name.stock:
                engines.setdefault((name.model, name.dtype), set()).add(name.backend)
        if any(len(backends) > 1 and "auto" not in backends for backends in engines.values()):
            sentences.append(
                say(
                    "{stage}: the fastest dense engine has one library for all linears. An engine with the fastest"
                    " dense library of each linear (auto/dense) was not measured, and could be faster.",
                    stage=stage,
                )
            )
        dense, unknown = without_sparse_kernels(rows)
        if dense:
            of = {"stage": stage, "names": ", ".join(dense)}
            sentences.append(
                say("{stage}: no sparse kernel ran in {names}. These are dense engines with pruned weights.", **of)
            )
        if unknown:
            of = {"stage": stage, "names": ", ".join(unknown)}
            sentences.append(
                say("{stage}: it is unknown which kernels ran in {names}. These engines count as dense.", **of)
            )
    return sentences


def without_sparse_kernels(rows):
    """(those in which only dense kernels ran, those of which it is unknown): names of engines of `auto` with a pattern.

    The model stands in front if there are several.
    """
    ran = {}
    for row in rows:
        if row.configuration.backend == "auto" and row.configuration.sparse_kernel:
            ran.setdefault(row.configuration, []).append(row.values.get("sparse_linears"))
    several = len({row.configuration.model for row in rows}) > 1
    dense, unknown = [], []
    for name in sorted(ran, key=configuration_order):
        said = f"{f'{name.model} ' if several else ''}{name.dtype} {name.column}"
        if not any(ran[name]) and None not in ran[name]:
            dense.append(said)
        elif None in ran[name]:
            at = sorted(row.M for row in rows if row.configuration == name and row.values.get("sparse_linears") is None)
            unknown.append(said if len(at) == len(ran[name]) else f"{said} (M={', '.join(map(str, at))})")
    return dense, unknown


def kernel_against_model(source, comparisons):
    """Sentences that compare the speed-up of kernels with that of prefill, at the largest M that counts in both.

    Both are over the fastest dense backends, or over the only one. Kernels that were measured alone in their process
    are preferred to those in turn, because dense engines run alone, too.
    """
    sentences = []
    last = sorted(comparisons, key=lambda each: (each.caches != "hot", not each.in_turn))  # last wins: cold, alone
    by_stage = {(each.stage, each.kind, each.model, each.dtype): each for each in last if each.ratios}
    for key in dict.fromkeys((c.model, c.dtype) for c in comparisons if c.stage == "prefill"):
        shape = source.shape_of(key[0]), key[1]
        pairs = ((by_stage.get(("kernel", kind, *shape)), by_stage.get(("prefill", kind, *key))) for kind in KINDS)
        kernel, model = next((pair for pair in pairs if all(pair)), (None, None))
        if not kernel:
            continue
        ratios = {
            (name._replace(model=key[0]), M): each
            for (name, M), each in kernel.ratios.items()
            if not kernel.left_out(name, M)
        }
        shared = [item for item in ratios if item in model.ratios and not model.left_out(*item)]
        shared = sorted(
            (item for item in shared if model.ratios[item].sparse), key=lambda item: configuration_order(item[0])
        )
        most = max((M for _, M in shared), default=None)
        shared = [item for item in shared if item[1] == most]
        left = left_at(most, kernel, model, key[0])
        if shared:
            parts = [
                say(
                    "{pattern} {kernel} and {model}",
                    pattern=name.column,
                    kernel=marked(ratios[name, M], 2),
                    model=marked(model.ratios[name, M], 2),
                )
                for name, M in shared
            ]
            sentences.append(
                say(
                    "{model} {dtype} at M={M}, over {over}: speed-up of the GEMMs ({caches}) and of prefill ({what}):"
                    " {parts}{left}.",
                    left=left,
                    model=key[0],
                    dtype=key[1],
                    M=most,
                    caches=say(kernel.caches),
                    what=model.what,
                    over=model.over,
                    parts=parts,
                )
            )
    return sentences


def left_at(M, kernel, model, name):
    """What a sentence on kernels and prefill at M leaves out: patterns whose ratio counts not in both; or nothing."""
    left = {}
    there = [{each._replace(model=name) for each, at in comparison.ratios if at == M} for comparison in (kernel, model)]
    for comparison in (kernel, model):
        for each, at in comparison.ratios:
            why = comparison.left_out(each, at) if each._replace(model=name) in there[0] & there[1] else None
            if at == M and why and comparison.ratios[each, at].sparse:
                left.setdefault(str(why), (why, {}))[1][each._replace(model=name)] = None
    parts = [
        say("{names} ({why})", names=", ".join(each.column for each in sorted(names, key=configuration_order)), why=why)
        for why, names in left.values()
    ]
    return say("; left out {parts}", parts=joined(parts, ", ")) if parts else ""


def dtypes(source):
    """Sentences on FP8 over INT8 for each dense configuration.

    Prefill is compared by step time, decode by the GPU time of a step, and kernels by the sum over a layer. If prefill
    or decode has only the published protocol's tokens/s, these are compared.
    """
    sentences = []
    for stage, known in (("prefill", "step_ms"), ("decode", "gpu_step_ms")):
        figures = {column: of_points(source, source.stage(stage), column) for column in (known, "tokens_per_s")}
        names = {name for values in figures.values() for name, _ in values}
        for name in sorted(names, key=configuration_order):
            other = name._replace(dtype=DTYPES[1])
            if name.dtype != DTYPES[0] or name.sparsity != "dense":
                continue
            for column, values in figures.items():
                ratios, apart = between_types(name, other, values, higher=column == "tokens_per_s")
                if ratios:
                    what = next(what for metric, what, _ in FIGURES[stage] if metric == column)
                    what = say("tokens/s") if column == "tokens_per_s" else what
                    sentences.append(between(stage, name, what, ratios, apart))
                    break
    sums = {}
    caches = caches_of(source.stage("kernel"))
    for model, dtype in grouped(source.stage("kernel")):
        sums |= of_layers(source, model, dtype, "latency_us")
    for name in sorted({name for name, _ in sums if name.dtype == DTYPES[0] and name.sparsity == "dense"}):
        ratios, apart = between_types(name, name._replace(dtype=DTYPES[1]), sums, higher=False)
        if ratios:
            what = say("speed of the GEMMs ({caches})", caches=say(caches))
            own, over = (outputs(source, each) for each in (name._replace(dtype=DTYPES[1]), name))
            if own != over:
                what = say("{found}, {own} outputs against {over}", found=what, own=own, over=over)
            sentences.append(between("kernel", name, what, ratios, apart))
    return sentences


def outputs(source, name):
    """Output types of one configuration's kernels, where files of others tell them, as text."""
    rows = (row for row in source.stage("kernel") if row.configuration == name)
    return ", ".join(sorted({row.values.get("output_of_others") or "" for row in rows} - {""}))


def between_types(name, other, values, higher):
    """(M -> how many times as fast `other` is as `name`, number of M at which both were measured in other ways).

    Machine, output type, versions and protocol may differ no more than in any other ratio.
    """
    shared = sorted(M for own, M in values if own == name and (other, M) in values)
    sides = {M: (values[name, M], values[other, M]) for M in shared}
    ratios = {
        M: quotient(*(reversed(both) if higher else both))
        for M, both in sides.items()
        if both[0].kind == both[1].kind and both[0].machine == both[1].machine
    }
    return ratios, len(sides) - len(ratios)


def marked(quantity, digits, ends=False):
    """A ratio, marked if its sides were measured on two GPUs. ends: with its interval, if that is known."""
    shown = interval(quantity.value, quantity.low, quantity.high, digits) if ends else fixed(quantity.value, digits)
    return number(shown + ACROSS * quantity.across, quantity.value)


def between(stage, name, what, ratios, apart):
    """One sentence on FP8 over INT8: at how many M it is faster, even, slower, and its ratio M by M.

    apart: number of M whose sides were measured in other ways.
    """
    counted = {M: each for M, each in ratios.items() if not (each.unfit or each.host_bound)}
    verdicts = [each.verdict for each in counted.values()]
    found = [say("{verdict} at {n}", verdict=each, n=verdicts.count(each)) for each in VERDICTS if each in verdicts]
    left = len(ratios) - len(counted)
    found += [say("left out {n}", n=left)] if left else []
    found += [say("measured otherwise {n}", n=apart)] if apart else []
    mean = geometric_mean([each.value for each in counted.values()]) if counted else None
    return say(
        "{stage} {model} {column}: FP8 over INT8 in {what}, of {n} M: {found}; geometric mean of those that count"
        " {mean}: {values}.",
        stage=stage,
        model=name.model,
        column=name.column,
        what=what,
        n=len(ratios) + apart,
        found=joined(found, ", "),
        mean=fixed(mean, 2),
        values=", ".join(f"{marked(each, 3)} (M={M})" for M, each in counted.items()) or "—",
    )
