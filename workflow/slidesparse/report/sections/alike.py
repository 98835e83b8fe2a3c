"""What is said of GPUs side by side whose figures are not alike: other shapes, other ways to measure them."""

from statistics import geometric_mean

from slidesparse.report.document.model import fixed, joined, say
from slidesparse.report.sections.outputs import unlike_outputs
from slidesparse.report.sections.quantities import ACROSS
from slidesparse.report.sources.rows import configuration_order
from slidesparse.report.sources.shapes import differ


def shared(summaries, attribute):
    """Keys of an attribute's dictionaries, in the order of stages, model and dtype."""
    order = ("prefill", "decode", "kernel")
    keys = dict.fromkeys(key for item in summaries for key in getattr(item, attribute))
    return sorted(keys, key=lambda key: (order.index(key[0]), *configuration_order((*key[-2:], "", "")), key[1:-2]))


def protocols_of(summaries, labels, key, name, Ms):
    """label -> M -> how both sides of a configuration's ratio were measured."""
    return {
        label: {M: item.protocols[key][name, M] for M in Ms if (name, M) in item.protocols[key]}
        for item, label in zip(summaries, labels, strict=True)
        if key in item.protocols
    }


def other_shapes(summaries, labels, stage, model, dtype, having):
    """A list with a sentence, if kernels of GPUs have other shapes under one model's name, or are sums of other numbers
    of linears. having: labels compared.
    """
    there = [(item, label) for item, label in zip(summaries, labels, strict=True) if label in having]
    known = [(item.shapes[model], label) for item, label in there if item.shapes.get(model)]
    of = {"stage": stage, "model": model, "dtype": dtype}
    if odd := [label for found, label in known if differ(known[0][0], found)]:
        return [
            say(
                "{stage} {model} {dtype}: {first} and {others} have linears of other shapes, so they are not compared.",
                first=known[0][1],
                others=", ".join(odd),
                **of,
            )
        ]
    numbers = {label: item.linears[model] for item, label in there if item.linears.get(model)}
    if stage == "kernel" and len(set(numbers.values())) > 1:
        each = ", ".join(f"{label} {n}" for label, n in numbers.items())
        return [
            say(
                "{stage} {model} {dtype}: a layer has other numbers of linears ({each}), so its sums are not compared.",
                each=each,
                **of,
            )
        ]
    return []


def unlike(summaries, labels, key, having):
    """Sentences, if ratios of one configuration and M were measured in unlike ways on two GPUs, or on both sides.

    having: (Comparison, label) shown.
    """
    cells, found = {}, {}
    for item, label in zip(summaries, labels, strict=True):
        if label in [shown for _, shown in having]:
            for place, texts in item.protocols[key].items():
                cells.setdefault(place, {})[label] = texts
    for ways in cells.values():
        found |= {str(text): text for text in apart(ways).values() if text}
    outputs = [
        say("{label}: {found}", label=label, found=each) for one, label in having for each in unlike_outputs(one)
    ]
    if not found:
        return outputs
    return [
        *outputs,
        say("Measured in unlike ways: {protocols}.", protocols=joined([found[text] for text in sorted(found)])),
    ]


def apart(ways):
    """label -> what of its way to measure the others do not have, as a text, "—" for nothing; "" if all are alike.

    ways: label -> texts.
    """
    every = [set(map(str, texts)) for texts in ways.values()]
    if all(each == every[0] for each in every):
        return dict.fromkeys(ways, "")
    common = set.intersection(*every)
    own = {label: [text for text in texts if str(text) not in common] for label, texts in ways.items()}
    return {label: joined(texts, ", ") if texts else "—" for label, texts in own.items()}


