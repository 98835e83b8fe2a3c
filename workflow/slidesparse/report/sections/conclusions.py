"""What follows from the figures of one source, as sentences with computed values.

A sentence says of how many M it speaks. It counts what it leaves out: ratios that the host bounds, that a check
disqualifies, or that exceed the bound of their pattern. A ratio without an interval is neither faster nor slower.
"""

from statistics import median

from slidesparse.report.document.model import Bullets, Table, fixed, joined, number, say
from slidesparse.report.sections.between_types import dtypes
from slidesparse.report.sections.checks import add, passed, ratio
from slidesparse.report.sections.outputs import against, unlike
from slidesparse.report.sections.quantities import ACROSS, ACROSS_NOTE, NARROW, VERDICTS, marked
from slidesparse.report.sections.ratios import DENSE_RAN, lacking_at
from slidesparse.report.sources.rows import configuration_order
from slidesparse.sparsity.patterns import Pattern

KINDS = ("best_dense", "dense")
"""Denominators for comparing the speed-ups of kernels and of prefill. The first one that both have is used."""


LEGEND = say(
    "Faster and slower: the confidence interval of the ratio lies above or below 1. Even: it holds 1 and lies within"
    " {narrow}. Unknown: it holds 1 and is wider, or there is none that covers 90 %, or two GPUs measured the sides."
    " Ratios that are left out are in the tables, and count nowhere here.",
    narrow=NARROW,
)


def totals(source):
    """Sentences on how many points of each stage passed, failed or ran out of memory, and what was refused.

    Of kernels, linears are counted.
    """
    sentences = []
    for stage in ("prefill", "decode", "kernel", "quality"):
        counts = passed(source, stage)
        if counts:
            failed = {(row.configuration, row.M) for row in source.stage(stage) if row.status == "failed"}
            memory = {(row.configuration, row.M) for row in source.stage(stage) if row.status == "out_of_memory"}
            said = {"passed": ratio(add(counts.values())), "failed": len(failed), "memory": len(memory)}
            sentences.append(
                say(
                    "{stage}: {passed} linears passed, {failed} points failed, {memory} out of memory.",
                    stage=stage,
                    **said,
                )
                if stage == "kernel"
                else say(
                    "{stage}: {passed} points passed, {failed} failed, {memory} out of memory.", stage=stage, **said
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
    """A row for every pattern: range and median of its ratios, bound, and verdicts.

    Only ratios that count are in range and median; the last column has the number of other M, with a ratio or not.
    """
    rows = []
    for name in comparison.patterns() if comparison.sparse_names() else ():
        counted = {M: each for M, each in comparison.counted(name).items() if each.sparse}
        values = [each.value for each in counted.values()]
        ends = (min(values), median(values), max(values)) if values else (None, None, None)
        mark = ACROSS * any(each.across for each in counted.values())
        shown = [value and number(fixed(value, 2) + mark, value) for value in ends]
        shown.append(fixed(Pattern(name.sparsity).bound, 2))
        verdicts = [each.verdict for each in counted.values()]
        counts = [number(str(n), n) for n in map(verdicts.count, VERDICTS)]
        absent = [M for M, why in comparison.absent(name).items() if why is not DENSE_RAN]
        left = sum(each.sparse for each in comparison.of(name).values()) - len(counted) + len(absent)
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
    parts = joined([pattern_counts(comparison, name) for name in comparison.patterns()])
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
    found = against(found, comparison.outputs.get((name, M)))
    if (name, M) in comparison.lacking and comparison.kind != "stock":
        rivals = [say("{name} ({why})", name=each, why=why) for each, why in comparison.lacking[name, M].items()]
        found = say("{found}, without {names} there", found=found, names=joined(rivals, ", "))
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
        engines = {each: backends for each, backends in engines.items() if len(backends) > 1}
        if lacking := [" ".join(each) for each, backends in engines.items() if "auto" not in backends]:
            of = (
                [say("{stage} {of}", stage=stage, of=", ".join(sorted(lacking)))] if len(lacking) < len(engines) else []
            )
            sentences.append(
                say(
                    "{stage}: the fastest dense engine has one library for all linears. An engine with the fastest"
                    " dense library of each linear (auto/dense) has no figure here, and could be faster.",
                    stage=of[0] if of else stage,
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
        if not shared:
            continue
        most = max(M for _, M in shared)
        shared = [item for item in shared if item[1] == most]
        left = left_at(most, kernel, model, key[0])
        if odd := unlike(kernel, [(name._replace(model=shape[0]), M) for name, M in shared]):
            left = say("; unlike outputs: {parts}{left}", parts=odd, left=left)
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
                over=over_both(kernel, model),
                parts=parts,
            )
        )
    return sentences


def over_both(kernel, model):
    """The denominator of kernels and of prefill, or both, if they are two."""
    if kernel.kind == "best_dense" or str(kernel.over).partition("/")[0] == str(model.over).partition("/")[0]:
        return model.over
    return say("{kernel} and {model}", kernel=kernel.over, model=model.over)


def left_at(M, kernel, model, name):
    """What a sentence on kernels and prefill at M leaves out: patterns of both without a ratio that counts in both, and
    larger M; and dense rivals without a figure there; or nothing.
    """
    left, pairs = {}, {}
    for comparison in (kernel, model):
        for each in comparison.patterns():
            pairs.setdefault(each._replace(model=name), []).append((comparison, each))
    for each, sides in sorted(pairs.items(), key=lambda item: configuration_order(item[0])):
        for comparison, own in sides if len(sides) > 1 else ():
            there = (own, M) in comparison.ratios and comparison.ratios[own, M].sparse
            if why := comparison.left_out(own, M) if there else comparison.absent(own).get(M):
                left.setdefault(str(why), (why, {}))[1][each.column] = None
    parts = [say("{names} ({why})", names=", ".join(names), why=why) for why, names in left.values()]
    if larger := sorted(each for each in kernel.Ms & model.Ms if each > M):
        parts.append(say("M={Ms} (no ratio counts in both)", Ms=", ".join(map(str, larger))))
    left = say("; left out {parts}", parts=joined(parts, ", ")) if parts else ""
    rivals = [
        say("{name} ({stage}, {why})", name=each, stage=say(comparison.stage), why=why)
        for comparison in (kernel, model)
        for each, _, why in lacking_at(comparison, [(own, M) for own in comparison.sparse_names()])
    ]
    return say("{left}; without {parts}", left=left, parts=joined(rivals, ", ")) if rivals else left
