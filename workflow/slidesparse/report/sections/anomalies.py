"""Finds, by rules, figures that may be misleading, and names them."""

from slidesparse.report.document.model import Bullets, Table, fixed, number, say
from slidesparse.report.sections import unfit
from slidesparse.report.sections.quantities import of_layers
from slidesparse.report.sources.rows import by_configuration, caches_of, configuration_order, grouped, workload
from slidesparse.sparsity.patterns import Pattern

DISAGREE = 0.10
"""Largest relative difference of two figures of one point that is not named."""
OUT_OF_LINE = 1.25
"""Largest factor by which a sparse kernel may be slower than those of both neighbouring patterns."""
WIDE = 0.05
"""Largest relative half-width of a confidence interval that is not named."""
CLOCK = 0.03
"""Largest relative difference of clocks at one M that is not named."""
SHOWN = 12
"""Most findings of one rule that are listed; all others are counted."""


def anomalies(source, comparisons, others=()):
    """[(rule, what it means, findings)] for all that looks wrong in a source. A finding is (where, M, sentence).

    others: sources of the same hardware.
    """
    results = [
        (
            say("Host-bound or flat step"),
            say("the host or another fixed cost decides the time of a step, so a ratio there does not compare kernels"),
            [*host_bound(source), *disqualified(unfit.flat_steps(source))],
        ),
        (
            say("Decode window that did not hold M sequences"),
            say("no figure of M sequences at once"),
            disqualified(unfit.windows(source)),
        ),
        (
            say("Step that did not hold M tokens"),
            say("no figure of M tokens a step"),
            disqualified(unfit.token_counts(source)),
        ),
        (
            say("Engine that contradicts itself"),
            say("one of its figures, or its name, is wrong"),
            disqualified([*unfit.short_steps(source), *unfit.not_dense(source)]),
        ),
        (
            say("Above the bound"),
            say("the dense side is not as efficient as the sparse one, or the figure is wrong"),
            bounds(comparisons),
        ),
        (
            say("Out of line with the neighbouring patterns"),
            say("a kernel was badly chosen, or the figure is wrong"),
            out_of_line(source),
        ),
        (say("Repeat that disagrees"), say("two sources have different figures of one point"), repeats(source, others)),
        (say("Wide confidence interval"), say("the median is not well known"), wide(source)),
        (
            say("Different clocks at one M"),
            say("part of a ratio of figures that did not take turns is the clock's"),
            clocks(source),
        ),
        (
            say("Not exact where it should be"),
            say("INT32 products are exact or wrong"),
            disqualified(unfit.inexact(source)),
        ),
    ]
    return [item for item in results if item[2]]


def anomaly_blocks(anomalies):
    """For each rule the number of findings and their meaning, then a table with at most `SHOWN` findings of a rule."""
    if not anomalies:
        return [say("None found by rule.")]
    items = [
        say("{rule} ({n}): {meaning}.", rule=rule, n=len(findings), meaning=meaning)
        for rule, meaning, findings in anomalies
    ]
    rows = []
    for rule, _, findings in anomalies:
        rows += [(rule, where, M, sentence) for where, M, sentence in findings[:SHOWN]]
        if len(findings) > SHOWN:
            rows.append((rule, None, None, say("{n} more", n=len(findings) - SHOWN)))
    return [Bullets(items), Table("anomalies", ("rule", "where", "M", "finding"), rows, "llrl")]


def at(M):
    """A table cell for M."""
    return number(str(M), M)


def host_bound(source):
    """Steps that the host bounds, by their record."""
    return [
        (f"{stage} {'/'.join(row.configuration)}", at(row.M), say("bound by the host: the GPU waited"))
        for stage in ("prefill", "decode")
        for rows in by_configuration(source.stage(stage)).values()
        for row in rows
        if row.values.get("host_bound")
    ]


def disqualified(found):
    """Findings of figures that a check disqualifies; M of one configuration that have one sentence are one finding."""
    together = {}
    for each in found:
        where = f"{each.stage} {'/'.join(each.configuration)}{f' {each.linear}' if each.linear else ''}"
        together.setdefault((where, str(each.sentence)), (each.sentence, []))[1].append(each.M)
    return [
        (where, at(Ms[0]) if len(Ms) == 1 else ", ".join(map(str, Ms)), sentence)
        for (where, _), (sentence, Ms) in together.items()
    ]


