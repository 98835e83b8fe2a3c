"""Sides of a ratio whose requests differ, in length or in number, are not divided by one another."""

import pytest

from foreign import DENSE as FILE
from foreign import THROUGHPUT, run_row, tidy
from reports import DENSE, HARDWARE, SLID, compared, edit, markdown, rows_under, step, text_of
from slidesparse.report.sources.read import read_source


@pytest.mark.parametrize(("stage", "lengths"), [("prefill", {"prompt_len": 256}), ("decode", {"output_len": 64})])
def test_steps_of_requests_of_other_lengths_are_not_divided(stage, lengths):
    alike, rows = {"prompt_len": 1024, "output_len": 256}, []
    for M in (2048, 4096):
        rows += [step(stage, DENSE, M, M / 100, **alike)]
        rows += [step(stage, SLID, M, M / 120, **alike | (lengths if M == 4096 else {}))]
    text = text_of(rows)
    title = f"{stage} BitNet-2B INT8, steady-state step time, over cublaslt/dense"
    assert [row[0] for row in rows_under(text, title)] == ["2048", "bound"]
    assert (
        "Left out: 1 ratios of points that differ in hardware name, driver, versions, protocol, power limit or"
        " requests." in text
    )
    assert "no ratio of 2:8 at M=4096 (the denominator was measured otherwise)" in text


TITLE = "prefill BitNet-2B INT8, tokens/s of the published protocol, over cublaslt/dense"


def test_published_rates_over_other_numbers_of_requests_are_not_divided(copy):
    """A run of one step is no steady rate."""
    edit(copy / FILE, lambda text: text.replace(",256,128,30.7260,31494.1560,8.3317", ",2,1,30.7260,31494.1560,0.0651"))
    text, refused = markdown(copy)
    assert refused == [] and "2048" not in [row[0] for row in rows_under(text, TITLE)]


def test_tidy_rates_over_other_numbers_of_requests_are_not_divided(tmp_path):
    fewer = run_row(12, 1024, backend="cuSPARSELt", pattern="2_4").replace(",1,1,128,12,", ",1,1,64,12,")
    fewer = fewer.replace(f"{128 / 12:.5f},128,", f"{64 / 12:.5f},64,").replace(f",{128 * 1025},", f",{64 * 1025},")
    alike = run_row(12, backend="cuSPARSELt", pattern="2_4")
    tidy(tmp_path, throughput=THROUGHPUT + run_row(10) + run_row(10, 1024) + alike + fewer)
    text, refused = markdown(tmp_path)
    assert refused == [] and [row[0] for row in rows_under(text, TITLE)] == ["512", "bound"]


def test_a_tidy_row_of_prefill_with_more_than_one_token_of_output_is_not_used(tmp_path):
    longer = run_row(12, backend="cuSPARSELt", pattern="2_4").replace(",512,1,1,128,", ",512,16,1,128,")
    folder = tidy(tmp_path, throughput=THROUGHPUT + run_row(10) + longer)
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    assert f"{folder / 'throughput.csv'}: row 2 not used" in sentence and "has output_len = 16" in sentence


def test_gpus_with_other_requests_are_not_divided(tmp_path):
    own, root = tmp_path / "own", tmp_path / "other"
    tidy(own, throughput=THROUGHPUT + run_row(10))
    fewer = run_row(10).replace("RTX4090,89", "L40S,89").replace(",1,1,128,10,", ",1,1,64,10,")
    fewer = fewer.replace("12.80000,128,", "6.40000,64,").replace(f",{128 * 513},", f",{64 * 513},")
    folder = root / "tidy" / "L40S_cc89_py312_cu129_x86_64"
    folder.mkdir(parents=True)
    (folder / "throughput.csv").write_text(THROUGHPUT + fewer)
    text = compared(own, root)
    assert "Their protocols differ (L40S 64 requests; RTX4090 128 requests)" in text
