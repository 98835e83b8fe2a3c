"""What a pattern costs beside what it gains: the verdict by `quality.acceptable`, and the picture."""

import re

import pytest

from reports import DENSE, H200, MACHINE, SLID, step, text_of, unfolded
from slidesparse.points.plan import Plan
from slidesparse.report.document import drawing
from slidesparse.report.document.model import Choice, Figure
from slidesparse.report.document.render import to_markdown
from slidesparse.report.sections import comparison
from slidesparse.report.sections.ratios import comparisons
from slidesparse.report.sections.tradeoffs import frontier, marks_of, pictures
from slidesparse.report.sections.verdict import deciding
from slidesparse.report.sources.rows import Row, Source
from slidesparse.report.write import analysed, report, summaries_of

TOKENS = 4096


def score(name, percent, width=0.1, **values):
    """A good quality row of a checkpoint that needs 1 bit a byte and so many percent more, ± `width` percent."""
    figures = {"extra_bits_per_byte": percent / 100, "reference_bits_per_byte": 1.0, "bits_per_byte": 1 + percent / 100}
    ends = {
        "extra_bits_per_byte_ci_low": (percent - width) / 100,
        "extra_bits_per_byte_ci_high": (percent + width) / 100,
    }
    figures |= dict.fromkeys(
        ("perplexity", "reference_perplexity", "divergence", "divergence_p99", "top1_agreement"), 1
    )
    values = figures | ends | {"reference": "dense", "context": 1024} | values
    return Row(H200, "quality", name, TOKENS, "ok", values, MACHINE)


def rows(speeds, costs, stage="prefill", Ms=(1024, 2048), **more):
    """Steps of dense and of patterns at two M, and scores. speeds: pattern -> how many times as fast."""
    found = [step(stage, DENSE, M, M / 100, **more) for M in Ms]
    for sparsity, speed in speeds.items():
        found += [step(stage, SLID._replace(sparsity=sparsity), M, M / 100 / speed, **more) for M in Ms]
    return found + [score(SLID._replace(sparsity=sparsity), cost) for sparsity, cost in costs.items()]


def screen(*arguments, **more):
    return text_of(*arguments, **more).partition("## Does sparsity pay here?\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("cost", "headline", "sentence", "cell", "side"),
    [
        (
            0.5,
            "2:8 pays, from M=1024 on, 1.25 times as fast, at a cost of 0.50 % more bits.",
            "2:8 pays from M=1024 on, 1.25, at a cost of 0.50 % more bits.",
            "pays from 1024, at a cost of 0.50 % more bits",
            "2:8 +0.50 % acceptable.",
        ),
        (
            1.05,
            "2:8 pays, from M=1024 on, 1.25 times as fast, at a cost of 1.1 % more bits, perhaps too much.",
            "2:8 pays from M=1024 on, 1.25, at a cost of 1.1 % more bits, perhaps too much.",
            "pays from 1024, at a cost of 1.1 % more bits, perhaps too much",
            "2:8 +1.1 % undecided.",
        ),
        (
            7,
            "2:8 costs more than it gains: 7.0 % more bits, and 1.25 times as fast from M=1024 on.",
            "2:8 costs more than it gains: 7.0 % more bits, and 1.25 from M=1024 on.",
            "costs more than it gains",
            "2:8 +7.0 % too much.",
        ),
    ],
)
def test_what_is_faster_pays_only_if_its_cost_is_acceptable(cost, headline, sentence, cell, side):
    text = screen(rows({"2_8": 1.25}, {"2_8": cost}))
    assert f"Prefill, by the clock: {headline}" in text
    assert f"- Prefill INT8, by the clock: {sentence}" in text
    assert f"| {cell} |" in text
    assert "Quality: up to 1 % more bits per byte of text than dense are acceptable (`quality.acceptable`, a" in text
    assert f"By the whole interval, {side}" in text


def test_the_plan_says_what_is_acceptable():
    given = rows({"2_8": 1.25}, {"2_8": 7})
    text = screen(given, plan=Plan({"prefill": {row.configuration: {1024, 2048} for row in given}}, acceptable=7.5))
    assert "2:8 pays, from M=1024 on, 1.25 times as fast, at a cost of 7.0 % more bits." in text
    assert "Quality: up to 7.5 % more bits" in text


def test_without_scores_the_verdict_is_as_it_was():
    text = screen(rows({"2_8": 1.25}, {}))
    assert "2:8 pays, from M=1024 on, 1.25 times as fast." in text
    assert "Quality: up to" not in text and "gains" not in text


def test_what_is_slower_loses_whatever_it_costs():
    assert "2:8 loses." in screen(rows({"2_8": 0.8}, {"2_8": 0.1}))


def test_patterns_and_types_are_said_together_only_if_their_words_agree():
    given = rows({"2_4": 1.5, "2_8": 1.25, "2_10": 1.2}, {"2_4": 90, "2_8": 7, "2_10": 0.5})
    other = SLID._replace(dtype="FP8")
    given += [
        step("prefill", name, M, M / pace)
        for name, pace in ((DENSE._replace(dtype="FP8"), 100), (other, 125))
        for M in (1024, 2048)
    ]
    given += [score(other, 0.2)]
    text = screen(given)
    assert "2:4, 2:8 cost more than they gain: 7.0 to 90.0 % more bits, and 1.25 to 1.50 from M=1024 on" in text
    assert "2:8 with FP8 pays, from M=1024 on, 1.25 times as fast, at a cost of 0.20 % more bits" in text
    assert "2:4 +90.0 %, 2:8 INT8 +7.0 % too much; 2:8 FP8 +0.20 %, 2:10 +0.50 % acceptable." in text


