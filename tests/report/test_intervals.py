"""Intervals of medians: their ranks and what they cover, and that gathering takes them from a point's samples."""

from math import comb

import pytest

import synthetic
from places import ROOT
from slidesparse.files import read_json, write_json
from slidesparse.report.sources.read import read_source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.tables.intervals import of_median
from slidesparse.report.tables.point_rows import gemm_columns, throughput_row


def coverage(n, rank):
    """Probability that samples of ranks `rank` and n-1-rank enclose the median."""
    return 1 - 2 * sum(comb(n, i) for i in range(rank + 1)) / 2**n


@pytest.mark.parametrize(
    ("n", "rank", "covers"),
    [(1, 0, 0), (2, 0, 0.5), (3, 0, 0.75), (5, 0, 0.9375), (6, 0, 0.96875), (9, 1, 0.9609375), (10, 1, 0.978515625)],
)
def test_few_samples(n, rank, covers):
    assert of_median(range(n)) == (rank, n - 1 - rank, covers)


def test_the_ranks_of_forty_samples_are_symmetric():
    """By n/2 + 0.98 sqrt(n), rounded up, the upper one was 27 from 0, which is one too high."""
    low, high, covers = of_median([float(i) for i in range(40)])
    assert (low, high) == (13, 26)
    assert covers == pytest.approx(0.9615, abs=1e-4)


@pytest.mark.parametrize("n", [*range(1, 60), 100, 200, 1001, 3000])
def test_the_interval_is_the_narrowest_that_covers_enough(n):
    low, high, covers = of_median(list(range(n))[::-1])
    assert high == n - 1 - low and covers == pytest.approx(coverage(n, low), abs=1e-12)
    assert covers >= 0.95 or low == 0
    assert low + 1 > (n - 1) / 2 or coverage(n, low + 1) < 0.95


def test_an_interval_holds_the_median_that_was_stored_before_samples_were_rounded():
    assert of_median([2.001, 2.001, 2.001], 2.0008)[:2] == (2.0008, 2.001)


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="no samples"):
        of_median([])


# What gathering makes of a point.


def point(stage, backend="cusparselt", sparsity="2_8"):
    return synthetic.point(synthetic.path(ROOT, stage, 64, backend, sparsity))


def test_a_latency_has_the_interval_of_its_samples():
    gemm = point("kernel")["results"]["gemms"][0]
    gemm |= {"samples_us": [float(i) for i in range(1, 41)]}
    gemm["cold"] = synthetic.seconds_of(20.5e-6, "_s") | {"ci_low_s": 14e-6, "ci_high_s": 28e-6}
    columns = gemm_columns(gemm)
    assert (columns["latency_us_ci_low"], columns["latency_us_ci_high"]) == (14, 27)
    assert columns["latency_us_ci_coverage"] == pytest.approx(0.9615, abs=1e-4)
    del gemm["samples_us"]  # as old points
    columns = gemm_columns(gemm)
    assert (columns["latency_us_ci_low"], columns["latency_us_ci_high"]) == pytest.approx((14, 28))
    assert columns["latency_us_ci_coverage"] is None


def test_a_paired_ratio_has_the_interval_of_the_ratios_of_its_samples():
    gemm = point("kernel")["results"]["gemms"][0]
    said = {"median": 2.0, "p5": 1.0, "p95": 3.0, "ci_low": 1.0, "ci_high": 3.0, "n": 9}
    rival = {"backend": "cublaslt", "output": "INT32", "cold": gemm["cold"], "speedup": said}
    ratios = [1.0, 3.0, 1.5, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4]
    gemm |= {"samples_us": [10.0 + i for i in range(9)]}
    rival["samples_us"] = [ratio * own for ratio, own in zip(ratios, gemm["samples_us"], strict=True)]
    columns = gemm_columns(gemm | {"peers": [rival]})
    for name in ("speedup_cublaslt", "speedup_best_dense"):
        assert [columns[f"{name}{end}"] for end in ("", "_ci_low", "_ci_high")] == pytest.approx([2, 1.5, 2.4])
    wholes = [{name: each[name] for name in ("cold", "samples_us")} | {"backend": "x"} for each in (gemm, rival)]
    wholes[1]["speedup"] = said
    columns = gemm_columns(gemm | {"whole": wholes})
    assert (columns["speedup_linear_ci_low"], columns["speedup_linear_ci_high"]) == pytest.approx((1.5, 2.4))
    del wholes[0]["samples_us"]
    columns = gemm_columns(gemm | {"whole": wholes})
    assert (columns["speedup_linear_ci_low"], columns["speedup_linear_ci_high"]) == (1, 3)


def test_a_step_has_the_interval_of_its_repeats():
    measured = point("prefill")
    row = throughput_row(measured)
    assert row["step_ms_ci_low"] == pytest.approx(9.9) and row["step_ms_ci_coverage"] is None
    measured["results"]["repeats_s"] = [0.009, 0.0095, 0.01, 0.0105, 0.012]
    row = throughput_row(measured)
    assert (row["step_ms_ci_low"], row["step_ms_ci_high"]) == pytest.approx((9, 12))
    assert (row["step_ms_ci_coverage"], row["repeats"], row["samples"]) == (0.9375, 5, 100)


def test_a_gpu_time_has_an_interval_where_five_windows_were_profiled():
    measured = point("decode")
    windows = [8.0, 8.1, 8.2, 8.3, 8.4]
    for taken, ends in ((windows, (8.0, 8.4, 0.9375)), (windows[1:4], (None, None, None)), (None, (None, None, None))):
        measured["results"] |= {"gpu_step_ms": 8.2} | ({"gpu_steps_ms": taken} if taken else {})
        row = throughput_row(measured)
        assert tuple(row[f"gpu_step_ms_ci_{end}"] for end in ("low", "high", "coverage")) == ends
        measured["results"].pop("gpu_steps_ms", None)


def test_a_point_of_one_repeat_has_no_interval_and_is_gathered(tmp_path):
    """Its coverage of 0 was taken for a value that nobody measured, and its width of 0 would be a sure win."""
    (path,) = synthetic.write(tmp_path, "prefill", (512,))
    point = read_json(path)
    point["results"] |= {"repeats_s": [point["results"]["step_s"]["median"]]}
    write_json(path, point)
    assert gather_all(tmp_path, synthetic.HARDWARE) == []
    (row,) = read_source(tmp_path, synthetic.HARDWARE).rows
    assert row.values["step_ms"] and row.values["step_ms_ci_low"] is None and row.values["step_ms_ci_coverage"] is None
