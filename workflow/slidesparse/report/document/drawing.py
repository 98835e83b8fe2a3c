"""Panels -> SVG with matplotlib, which is imported only when something must be drawn.

The same panels give the same bytes: no dates, a fixed salt, text as text.
"""

import hashlib
import inspect
import io
import json
import math
import re
import sys
from contextlib import suppress
from pathlib import Path

from slidesparse.files import note, noted, read_text, sha256_file, write_atomic
from slidesparse.report.document import looks, tradeoff
from slidesparse.report.document.looks import COLOURS, GROUND, INK, NOTE, style

SIZE = (4.6, 3.1)
"""Width and height of a panel in inches."""
FLAT = (4.6, 2.5)
"""The same of a panel of the first screen."""
DPI = 110
HEAT = "PuOr"
HEAT_SIZE = (2.7, 1.75)
"""Width and height of a heat map of more than three in inches."""
HANDLE = 2.6
"""Length of the line in an entry of a legend, in font sizes."""
MARGIN = 4
"""Points around an entry of a legend that belong to it."""
TICKS = 12
"""Most values of M that an axis names."""
APART = 0.6
"""Share of the space between two M over which the points of one M are spread, so that none covers another."""


def key_of(figure):
    """A digest of all that decides the bytes of a figure: its panels, what draws it, and matplotlib's version."""
    from importlib.metadata import version

    source = [inspect.getsource(module) for module in (sys.modules[__name__], looks, tradeoff)]
    content = json.dumps([figure.panels, source, version("matplotlib")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def drawn(figure, path):
    """The SVG of a figure, drawn at `path`, unless this user drew the same before.

    The user's cache has the sha256 of the drawn bytes. A file without such an entry is drawn again: it may be somebody
    else's, and a script in it would run in the page.
    """
    key, svg = key_of(figure), Path(path)
    name = hashlib.sha256(f"{key} {svg.stem}".encode()).hexdigest()
    with suppress(OSError):
        if noted("figures", name) == sha256_file(svg):
            return read_text(svg)
    draw(figure.panels, svg, key)
    note("figures", name, sha256_file(svg))
    return read_text(svg)


def draw(panels, path, key):
    """Draw panels in a grid, and write them at `path` (.svg)."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a $ in a name begins no formula
        "svg.hashsalt": Path(path).stem,
        "font.size": 8,
        "font.family": "DejaVu Sans",
        "axes.linewidth": 0.6,
        "axes.titlesize": 9,
        "axes.grid": True,
        "grid.color": "#8a949e",
        "grid.alpha": 0.35,
        "grid.linewidth": 0.5,
        "axes.facecolor": "none",
        "lines.linewidth": 1.2,
        "lines.markersize": 4.4,
        "legend.fontsize": NOTE,
        "legend.frameon": False,
        "xtick.minor.visible": False,
        **{f"{name}color": INK for name in ("text.", "axes.label", "xtick.", "ytick.", "axes.title", "axes.edge")},
    }
    with matplotlib.rc_context(settings):
        columns = 1 if len(panels) == 1 else 4 if panels[0]["kind"] == "heat" and len(panels) > 3 else 2
        rows = math.ceil(len(panels) / columns)
        width, height = HEAT_SIZE if columns == 4 else FLAT if panels[0].get("flat") else SIZE
        figure = Figure(figsize=(width * columns, height * rows), dpi=DPI)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            DRAW[panel["kind"]](axis, panel)
            axis.minorticks_off()
            # The marks of bounds stand at the left.
            axis.set_title(panel["title"], y=1.0, loc="right" if panel.get("one") else "center")
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        heat_map = columns == 4
        below = max(panel_foot(panel) for panel in panels)
        left, right, top, apart = (0.5, 0.05, 0.22, 0.5) if heat_map else (0.66, 0.34, 0.28, 0.88)
        tall, wide = height - below - top, (width * columns - left - right - apart * (columns - 1)) / columns
        figure.subplots_adjust(
            left=left / (width * columns),
            right=1 - right / (width * columns),
            bottom=below / (height * rows),
            top=1 - top / (height * rows),
            hspace=(below + top) / tall,
            wspace=apart / wide,
        )
        words = legend(figure, panels, height * rows)
        cell, step = (left + wide, height), wide + apart
        cells = [(i % columns * step + 0.03, i // columns * height, *cell) for i in range(len(panels))]
        parts = [[round(72 * value, 1) for value in cell] for cell in cells]
        metadata = {"Date": None, "Creator": None, "Identifier": key}
        if len(panels) > 1:
            metadata["Description"] = json.dumps(parts + strips(figure, words, 72 * cell[0]))
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata=metadata, facecolor=GROUND)
        write_atomic(path, stream.getvalue(), durable=False)


def panel_foot(panel):
    """Inches that a panel needs below it for ticks and label."""
    if panel["kind"] == "heat":
        return 0.36
    return 0.3 + 0.043 * max(len(label) for label in panel["labels"]) if panel.get("turn") else 0.42


def parts_of(svg):
    """[[x, y, width, height]] in points of the panels of an SVG and of its legend, to be shown below one another.

    Empty if it has one panel.
    """
    found = re.search(r"<dc:description>(\[.*?\])</dc:description>", svg)
    return json.loads(found[1]) if found else []


def strips(figure, words, width):
    """Parts of a legend that was drawn, each of some of its columns, which are at most about `width` points wide."""
    if not words:
        return []
    tall = 72 * figure.get_size_inches()[1]
    handle = NOTE * (HANDLE + 0.8)  # font size times length of a handle and its room
    inches = figure.dpi_scale_trans.inverted()
    renderer = figure.canvas.get_renderer()
    words.draw(renderer)  # which gives it its place
    boxes = [text.get_window_extent(renderer).transformed(inches) for text in words.get_texts()]
    bottom, top = 72 * min(box.y0 for box in boxes) - MARGIN, 72 * max(box.y1 for box in boxes) + MARGIN
    columns = {}
    for box in boxes:
        start = round(72 * box.x0) - handle - MARGIN
        columns[start] = max(columns.get(start, 0), 72 * box.x1 + MARGIN)
    groups = []
    for start, end in sorted(columns.items()):
        if groups and end - groups[-1][0] <= width:
            groups[-1][1] = end
        else:
            groups.append([start, end])
    return [[round(value, 1) for value in (start, tall - top, end - start, top - bottom)] for start, end in groups]


def legend(figure, panels, height):
    """One legend for all panels, below them; returned, or None if they need none."""
    labelled = {}
    for other in figure.axes:
        for handle, label in zip(*other.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    if labelled and panels[0]["kind"] != "heat":
        columns = min(len(labelled), 5)
        lines = math.ceil(len(labelled) / columns)
        grow = 0.16 * lines + 0.12
        width, _ = figure.get_size_inches()
        figure.set_size_inches(width, height + grow)
        bars = figure.subplotpars
        share = height / (height + grow)
        figure.subplots_adjust(bottom=1 - (1 - bars.bottom) * share, top=1 - (1 - bars.top) * share)
        return figure.legend(labelled.values(), labelled.keys(), loc="lower center", ncols=columns, handlelength=HANDLE)
    return None


def short(M):
    """A short text for M: 16k for 16384."""
    return f"{M // 1024}k" if M >= 1024 and M % 1024 == 0 else str(M)


def lines(axis, panel):
    """Draw series over M, each with the intervals of its points and its bound. Points of one M lie side by side."""
    ticks, count = sorted({x for series in panel["series"] for x in series["x"]}), len(panel["series"])
    octaves = min((math.log2(after / before) for before, after in zip(ticks, ticks[1:], strict=False)), default=1)
    for i, series in enumerate(panel["series"]):
        look, move = style(*series["style"]), 2 ** (APART * octaves * ((i + 0.5) / count - 0.5))
        xs = [x * move for x in series["x"]]
        every, hollow = math.ceil(len(xs) / TICKS), series.get("hollow") or [False] * len(xs)
        full = [k for k, out in enumerate(hollow) if not out and k % every == 0]
        axis.plot(xs, series["y"], label=series["label"], markevery=full, **look)
        band = [(x, *ends) for x, ends in zip(xs, series.get("band") or [], strict=False) if ends]
        if band:
            axis.vlines(*zip(*band, strict=True), color=look["color"], linewidth=1)
        if left := [(x, y) for x, y, out in zip(xs, series["y"], hollow, strict=True) if out]:
            axis.plot(*zip(*left, strict=True), look["marker"], color=look["color"], markerfacecolor=GROUND)
    if panel.get("one"):
        axis.axhline(1, color=INK, linewidth=0.9, zorder=1.5)
        around_one(axis, panel)
    axis.set_xscale("log", base=2)
    ticks = ticks[:: math.ceil(len(ticks) / TICKS)]
    axis.set_xticks(ticks, [short(tick) for tick in ticks], minor=False)
    axis.set_xlabel("M")
    axis.set_ylabel(panel["y"])
    if panel.get("log"):
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:g}")


def around_one(axis, panel):
    """Let the axis hold 1 and all ratios, and show each bound: as a line, or as a mark if it lies beyond the edge.

    It holds intervals, too, unless they are much wider than the ratios differ.
    """
    values = [1.0, *(y for series in panel["series"] for y in series["y"])]
    ends = [end for series in panel["series"] for band in series.get("band") or () if band for end in band]
    low, high = min(values), max(values)
    wide = 0.6 * max(high - low, 0.1)
    low, high = max(min([low, *ends]), low - wide), min(max([high, *ends]), high + wide)
    room = max(0.05, 0.12 * (high - low))
    low, high = low - room, high + room
    axis.set_ylim(low, high)
    bounds = {}
    for series in panel["series"]:
        if bound := series.get("bound"):
            bounds.setdefault((bound, series["style"][0]), style(*series["style"]))
    least = low
    for (bound, _), look in sorted(bounds.items(), key=lambda item: item[0]):
        if low < bound < high:
            axis.axhline(bound, color=look["color"], linestyle=look["linestyle"], linewidth=0.9)
            least = max(bound, least)
            axis.annotate(
                f"{bound:.2f}", (1.01, least), xycoords=axis.get_yaxis_transform(), va="center", fontsize=NOTE
            )
            least += (high - low) * 0.055
    beyond = [(bound, look) for (bound, _), look in bounds.items() if bound >= high]
    for i, (bound, look) in enumerate(beyond):
        place = {"xycoords": "axes fraction", "fontsize": NOTE, "va": "bottom"}
        axis.annotate("▲", (0.115 * i, 1.015), color=look["color"], **place)
        axis.annotate(f"{bound:.2f}", (0.115 * i + 0.028, 1.015), **place)


def points(axis, panel):
    """Draw a roofline: operations/s over operations per byte, both logarithmic, and the roof if it is known."""
    for series in panel["series"]:
        look = style(*series["style"])
        axis.plot(
            series["x"],
            series["y"],
            label=series["label"],
            color=look["color"],
            marker=look["marker"],
            linestyle="none",
        )
        if series["roof"]:
            axis.plot(
                *zip(*series["roof"], strict=True), color=look["color"], linestyle=look["linestyle"], linewidth=0.8
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel(panel["x"])
    axis.set_ylabel(panel["y"])


def heat(axis, panel):
    """Draw the ratio for every N x K (rows) and M (columns); white is 1."""
    from matplotlib.colors import LogNorm

    top = panel["top"]
    axis.grid(False)
    values = [[math.nan if value is None else value for value in row] for row in panel["values"]]
    axis.imshow(values, cmap=HEAT, norm=LogNorm(1 / top, top), aspect="auto")
    every = math.ceil(len(panel["columns"]) / TICKS)
    shown = [short(M) for M in panel["columns"][::every]]
    axis.set_xticks(range(0, len(panel["columns"]), every), shown, rotation=90, fontsize=6)
    axis.set_yticks(range(len(panel["rows"])), panel["rows"], fontsize=6)
    if every > 1:
        return
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if not math.isnan(value):
                dark = abs(math.log(value)) > 0.62 * math.log(top)
                axis.text(
                    j, i, f"{value:.2f}", ha="center", va="center", fontsize=4.6, color="#fefefe" if dark else "black"
                )


def bars(axis, panel):
    """Draw bars of stacked parts, the first one at the top."""
    ends = [0.0] * len(panel["labels"])
    hatches, colours = ("", "//", "..", "xx", "\\\\"), (1, 2, 3, 4, 8)
    for i, (part, values) in enumerate(panel["parts"].items()):
        look = {"color": COLOURS[colours[i % 5]], "hatch": hatches[i % 5]}
        axis.barh(range(len(ends)), values, left=ends, label=part, height=0.75, **look)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    axis.set_yticks(range(len(ends)), panel["labels"], fontsize=6)
    axis.invert_yaxis()
    axis.set_xlabel(panel["x"])


def grouped_bars(axis, panel):
    """Draw bars of several series side by side."""
    count = len(panel["series"])
    for i, series in enumerate(panel["series"]):
        at = [k + (i - (count - 1) / 2) * 0.8 / count for k in range(len(panel["labels"]))]
        heights = [math.nan if value is None else value for value in series["y"]]
        colour, form = series["style"]
        hatch = ("", "//", "..", "xx")[form % 4]
        axis.bar(at, heights, 0.8 / count, label=series["label"], color=COLOURS[colour % len(COLOURS)], hatch=hatch)
    if panel.get("one"):
        axis.axhline(1, color=INK, linewidth=0.9)
    axis.set_xticks(range(len(panel["labels"])), panel["labels"], rotation=panel.get("turn", 0), fontsize=6)
    axis.set_ylabel(panel["y"])


DRAW = {
    "lines": lines,
    "points": points,
    "heat": heat,
    "bars": bars,
    "grouped": grouped_bars,
    "tradeoff": tradeoff.draw,
}
