"""The sentences of the first screen on engines of a stage and type, on kernels, and on stock vLLM."""

from slidesparse.report.document.model import joined, say
from slidesparse.report.sections import answer_clock, losses
from slidesparse.report.sections.answer_known import of_products, of_shapes
from slidesparse.report.sections.quantities import EVEN, SLOWER, UNKNOWN, of_layers
from slidesparse.report.sections.verdict import (
    COSTS,
    FIGURES,
    NO_INTERVAL,
    NONE_COUNTS,
    ORDER,
    PAYS,
    STAGES,
    TOO_WIDE,
    TWO_GPUS,
    alike,
    costs_more,
    deciding,
    fastest_over_stock,
    lacking_where_counted,
    over_stock,
    reasons_of,
    row_names,
    span,
    spanned,
    verdict,
)
from slidesparse.report.sources.rows import pattern_length, spell


def verdicts(source, comparisons, label):
    """Sentences on all types of a stage, stage by stage, then on kernels. label: type -> its name."""
    sentences = [s for stage in STAGES for each in label for s in of_engines(comparisons, stage, *each, label[each])]
    return [*sentences, *of_kernels(source, comparisons, label), *of_products(source, comparisons, label)]


def of_engines(comparisons, stage, model, dtype, of):
    """A list with the sentence on prefill or decode; empty if no engine is compared."""
    comparison = deciding(comparisons, stage, model, dtype)
    if not comparison:
        return []
    said = {"stage": say(stage.capitalize()), "of": of, "figure": FIGURES[comparison.metric]}
    parts, clock = [summed_up(comparison)], answer_clock.beside(comparisons, comparison)
    late = [each for name in (clock.sparse_names() if clock else ()) for each in answer_clock.by_clock(clock, name)]
    parts += [answer_clock.in_one(late)] if late else []
    return [say("{stage} {of}, {figure}: {parts}.", **said, parts=joined(parts))]


def summed_up(comparison):
    """What a sentence says of all patterns of a comparison: groups of those with one word, and what is left out."""
    names = row_names(comparison.patterns())
    found = {name: verdict(comparison, name) for name in names}
    lost = {name: found.pop(name) for name in names if name not in comparison.sparse_names()}
    groups = {}
    for name, each in found.items():
        about = (each.since, each.until) if each.word in (PAYS, COSTS) else (0, None)
        why = each.unsure if each.word is UNKNOWN else each.doubt
        groups.setdefault((str(each.word), *about, why), []).append(name)
    parts = []
    for word in map(str, ORDER):
        for (other, since, until, _), members in sorted(groups.items(), key=lambda item: item[0][1]):
            if other == word:
                parts.append(group(word, since, until, {names[name]: found[name] for name in members}))
    parts += [
        say("{names} unknown, without any ratio ({why})", names=", ".join(mine), why=why)
        for why, mine in alike({names[name]: reasons_of(each.absent) for name, each in lost.items()})
    ]
    out = {name: {M: why for why, Ms in each.left.values() for M in Ms} for name, each in found.items()}
    for why, places in together(out):
        ratios = [comparison.ratios[name, M] for each, Ms in places for name in each for M in Ms]
        of = {"where": where(places, names), "why": why, "span": spanned(ratios)}
        parts.append(say("left out {where} ({why}): {span} there", **of))
    for why, places in together({name: each.absent for name, each in found.items()}):
        parts.append(say("no ratio of {where} ({why})", where=where(places, names), why=why))
    for name, Ms, why in lacking_where_counted(comparison):
        of = {"names": name, "Ms": Ms, "why": why}
        parts.append(say("without {names}, which has no figure that counts at M={Ms} ({why})", **of))
    return joined(parts)


def together(found):
    """[(why, [(names, M)])], with the names together that have the same M for one reason. found: name -> M -> why."""
    groups = {}
    for name, reasons in found.items():
        Ms = {}
        for M, why in sorted(reasons.items()):
            Ms.setdefault(str(why), (why, []))[1].append(M)
        for text, (why, mine) in Ms.items():
            groups.setdefault(text, (why, {}))[1].setdefault(tuple(mine), []).append(name)
    return [(why, [(names, Ms) for Ms, names in places.items()]) for why, places in groups.values()]


def where(places, names):
    """A text on patterns and M: `2:4, 2:6 at M=512, 2:8 at M=1024`. places: what `together` gives."""
    parts = [
        say("{names} at M={Ms}", names=", ".join(names[each] for each in mine), Ms=", ".join(map(str, Ms)))
        for mine, Ms in places
    ]
    return joined(parts, ", ")


