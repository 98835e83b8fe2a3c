"""What a pattern costs in quality: how many more bits per byte of the text it needs than dense, and whether too many.

The largest acceptable cost is a choice, `quality.acceptable` of the configuration. It stands in the plan of a run.
"""

from typing import NamedTuple

from slidesparse.plan import prompts
from slidesparse.points.plan import Plan
from slidesparse.report.document.model import fixed, joined, number, say
from slidesparse.report.sources.rows import pattern_length, spell

WORDS = say(
    "At a cost of: by how much. Costs more than it gains: faster, and the whole interval of the cost lies above what is"
    " acceptable. Perhaps too much: that interval holds the limit."
)

ACCEPTABLE, TOO_MUCH, UNDECIDED = say("acceptable"), say("too much"), say("undecided")


class Loss(NamedTuple):
    """Percent of bits per byte that a pattern's checkpoint needs more than the dense one of its model and type.

    low, high: ends of the interval, of the extra bits over the bits of dense; None if not known. limit: the largest
    acceptable percent.
    """

    percent: float
    low: float | None
    high: float | None
    limit: float

    @property
    def word(self):
        """ACCEPTABLE or TOO_MUCH if the whole interval lies on that side of the limit; else UNDECIDED."""
        if self.low is None or self.high is None:
            return UNDECIDED
        return ACCEPTABLE if self.high <= self.limit else TOO_MUCH if self.low > self.limit else UNDECIDED


def scores(source, model, dtype):
    """Sparsity -> the good row of its checkpoint with the most tokens, of one model, at whatever prompt, and type."""
    of = prompts.apart(model)[0], dtype
    rows = [row for row in source.stage("quality") if row.configuration[:2] == of and row.status == "ok"]
    found = {row.configuration.sparsity: row for row in sorted(rows, key=lambda row: row.M)}
    return {sparsity: found[sparsity] for sparsity in sorted(found, key=pattern_length)}


def limit(source):
    """The largest acceptable percent, by the plan of a source, or the default."""
    return (source.plan or Plan()).acceptable


def losses(source, model, dtype):
    """Sparsity -> Loss of the patterns of one model and type that were compared with dense."""
    found = {}
    for sparsity, row in scores(source, model, dtype).items():
        dense = row.values["reference_bits_per_byte"] if row.values["reference"] == "dense" else None
        extra = [row.values.get(f"extra_bits_per_byte{end}") for end in ("", "_ci_low", "_ci_high")]
        if dense and extra[0] is not None:
            found[sparsity] = Loss(*(None if each is None else 100 * each / dense for each in extra), limit(source))
    return found


def percent(value):
    """A percentage, with a digit more below 1: `0.65 %`."""
    return number(f"{fixed(value, 1 if abs(value) >= 1 else 2)} %", value)


def cost(found):
    """A text on what any number of Losses have in common: `0.65 to 1.8 % more bits`."""
    values = [each.percent for each in found]
    low, high = percent(min(values)), percent(max(values))
    span = low if low == high else say("{low} to {high}", low=low.removesuffix(" %"), high=high)
    return say("{span} more bits", span=span)


def at_a_cost(text, found):
    """A text on what pays, with its cost. found: Losses, all ACCEPTABLE or all UNDECIDED."""
    if found[0].word is UNDECIDED:
        return say("{text}, at a cost of {cost}, perhaps too much", text=text, cost=cost(found))
    return say("{text}, at a cost of {cost}", text=text, cost=cost(found))


def judged(source, types):
    """A list with the sentence on the limit, and on which side of it patterns lie; empty if none was scored.

    types: {(model, type): its name}.
    """
    models = {}
    for model, dtype in types:
        for sparsity, loss in losses(source, model, dtype).items():
            models.setdefault(model, {}).setdefault(sparsity, {})[dtype] = loss
    parts = []
    for model, patterns in models.items():
        found = sides(patterns)
        parts.append(say("{of}: {figures}", of=model, figures=found) if len(models) > 1 else found)
    if not parts:
        return []
    return [
        say(
            "Quality: up to {limit} % more bits per byte of text than dense are acceptable (`quality.acceptable`, a"
            " choice). By the whole interval, {parts}.",
            limit=f"{limit(source):g}",
            parts=joined(parts),
        )
    ]


def sides(patterns):
    """A text on the side of the limit on which patterns lie, types together that agree.

    patterns: sparsity -> type -> Loss.
    """
    groups = {}
    for sparsity, of_types in patterns.items():
        words = {}
        for dtype, loss in of_types.items():
            words.setdefault(str(loss.word), (loss.word, {}))[1][dtype] = loss
        for text, (word, found) in words.items():
            name = " ".join([spell(sparsity), *(found if len(words) > 1 else ())])
            figure = say("{pattern} {figure}", pattern=name, figure=span([each.percent for each in found.values()]))
            groups.setdefault(text, (word, []))[1].append(figure)
    return joined(
        [say("{parts} {word}", parts=joined(figures, ", "), word=word) for word, figures in groups.values()], "; "
    )


def span(values):
    """`+0.65 to 1.8 %`, or one value."""
    low, high = signed(min(values)), percent(max(values))
    return low if low.lstrip("+") == high else say("{low} to {high}", low=low.removesuffix(" %"), high=high)


def signed(value):
    """`+0.65 %`."""
    return number(("" if value < 0 else "+") + percent(value), value)
