"""The panel of speed beside quality: marks with both intervals, their names beside them, and the frontier."""

import math
from itertools import pairwise

from slidesparse.report.document.looks import INK, NOTE, style

TICKS = (0, *(digit * 10.0**power for power in range(-3, 7) for digit in (1, 2, 5)))
"""Costs that the axis may name."""

MOST, NEAR = 7, 0.085
"""Most ticks of the axis, and the share of its length that two of them are apart at least."""

LETTER, LINE = 0.0145, 0.075
"""Width of a letter and height of a line of a name, as shares of the panel's."""

BESIDE = (6, 4)
"""Points between a mark and its name, across and up."""


def draw(axis, panel):
    """Draw the marks of a panel: the cost of each across, linear around 0 and logarithmic beyond; its gain upwards.

    panel: {"marks": [{"label", "style", "x", "y", "x_band", "y_band"}], "frontier": [(x, y)], "limit": cost, and the
    words "x", "y", "dense", "acceptable"}. A band is [low, high], or None. Dense stands at cost 0 and gain 1.
    """
    marks = [{"label": panel["dense"], "x": 0.0, "y": 1.0, "x_band": None, "y_band": None}, *panel["marks"]]
    axis.set_xscale("symlog", linthresh=_linear_below(marks), linscale=0.5)
    _set_limits(axis, marks, panel["limit"])
    axis.axhline(1, color=INK, linewidth=0.6, zorder=1.2)
    axis.axvline(panel["limit"], color=INK, linewidth=0.9, linestyle=":", zorder=1.2)
    x, y = zip(*panel["frontier"], strict=True)
    ends = [*x, axis.get_xlim()[1]], [*y, y[-1]]
    axis.plot(*ends, color=INK, linewidth=1, linestyle=(0, (5, 2)), drawstyle="steps-post", zorder=1.5)
    for mark in marks:
        look = style(*mark["style"]) if "style" in mark else {"color": INK, "marker": "o"}
        axis.plot(mark["x"], mark["y"], look["marker"], color=look["color"], zorder=3)
        for band, lines, at in ((mark["x_band"], axis.hlines, "y"), (mark["y_band"], axis.vlines, "x")):
            if band:
                lines(mark[at], *band, color=look["color"], linewidth=1, zorder=2)
    _name(axis, marks, panel)
    axis.set_xlabel(panel["x"])
    axis.set_ylabel(panel["y"])


def _linear_below(marks):
    """The power of ten below which the axis is linear: that of the smallest cost above 0, within bounds."""
    least = min((mark["x"] for mark in marks if mark["x"] > 0), default=1)
    return 10.0 ** min(2, max(-3, math.floor(math.log10(least))))


def _set_limits(axis, marks, limit):
    """Let the axes hold all marks with their intervals, and the limit, with room for names."""
    xs = [limit, *(value for mark in marks for value in (mark["x"], *(mark["x_band"] or ())))]
    ys = [value for mark in marks for value in (mark["y"], *(mark["y_band"] or ()))]
    scale = axis.xaxis.get_transform()
    (low, high), back = scale.transform([min(xs), max(xs)]), scale.inverted()
    axis.set_xlim(*back.transform([low - 0.06 * (high - low), high + 0.1 * (high - low)]))
    room = 0.16 * max(max(ys) - min(ys), 0.05)
    axis.set_ylim(min(ys) - room, max(ys) + 1.3 * room)
    ticks = [tick for tick in TICKS if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
    if len(ticks) > MOST:
        ticks = [tick for tick in ticks if tick == 0 or math.log10(tick) % 1 < 0.01 or math.log10(tick) % 1 > 0.99]
    kept = []
    for tick in ticks:
        if not kept or _place(axis, tick, 1)[0] - _place(axis, kept[-1], 1)[0] >= NEAR:
            kept.append(tick)
    axis.set_xticks(kept, [f"{tick:g}" for tick in kept])


def _place(axis, x, y):
    """A point as shares of the panel's width and height."""
    return (axis.transScale + axis.transLimits).transform((x, y))


def _name(axis, marks, panel):
    """Write each mark's name beside it, where it covers least of other names, marks and lines."""
    at, _ = _place(axis, panel["limit"], 1)
    side = "left" if at < 0.6 else "right"
    across = BESIDE[0] / 2 * (1 if side == "left" else -1)
    where = {"xycoords": axis.get_xaxis_transform(), "textcoords": "offset points", "fontsize": NOTE}
    axis.annotate(panel["acceptable"], (panel["limit"], 0.02), (across, 0), ha=side, va="bottom", **where)
    width = LETTER * len(panel["acceptable"])
    taken = [(at if side == "left" else at - width, 0, width, LINE), *_drawn(axis, marks, panel)]
    for mark in sorted(marks, key=lambda mark: -mark["y"]):
        x, y = _place(axis, mark["x"], mark["y"])
        width = LETTER * len(mark["label"])
        boxes = {
            (right, up): (
                x + (0.02, -width / 2, -0.02 - width)[1 - right],
                y + (0.03 if up > 0 else -0.03 - LINE),
                width,
                LINE,
            )
            for up in (1, -1)
            for right in (1, -1, 0)
        }
        right, up = min(boxes, key=lambda way: _covered(boxes[way], taken))
        taken.append(boxes[right, up])
        axis.annotate(
            mark["label"],
            (mark["x"], mark["y"]),
            (right * BESIDE[0], up * (BESIDE[1] if right else 1.5 * BESIDE[1])),
            textcoords="offset points",
            ha=("left", "center", "right")[1 - right],
            va="bottom" if up > 0 else "top",
            fontsize=NOTE,
        )


def _drawn(axis, marks, panel):
    """Boxes (x, y, width, height) of what is drawn, as shares of the panel: marks, intervals, lines."""
    places = [_place(axis, mark["x"], mark["y"]) for mark in marks]
    found = [(x - 0.015, y - 0.025, 0.03, 0.05) for x, y in places]
    lines = [((panel["limit"], axis.get_ylim()[0]), (panel["limit"], axis.get_ylim()[1]))]
    for mark in marks:
        if mark["x_band"]:
            lines.append([(end, mark["y"]) for end in mark["x_band"]])
        if mark["y_band"]:
            lines.append([(mark["x"], end) for end in mark["y_band"]])
    corners = [*map(tuple, panel["frontier"]), (axis.get_xlim()[1], panel["frontier"][-1][1])]
    for (x, y), (later, above) in pairwise(corners):
        lines += [((x, y), (later, y)), ((later, y), (later, above))]
    for line in lines:
        (left, low), (right, high) = (_place(axis, *end) for end in line)
        found.append((left - 0.003, low - 0.006, right - left + 0.006, high - low + 0.012))
    return found


def _covered(box, taken):
    """How many boxes another one covers; each edge of the panel that it crosses counts as several."""
    x, y, width, height = box
    outside = (x < 0) + (y < 0) + (x + width > 1) + (y + height > 1)
    return 9 * outside + sum(
        x < left + wide and left < x + width and y < low + tall and low < y + height for left, low, wide, tall in taken
    )
