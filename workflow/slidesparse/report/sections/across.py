"""The first screen of the comparison: a row for each GPU, and what each pattern does there."""

from statistics import median

from slidesparse.report.document.model import NONE, Bullets, Choice, Table, fixed, joined, say
from slidesparse.report.sections import answer_clock
from slidesparse.report.sections.across_headline import in_short, on, row_order
from slidesparse.report.sections.alike import unlike_requests, unlike_settings
from slidesparse.report.sections.answer_known import TERMS
from slidesparse.report.sections.answer_table import why_none
from slidesparse.report.sections.quantities import ACROSS, NARROW, UNKNOWN
from slidesparse.report.sections.speedups import HOST
from slidesparse.report.sections.verdict import (
    COSTS,
    FIGURES,
    ORDER,
    PAYS,
    STAGES,
    lacking_where_counted,
    row_names,
    verdict,
)
from slidesparse.report.sources.rows import DTYPES

MOST_PATTERNS = 4
"""Most patterns of which the first screen speaks; the tables below have all."""

MEANING = say(
    "Over the fastest dense engine of each GPU; the column names its libraries. Cells: median of the ratios that"
    " count, and what they say at the largest M that counts. Pays, even, loses: the interval lies above 1, holds 1 and"
    " lies within {narrow}, lies below 1. Unknown: no ratio counts, or that one has no interval that covers 90 %, or"
    " one that holds 1 and is wider, or two GPUs measured its sides (⇄). †: some ratios are missing, or do not count,"
    " because the host bounds them, or a check disqualifies them. — under a pattern: neither measured nor planned"
    " there. In brackets: by the clock, with the host's share. Memory, energy: a pattern's weights, and a token's"
    " energy in prefill, over dense. Ways to measure, and models, differ between rows as the table says.",
    narrow=NARROW,
)


def answer_blocks(summaries, labels):
    """For each type sentences on which pattern pays where, and a table with a row for each GPU and model."""
    sentences, tables, seen, lacking = [], {}, [], []
    models = {}
    for item, label in zip(summaries, labels, strict=True):
        models.setdefault(label, set()).update(model for (model, _), of in item.answers.items() if any(of.values()))
    for dtype in DTYPES:
        found = [
            (label, model, stages, (item, item.costs[model, of], item.clocks[model, of]))
            for item, label in zip(summaries, labels, strict=True)
            for (model, of), stages in item.answers.items()
            if of == dtype and any(stages.values())
        ]
        if found:
            found = [
                (f"{label} {model}" if len(models[label]) > 1 else label, model, stages, more)
                for label, model, stages, more in found
            ]
            words = {stage: words_of(found, stage) for stage in STAGES}
            late = {"prefill": {}, "decode": late_of(found)}
            by = {stage: metrics_of(found, stage) for stage in STAGES}
            seen.append((dtype, words, late, by))
            sentences += [s for stage in STAGES for s in where(stage, dtype, words[stage], by[stage])]
            known = [stage for stage in STAGES if words[stage]]
            tables |= {(dtype, stage): table(dtype, stage, found, words[stage], late[stage]) for stage in known}
            lacking += [part for stage in STAGES for part in without(stage, dtype, found)]
    absent = [
        label
        for item, label in zip(summaries, labels, strict=True)
        if not any(any(stages.values()) for stages in item.answers.values())
    ]
    if absent:
        sentences.append(say("No sparse engine could be held against a dense one on {gpus}.", gpus=", ".join(absent)))
    if lost := unmatched(summaries, labels, absent):
        sentences.append(say("No sparse engine could be held against a dense one on {gpus}.", gpus=joined(lost, ", ")))
    if any(item.key.startswith("cpu-") for item in summaries):
        sentences.insert(0, say("CPUs are rehearsals: they say nothing of GPUs."))
    if not tables:
        return [Bullets(sentences)] if absent else []
    if lacking:
        sentences.append(
            say("Dense engines without a figure that counts, which may be faster: {parts}.", parts=joined(lacking))
        )
    sentences.append(TERMS)
    return [*in_short(seen), Bullets(sentences), Choice(("type", "stage"), tables), MEANING]


def unmatched(summaries, labels, absent):
    """Texts on stages and types of GPUs that sparse engines were asked for at, and no ratio is of; without `absent`."""
    of = {}
    for item, label in zip(summaries, labels, strict=True):
        for stage, model, dtype in item.unmatched if label not in absent else ():
            of.setdefault(label, []).append(say("{stage} {model} {dtype}", stage=say(stage), model=model, dtype=dtype))
    return [say("{label} ({places})", label=label, places=joined(places, ", ")) for label, places in of.items()]


def without(stage, dtype, found):
    """Texts on dense engines that lack a figure on a GPU where ratios of a stage and type count."""
    return [
        say(
            "{name} on {label} ({stage} {dtype} M={Ms}, {why})",
            name=name,
            label=label,
            stage=say(stage),
            dtype=dtype,
            Ms=Ms,
            why=why,
        )
        for label, _, stages, _ in found
        if stages[stage]
        for name, Ms, why in lacking_where_counted(stages[stage])
    ]