def unlike_settings(found):
    """label -> texts on the properties in which those that know them differ; empty if there are none.

    found: label -> property -> texts.
    """
    ways = {}
    for each in found.values():
        for name, texts in each.items():
            ways.setdefault(name, set()).add(tuple(map(str, texts)))
    odd = [name for name in sorted(ways) if len(ways[name]) > 1]
    texts = {label: [text for name in odd for text in each.get(name, ())] for label, each in found.items()}
    return texts if odd else {}


def unlike_requests(found):
    """label -> texts on the tokens of a request, of the M at which GPUs differ in them; empty if they never do.

    They name these M, if they are not all of the GPU's. found: label -> M -> tokens of its requests, as texts.
    """
    asked = {}
    for each in found.values():
        for M, tokens in each.items():
            asked.setdefault(M, set()).add(frozenset(tokens))
    odd = [M for M, kinds in asked.items() if len(kinds) > 1]
    texts = {}
    for label, each in found.items():
        asked = {M: [say("{n} tokens a request", n=n) for n in sorted(each[M])] for M in sorted(odd) if M in each}
        texts[label] = at_their_M(asked, each)
    return texts


def at_their_M(texts, Ms):
    """Texts without repeats, each with its M where these are not all. texts: M -> texts. Ms: all M."""
    found = {}
    for M, each in texts.items():
        for text in each:
            found.setdefault(str(text), (text, []))[1].append(M)
    every = [found[text] for text in sorted(found)]
    return [
        text if set(mine) == set(Ms) else say("{how} at M={Ms}", how=text, Ms=", ".join(map(str, mine)))
        for text, mine in every
    ]


def settings_of(summaries, labels):
    """A list with a sentence on GPUs whose versions or power limits differ; empty if all that are known are alike."""
    found = {}
    for item, label in zip(summaries, labels, strict=True):
        for each in item.settings.values():
            for name, texts in each.items():
                found.setdefault(label, {}).setdefault(name, {}).update({str(text): text for text in texts})
    found = {label: {name: [*texts.values()] for name, texts in each.items()} for label, each in found.items()}
    parts = [label_and(label, texts) for label, texts in unlike_settings(found).items() if texts]
    return [say("Measured with unlike versions or power limits: {parts}.", parts=joined(parts))] if parts else []


def label_and(label, texts):
    """A GPU's label, and texts on it."""
    return say("{label} {how}", label=label, how=joined(texts, ", "))


def beyond(counted, Ms):
    """A text on the M that count on some of the GPUs only, and are left out therefore; empty if there are none.

    counted: label -> {M: …}. Ms: those of all.
    """
    left = {label: ", ".join(map(str, sorted(set(found) - set(Ms)))) for label, found in counted.items()}
    parts = [say("{label} M={Ms}", label=label, Ms=found) for label, found in left.items() if found]
    return say("; not on all, so left out: {parts}", parts=joined(parts, ", ")) if parts else ""


def means(Ms, counted, protocols, odd):
    """Geometric means over M, largest first, with ways to measure if they differ, and ⇄ if two GPUs measured one.

    counted: label -> M -> ratio. odd: whether outputs of a ratio's sides differ, which is then said of each.
    """
    ranked = sorted(counted, key=lambda label: -geometric_mean([counted[label][M].value for M in Ms]))
    ways = {M: {label: protocols[label].get(M, ()) for label in counted} for M in Ms}
    found = {M: apart(each) for M, each in ways.items()}
    if odd and not any(any(each.values()) for each in found.values()):
        found = {M: {label: joined(each[label], ", ") for label in each} for M, each in ways.items()}
    parts = []
    for label in ranked:
        mean = geometric_mean([counted[label][M].value for M in Ms])
        mark = ACROSS * any(counted[label][M].across for M in Ms)
        texts = at_their_M({M: [each[label]] for M, each in found.items() if each[label]}, Ms)
        said = {"label": label, "mean": f"{fixed(mean, 2)}{mark}"}
        how = joined(texts)
        parts.append(say("{label} {mean} ({how})", how=how, **said) if texts else say("{label} {mean}", **said))
    return joined(parts, ", ")
