"""The picture of speed beside quality: what each pattern gains over dense, against what its checkpoint loses.

Both are of one model and type, and the speed is at the largest M that counts, as in a verdict. A mark is on the
frontier if no other is at least as fast at no more cost, by their values. Dense is a mark, too.
"""

from typing import NamedTuple

from slidesparse.plan.key import Configuration
from slidesparse.report.document.drawing import short
from slidesparse.report.document.model import Figure, Table, fixed, joined, number, say
from slidesparse.report.sections.figures import look
from slidesparse.report.sections.losses import Loss
from slidesparse.report.sections.quantities import Quantity
from slidesparse.report.sections.verdict import STAGES, deciding, row_names

X = "% more bits per byte than dense"
DENSE = (0.0, 1.0)
"""Cost and speed-up of dense over itself."""


class Mark(NamedTuple):
    """A pattern in the picture. M: the largest at which its speed-up counts."""

    name: Configuration
    text: str
    M: int
    speed: Quantity
    loss: Loss

    @property
    def place(self):
        """Its cost in percent, and its speed-up."""
        return self.loss.percent, self.speed.value


def marks_of(comparison):
    """The Marks of a comparison, and {name: why it has none} of other patterns."""
    marks, without = [], {}
    for name, text in row_names(comparison.sparse_names()).items():
        counted, loss = comparison.sparse_counted(name), comparison.losses.get(name.sparsity)
        if loss and counted:
            marks.append(Mark(name, text, max(counted), counted[max(counted)], loss))
        else:
            without[text] = say("no ratio counts") if loss else say("not scored")
    return marks, without


def frontier(places):
    """Of (cost, gain) those that no other beats, the least cost first; those of dense are among the places."""
    kept = []
    for cost, gain in sorted({*places, DENSE}, key=lambda place: (place[0], -place[1])):
        if not kept or gain > kept[-1][1]:
            kept.append((cost, gain))
    return kept


def panel(comparison, marks):
    """The panel of one comparison, as input of document.tradeoff."""
    names = [mark.name for mark in marks]
    Ms = {mark.M for mark in marks}
    return {
        "kind": "tradeoff",
        "title": f"{comparison.stage} {comparison.dtype}" + (f", M={short(Ms.pop())}" if len(Ms) == 1 else ""),
        "x": X,
        "y": comparison.axis,
        "dense": "dense",
        "marks": [
            {
                "label": mark.text,
                "style": look(mark.name, names),
                "x": mark.loss.percent,
                "y": mark.speed.value,
                "x_band": band(mark.loss.low, mark.loss.high),
                "y_band": band(mark.speed.low, mark.speed.high),
            }
            for mark in marks
        ],
        "frontier": frontier([mark.place for mark in marks]),
        "limit": marks[0].loss.limit,
        "acceptable": "acceptable",
        "flat": True,
        "one": True,
    }


def band(low, high):
    """The ends of an interval, or None if it is not known."""
    return None if low is None or high is None else [low, high]


def rows_of(comparison, marks):
    """Rows of the table behind a panel."""
    best = frontier([mark.place for mark in marks])
    return [
        (
            comparison.stage,
            comparison.dtype,
            mark.text,
            number(str(mark.M), mark.M),
            *(fixed(each, 3) for each in (mark.speed.value, mark.speed.low, mark.speed.high)),
            *(fixed(each, 3) for each in (mark.loss.percent, mark.loss.low, mark.loss.high)),
            "yes" if mark.place in best else "",
        )
        for mark in marks
    ]


HEADS = ("stage", "dtype", "pattern", "M", "speed-up", "speed-up, low", "speed-up, high")
HEADS += ("more bits, %", "more bits, low", "more bits, high", "on the frontier")


def figure(comparisons, name):
    """The Figure of comparisons of one model, a panel for each; None if no pattern has both speed and quality."""
    drawn = [(one, *marks_of(one)) for one in comparisons]
    drawn = [(one, marks, without) for one, marks, without in drawn if marks]
    if not drawn:
        return None
    panels = [panel(one, marks) for one, marks, _ in drawn]
    rows = [row for one, marks, _ in drawn for row in rows_of(one, marks)]
    caption = say(
        "{model}: speed-up over the fastest dense engine, at the largest M that counts, against what the pattern costs"
        " {model}: percent more bits per byte than dense. Up and left is better. Bars: intervals, where known. Dashed:"
        " the frontier, which no other mark beats in both. Dotted: acceptable, {limit} %.",
        model=drawn[0][0].model,
        limit=f"{panels[0]['limit']:g}",
    )
    lacking = {f"{one.stage} {one.dtype} {text}": why for one, _, without in drawn for text, why in without.items()}
    if lacking:
        names = joined([say("{names} ({why})", names=text, why=why) for text, why in lacking.items()], ", ")
        caption = say("{caption} Not drawn: {names}.", caption=caption, names=names)
    return Figure(name, caption, panels, Table(name, HEADS, rows, "lll"))


def pictures(comparisons, prefix):
    """The Figures of all models that were scored and timed, each with all stages and types."""
    models = {}
    for one in comparisons:
        if one.losses:
            models.setdefault(one.model, {})[one.dtype] = None
    found = [of_model(comparisons, model, dtypes, f"{prefix}_{model}_quality") for model, dtypes in models.items()]
    return [each for each in found if each]


def of_model(comparisons, model, dtypes, name, stages=tuple(STAGES)):
    """`figure` of the comparisons that decide for a model at stages and types."""
    found = [deciding(comparisons, stage, model, dtype) for stage in stages for dtype in dtypes]
    return figure([one for one in found if one], name)
