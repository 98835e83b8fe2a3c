"""Sentences on FP8 over INT8 for each dense configuration."""

from statistics import geometric_mean

from slidesparse.report.document.model import fixed, joined, say
from slidesparse.report.sections.outputs import UNRECORDED, against
from slidesparse.report.sections.quantities import ACROSS, VERDICTS, marked, of_layers, of_points, quotient
from slidesparse.report.sections.ratios import FIGURES
from slidesparse.report.sources.rows import DTYPES, caches_of, configuration_order, grouped


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
                    alone = len(asked_Ms(source, stage, name, other)) - len(ratios) - apart
                    what = next(what for metric, what, _ in FIGURES[stage] if metric == column)
                    what = say("tokens/s") if column == "tokens_per_s" else what
                    sentences.append(between(stage, name, what, ratios, apart, alone))
                    break
    sums = {}
    caches = caches_of(source.stage("kernel"))
    for model, dtype in grouped(source.stage("kernel")):
        sums |= of_layers(source, model, dtype, "latency_us")
    for name in sorted({name for name, _ in sums if name.dtype == DTYPES[0] and name.sparsity == "dense"}):
        other = name._replace(dtype=DTYPES[1])
        ratios, apart = between_types(name, other, sums, higher=False)
        if ratios:
            what = say("speed of the GEMMs ({caches})", caches=say(caches))
            own, over = (outputs(source, each) for each in (other, name))
            what = against(what, own != over and (own or UNRECORDED, over or UNRECORDED))
            alone = len(asked_Ms(source, "kernel", name, other)) - len(ratios) - apart
            sentences.append(between("kernel", name, what, ratios, apart, alone))
    return sentences


def asked_Ms(source, stage, *names):
    """The M at which one of some configurations was measured or is planned."""
    Ms = {row.M for row in source.stage(stage) if row.configuration in names}
    return Ms | {M for name in names for M in source.planned(stage).get(name, ())}


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


def between(stage, name, what, ratios, apart, alone):
    """One sentence on FP8 over INT8: at how many M it is faster, even, slower, and its ratio M by M.

    apart: number of M whose sides were measured in other ways. alone: number of M without a figure of both.
    """
    counted = {M: each for M, each in ratios.items() if not (each.unfit or each.host_bound)}
    verdicts = [each.verdict for each in counted.values()]
    found = [say("{verdict} at {n}", verdict=each, n=verdicts.count(each)) for each in VERDICTS if each in verdicts]
    left = len(ratios) - len(counted)
    found += [say("left out {n}", n=left)] if left else []
    found += [say("measured otherwise {n}", n=apart)] if apart else []
    found += [say("without a figure of both {n}", n=alone)] if alone else []
    mean = fixed(geometric_mean([each.value for each in counted.values()]) if counted else None, 2)
    return say(
        "{stage} {model} {column}: FP8 over INT8 in {what}, of {n} M: {found}; geometric mean of those that count"
        " {mean}: {values}.",
        stage=stage,
        model=name.model,
        column=name.column,
        what=what,
        n=len(ratios) + apart + alone,
        found=joined(found, ", "),
        mean=f"{mean}{ACROSS * any(each.across for each in counted.values())}",
        values=", ".join(f"{marked(each, 3)} (M={M})" for M, each in counted.items()) or "—",
    )
