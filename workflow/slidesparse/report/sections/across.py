"""The first screen of the comparison: a row for each GPU, and what each pattern does there."""

from statistics import median

from slidesparse.report.document.model import NONE, Bullets, Choice, Table, fixed, joined, say
from slidesparse.report.sections.ratios import ACROSS, EVEN, UNKNOWN
from slidesparse.report.sections.speedups import HOST
from slidesparse.report.sections.verdict import FIGURES, LOSES, PAYS, STAGES, WORDS, row_names, verdict
from slidesparse.report.sources.rows import DTYPES, pattern_length

MOST_PATTERNS = 4
"""Most patterns of which the first screen speaks; the tables below have all."""

MEANING = say(
    "Over the fastest dense engine of each GPU; the column names its libraries. Cells: median of the ratios that count,"
    " and what they say at the largest M that counts. Pays, even, loses: the interval lies above 1, holds 1, lies below"
    " 1. Unknown: no ratio counts, or that one has no interval, or two GPUs measured its sides (⇄). †: some ratios do"
    " not count, because the host bounds them, or a check disqualifies them. Memory, energy: a pattern's weights, and a"
    " token's energy in prefill, over dense. Ways to measure, and models, differ between rows as the table says."
)


def answer_blocks(summaries, labels):
    """For each type sentences on which pattern pays where, and a table with a row for each GPU and model."""
    sentences, tables, seen = [], {}, []
    for dtype in DTYPES:
        found = [
            (label, model, stages, (item.ways, item.costs[model, of]))
            for item, label in zip(summaries, labels, strict=True)
            for (model, of), stages in item.answers.items()
            if of == dtype and any(stages.values())
        ]
        if found:
            labels_seen = [label for label, *_ in found]
            found = [
                (f"{label} {model}" if labels_seen.count(label) > 1 else label, model, stages, more)
                for label, model, stages, more in found
            ]
            words = {stage: words_of(found, stage) for stage in STAGES}
            seen.append(words)
            by = {stage: figures_of(found, stage) for stage in STAGES}
            sentences += [s for stage in STAGES for s in where(stage, dtype, words[stage], by[stage])]
            tables |= {(dtype, stage): table(dtype, stage, found, words[stage]) for stage in STAGES if words[stage]}
    absent = [
        label
        for item, label in zip(summaries, labels, strict=True)
        if not any(any(stages.values()) for stages in item.answers.values())
    ]
    if absent:
        sentences.append(say("No sparse engine could be held against a dense one on {gpus}.", gpus=", ".join(absent)))
    if any(item.key.startswith("cpu-") for item in summaries):
        sentences.insert(0, say("CPUs are rehearsals: they say nothing of GPUs."))
    if not tables:
        return [Bullets(sentences)] if absent else []
    return [*in_short(seen), Bullets(sentences), Choice(("type", "stage"), tables), MEANING]


def in_short(seen):
    """A list with the answer in one sentence: on which GPUs the shortest pattern does what, in all types.

    seen: for each type what `words_of` gives, by stage.
    """
    parts = []
    for stage in STAGES:
        text = next((next(iter(words[stage])) for words in seen if words[stage]), None)
        if not text:
            continue
        found, groups = {}, {}
        for words in seen:
            for (label, _), each in words[stage].get(text, {}).items():
                found.setdefault(label, set()).add(str(each.word))
        for label, said in found.items():
            groups.setdefault(next(iter(said)) if len(said) == 1 else "", []).append(label)
        each = [on(word, text, ", ".join(groups[word]), False) for word in map(str, WORDS.values()) if word in groups]
        if "" in groups:
            each.append(say("{names} differs between types on {gpus}", names=text, gpus=", ".join(groups[""])))
        parts.append(say("{stage}: {found}.", stage=say(stage.capitalize()), found=joined(each)))
    return [joined(parts, " ")] if parts else []


def figures_of(found, stage):
    """Label -> by which figure its patterns are judged, as text before the M, where rows differ in that."""
    figures = {label: FIGURES[stages[stage].metric] for label, _, stages, _ in found if stages[stage]}
    return figures if len({str(each) for each in figures.values()}) > 1 else {}


def words_of(found, stage):
    """Pattern -> [(GPU and model, Verdict)] of one stage, the shortest patterns first."""
    patterns = {}
    for label, model, stages, _ in found:
        comparison = stages[stage]
        for name, text in row_names(comparison.sparse_names() if comparison else []).items():
            patterns.setdefault(text, []).append(
                ((label, model), pattern_length(name.sparsity), verdict(comparison, name))
            )
    order = sorted(patterns, key=lambda text: (" " in text, patterns[text][0][1], text))
    return {text: {where: each for where, _, each in patterns[text]} for text in order}


def where(stage, dtype, words, figures):
    """A list with the sentence on one stage and type: on which GPUs each pattern pays, is even, loses, is unknown.

    figures: what `figures_of` gives.
    """
    groups = {}
    shown = list(words.items())[:MOST_PATTERNS]
    counted = [set(each.counted) for _, verdicts in shown for each in verdicts.values() if each.word is not UNKNOWN]
    apart = len(set(map(frozenset, counted))) > 1
    for text, verdicts in shown:
        for word in map(str, WORDS.values()):
            mine = {label: each for (label, _), each in verdicts.items() if str(each.word) == word}
            names = {
                label: say("{label} {figure}{at}", label=label, figure=figures[label], at=at(each, apart))
                if figures
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
    if found.word is PAYS:
        if not found.until:
            return f" (M≥{found.since})"
        return f" (M={found.since})" if found.until == found.since else f" (M={found.since}–{found.until})"
    return f" (M={max(found.counted)})" if apart and found.word is not UNKNOWN else ""


def on(word, names, gpus, several):
    """What patterns of one word do on which GPUs."""
    of = {"names": names, "gpus": gpus}
    if word == str(PAYS):
        return say("{names} pay on {gpus}", **of) if several else say("{names} pays on {gpus}", **of)
    if word == str(LOSES):
        return say("{names} lose on {gpus}", **of) if several else say("{names} loses on {gpus}", **of)
    return say("{names} even on {gpus}", **of) if word == str(EVEN) else say("{names} unknown on {gpus}", **of)


def table(dtype, stage, found, words):
    """The table of one type and stage: for each GPU the figure that decides, and ratio and word of each pattern."""
    shown = list(words)[:MOST_PATTERNS]
    heads = (f"{dtype} {stage}", say("model"), say("measured by"), say("figure"), say("over"), *shown)
    costs = stage == "prefill" and any(cost[1] != NONE for *_, (_, cost) in found)
    heads += (say("memory, energy"),) if costs else ()
    rows = [
        [
            label,
            model,
            ways[stage, model, dtype],
            FIGURES[stages[stage].metric],
            ", ".join(sorted({base.backend for base in stages[stage].bases.values()})),
            *(cell(words[text].get((label, model))) for text in shown),
            *([f"{cost[0]}: {cost[1]}, {cost[2]}" if cost[1] != NONE else NONE] if costs else []),
        ]
        for label, model, stages, (ways, cost) in found
        if stages[stage]
    ]
    return Table(f"answer_{dtype}_{stage}", heads, rows, "l" * len(heads))


def cell(found):
    """Median ratio and word of one pattern; a dash if it was not measured."""
    if found is None:
        return NONE
    if not found.counted:
        return say("unknown, none counts")
    middle = fixed(median([each.value for each in found.counted.values()]), 2)
    marks = ACROSS * any(each.across for each in found.counted.values()) + HOST * bool(found.left)
    return say("{ratio} {word}", ratio=f"{middle}{marks}", word=found.said)
