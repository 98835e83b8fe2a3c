"""What follows from the figures of one source, as sentences with computed values."""

from statistics import median

from slidesparse.report.document.model import Bullets, Table, fixed, joined, number, say
from slidesparse.report.sections.checks import add, passed, ratio
from slidesparse.report.sections.ratios import ACROSS, ACROSS_NOTE, FIGURES, of_layers, of_points, quotient
from slidesparse.report.sources.rows import DTYPES, caches_of, configuration_order, grouped
from slidesparse.sparsity.patterns import Pattern

KINDS = ("best_dense", "dense")
"""Denominators for comparing the speed-ups of kernels and of prefill. The first one that both have is used."""

MUCH = 0.02
"""Largest distance from 1 at which a geometric mean is called neither faster nor slower."""


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
        sentences.append(say("{n} files were refused.", n=len(source.refused)))
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
    sentences = [sentence for comparison in chosen for sentence in of_comparison(comparison)]
    sentences += kernel_against_model(source, comparisons)
    sentences += dtypes(source)
    if any(ACROSS in str(sentence) for sentence in sentences):
        sentences.append(ACROSS_NOTE)
    count = sum(len(findings) for *_, findings in anomalies)
    if count:
        rules = [say("{rule} ({n})", rule=rule, n=len(findings)) for rule, _, findings in anomalies]
        sentences.append(say("{n} findings limit these figures: {rules}.", n=count, rules=rules))
    if not sentences:
        return [say("Nothing to conclude: there is nothing to compare.")]
    rows = [row for comparison in chosen if comparison.kind != "stock" for row in pattern_rows(comparison)]
    headers = (
        "stage",
        "model",
        "dtype",
        "figure",
        "denominator",
        "backend/sparsity",
        "smallest",
        "median",
        "largest",
        "bound",
        "faster at",
    )
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


def faster(ratio):
    """Whether a ratio is above 1; its whole confidence interval, if that is known."""
    return (ratio.value if ratio.low is None else ratio.low) > 1


def pattern_rows(comparison):
    """A row for every sparse configuration: range and median of its ratios, bound, and at how many M it is faster.

    Ratios that the host bounds are left out.
    """
    rows = []
    for name in comparison.names():
        values = [value for value in comparison.of(name).values() if not value.host_bound]
        if name.sparse_kernel and values:
            ratios = [value.value for value in values]
            wins = sum(faster(value) for value in values)
            shown = [
                fixed(value, 2) for value in (min(ratios), median(ratios), max(ratios), Pattern(name.sparsity).bound)
            ]
            over = (comparison.stage, comparison.model, comparison.dtype, comparison.what, comparison.over)
            rows.append((*over, name.column, *shown, number(f"{wins}/{len(ratios)}", wins / len(ratios))))
    return rows


def of_comparison(comparison):
    """One sentence: the largest speed-up, and which patterns are faster at every M, at some, at none.

    Ratios that the host bounds are left out. If there are no others, the sentence says so.
    """
    sparse = {key: ratio for key, ratio in comparison.ratios.items() if key[0].sparse_kernel}
    if not sparse:
        return []
    of = {"stage": comparison.stage, "model": comparison.model, "dtype": comparison.dtype}
    of |= {"what": comparison.what, "over": comparison.over}
    sparse = {key: ratio for key, ratio in sparse.items() if not ratio.host_bound}
    if not sparse:
        return [
            say(
                "{stage} {model} {dtype}, {what}, over {over}: bound by the host at every M, so it says nothing of the"
                " kernels.",
                **of,
            )
        ]
    (name, M), best = max(sparse.items(), key=lambda item: item[1].value)
    mine, theirs = comparison.sides[name, M]
    groups = {"every": [], "some": [], "none": []}
    for other in sorted({key[0] for key in sparse}, key=configuration_order):
        wins = [faster(ratio) for (whose, _), ratio in sparse.items() if whose == other]
        groups["every" if all(wins) else "some" if any(wins) else "none"].append(other.column)
    words = {"every": say("faster at every M"), "some": say("at some"), "none": say("at none")}
    parts = [say("{word}: {names}", word=words[word], names=names) for word, names in groups.items() if names]
    digits = 0 if comparison.unit == "tokens/s" else 3 if comparison.unit == "ms" else 1
    return [
        say(
            "{stage} {model} {dtype}, {what}, over {over}: most at M={M} with {name}, {ratio} ({mine}"
            " against {theirs} {unit}); {parts}.",
            **of,
            parts=joined(parts),
            M=M,
            name=name.column,
            ratio=marked(best, 2),
            mine=fixed(mine, digits, True),
            theirs=fixed(theirs, digits, True),
            unit=comparison.unit,
        )
    ]


