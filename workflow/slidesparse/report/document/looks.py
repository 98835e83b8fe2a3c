"""How marks, lines and words of figures look.

Every colour has a variant for a light page and one for a dark page. Both keep a contrast of 3:1 with their page, and
colour-blind people can tell them apart. Lines also differ in marker and dash, for prints in grey. A hollow marker has
the colour of the page inside: it means that the point is left out.
"""

INK = "#1b1f24"
"""Colour of text. In a figure inside a page, the page's own colour replaces it."""
GROUND = "#ffffff"
"""Colour of the page, which the page's own replaces, too."""
PALETTE = (
    (INK, "#e3e7eb"),
    ("#0072b2", "#5aaef0"),
    ("#d55e00", "#f0803c"),
    ("#00805c", "#35c79a"),
    ("#b5508f", "#e390c6"),
    ("#5b340c", "#bbb50c"),
    ("#2377dc", "#cce1ff"),
    ("#693329", "#f1c460"),
    ("#4a4a4a", "#7f7f7f"),
    ("#795c19", "#e1debd"),
    ("#46060b", "#d24c51"),
    ("#4642c2", "#5e69f6"),
    ("#014b61", "#79c7f2"),
    ("#3b7a1e", "#8fd36a"),
)
"""Pairs of colours: on a light page, on a dark page."""
COLOURS = tuple(light for light, _ in PALETTE)
MARKERS = "osD^v<>pdhH"
"""Markers of which a hollow one differs from a full one."""
DASHES = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (6, 2)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
    (0, (8, 1)),
    (0, (4, 2, 1, 2)),
    (0, (7, 1, 2, 1)),
)
NOTE = 7.5
"""Font size of a bound and in legends, which stays readable where a page shrinks the figure."""


def style(colour, form=0):
    """Line style of a series. Series of one colour differ in `form`, which gives another marker and dash."""
    i = colour + 5 * form
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i % len(DASHES)],
    }