def late_of(found):
    """(GPU and model, pattern) -> ratios by the clock of decode steps of which GPU time decides."""
    late = {}
    for label, _, _, (*_, clock) in found:
        for name, text in row_names(clock.sparse_names() if clock else []).items():
            late[label, text] = answer_clock.by_clock(clock, name)
    return late


def metrics_of(found, stage):
    """Label -> by which figure its patterns are judged, as text."""
    return {label: FIGURES[stages[stage].metric] for label, _, stages, _ in found if stages[stage]}


def words_of(found, stage):
    """Pattern -> [(GPU and model, Verdict)] of one stage, the shortest patterns first."""
    patterns = {}
    for label, model, stages, _ in found:
        comparison = stages[stage]
        for name, text in row_names(comparison.patterns() if comparison else []).items():
            patterns.setdefault(text, {})[label, model] = verdict(comparison, name)
    order = sorted(patterns, key=row_order)
    return {text: patterns[text] for text in order}


def where(stage, dtype, words, figures):
    """A list with the sentence on one stage and type: on which GPUs each pattern pays, is even, loses, is unknown.

    figures: what `metrics_of` gives. They are told where rows differ in them.
    """
    groups, several = {}, len({str(each) for each in figures.values()}) > 1
    shown = list(words.items())[:MOST_PATTERNS]
    counted = [set(each.counted) for _, verdicts in shown for each in verdicts.values() if each.word is not UNKNOWN]
    apart = len(set(map(frozenset, counted))) > 1
    for text, verdicts in shown:
        for word in map(str, ORDER):
            mine = {label: each for (label, _), each in verdicts.items() if str(each.word) == word}
            names = {
                label: say("{label} {figure}{at}", label=label, figure=figures[label], at=at(each, apart))
                if several
                else f"{label}{at(each, apart)}"
                for label, each in mine.items()
            }
            if names:
                groups.setdefault((word, tuple(map(str, names.values()))), (names, []))[1].append(text)
    parts = [
        on(word, ", ".join(patterns), joined([*names.values()], ", "), len(patterns) > 1)
        for (word, _), (names, patterns) in groups.items()
    ]
    if not parts:
        return []
    more = list(words)[MOST_PATTERNS:]
    if more:
        parts.append(say("{names} in the hardware's own reports", names=", ".join(more)))
    return [say("{stage} {dtype}: {parts}.", stage=say(stage.capitalize()), dtype=dtype, parts=joined(parts))]


def at(found, apart):
    """At which M a pattern does what is said of it, as text. apart: whether what counts has other M on other GPUs."""
    if found.word in (PAYS, COSTS):
        if not found.until:
            return f" (M≥{found.since})"
        return f" (M={found.since})" if found.until == found.since else f" (M={found.since}–{found.until})"
    return f" (M={max(found.counted)})" if apart and found.word is not UNKNOWN else ""


def table(dtype, stage, found, words, late):
    """The table of one type and stage: for each GPU the figure that decides, and ratio and word of each pattern.

    late: what `late_of` gives.
    """
    shown = list(words)[:MOST_PATTERNS]
    heads = (f"{dtype} {stage}", say("model"), say("measured by"), say("figure"), say("over"), *shown)
    costs = stage == "prefill" and any(cost != NONE for *_, (_, cost, _) in found)
    heads += (say("costs over dense"),) if costs else ()
    mine = [each for each in found if each[2][stage]]
    settings = unlike_settings({label: item.settings[stage, model, dtype] for label, model, _, (item, *_) in mine})
    asked = unlike_requests({label: item.requests[stage, model, dtype] for label, model, _, (item, *_) in mine})
    rows = [
        [
            label,
            model,
            joined([*item.ways[stage, model, dtype], *asked[label], *settings.get(label, ())], ", "),
            FIGURES[stages[stage].metric],
            ", ".join(sorted({base.backend for base in stages[stage].bases.values()})),
            *(cell(words[text].get((label, model)), late.get((label, text))) for text in shown),
            *([cost] if costs else []),
        ]
        for label, model, stages, (item, cost, _) in mine
    ]
    return Table(f"answer_{dtype}_{stage}", heads, rows, "lllll" + "w" * (len(heads) - 5))


def cell(found, late):
    """Median ratio and word of one pattern; a dash if it was neither measured nor planned.

    late: its ratios by the clock, if any.
    """
    if found is None:
        return NONE
    if not found.counted and not found.left:
        return why_none(found)
    if not found.counted:
        return say("unknown, none counts")
    middle = fixed(median([each.value for each in found.counted.values()]), 2)
    marks = ACROSS * any(each.across for each in found.counted.values()) + HOST * bool(found.left or found.missing)
    said = say("{ratio} {word}", ratio=f"{middle}{marks}", word=found.said)
    if not late:
        return said
    clock = fixed(median([each.value for each in late]), 2)
    clock = say("{ratio} {word}", ratio=clock, word=answer_clock.word(late))
    return say("{verdict} ({clock})", verdict=said, clock=clock)
