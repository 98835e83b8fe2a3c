"""The figures of the README, of docs/results.md and of the report's conclusions are those of the kept points.

They are recomputed by programs that share no code with the report. What these programs would miss, they must not miss.
"""

import re
import subprocess
import sys

import pytest

import recompute
import recompute_answer
import recompute_pages
import recompute_short
from kept import H100, H200
from places import ROOT
from reports import markdown

PAGES = ("README.md", "docs/results.md")


def conclusions(key):
    """The sentences that the report concludes from the kept points of one GPU."""
    text, _ = markdown(ROOT / "resources" / "measured", hardware=key)
    part = text.partition("## Conclusions\n")[2].partition("\n## ")[0]
    return [line.removeprefix("- ") for line in part.splitlines() if line.startswith("- ")]


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


def first_screen(key):
    text, _ = markdown(ROOT / "resources" / "measured", hardware=key)
    return text.partition("## Does sparsity pay here?\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("key", [H200, H100])
def test_the_first_screen_is_what_the_kept_points_give(key):
    assert recompute_answer.mistakes(key, first_screen(key)) == []


@pytest.mark.parametrize("key", [H200, H100])
def test_the_first_sentence_is_what_the_kept_points_give(key):
    assert recompute_short.verdict(key) in first_screen(key).splitlines()


def test_a_wrong_first_screen_is_found():
    good = first_screen(H200)
    for old, new in (("pays from M=1024", "pays from M=512"), ("17 of 18", "18 of 18"), ("| 14.3 |", "| 14.4 |")):
        assert len(recompute_answer.mistakes(H200, good.replace(old, new, 1))) == 1
    assert recompute_answer.mistakes(H200, good.replace(" unknown |", " pays |", 1)) != []


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
