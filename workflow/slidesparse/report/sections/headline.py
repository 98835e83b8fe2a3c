"""The answer in one sentence: for each stage, what each pattern does."""

from slidesparse.report.document.model import joined, say
from slidesparse.report.sections import answer_clock, losses
from slidesparse.report.sections.findings import not_known
from slidesparse.report.sections.quantities import EVEN, UNKNOWN
from slidesparse.report.sections.verdict import (
    COSTS,
    FIGURES,
    NONE_COUNTS,
    ORDER,
    PAYS,
    STAGES,
    costs_more,
    deciding,
    lacking_where_counted,
    row_names,
    spanned,
    verdict,
)

SHOWN = 4
"""Most patterns that are named if nothing is known of any."""


def in_short(comparisons, label, several=False):
    """A list with the answer in one sentence: for each stage, what each pattern does; empty without engines.

    several: whether there are more types than those of `label`.
    """
    parts = []
    for stage in STAGES:
        chosen = {of: deciding(comparisons, stage, *each) for each, of in label.items()}
        for metric in dict.fromkeys(each.metric for each in chosen.values() if each):
            words, types = {}, [of for of, each in chosen.items() if each and each.metric == metric]
            for of in types:
                for name, text in row_names(chosen[of].patterns()).items():
                    words.setdefault(text, {})[of] = verdict(chosen[of], name)
            late = answer_clock.in_short([answer_clock.beside(comparisons, chosen[of]) for of in types])
            found = no_verdict(words, 1 if late else SHOWN) if all_unknown(words) else short(words, len(label))
            of = {"stage": say(stage.capitalize()), "figure": FIGURES[metric], "found": joined([*found, *late])}
            if several or (all_unknown(words) and len(types) < len(label)):
                parts.append(say("{stage} {types}, {figure}: {found}.", types=", ".join(types), **of))
            else:
                parts.append(say("{stage}, {figure}: {found}.", **of))
            parts += without([chosen[of] for of in types], label)
    return [joined(parts, " ")] if parts else []


def without(comparisons, label):
    """A list with a sentence on dense engines that lack a figure where ratios count; empty if none does."""
    parts = []
    for comparison in comparisons:
        of = label[comparison.model, comparison.dtype]
        parts += [
            say("{name} {of} at M={Ms} ({why})", name=name, of=of, Ms=Ms, why=why)
            for name, Ms, why in lacking_where_counted(comparison)
        ]
    text = say("Dense engines without a figure that counts, which may be faster: {parts}.", parts=joined(parts))
    return [text] if parts else []


def all_unknown(words):
    """Whether nothing is known of any pattern."""
    return all(each.word is UNKNOWN for found in words.values() for each in found.values())


def no_verdict(words, most):
    """A list with what is said if nothing is known of any pattern. words: pattern -> type -> Verdict.

    most: how many patterns are named, the shortest first.
    """
    found = {text: [*words[text].values()] for text in answer_clock.usual(words)[:most]}
    whys = {each.unsure for verdicts in found.values() for each in verdicts}
    return [say("no verdict")] if len(whys) > 1 or NONE_COUNTS in whys else [not_known(found)]


def short(words, types):
    """What patterns do, those together that do the same. words: pattern -> type -> Verdict. types: how many there are.

    Types are named unless a pattern does the same in all of them.
    """
    groups = {}
    for text, found in words.items():
        by_word = {}
        for of, each in found.items():
            by_word.setdefault(reach(each), []).append(of)
        for ends, same in by_word.items():
            groups.setdefault((*ends, "" if len(same) == types else ", ".join(same)), []).append(text)
    parts = []
    for word in map(str, ORDER):
        for (*ends, named), patterns in groups.items():
            if ends[0] == word:
                every = [each for text in patterns for each in words[text].values()]
                members = [each for each in every if reach(each) == tuple(ends)]
                names = say("{patterns} with {types}", patterns=", ".join(patterns), types=named) if named else None
                parts.append(in_words(word, names or ", ".join(patterns), members, len(patterns) > 1))
    return parts


def reach(found):
    """What must be equal of Verdicts that one sentence is about: word, limit, largest M that counts, doubt."""
    return str(found.word), found.until, max(found.counted, default=0), found.doubt


def in_words(word, names, members, several):
    """What patterns of one word do, in words.

    members: their Verdicts, which have one `until`. several: whether they are more than one.
    """
    if word in (str(PAYS), str(COSTS)):
        first, *others = sorted({each.since for each in members})
        last = others[-1] if others else first
        ratios = [ratio for each in members for M, ratio in each.counted.items() if last <= M]
        early = [ratio for each in members for M, ratio in each.counted.items() if each.since <= M < last]
        times = say("{span} times as fast", span=spanned(ratios))
        if early:
            of = {"first": first, "early": spanned(early), "last": last}
            times = say("{times} (some from M={first} on, {early} below {last})", times=times, **of)
        if word == str(COSTS):
            return costs_more(names, several, members, times, last)
        if members[0].loss:
            times = losses.at_a_cost(times, [each.loss for each in members])
        of = {"names": names, "since": last, "times": times}
        pay = say("pay") if several else PAYS
        if (until := members[0].until) and first == until:
            return say("{names} {pay} at M={since}, {times}; larger M do not count", pay=pay, **of)
        if until:
            return say(
                "{names} {pay} from M={since} to {until}, {times}; larger M do not count",
                pay=pay,
                until=until,
                **of,
            )
        if several:
            return say("{names} pay, from M={since} on, {times}", **of)
        return say("{names} pays, from M={since} on, {times}", **of)
    if word == str(UNKNOWN):
        return say("{names} unknown", names=names)
    of = {"names": names, "until": members[0].until}
    if word == str(EVEN):
        said = say("{names} even at M={until}, the largest that counts", **of)
        return said if of["until"] else say("{names} even", names=names)
    if of["until"] and several:
        return say("{names} lose at M={until}, the largest that counts", **of)
    if of["until"]:
        return say("{names} loses at M={until}, the largest that counts", **of)
    return say("{names} lose", names=names) if several else say("{names} loses", names=names)
