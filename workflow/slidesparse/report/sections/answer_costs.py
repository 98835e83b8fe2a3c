"""What patterns cost on the first screen: memory of weights, energy of a token, accuracy."""

from slidesparse.report.document.model import NONE, joined, say
from slidesparse.report.sections import quality
from slidesparse.report.sections.answer_table import costs_over_dense, largest
from slidesparse.report.sections.verdict import deciding, row_names


def of_costs(source, comparisons, label):
    """A list with the paragraph on what the shortest pattern of each backend costs. label: type -> its name.

    Energy in decode stands there where it is above that of the dense engine.
    """
    parts, more = [], []
    for (model, dtype), of in label.items():
        comparison = deciding(comparisons, "prefill", model, dtype)
        names = row_names(comparison.sparse_names() if comparison else [])
        firsts = dict.fromkeys(name.backend for name in names)
        for name in [next(each for each in names if each.backend == backend) for backend in firsts]:
            memory, energy, place = costs_over_dense(source, comparison, name)
            if memory:
                known = {"name": names[name], "of": of, "memory": memory, "energy": energy}
                both = say("{name} {of} × {memory} and × {energy}", **known)
                cost = both if energy != NONE else say("{name} {of} × {memory}, energy unknown", **known)
                parts.append(placed(cost, source, comparison, place, energy))
            late = deciding(comparisons, "decode", model, dtype)
            _, energy, place = costs_over_dense(source, late, name) if late else (None, NONE, None)
            if energy != NONE and float(energy.split()[0]) > 1:
                cost = say("{name} {of} × {energy}", name=names[name], of=of, energy=energy)
                more.append(placed(cost, source, late, place, energy))
    if not parts:
        return []
    at, said = of_one_M(parts)
    said = joined(said)
    if more:
        late, above = of_one_M(more)
        above = say("decode energy above dense{at}: {parts}", at=late, parts=joined(above, ", "))
        said = joined([said, above])
    cost = say("Memory and prefill energy over dense{at}: {parts}.", at=at, parts=said)
    return [joined([cost, quality.sentence(source, label)], " ")]


def placed(cost, source, comparison, place, energy):
    """(a text on costs, the M of its energy): the M is None if there is no energy, or the text says it."""
    if place:
        return say("{cost} (M={M}, over {base})", cost=cost, M=place[0], base=place[1]), None
    return cost, None if energy == NONE else largest(source, comparison.stage, comparison.model, comparison.dtype)


def of_one_M(found):
    """(the M of all texts as text, or nothing, the texts with their M if it is not one). found: [(text, M or None)]."""
    Ms = {M for _, M in found} - {None}
    if len(Ms) == 1:
        return say(" (M={M})", M=Ms.pop()), [text for text, _ in found]
    return "", [say("{cost} (M={M})", cost=text, M=M) if M else text for text, M in found]


def named(memory, energy):
    """Both costs over dense with their names. energy: may be a dash."""
    if energy == NONE:
        return say("memory × {memory}, energy unknown", memory=memory)
    return say("memory × {memory}, energy × {energy}", memory=memory, energy=energy)
