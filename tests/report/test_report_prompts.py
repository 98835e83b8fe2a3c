"""Prefill at several prompts in reports: each by itself, named, and side by side where that is asked for."""

import csv

import pytest

import synthetic
from reports import H100, HARDWARE, SPARSE, compared, markdown, rows_under
from slidesparse.plan import prompts
from slidesparse.points import records
from slidesparse.report.sources.read import read_source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import analysed, held_sources

USUAL, LONG = (8192, 32768), ("8192-prompt2048", "32768-prompt2048")


def write(root, names, sparse_s, dense_s=0.012, hardware=HARDWARE, model="BitNet-2B"):
    """Prefill points, dense and 2:8, with steps of so many seconds for 8192 tokens."""
    for name in names:
        M, _ = prompts.read(str(name))
        for step_s, place in ((dense_s, {}), (sparse_s, SPARSE)):
            place = place | {"hardware": hardware, "model": model}
            synthetic.write(root, "prefill", [name], step_s * M / 8192, place=place)


@pytest.fixture
def root(tmp_path):
    """Speed-ups of 1.2 at 1,024 tokens and of 1.1 at 2,048."""
    write(tmp_path, USUAL, 0.010)
    write(tmp_path, LONG, 0.020, 0.022)
    assert gather_all(tmp_path, HARDWARE) == []
    return tmp_path


def first_screen(text):
    return text.partition("## Does sparsity pay here?\n")[2].partition("\n## ")[0]


def test_a_table_says_the_prompt_only_if_there_is_another_one(tmp_path):
    write(tmp_path, USUAL, 0.010)
    assert gather_all(tmp_path, HARDWARE) == []
    tables = sorted(tmp_path.rglob("*.csv"))
    assert len(tables) == 2 and not any("prompt," in table.read_text().replace("num_prompts,", "") for table in tables)
    synthetic.write(tmp_path, "prefill", LONG)
    assert gather_all(tmp_path, HARDWARE) == []
    (table,) = (table for table in tables if "/dense/" in str(table))
    with open(table, encoding="utf-8", newline="") as stream:
        rows = [(row["M_prefill"], row["prompt"]) for row in csv.DictReader(stream)]
    assert rows == [("8192", "1024"), ("32768", "1024"), ("8192", "2048"), ("32768", "2048")]
    source = read_source(tmp_path, HARDWARE)
    assert source.refused == []
    names = [(row.configuration.model, row.M) for row in source.rows if row.configuration.sparsity == "dense"]
    assert sorted(names) == [(name, M) for name in ("BitNet-2B", "BitNet-2B-prompt2048") for M in USUAL]


def test_the_first_screen_names_the_prompts(root):
    screen = first_screen(markdown(root)[0])
    assert "prompts of at most 32768 tokens · prompts of at most 2048 tokens in BitNet-2B-prompt2048" in screen
    assert "- Prefill BitNet-2B INT8, by the clock: 2:8 pays from M=8192 on, 1.20." in screen
    assert "- Prefill BitNet-2B-prompt2048 INT8, by the clock: 2:8 pays from M=8192 on, 1.10." in screen
    said = "2:8 INT8 at M=32768 1.20 at BitNet-2B-prompt1024, 1.10 at BitNet-2B-prompt2048"
    assert f"- Prefill over dense by prompt: {said}." in screen


def test_speed_up_by_prompt_is_a_table(root):
    text, _ = markdown(root)
    rows = rows_under(text, "prefill BitNet-2B INT8, speed-up by prompt")
    assert [row[:2] for row in rows] == [["8192", "2:8"], ["32768", "2:8"]]
    assert all(row[2].startswith("1.20 (") and row[3].startswith("1.10 (") for row in rows)
    assert "BitNet-2B-prompt1024 | BitNet-2B-prompt2048 |" in text


def test_there_is_no_such_table_of_one_prompt(tmp_path):
    write(tmp_path, LONG, 0.010)
    synthetic.write(tmp_path, "decode", [64])
    gather_all(tmp_path, HARDWARE)
    text, _ = markdown(tmp_path)
    assert "speed-up by prompt" not in text and "by prompt:" not in text
    assert "recorded · prompts of at most 2048 tokens in BitNet-2B-prompt2048 · " in first_screen(text)


def test_models_of_one_shape_stand_side_by_side_with_their_names(tmp_path):
    names = [("prefill", model, "INT8", "cublaslt", "dense", 8192) for model in ("Mine", "Mine-16k-prompt8192")]
    synthetic.plan(tmp_path, names, shapes={"Mine-16k": "Mine"})
    write(tmp_path, [8192], 0.010, model="Mine")
    write(tmp_path, ["8192-prompt8192"], 0.020, 0.022, model="Mine-16k")
    assert gather_all(tmp_path, HARDWARE) == []
    text, _ = markdown(tmp_path)
    assert "Mine-prompt1024 | Mine-16k-prompt8192 |" in text
    assert len(rows_under(text, "prefill Mine INT8, speed-up by prompt")) == 1


def test_a_step_of_a_part_of_a_prompt_is_not_in_the_table(tmp_path):
    write(tmp_path, [512, 4096], 0.010)
    write(tmp_path, ["512-prompt2048", "4096-prompt2048"], 0.010)
    gather_all(tmp_path, HARDWARE)
    rows = rows_under(markdown(tmp_path)[0], "prefill BitNet-2B INT8, speed-up by prompt")
    assert [row[0] for row in rows] == ["4096"]


def test_no_ratio_has_two_prompts(tmp_path):
    synthetic.write(tmp_path, "prefill", USUAL)
    synthetic.write(tmp_path, "prefill", LONG, place=SPARSE)
    assert gather_all(tmp_path, HARDWARE) == []
    ((compared_here, _),) = analysed(held_sources(HARDWARE, [tmp_path]))
    assert not any(one.ratios for one in compared_here if one.kind != "half")


def test_gpus_are_compared_at_equal_prompts(tmp_path):
    write(tmp_path, USUAL, 0.010)
    write(tmp_path, LONG, 0.020, 0.022, hardware=H100)
    for key in (HARDWARE, H100):
        assert gather_all(tmp_path, key) == []
    text = compared(tmp_path)
    assert "prefill BitNet-2B INT8, fastest dense engine" not in text
    assert "prefill BitNet-2B-prompt2048 INT8, fastest dense engine" not in text
    write(tmp_path, LONG, 0.020, 0.044)
    assert gather_all(tmp_path, HARDWARE) == []
    text = compared(tmp_path)
    assert "prefill BitNet-2B INT8, fastest dense engine" not in text
    said = text.partition("prefill BitNet-2B-prompt2048 INT8, fastest dense")[2]
    assert "H100 is 2.00 times as fast as RTX4090" in said


def test_a_point_that_failed_is_named_with_its_prompt(root):
    records.write_failure(synthetic.path(root, "prefill", "16384-prompt2048"), "the engine died", "some.log")
    text, _ = markdown(root)
    assert "| prefill | BitNet-2B-prompt2048/INT8/cublaslt/dense | 16384 |" in text and "the engine died" in text


def test_no_folder_is_a_model_at_a_prompt(tmp_path):
    synthetic.write(tmp_path, "prefill", [8192], place={"model": "BitNet-2B-prompt2048"})
    (sentence,) = gather_all(tmp_path, HARDWARE)
    assert "does not belong there" in sentence