@pytest.mark.parametrize("cost", [0.5, 7])
def test_the_comparison_of_hardware_says_the_same(cost):
    source = Source("results", rows=rows({"2_8": 1.25}, {"2_8": cost}), linears={"BitNet-2B": 4})
    document = comparison.document(summaries_of(H200, [source], analysed([source])))
    text = to_markdown(unfolded(document), "en", "comparison")
    word = "pays" if cost < 1 else "costs more than it gains"
    cell = "pays from 1024, at a cost of 0.50 % more bits" if cost < 1 else word
    assert f"Prefill: 2:8 {word} on H200 (M≥1024)." in text
    assert f"- Prefill INT8: 2:8 {word} on H200 (M≥1024)." in text
    assert f"| 1.25 {cell} |" in text


def test_a_score_of_one_model_is_never_beside_the_speed_of_another():
    given = rows({"2_8": 1.25}, {}) + [score(SLID._replace(model="BitNet-small"), 0.5)]
    source = Source("results", rows=given, linears={"BitNet-2B": 4})
    assert pictures(comparisons(source), "results") == []
    assert "at a cost of" not in screen(given)


def test_the_frontier_is_what_no_other_beats_in_both():
    assert frontier([(7.0, 1.2), (1.0, 0.9), (0.5, 1.1), (9.0, 1.2), (0.5, 1.05)]) == [
        (0.0, 1.0),
        (0.5, 1.1),
        (7.0, 1.2),
    ]
    assert frontier([(7.0, 0.9)]) == [(0.0, 1.0)]
    assert frontier([(-0.1, 1.1)]) == [(-0.1, 1.1)]  # better than dense in both


def test_a_mark_is_at_the_largest_M_that_counts_and_has_both_intervals():
    given = rows({"2_4": 1.5, "2_8": 1.25, "2_10": 1.2}, {"2_4": 90, "2_10": 0.5})
    given.append(step("prefill", SLID._replace(sparsity="2_4"), 4096, 20.0, host_bound=True))
    given.append(step("prefill", DENSE, 4096, 40.96))
    marks, without = marks_of(deciding(comparisons(Source("", rows=given)), "prefill", "BitNet-2B", "INT8"))
    assert [(mark.text, mark.M, round(mark.speed.value, 3), mark.loss.percent) for mark in marks] == [
        ("2:4", 2048, 1.5, 90.0),
        ("2:10", 2048, 1.2, 0.5),
    ]
    assert {text: str(why) for text, why in without.items()} == {"2:8": "not scored"}
    assert marks[0].speed.low < 1.5 < marks[0].speed.high and marks[0].loss.low < 90 < marks[0].loss.high


def test_the_picture_is_on_the_first_screen_and_whole_below_quality():
    speeds, costs = {"2_4": 1.5, "2_8": 1.25}, {"2_4": 90, "2_8": 0.5}
    given = rows(speeds, costs) + rows(speeds, {}, "decode", (64, 128), gpu_step_ms=1.0)
    source = Source("results", rows=given, linears={"BitNet-2B": 4})
    first, *parts = report(H200, [source], analysed([source]), ["results"]).blocks
    (graphs,) = [block for block in first.blocks if isinstance(block, Choice) and block.first_only]
    options = [tuple(map(str, key)) for key in graphs.items]
    assert options[:3] == [
        ("INT8", "quality, prefill", "dense"),
        ("INT8", "quality, decode", "dense"),
        ("INT8", "prefill", "dense"),
    ]
    (quality,) = [part for part in parts if str(part.title) == "Quality"]
    (whole,) = quality.walk(Figure)
    assert [panel["title"] for panel in whole.panels] == ["prefill INT8, M=2k", "decode INT8, M=128"]
    assert [row[:4] for row in whole.table.rows[:2]] == [
        ("prefill", "INT8", "2:4", "2048"),
        ("prefill", "INT8", "2:8", "2048"),
    ]
    assert {row[-1] for row in whole.table.rows} == {"yes"}
    assert (
        str(whole.caption).startswith("BitNet-2B: speed-up over the fastest dense engine")
        and "BitNet-2B:" in str(whole.caption)[10:]
    )


@pytest.mark.parametrize(
    "costs", [{"2_4": 90, "2_6": 6.7, "2_8": 1.8, "2_10": 0.65}, {"2_4": 0, "2_6": 0, "2_8": -0.2}]
)
def test_every_mark_has_its_name_in_the_drawing(tmp_path, costs):
    given = rows(dict.fromkeys(costs, 1.1), costs) + rows({"2_4": 1.2}, {}, "decode", (64,))
    (figure,) = pictures(comparisons(Source("", rows=given)), "p")
    drawing.draw(figure.panels, tmp_path / "p.svg", "key")
    words = re.findall(r"(?<=>)[^<]+(?=</text>)", (tmp_path / "p.svg").read_text())
    wanted = [*(f"2:{sparsity[2:]}" for sparsity in costs), "dense", "acceptable", "% more bits per byte than dense"]
    assert [words.count(word) for word in wanted] == [2 if word in ("2:4", *wanted[-3:]) else 1 for word in wanted]
