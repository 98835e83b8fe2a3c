"""Words that claim: even, unknown, and what they are said of, go no further than the intervals behind them."""

import re

import pytest

from reports import DENSE, H200, MACHINE, SLID, kernel, rows_under, step, text_of
from slidesparse.report.sections.quantities import EVEN, FASTER, SLOWER, UNKNOWN, Quantity
from slidesparse.report.sources.rows import Row


def screen(rows, **more):
    """The first screen as Markdown."""
    return text_of(rows, **more).partition("## Does sparsity pay here?\n")[2].partition("\n## ")[0]


def two(stage, width, M=1024, sparse=1.0, **more):
    """A dense step and a sparse one, `sparse` times as fast, with intervals of ± `width` each."""
    return [step(stage, name, M, ms, width, **more) for name, ms in ((DENSE, M), (SLID, M / sparse))]


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ((0.99, 1.01), EVEN),
        ((0.95, 1.05), EVEN),
        ((0.94, 1.01), UNKNOWN),
        ((0.99, 1.06), UNKNOWN),
        ((0.53, 1.08), UNKNOWN),
        ((1.001, 1.9), FASTER),
        ((0.5, 0.999), SLOWER),
    ],
)
def test_a_ratio_is_even_only_where_its_interval_is_narrow(ends, word):
    low, high = ends
    assert Quantity((low + high) / 2, low, high).verdict is word


def test_a_wide_interval_that_holds_1_is_unknown_and_says_why():
    text = screen(two("prefill", 0.1))
    why = "no verdict, because the interval at the largest M that counts holds 1 and is too wide for even, over all"
    assert f"Prefill, by the clock: {why} of them 2:8 1.00." in text
    assert f"- Prefill INT8, by the clock: {why} of them 2:8 1.00." in text
    assert "| 1.00 | unknown |" in text
    assert "holds 1 and lies within 0.95 to 1.05" in text and "holds 1 and is wider" in text
    assert " even at " not in screen(two("prefill", 0.1)) and "2:8 even." in screen(two("prefill", 0.01))


def test_by_the_clock_unknown_is_no_end_of_a_range_of_words():
    rows = two("decode", 0.3, M=64, gpu_step_ms=5.0, host_bound=True)
    rows += two("decode", 0.01, M=128, sparse=0.5, gpu_step_ms=5.0, host_bound=True)
    text = screen(rows)
    assert "by the clock, with the host's share, 0.50 to 1.00 (1 slower, 1 unknown)" in text
    assert "| unknown (slower, some unknown) |" in text
    assert "| unknown (unknown) |" in screen(rows[:2])


def known(text):
    """(what is known, what is unknown) by the first screen."""
    return re.search(r"Known here: (.*?)\. Unknown here: (.*?)\.", text).groups()


def test_intervals_that_decide_nothing_are_not_known():
    rows = [row for M in (512, 1024) for row in two("prefill", 0.01, M, step_ms_ci_coverage=0.75)]
    text = screen(rows)
    assert "no verdict without intervals" in text
    assert "intervals" in known(text)[1] and "intervals" not in known(text)[0]
    assert "intervals" in known(screen(two("prefill", 0.01)))[0]
    assert "no repeats" not in text_of(rows)
    assert "No ratio here has an interval: how much of it is noise is not known." in text_of(rows)


def score(name, reference="dense", status="ok"):
    """A point of quality."""
    figures = {"bits_per_byte": 1.1, "reference_bits_per_byte": 0.9, "divergence": 0.05, "context": 1024}
    figures["reference"] = reference
    return Row(H200, "quality", name, 4096, status, figures if status == "ok" else {}, MACHINE, reason="why")


def costs(*scores):
    rows = [row for M in (512, 1024) for row in two("prefill", 0.01, M, weight_bytes=2e9)]
    return screen([*rows, *scores])


def test_quality_is_known_of_the_types_that_have_it():
    other = score(SLID._replace(dtype="FP8"))
    text = costs(other)
    assert "INT8: unknown." in text and "was not measured" not in text
    assert known(text)[0].endswith(", quality")
    text = costs(score(SLID), other)
    assert "Bits per byte of the text (lower is better), INT8: dense 0.900, 2:8 1.100." in text


