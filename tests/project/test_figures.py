"""The figures of the README, of docs/results.md and of the report's conclusions are those of the kept points.

They are recomputed by programs that share no code with the report. What these programs would miss, they must not miss.
"""

import re
import subprocess
import sys
from functools import cache

import pytest

import recompute
import recompute_pages
import recompute_screen
import recompute_table
from kept import H100, H200, MEASURED
from places import ROOT
from reports import compared, unfolded_report
from slidesparse.report.document.model import Choice
from slidesparse.report.document.render import to_markdown

PAGES = ("README.md", "docs/results.md")


@cache
def document(key):
    """The report on the kept points of one GPU."""
    return unfolded_report(MEASURED, hardware=key)[0]


@cache
def section(title, key=None):
    """The Markdown of a section of that report, or of the comparison of all GPUs."""
    text = to_markdown(document(key), "en", "report") if key else compared(MEASURED)
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def conclusions(key):
    """The sentences that the report concludes from the kept points of one GPU."""
    return [line.removeprefix("- ") for line in section("Conclusions", key).splitlines() if line.startswith("- ")]


@pytest.mark.parametrize("key", [H200, H100])
def test_the_conclusions_are_what_the_kept_points_give(key):
    found = conclusions(key)
    assert len(found) > 35
    assert recompute.mistakes(key, found) == []


def test_a_wrong_conclusion_is_found():
    good = conclusions(H200)
    line = next(each for each in good if each.startswith("prefill") and "stock vLLM" in each)
    types = next(each for each in good if "FP8 over INT8" in each)
    planted = [
        line.replace("faster at 5", "faster at 6", 1),
        re.sub(r"faster at \d", "faster at every M", line, count=1),
        re.sub(r", left out M=512[^)]*[)]", "", line, count=1),
        line.replace(" is 1.", " is 2.", 1),
        line.replace(" against ", " against 1", 1),
        "In prefill every sparse engine is faster.",
        types.replace("geometric mean of those that count ", "geometric mean of those that count 1"),
        next(each for each in good if "no sparse kernel ran" in each).replace("INT8 auto/2_8, ", ""),
    ]
    assert not set(planted) & set(good)
    assert recompute.mistakes(H200, planted) == planted


@cache
def first_screen(key):
    """(the first screen of a GPU's report, or of the comparison, what the kept points give)."""
    if key:
        return section("Does sparsity pay here?", key), recompute_screen.screen(key)
    return section("Does sparsity pay?"), recompute_screen.compared([H100, H200])


@pytest.mark.parametrize("key", [H200, H100, None])
def test_the_first_screen_is_what_the_kept_points_give(key):
    assert recompute_screen.mistakes(*first_screen(key)) == []


@pytest.mark.parametrize("key", [H200, H100])
def test_the_graphs_of_the_first_screen_are_what_the_kept_points_give(key):
    choice = next(each for each in document(key).walk(Choice) if "graph" in each.axes)
    found = {place: [[*map(str, row)] for row in figure.table.rows] for place, figure in choice.items.items()}
    right = {place: lines for place, (_, _, lines) in recompute_table.graphs(key).items()}
    assert found == right and min(map(len, right.values())) > 10


@pytest.mark.parametrize("key", [H200, H100, None])
def test_a_wrong_word_or_figure_of_the_first_screen_is_found(key):
    said, right = first_screen(key)
    lines = [line for line in said.strip().splitlines() if line]
    at = [match.start() for match in re.finditer(r"\w+", said)]
    assert len(at) > 700
    for place in at:
        other = str(int(said[place]) + 1)[-1] if said[place] in "0123456789" else "_"
        assert recompute_screen.mistakes(said[:place] + other + said[place + 1 :], right), said[place - 60 : place + 60]
    for line in lines:
        assert recompute_screen.mistakes(said.replace(line, "", 1), right), f"without {line}"
        assert recompute_screen.mistakes(said.replace(line, f"{line}\n{line}", 1), right), f"twice: {line}"


def test_pages_are_as_the_program_writes_them():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "figures.py", "--check"],
        env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES)
def test_pages_say_what_the_kept_points_give(page):
    text = (ROOT / page).read_text()
    assert recompute_pages.BLOCK.search(text)
    assert recompute_pages.mistakes(text) == []
    assert recompute_pages.unread(text) == []


@pytest.mark.parametrize(
    ("page", "said", "planted"),
    [
        ("docs/results.md", "on 2:4, which pays, and on 2:8, which does not", "on 2:4, 2:6 and 2:8, which always pay"),
        ("docs/results.md", "The bounds are 2.00", "The bounds are 2.10"),
        ("docs/results.md", "42 % of them zero", "12 % of them zero"),
        ("README.md", "One command answers", "In every step 2:4 is 1.90 times as fast. One command answers"),
    ],
)
def test_a_wrong_claim_outside_the_blocks_is_found(page, said, planted):
    text = (ROOT / page).read_text()
    assert said in text
    assert len(recompute_pages.unread(text.replace(said, planted))) == 1


@pytest.mark.parametrize(
    ("page", "pattern", "planted"),
    [
        ("README.md", r"1\.12 \|", "1.13 |"),
        ("README.md", r"1\.01 †", "1.01"),
        ("README.md", "makes prefill", "always makes prefill"),
        ("README.md", "2:6 has", "in every step 2:6 has"),
        ("docs/results.md", r"0\.96 \|", "0.97 |"),
        ("docs/results.md", "3 to 5 %", "2 to 5 %"),
        ("docs/results.md", r"within \d\.\d %", "within 1.0 %"),
        ("docs/results.md", "In prefill 2:4 on cuSPARSELt pays", "In prefill 2:4 on cuSPARSELt always pays"),
    ],
)
def test_a_wrong_figure_or_claim_on_a_page_is_found(page, pattern, planted):
    text = (ROOT / page).read_text()
    blocks = recompute_pages.BLOCK.search(text).start()
    wrong = text[:blocks] + re.sub(pattern, planted, text[blocks:], count=1)
    assert wrong != text
    assert recompute_pages.mistakes(wrong)