def kernel_against_model(source, comparisons):
    """Sentences that compare the speed-up of kernels with that of prefill, at the largest M that both have.

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
        ratios = {(name._replace(model=key[0]), M): ratio for (name, M), ratio in kernel.ratios.items()}
        shared = sorted(set(ratios) & set(model.ratios), key=lambda item: (item[1], configuration_order(item[0])))
        shared = [item for item in shared if item[1] == shared[-1][1] and item[0].sparse_kernel]
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
                    " {parts}.",
                    model=key[0],
                    dtype=key[1],
                    M=shared[0][1],
                    caches=say(kernel.caches),
                    what=model.what,
                    over=model.over,
                    parts=parts,
                )
            )
    return sentences


def dtypes(source):
    """Sentences on FP8 over INT8 for each dense configuration.

    Prefill is compared by step time, decode by the GPU time of a step, and kernels by the sum over a layer. If prefill
    or decode has only the published protocol's tokens/s, these are compared.
    """
    sentences = []
    for stage, known in (("prefill", "step_ms"), ("decode", "gpu_step_ms")):
        figures = {column: of_points(source.stage(stage), column) for column in (known, "tokens_per_s")}
        names = {name for values in figures.values() for name, _ in values}
        for name in sorted(names, key=configuration_order):
            other = name._replace(dtype=DTYPES[1])
            if name.dtype != DTYPES[0] or name.sparsity != "dense":
                continue
            for column, values in figures.items():
                shared = sorted(M for n, M in values if n == name and (other, M) in values)
                if shared:
                    sides = {M: (values[name, M], values[other, M]) for M in shared}
                    rate = column == "tokens_per_s"
                    what = next(what for metric, what, _ in FIGURES[stage] if metric == column)
                    ratios = {M: quotient(*(reversed(both) if rate else both)) for M, both in sides.items()}
                    sentences.append(between(stage, name, "tokens/s" if rate else what, ratios))
                    break
    sums = {}
    caches = caches_of(source.stage("kernel"))
    for model, dtype in grouped(source.stage("kernel")):
        sums |= of_layers(source, model, dtype, "latency_us")
    for name in sorted({name for name, _ in sums if name.dtype == DTYPES[0] and name.sparsity == "dense"}):
        other = name._replace(dtype=DTYPES[1])
        values = {
            M: quotient(sums[name, M], sums[other, M])
            for n, M in sorted(sums, key=lambda k: k[1])
            if n == name and (other, M) in sums and sums[name, M].kind == sums[other, M].kind
        }
        if values:
            sentences.append(between("kernel", name, say("speed of the GEMMs ({caches})", caches=say(caches)), values))
    return sentences


def marked(quantity, digits):
    """A ratio, marked if its sides were measured on two GPUs."""
    return number(fixed(quantity.value, digits) + ACROSS * quantity.across, quantity.value)


def between(stage, name, what, values):
    """One sentence on FP8 over INT8, M by M."""
    mean = 1.0
    for each in values.values():
        mean *= each.value
    mean **= 1 / len(values)
    word = say("as fast as") if abs(mean - 1) < MUCH else say("faster than") if mean > 1 else say("slower than")
    return say(
        "{stage} {model} {column}: FP8 is {word} INT8 in {what}, {mean} times on geometric mean: {values}.",
        stage=stage,
        model=name.model,
        column=name.column,
        word=word,
        what=what,
        mean=fixed(mean, 2),
        values=", ".join(f"{marked(each, 3)} (M={M})" for M, each in values.items()),
    )