@pytest.mark.parametrize("tried", [score(SLID, status="failed"), score(SLID, reference="R")])
def test_a_score_that_tells_no_cost_is_neither_unmeasured_nor_known(tried):
    text = costs(tried)
    assert "What a pattern costs in accuracy is unknown: no point tells it." in text
    assert "quality" in known(text)[1] and "| not measured |" not in text
    assert "What a pattern costs in accuracy was not measured." in costs()


def test_energy_of_one_side_alone_is_unknown_over_the_other():
    rows = [row for M in (512, 1024) for row in two("prefill", 0.01, M, weight_bytes=2e9)]
    for row in rows:
        row.values.update({"energy_j_per_token": 0.01} if row.configuration == SLID else {})
    assert "2:8 INT8 × 1.00, energy unknown." in screen(rows)


def test_products_alone_name_the_M_and_the_libraries_that_they_lack():
    other = DENSE._replace(backend="cutlass")
    rows = [row for M in (64, 128) for row in (*kernel(DENSE, M, 13.0), *kernel(SLID, M, 10.0))]
    rows += [row for M in (64, 128) for row in kernel(other, M, 9.0, output="INT32")]
    said = (
        "Kernels alone, sum of cold GEMM latencies of a layer, over the fastest dense backend of each M, not in turn:"
    )
    assert f"{said} INT8 2:8 1.30, without cutlass (other outputs)." in screen(rows)
    lost = Row(H200, "kernel", SLID, 256, "failed", {}, MACHINE, reason="why")
    text = screen([row for row in rows if row.configuration != other] + [lost])
    assert "over cublaslt/dense, not in turn: INT8 2:8 1.30 (2 of 3 M)." in text


def test_an_engine_of_dense_kernels_gains_nothing_from_sparsity():
    stock, auto = DENSE._replace(backend="vllm"), SLID._replace(backend="auto")
    rows = [step("prefill", name, M, M / speed) for M in (512, 1024) for name, speed in ((stock, 80), (DENSE, 100))]
    rows += [step("prefill", auto, M, M / 110, sparse_linears=ran) for M, ran in ((512, 4), (1024, 0), (2048, None))]
    rows += [step("prefill", name, 2048, 20.48) for name in (stock, DENSE)]
    title = "prefill BitNet-2B INT8, steady-state step time, from stock vLLM to sparse"
    table = {row[0]: row[8:10] for row in rows_under(text_of(rows), title)}
    assert table["512"] == ["1.10 (1.08–1.12)", "1.38 (1.36–1.39)"]
    assert table["1024"] == ["only dense kernels ran", "1.38 (1.36–1.39)"]
    assert table["2048"][0] == "unknown which kernels ran"


def test_ratios_over_stock_that_do_not_count_are_no_dash():
    stock = DENSE._replace(backend="vllm")
    rows = [row for M in (512, 1024) for row in two("prefill", 0.01, M, sparse=1.2)]
    rows += [step("prefill", stock, M, M / 80, host_bound=True) for M in (512, 1024)]
    lines = [line for line in screen(rows).splitlines() if line.startswith("| ")]
    at = [cell.strip() for cell in lines[0].split("|")].index("prefill over stock")
    cells = {line.split("|")[1].strip(): line.split("|")[at].strip() for line in lines}
    assert (cells["stock vLLM"], cells["dense"], cells["2:8"]) == ("1", "†", "†")


def test_the_library_of_the_best_dense_engine_gains_nothing_over_itself():
    stock, cutlass = (DENSE._replace(backend=backend) for backend in ("vllm", "cutlass"))
    rows = [step("prefill", name, M, M / 100) for M in (512, 1024) for name in (stock, cutlass, SLID)]
    title = "prefill BitNet-2B INT8, steady-state step time, from stock vLLM to sparse"
    assert {row[-1] for row in rows_under(text_of(rows), title)} == {"1"}
