"""Figures that a check disqualifies. They stay in their tables, and take part in no conclusion, mean or comparison."""

from itertools import combinations
from typing import NamedTuple

from slidesparse.plan.key import Configuration
from slidesparse.report.document.model import Text, fixed, say
from slidesparse.report.sources.agree import is_longer_on_gpu
from slidesparse.report.sources.rows import by_configuration, step_value

FLAT = 1.15
"""Step time counts as independent of M if `GROWTH` times the tokens, or more, take less than this factor longer."""
GROWTH = 1.8
WAVES = 1.1
"""Sequences run in two waves if a run takes this factor longer than its sequences are more."""

FLAT_STEP = say("flat steps")
WINDOW = say("not M sequences at once")
WAVED = say("perhaps not M sequences at once")
TOKENS = say("not M tokens a step")
WRONG = say("a wrong product")
SHORT = say("a step shorter than its GPU time")
NOT_DENSE = say("sparse kernels in a dense engine")


class Unfit(NamedTuple):
    """A figure that is not what its M says. why: one of the words above. sentence: what was found."""

    stage: str
    configuration: Configuration
    M: int
    why: Text
    sentence: Text
    linear: str | None = None


def unfit(source):
    """All Unfit of a source."""
    engines = [*flat_steps(source), *windows(source), *token_counts(source), *short_steps(source), *not_dense(source)]
    return [*engines, *inexact(source)]


def reasons(source):
    """(stage, Configuration, M) -> why the figure is disqualified. Computed once for a source."""
    if source.unfit is None:
        source.unfit = {(each.stage, each.configuration, each.M): each.why for each in unfit(source)}
    return source.unfit


def flat_steps(source):
    """Prefill steps that take no longer for twice the tokens, or more: the host or another fixed cost decides."""
    found = []
    for name, rows in by_configuration(source.stage("prefill")).items():
        steps = [(row.M, step_value(row)[0]) for row in rows if step_value(row)]
        flat = {}
        for M, step in steps:
            more, longer = next(((more, longer) for more, longer in steps if more / M >= GROWTH), (None, None))
            if more and longer / step < FLAT:
                flat |= {M: step, more: longer}
        values = ", ".join(f"{fixed(step, 1)} (M={M})" for M, step in flat.items())
        sentence = say("steps of {values} ms", values=values)
        found += [Unfit("prefill", name, M, FLAT_STEP, sentence) for M in flat]
    return found


def windows(source):
    """Decode points in which fewer than M sequences ran at once, by their record or by their elapsed times."""
    found = []
    for name, rows in by_configuration(source.stage("decode")).items():
        good = [row for row in rows if row.status == "ok"]
        for row in good:
            least, most = row.values.get("sequences_min"), row.values.get("sequences_max")
            if (least is not None and least < row.M) or (most is not None and most > row.M):
                sentence = say("{least} to {most} sequences", least=least, most=most)
                found.append(Unfit("decode", name, row.M, WINDOW, sentence))
        waves = {}
        for row, more in combinations(good, 2):
            times = [each.values.get("elapsed_time_s") for each in (row, more)]
            tokens = [each.values.get("tokens_per_s") for each in (row, more)]
            if row.values.get("step_ms") is not None or None in times + tokens or {row.M, more.M} & waves.keys():
                continue
            growth, longer, gain = more.M / row.M, times[1] / times[0], tokens[1] / tokens[0]
            if longer >= WAVES * growth or (growth >= GROWTH and longer >= 0.95 * growth):
                waves[more.M] = sentence = say(
                    "{longer} times as long as M={less} for {gain} times the tokens/s, as when "
                    "sequences run in two waves, or when the step is bound by their number",
                    longer=fixed(longer, 2),
                    less=row.M,
                    gain=fixed(gain, 2),
                )
        found += [Unfit("decode", name, M, WAVED, sentence) for M, sentence in waves.items()]
    return found


def token_counts(source):
    """Prefill points whose steps did not carry exactly M tokens."""
    found = []
    for row in source.stage("prefill"):
        least, most = row.values.get("tokens_min"), row.values.get("tokens_max")
        if least is not None and most is not None and (least, most) != (row.M, row.M):
            sentence = say("steps of {least} to {most} tokens", least=least, most=most)
            found.append(Unfit("prefill", row.configuration, row.M, TOKENS, sentence))
    return found


def short_steps(source):
    """Steps with more GPU time in them than they took: one of the two figures is wrong."""
    return [
        Unfit(
            row.stage,
            row.configuration,
            row.M,
            SHORT,
            say(
                "{gpu} ms of GPU time in a step of {step} ms",
                gpu=fixed(row.values["gpu_step_ms"], 2),
                step=fixed(row.values["step_ms"], 2),
            ),
        )
        for stage in ("prefill", "decode")
        for row in source.stage(stage)
        if row.status == "ok" and is_longer_on_gpu(row.values)
    ]


def not_dense(source):
    """Dense engines in which sparse kernels ran."""
    return [
        Unfit(
            row.stage,
            row.configuration,
            row.M,
            NOT_DENSE,
            say("{n} linears of a layer ran sparse kernels", n=row.values["sparse_linears"]),
        )
        for stage in ("prefill", "decode")
        for row in source.stage(stage)
        if row.configuration.sparsity == "dense" and row.status == "ok" and row.values.get("sparse_linears")
    ]


def inexact(source):
    """INT32 products that differ from the reference."""
    return [
        Unfit(
            "kernel",
            row.configuration,
            row.M,
            WRONG,
            say("an INT32 product is wrong by up to {error}", error=f"{row.values.get('error_max_abs') or 0:g}"),
            row.linear,
        )
        for row in source.stage("kernel")
        if row.values.get("output") == "INT32" and row.values.get("exact") is False
    ]
