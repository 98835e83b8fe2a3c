"""Figures: colours that can be seen on a light and on a dark page, and marks that say what they mean."""

import re

import pytest

from slidesparse.plan.key import Configuration
from slidesparse.report.document import drawing, looks, render
from slidesparse.report.sections.figures import figures, speedup_figures
from slidesparse.report.sections.ratios import comparisons
from slidesparse.report.sources.rows import Provenance, Row, Source

H200 = "H200_cc90_py312_cu130_x86_64"
MACHINE = Provenance("NVIDIA H200", "580.95")
PAGES = re.findall("--page: (#[0-9a-f]+)", (render.TEMPLATES / "report.css").read_text())[:2]
DENSE, SLID = Configuration("m", "INT8", "cutlass", "dense"), Configuration("m", "INT8", "cusparselt", "2_10")


def luminance(colour):
    """Relative luminance of a colour, as WCAG defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("side", [0, 1])
def test_every_line_can_be_seen_on_its_page(side):
    colours = [pair[side] for pair in looks.PALETTE]
    assert len({*colours}) == len(colours)
    assert min(contrast(colour, PAGES[side]) for colour in colours) >= 3
    assert all(f"--c{i}: {pair[side]};" in render.palette() for i, pair in enumerate(looks.PALETTE) if i)


def step(name, M, ms, **more):
    values = {"requests_per_s": 1.0, "tokens_per_s": 1e3 * M / ms, "step_ms": ms, "elapsed_time_s": 1.0, **more}
    values |= {"step_ms_ci_low": 0.99 * ms, "step_ms_ci_high": 1.01 * ms}
    return Row(H200, "prefill", name, M, "ok", values, MACHINE)


def drawn(tmp_path, sparse_ms=0.9):
    """The SVG of the figure of speed-ups of three M, of which the smallest is left out."""
    Ms = (512, 1024, 2048)
    rows = [step(DENSE, M, M / 100) for M in Ms]
    rows += [step(SLID, M, sparse_ms * M / 100, host_bound=M == 512) for M in Ms]
    source = Source("", rows=rows)
    (figure, *_) = speedup_figures(source, "m", "p", comparisons(source), "prefill")
    path = tmp_path / "figure.svg"
    drawing.draw(figure.panels, path, "key")
    return path.read_text()


def test_a_point_that_is_left_out_is_hollow(tmp_path):
    svg = drawn(tmp_path)
    colour = looks.COLOURS[4]
    hollow, full = (
        re.findall(rf'<use [^>]*style="fill: {fill}; stroke: {colour}', svg) for fill in (looks.GROUND, colour)
    )
    assert len(hollow) == 1
    assert len(full) == 3  # two points, and the legend
    inner = render.inline(svg)
    assert inner.count("fill: var(--page); stroke: var(--c4)") == 1
    assert colour not in inner


@pytest.mark.parametrize(("sparse_ms", "beyond"), [(0.82, False), (0.99, True)])
def test_a_bound_has_its_number_in_the_colour_of_text(tmp_path, sparse_ms, beyond):
    svg = drawn(tmp_path, sparse_ms)
    found = re.findall(r"<text style=\"([^\"]*)\"[^>]*>1\.25</text>", svg)  # a tick may say the same
    (label,) = [style for style in found if f"{looks.NOTE}px" in style]
    assert ("▲" in svg) is beyond
    assert looks.INK in label
    assert looks.NOTE * 4 / 3 >= 9  # pixels


def test_a_pattern_has_one_colour_in_all_figures():
    names = [SLID._replace(backend=backend, sparsity=f"2_{n}") for n in (4, 12) for backend in ("auto", "cusparselt")]
    rows = [step(name, M, 10.0) for name in [DENSE, *names] for M in (512, 1024)]
    found = {}
    for figure in figures(Source("", rows=rows), comparisons(Source("", rows=rows)), "p"):
        for series in [series for panel in figure.panels for series in panel.get("series", ())]:
            found.setdefault(series["label"].split("/")[-1], set()).add(series["style"][0])
    assert {name: len(colours) for name, colours in found.items()} == dict.fromkeys(("2_4", "2_12", "dense"), 1)
    assert len(set.union(*found.values())) == 3
