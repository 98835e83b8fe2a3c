"""What a reader of a page may choose without a script: each choice shows a figure, and the page keeps its height."""

import hashlib
import json
import re
import shutil
import subprocess
from base64 import b64encode

import pytest

from slidesparse.report.document.model import Bullets, Choice, Figure, Section, Table, say
from slidesparse.report.document.publish import publish
from slidesparse.report.document.render import absent, alternatives, axes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
GRAPHS = ("type", "graph", "graph over")
HAVING = [
    ("INT8", "prefill", "dense"),
    ("INT8", "prefill", "stock"),
    ("INT8", "kernel", "dense"),
    ("FP8", "prefill", "stock"),
    ("FP8", "decode", "dense"),
    ("FP8", "decode", "stock"),
]

PROBE = """
const click = (id) => document.getElementById(id).click();
const shown = (e) => e.checkVisibility({ visibilityProperty: true });
const lines = [];
for (const type of [0, 1]) for (const graph of [0, 1, 2]) for (const over of [0, 1]) {
  ["0-" + type, "1-" + graph, "2-" + over].forEach((id) => click("s1-" + id));
  const figures = [...document.querySelectorAll(".drawn figcaption")].filter(shown).map((e) => e.textContent);
  const inputs = [...document.querySelectorAll(".choose input")].filter(shown).map((e) => e.id.slice(3));
  lines.push([[type, graph, over], figures, inputs, document.querySelector(".pair").offsetHeight]);
}
const output = document.createElement("pre");
output.id = "probe";
output.textContent = JSON.stringify(lines);
document.body.append(output);
"""


def figure(key):
    series = [{"label": "2:4", "style": (1, 0), "x": [1, 2], "y": [1, 2]}]
    panel = {"kind": "lines", "title": "", "y": "y", "series": series, "flat": True}
    return Figure("-".join(key), say(" ".join(key)), [panel], Table("-".join(key), ("M",), [["1"]]))


def section():
    tables = {(kind,): Table(f"t-{kind}", ("a",), [["1"]]) for kind in ("INT8", "FP8")}
    choices = [Choice(GRAPHS[:1], tables), Choice(GRAPHS, {key: figure(key) for key in HAVING}, first_only=True)]
    return Section("t", [Bullets(["a sentence"]), *choices], first=True)


def test_an_option_without_a_figure_is_not_there():
    part = section()
    known, choice = axes(part), part.blocks[2]
    # Type 0 has no graph 2, type 1 no graph 1. Two graphs have one denominator, so nobody is asked for it.
    assert absent(choice, known) == [
        ({0: 0}, 1, 2),
        ({0: 1}, 1, 1),
        ({0: 0, 1: 1}, 2, None),
        ({0: 1, 1: 0}, 2, None),
    ]
    shown = alternatives(choice, known)
    assert [place for place, block in shown if not block] == [{0: 0, 1: 2}, {0: 1, 1: 1}]
    assert [block.name for _, block in shown if block] == ["-".join(key) for key in HAVING]
    assert absent(part.blocks[1], known) == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_every_choice_shows_a_figure_and_the_page_keeps_its_height(tmp_path):
    publish(Section("T", [section()]), tmp_path, "report", ["en"])
    allowed = f"script-src 'sha256-{b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()}' "
    text = (tmp_path / "report.en.html").read_text().replace("script-src ", allowed, 1)
    page = tmp_path / "page.html"
    page.write_text(text.replace("</main>", f"</main><script>{PROBE}</script>", 1))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += ["--window-size=1280,800", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    assert len({height for *_, height in found}) == 1
    graphs = ("prefill", "kernel", "decode")
    for (kind, graph, over), figures, inputs, _ in found:
        start = ("INT8", "FP8")[kind], graphs[graph]
        there = [key[2] for key in HAVING if key[:2] == start]
        wanted = ("dense", "stock")[over]
        assert figures == [" ".join((*start, wanted if wanted in there else over)) for over in there[:1]]
        graphs_there = [i for i, name in enumerate(graphs) if any(key[:2] == (start[0], name) for key in HAVING)]
        overs = ["2-0", "2-1"] if len(there) != 1 else []
        assert inputs == ["0-0", "0-1", *(f"1-{i}" for i in graphs_there), *overs]
