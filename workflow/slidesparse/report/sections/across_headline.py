"""The first sentence of the comparison: on which GPUs the shortest pattern does what."""

from slidesparse.report.document.model import joined, say
from slidesparse.report.sections import answer_clock
from slidesparse.report.sections.quantities import EVEN, UNKNOWN
from slidesparse.report.sections.verdict import COSTS, LOSES, ORDER, PAYS, STAGES
from slidesparse.report.sources.rows import pattern_length


def in_short(seen):
    """A list with the answer in one sentence: on which GPUs the shortest pattern does what, in all types.

    seen: (type, what `words_of`, `late_of` and `metrics_of` give by stage). Where not all types of a GPU have the
    pattern, those that do are named; so are backends that rows name, and the figure, where GPUs are judged by several.
    """
    parts = []
    for stage in STAGES:
        text = min((text for _, words, *_ in seen for text in words[stage]), key=row_order, default=None)
        if not text:
            continue
        found, types, groups, clocks, figures, backends = {}, {}, {}, {}, {}, {}
        for dtype, words, late, by in seen:
            for label, figure in by[stage].items():
                figures.setdefault(label, {})[str(figure)] = figure
            for label in {label for verdicts in words[stage].values() for label, _ in verdicts}:
                types.setdefault(label, set()).add(dtype)
            for label, (name, each) in of_any_backend(words[stage], text).items():
                found.setdefault(label, {})[dtype] = each
                backends.setdefault(label, {}).update(dict.fromkeys(filter(None, [name.partition(" ")[2]])))
                clocks.setdefault(label, []).extend(late[stage].get((label, name), ()))
        several = len({text for each in figures.values() for text in each}) > 1
        for label, said in found.items():
            words = {str(each.word) for each in said.values()}
            more = [*([] if said.keys() == types[label] else said), *backends[label]]
            if len(words) == 1 and str(UNKNOWN) not in words:
                more += [*figures[label].values()] if several else []
                more += reach(said.values())
            shown = say("{label} ({how})", label=label, how=joined(more, ", ")) if more else label
            groups.setdefault(words.pop() if len(words) == 1 else "", []).append(shown)
        groups = {word: joined(gpus, ", ") for word, gpus in groups.items()}
        each = [on(word, text, groups[word], False) for word in map(str, ORDER) if word in groups]
        if without := ", ".join(label for label in types if label not in found):
            each.append(say("{names} neither measured nor planned on {gpus}", names=text, gpus=without))
        if "" in groups:
            each.append(say("{names} differs between types on {gpus}", names=text, gpus=groups[""]))
        each += [on_clock(label, ratios) for label, ratios in clocks.items() if ratios]
        parts.append(say("{stage}: {found}.", stage=say(stage.capitalize()), found=joined(each)))
    return [joined(parts, " ")] if parts else []


def of_any_backend(words, text):
    """Label -> (name of a row, Verdict): of one pattern the row `text`, or else that of another backend.

    words: what `words_of` gives.
    """
    same, found = [name for name in words if name.partition(" ")[0] == text.partition(" ")[0]], {}
    for name in sorted(same, key=lambda name: (name != text, row_order(name))):
        for (label, _), each in words[name].items():
            found.setdefault(label, (name, each))
    return found


def reach(verdicts):
    """A list with a text on the M of Verdicts of one word, those of all types; empty if it needs none.

    For one that is faster the M from which on all say so; else the largest that counts, if larger ones do not.
    """
    ends = [each.until for each in verdicts if each.until]
    if not all(each.word in (PAYS, COSTS) for each in verdicts):
        return [f"M={', '.join(map(str, sorted(set(ends))))}"] if ends else []
    first, last = max(each.since for each in verdicts), min(ends, default=None)
    if last is None:
        return [f"M≥{first}"]
    return [f"M={first}" if first == last else f"M={first}–{last}"] if first <= last else []


def on_clock(label, ratios):
    """What the clock says of one pattern's decode steps on a GPU where GPU time decides."""
    return say("on {gpu} {said}", gpu=label, said=answer_clock.in_one(ratios))


def row_order(text):
    """Sort key of a row's name, `2:4` or `2:4 auto`: those of the usual backend first, the shortest patterns first."""
    pattern = text.partition(" ")[0]
    return " " in text, pattern_length(pattern.replace(":", "_").replace("∞", "inf")), text


def on(word, names, gpus, several):
    """What patterns of one word do on which GPUs."""
    of = {"names": names, "gpus": gpus}
    if word == str(PAYS):
        return say("{names} pay on {gpus}", **of) if several else say("{names} pays on {gpus}", **of)
    if word == str(COSTS) and several:
        return say("{names} cost more than they gain on {gpus}", **of)
    if word == str(COSTS):
        return say("{names} costs more than it gains on {gpus}", **of)
    if word == str(LOSES):
        return say("{names} lose on {gpus}", **of) if several else say("{names} loses on {gpus}", **of)
    return say("{names} even on {gpus}", **of) if word == str(EVEN) else say("{names} unknown on {gpus}", **of)