def bounds(comparisons):
    """Speed-ups above the bound of their pattern, L/(L-2)."""
    findings = []
    for comparison in comparisons:
        for name, M in comparison.above_bound():
            values = {
                "ratio": fixed(comparison.ratios[name, M].value, 3),
                "bound": fixed(Pattern(name.sparsity).bound, 3),
            }
            sentence = say(
                "{ratio} times {over}, bound {bound} ({what})", over=comparison.over, what=comparison.what, **values
            )
            findings.append((f"{comparison.stage} {'/'.join(name)}", at(M), sentence))
    return findings


def out_of_line(source):
    """Kernel sums that take much longer than those of both neighbouring patterns."""
    findings = []
    for (model, dtype), rows in grouped(source.stage("kernel")).items():
        sums = of_layers(source, model, dtype, "latency_us")
        caches = say(caches_of(rows))
        for backend in sorted({name.backend for name, _ in sums if name.sparse_kernel}):
            names = sorted({n for n, _ in sums if n.backend == backend and n.sparse_kernel}, key=configuration_order)
            for M in sorted({M for _, M in sums}):
                line = [(name, sums[name, M].value) for name in names if (name, M) in sums]
                for (_, before), (name, value), (_, after) in zip(line, line[1:], line[2:], strict=False):
                    if value > OUT_OF_LINE * max(before, after):
                        values = {"value": fixed(value, 1), "before": fixed(before, 1), "after": fixed(after, 1)}
                        sentence = say(
                            "{value} µs a layer ({caches}), its neighbours {before} and {after} µs",
                            caches=caches,
                            **values,
                        )
                        findings.append((f"kernel {'/'.join(name)}", at(M), sentence))
    return findings


def repeats(source, others):
    """Points for which another source of the same hardware has a different figure."""
    findings = []
    for stage, column, unit in (
        ("prefill", "tokens_per_s", "tokens/s"),
        ("decode", "tokens_per_s", "tokens/s"),
        ("kernel", "latency_us", "µs"),
    ):
        mine = {
            (row.configuration, row.M, row.linear): row
            for row in source.stage(stage)
            if row.values.get(column) and row.status == "ok"
        }
        for other in others:
            for row in other.stage(stage):
                own = mine.get((row.configuration, row.M, row.linear))
                value = row.values.get(column) if row.status == "ok" else None
                if (
                    own
                    and value
                    and caches_of([own]) == caches_of([row])
                    and workload(own) == workload(row)
                    and abs(own.values[column] / value - 1) > DISAGREE
                ):
                    sentence = say(
                        "{mine} against {theirs} {unit} in {root}",
                        mine=fixed(own.values[column], 1, True),
                        theirs=fixed(value, 1, True),
                        unit=unit,
                        root=f"`{other.root}`",
                    )
                    linear = f" {row.linear}" if row.linear else ""
                    findings.append((f"{stage} {'/'.join(row.configuration)}{linear}", at(row.M), sentence))
    return findings


def wide(source):
    """Points whose confidence interval is wide."""
    findings = []
    for row in source.rows:
        column, unit = ("latency_us", "µs") if row.stage == "kernel" else ("step_ms", "ms")
        value, low, high = (row.values.get(name) for name in (column, f"{column}_ci_low", f"{column}_ci_high"))
        if value and low is not None and high is not None and (high - low) / 2 > WIDE * value:
            linear = f" {row.linear}" if row.linear else ""
            sentence = say(
                "{value} {unit}, interval {low} to {high}",
                value=fixed(value, 3),
                unit=unit,
                low=fixed(low, 3),
                high=fixed(high, 3),
            )
            findings.append((f"{row.stage} {'/'.join(row.configuration)}{linear}", at(row.M), sentence))
    return findings


def clocks(source):
    """M at which kernels were measured at different clocks; the slowest and the fastest configuration are named.

    The clock of an engine is read after its load, so it says nothing.
    """
    groups = {}
    for row in source.stage("kernel"):
        if row.values.get("clock_mhz"):
            name = row.configuration
            key = f"kernel {name.model}/{name.dtype}", row.M
            groups.setdefault(key, []).append((row.values["clock_mhz"], name.column))
    findings = []
    for (where, M), rows in groups.items():
        (low, slow), (high, fast) = min(rows), max(rows)
        if high / low - 1 > CLOCK:
            sentence = say(
                "{low} MHz with {slow} to {high} MHz with {fast}",
                low=fixed(low, 0),
                slow=slow,
                high=fixed(high, 0),
                fast=fast,
            )
            findings.append((where, at(M), sentence))
    return findings