def group(word, since, until, members):
    """What is said of patterns that have one word. members: name -> Verdict. since, until: the M at which they pay.

    since: 0 for words that say nothing of it.
    """
    several, names = len(members) > 1, ", ".join(members)
    if word == str(UNKNOWN):
        return not_known({name: [each] for name, each in members.items()})
    verdicts = [*members.values()]
    found = [each.counted.values() if since == 0 else each.ratios for each in verdicts]
    said = {"names": names, "span": spanned(ratio for each in found for ratio in each)}
    if word == str(COSTS):
        return costs_more(names, several, verdicts, said["span"], since)
    if word == str(PAYS):
        said["since"] = since
        if verdicts[0].loss:
            said["span"] = losses.at_a_cost(said["span"], [each.loss for each in verdicts])
        if until:
            of = {"pay": say("pay") if several else PAYS, "until": until}
            if since == until:
                return say("{names} {pay} at M={since}, {span}; larger M do not count", pay=of["pay"], **said)
            return say("{names} {pay} from M={since} to {until}, {span}; larger M do not count", **of, **said)
        if several:
            return say("{names} pay from M={since} on, {span}", **said)
        return say("{names} pays from M={since} on, {span}", **said)
    if word == str(EVEN):
        return say("{names} even at the largest M that counts, over all of them {span}", **said)
    ratios = [each.verdict for member in verdicts for each in member.counted.values()]
    said |= {"n": ratios.count(SLOWER), "all": len(ratios)}
    if several:
        return say("{names} lose, {span} (slower in {n} of {all} ratios)", **said)
    return say("{names} loses, {span} (slower in {n} of {all} ratios)", **said)


def not_known(members):
    """What is said of patterns of which nothing is known for one reason. members: name -> its Verdicts."""
    why = next(iter(members.values()))[0].unsure
    if why is NONE_COUNTS:
        return say("{each} unknown, because no ratio counts", each=", ".join(members))
    spans = {name: spanned(r for each in found for r in each.counted.values()) for name, found in members.items()}
    each = joined([say("{name} {span}", name=name, span=text) for name, text in spans.items()], ", ")
    if why is TWO_GPUS:
        return say(
            "no verdict, because two GPUs measured the sides at the largest M that counts, over all of them {each}",
            each=each,
        )
    if why is TOO_WIDE:
        return say(
            "no verdict, because the interval at the largest M that counts holds 1 and is too wide for even, over all"
            " of them {each}",
            each=each,
        )
    if why is NO_INTERVAL:
        return say("no verdict without intervals: {each}", each=each)
    return say(
        "no verdict, because the ratio at the largest M that counts has no interval, over all of them {each}", each=each
    )


def of_kernels(source, comparisons, label):
    """A list with the sentence on kernels of the shortest pattern: products, whole linears, and linears of our engine.

    Whole linears quantise, lift and scale by themselves. In our engine neighbours do part of that for sparse ones.
    """
    kinds = (
        ("best_dense", say("products")),
        ("linear", say("whole linears")),
        ("folded", say("linears as our engine runs them")),
    )
    parts = []
    for kind, what in kinds:
        spans = []
        for (shape, dtype), of in of_shapes(source, label).items():
            name, values, n = in_turn(source, comparisons, shape, dtype, kind)
            if values:
                said = {"name": spell(name.sparsity), "of": of, "span": span(values), "n": len(values), "all": n}
                spans.append(
                    say("{name} {of} {span}", **said)
                    if len(values) == n
                    else say("{name} {of} {span} ({n} of {all} M)", **said)
                )
        if spans:
            parts.append(say("{what} {spans}", what=what, spans=joined(spans, ", ")))
    return [say("Linears alone, in turn with dense ones: {parts}.", parts=joined(parts))] if parts else []


def in_turn(source, comparisons, shape, dtype, kind):
    """(the configuration with the shortest pattern, its ratios in turn that count, number of all), or (None, [], 0)."""
    measured = "linear" if kind == "folded" else kind
    of_kind = ("kernel", shape, dtype, measured)
    turns = [c for c in comparisons if (c.stage, c.model, c.dtype, c.kind) == of_kind and c.in_turn]
    name = min((n for c in turns for n in c.sparse_names()), key=lambda n: pattern_length(n.sparsity), default=None)
    if not name:
        return None, [], 0
    counted, n = turns[0].counted(name), len(turns[0].of(name).keys() | turns[0].Ms)
    if kind != "folded":
        return name, [each.value for each in counted.values()], n
    folded = of_layers(source, shape, dtype, "linear_folded_us")
    return name, [turns[0].sides[name, M][1] / folded[name, M].value for M in counted if (name, M) in folded], n


def of_stock(comparisons, label):
    """A list with the sentence on our fastest dense engine over stock vLLM; empty if stock vLLM was not measured."""
    parts = []
    for stage in STAGES:
        spans = {}
        for each, of in label.items():
            best, comparison = fastest_over_stock(comparisons, stage, *each), over_stock(comparisons, stage, *each)
            if best:
                n = len({M for name, M in comparison.ratios if name.sparsity == "dense"} | {*comparison.Ms})
                said = {"of": of, "span": spanned(best.values()), "n": len(best), "all": n}
                text = say("{of} {span}", **said) if len(best) == n else say("{of} {span} ({n} of {all} M)", **said)
                if absent := sorted(
                    {name for (_, M), each in comparison.lacking.items() if M in best for name in each}
                ):
                    text = say("{found}, at some M without {names}", found=text, names=", ".join(absent))
                spans.setdefault(comparison.metric, []).append(text)
        for metric, said in spans.items():
            of = {"stage": say(stage), "figure": FIGURES[metric]}
            parts.append(say("{stage}, {figure}, {spans}", spans=joined(said, ", "), **of))
    if not parts:
        return []
    return [say("Without sparsity, the fastest dense engine over stock vLLM: {parts}.", parts=joined(parts))]
