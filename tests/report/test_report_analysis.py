"""What the report computes: ratios with denominator and noise, anomalies, steps, roofline."""

import csv
import re
from dataclasses import replace

import pytest

from reports import (
    DENSE,
    HARDWARE,
    MACHINE,
    PUBLISHED,
    SLID,
    edit,
    gathered,
    kernel,
    markdown,
    ours,
    rows_under,
    step,
    text_of,
)
from slidesparse.plan.key import Configuration
from slidesparse.report.document.looks import style
from slidesparse.report.sections.anomalies import anomalies
from slidesparse.report.sections.figures import figures
from slidesparse.report.sections.ratios import comparisons
from slidesparse.report.sources.read import read_source
from slidesparse.report.sources.rows import Row, Source
from slidesparse.tuning.table import COLUMNS, to_csv


def rules(rows, *others):
    """The findings of every rule by its name."""
    source = Source("results", rows=rows, linears={"BitNet-2B": 4})
    return {str(rule): findings for rule, _, findings in anomalies(source, comparisons(source), others)}


# Ratios.


def test_auto_gains_over_dense_by_choosing_and_has_the_bound_of_its_pattern():
    auto = SLID._replace(backend="auto")
    rows = kernel(DENSE, 64, 12.0) + kernel(SLID, 64, 11.0)
    rows += [step("decode", name, 64, ms) for name, ms in ((DENSE, 12.0), (SLID, 11.0))]
    rows.append(step("decode", auto, 64, 10.0, sparse_linears=4))
    found = rows_under(text_of(rows), "decode BitNet-2B INT8, steady-state step time, over cublaslt/dense")
    assert [cell.split(" ")[0] for cell in found[0]] == ["64", "1.20", "1.09"]
    assert found[1] == ["bound", "1.33", "1.33"]
    above = [step("decode", DENSE, 64, 14.0), step("decode", auto, 64, 10.0, sparse_linears=1)]
    assert [where for where, *_ in rules(above)["Above the bound"]] == ["decode BitNet-2B/INT8/auto/2_8"] * 2
    chosen = [step("decode", DENSE, 64, 14.0), step("decode", auto, 64, 10.0, sparse_linears=0)]
    assert "Above the bound" not in rules(chosen)


def test_an_engine_of_auto_without_a_sparse_kernel_is_a_dense_one():
    """What ran decides: it has no verdict of its pattern, and the report says what it is."""
    auto = SLID._replace(backend="auto")
    rows = [step("prefill", name, 512, ms) for name, ms in ((DENSE, 12.0), (DENSE._replace(backend="cutlass"), 11.0))]
    text = text_of([*rows, step("prefill", auto, 512, 9.0, sparse_linears=0)])
    assert "- prefill: no sparse kernel ran in INT8 auto/2_8. These are dense engines with pruned weights." in text
    assert "An engine with the fastest dense library of each linear (auto/dense) has no figure here" in text
    assert "auto/2_8, of" not in text
    found = rows_under(text, "prefill BitNet-2B INT8, steady-state step time, over cublaslt/dense")
    assert found == [["512", "1.09 (1.08–1.11)", "1.33 (1.31–1.35)"]]
    text = text_of([*rows, step("prefill", auto, 512, 9.0, sparse_linears=1)])
    assert "no sparse kernel ran" not in text
    assert "auto/2_8, of 1 M: faster at 1." in text
    every = [*rows, step("prefill", DENSE._replace(backend="auto"), 512, 10.5), step("prefill", SLID, 512, 10.0)]
    assert "has no figure here, and could be faster" not in text_of(every)


def test_products_of_different_types_are_not_compared():
    """cuBLASLt's INT8 product is INT32 and twice as many bytes as BF16."""
    rows = kernel(DENSE, 64, 20.0, output="INT32") + kernel(SLID, 64, 10.0, output="BF16")
    source = Source("results", rows=rows, linears={"BitNet-2B": 4})
    assert not comparisons(source)
    same = kernel(DENSE, 64, 20.0, output="INT32") + kernel(SLID, 64, 10.0, output="INT32")
    (found,) = comparisons(Source("results", rows=same, linears={"BitNet-2B": 4}))
    assert found.ratios[SLID, 64].value == 2


def test_a_kernel_is_held_against_each_rival_by_name():
    paired = {
        "output": "BF16",
        "latency_int32_us": 12.0,
        "cublaslt_int32_us": 18.0,
        "speedup_cublaslt_ci_low": 1.49,
        "speedup_cublaslt_ci_high": 1.51,
        "best_dense": "cutlass",
        "best_dense_us": 12.0,
        "speedup_best_dense": 1.2,
        "speedup_best_dense_ci_low": 1.19,
        "speedup_best_dense_ci_high": 1.21,
        "linear_us": 20.0,
        "best_dense_linear_us": 21.0,
        "speedup_linear_ci_low": 0.99,
        "speedup_linear_ci_high": 1.11,
    }
    text = text_of(kernel(DENSE, 64, 18.0) + kernel(SLID, 64, 10.0, **paired))
    turn = "kernel BitNet-2B INT8, cold GEMMs of a layer in turn, over "
    assert rows_under(text, "kernel BitNet-2B INT8, cold GEMMs of a layer in turn, INT32 outputs, over cublaslt")[0][
        1
    ].startswith("1.50 (1.")
    assert rows_under(text, turn + "each linear's fastest dense library with BF16 outputs")[0][1].startswith("1.20 (1.")
    best = "the fastest dense library of each whole linear"
    whole = f"kernel BitNet-2B INT8, cold whole linears of a layer in turn, over {best}"
    assert rows_under(text, whole)[0] == ["64", "1.05 (1.02–1.08)"]
    assert "Denominator: each linear's fastest dense library with BF16 outputs, at the same M. Bound: L/(L-2)." in text
    assert text.count("Libraries that take turns share a GPU's power and a process in which sparse products run:") == 3


def test_what_turns_cost_dense_products_is_told_where_the_same_gpu_measured_them_alone():
    turns = "What turns with sparse products cost dense ones"
    sparse = kernel(SLID, 64, 10.0, output="BF16", cublaslt_int32_us=13.2, cutlass_us=12.6)
    alone = kernel(DENSE, 64, 12.0, output="INT32", process="no sparse products")
    alone += kernel(DENSE._replace(backend="cutlass"), 64, 12.0, output="BF16", process="no sparse products")
    assert rows_under(text_of(sparse + alone), turns) == [
        ["BitNet-2B", "INT8", "64", "8", "1.050", "1.075", "1.100"],
    ]
    other = [replace(row, provenance=MACHINE._replace(gpu_uuid="another")) for row in alone]
    before = kernel(DENSE, 64, 12.0, output="INT32")  # whether sparse products had run there is not known
    assert f"# {turns}\n" not in text_of(sparse + other + before)


def test_whole_linears_are_shown_with_scales_applied_and_with_scales_folded():
    rows = kernel(DENSE, 64, 18.0, linear_us=25.0) + kernel(SLID, 64, 10.0, linear_us=20.0, linear_folded_us=15.0)
    text = text_of(rows)
    layer = "kernel BitNet-2B INT8 sum over the linears of a layer, cold latency of whole linears"
    assert rows_under(text, f"{layer} (µs)") == [["64", "100.000", "80.000"]]
    assert rows_under(text, f"{layer} with folded scales (µs)") == [["64", "60.000"]]
    each = rows_under(text, "kernel BitNet-2B INT8 whole linears")
    assert each[0] == ["cublaslt/dense", "qkv", "64", "18.000", "25.000", "—"]
    assert ["cusparselt/2_8", "qkv", "64", "10.000", "20.000", "15.000"] in each
    assert rows_under(text_of(rows, "zh"), "kernel BitNet-2B INT8 完整线性层") == each
    assert "latency of whole linears" not in text_of(kernel(DENSE, 64, 18.0))


def test_the_best_dense_of_a_layer_is_the_sum_of_the_best_of_its_linears():
    rows = kernel(SLID, 64, 10.0, best_dense_us=12.0, speedup_best_dense=1.2)
    rows[0].values.update(best_dense_us=24.0, speedup_best_dense=2.4)
    (found,) = [c for c in comparisons(Source("", rows=rows, linears={"BitNet-2B": 4})) if c.kind == "best_dense"]
    assert found.ratios[SLID, 64].value == pytest.approx((24 + 3 * 12) / 40)
    assert found.ratios[SLID, 64].low is None


def test_a_difference_inside_the_noise_is_shown_as_such():
    rows = [step("prefill", DENSE, 512, 10.0), step("prefill", SLID, 512, 9.9)]
    text = text_of(rows)
    title = "prefill BitNet-2B INT8, steady-state step time, over cublaslt/dense"
    assert rows_under(text, title)[0] == ["512", "1.01 (1.00–1.02) ≈"]
    assert "≈ marks the 1 of 1 ratios whose interval holds 1" in text
    assert "cusparselt/2_8, of 1 M: even at 1." in text
    steps = "- prefill BitNet-2B INT8, steady-state step time, over cublaslt/dense: the largest ratio is"
    assert steps in text and steps.replace("steady-state step time", "tokens/s of the published protocol") not in text


@pytest.mark.parametrize(
    ("coverages", "says"),
    [
        ((0.9785, 0.9687), "at least 95 %"),
        ((0.9785, 0.9375), "at least 93.75 %"),
        ((0.9785, None), "nominally 95 %"),  # an old point, without samples
    ],
)
def test_an_interval_says_how_often_it_covers_the_median(coverages, says):
    names = zip((DENSE, SLID), (10.0, 9.9), coverages, strict=True)
    rows = [step("prefill", name, 512, ms, step_ms_ci_coverage=coverage) for name, ms, coverage in names]
    text = text_of(rows)
    sentence = f"In brackets the interval, made of intervals that cover their medians with {says};"
    assert text.count(sentence) == 1
    assert f"Bars: intervals made of ones that cover their medians with {says}, where they are known" in text
    assert "95 % CI" not in text and "95 % confidence" not in text
    cells = {row[-2] for row in rows_under(text, "prefill BitNet-2B INT8 cusparselt/2_8")}
    assert cells == {"—" if coverages[1] is None else f"{100 * coverages[1]:.1f}"}


@pytest.mark.parametrize("coverage", [0.0, 0.5, 0.75])
def test_an_interval_that_covers_little_decides_nothing(coverage):
    """Those of two and three repeats: a word such as "pays" would be chance."""
    rows = [step("prefill", DENSE, 512, 10.0), step("prefill", SLID, 512, 8.0, step_ms_ci_coverage=coverage)]
    text = text_of(rows)
    assert rows_under(text, "prefill BitNet-2B INT8, steady-state step time, over cublaslt/dense")[0] == ["512", "1.25"]
    assert "no verdict without intervals: 2:8 1.25" in text and "In brackets the interval" not in text
    paired = {"best_dense_us": 12.0, "speedup_best_dense": 1.2, "latency_us_ci_coverage": coverage}
    paired |= {"speedup_best_dense_ci_low": 1.19, "speedup_best_dense_ci_high": 1.21}
    assert "1.20 (" not in text_of(kernel(SLID, 64, 10.0, **paired))


def test_intervals_of_paired_ratios_say_what_they_cover():
    paired = {"best_dense_us": 12.0, "speedup_best_dense": 1.2, "latency_us_ci_coverage": 0.9375}
    paired |= {"speedup_best_dense_ci_low": 1.19, "speedup_best_dense_ci_high": 1.21}
    assert "cover their medians with at least 93.75 %;" in text_of(kernel(SLID, 64, 10.0, **paired))


def test_the_interval_of_a_gpu_time_is_that_of_its_own_variant():
    stock = DENSE._replace(backend="vllm")
    ends = {"gpu_step_ms_ci_low": 7.9, "gpu_step_ms_ci_high": 8.1, "gpu_step_ms_ci_coverage": 0.9375}
    for least, intervals in ((8.0, True), (7.5, False)):
        rows = [step("decode", DENSE, 64, 9.0, gpu_step_ms=8.0, **ends)]
        rows.append(step("decode", stock, 64, 9.0, gpu_step_ms=8.0, least_gpu_step_ms=least, **ends))
        (found,) = [c for c in comparisons(Source("", rows=rows)) if c.metric == "gpu_step_ms"]
        assert found.ratios[DENSE, 64].value == least / 8 and (found.ratios[DENSE, 64].low is not None) == intervals


def test_the_fastest_dense_backend_and_2_4_are_denominators_too():
    torch, half = DENSE._replace(backend="torch"), SLID._replace(sparsity="2_4")
    steps = {DENSE: 12.0, torch: 10.0, SLID: 9.0, half: 6.0}
    text = text_of([step("prefill", name, 512, ms) for name, ms in steps.items()])
    over = "prefill BitNet-2B INT8, steady-state step time, over "
    best = rows_under(text, over + "the fastest dense backend of each M")
    assert best[0] == ["512", "1.67 (1.64–1.69)", "1.11 (1.10–1.13)"]
    found = rows_under(text, over + "cusparselt/2_4")
    assert found == [["512", "0.67 (0.66–0.68)"]]


def test_the_fastest_dense_backend_is_one_whose_product_has_the_same_type():
    cutlass = DENSE._replace(backend="cutlass")
    rows = kernel(DENSE, 64, 9.0, output="INT32") + kernel(cutlass, 64, 10.0, output="BF16")
    text = text_of(rows + kernel(SLID, 64, 8.0, output="BF16"))
    over = "kernel BitNet-2B INT8, sum of cold GEMM latencies of a layer, over the fastest dense backend of each M"
    assert rows_under(text, over)[0] == ["64", "1.25"]


# Anomalies.


def test_what_the_published_figures_suffer_from_is_named():
    source = read_source(PUBLISHED, HARDWARE)
    found = {str(rule): findings for rule, _, findings in anomalies(source, comparisons(source))}
    flat = {where: Ms for where, Ms, _ in found["Host-bound or flat step"]}
    assert flat["prefill BitNet-2B/INT8/cublaslt/dense"] == "512, 1024, 2048"
    assert len(flat) == 10
    windows = found["Decode window that did not hold M sequences"]
    assert {M for _, M, _ in windows} == {"512"}
    assert len(windows) == 10
    assert ("kernel BitNet-2B/INT8/cusparselt/2_8", "1024") in [item[:2] for item in found["Above the bound"]]
    assert found["Out of line with the neighbouring patterns"]


def test_clocks_of_kernels_are_compared_at_one_m():
    """Large products draw a GPU down to its power limit, so that one configuration's clock falls with M as it must."""
    half = SLID._replace(sparsity="2_4")
    clocks = [(DENSE, 64, 1980.0), (half, 64, 1975.0), (DENSE, 8192, 1500.0), (half, 8192, 1700.0)]
    rows = [row for name, M, clock in [*clocks, (SLID, 8192, 1650.0)] for row in kernel(name, M, 1.0, clock_mhz=clock)]
    (found,) = rules(rows)["Different clocks at one M"]
    assert [str(cell) for cell in found] == [
        "kernel BitNet-2B/INT8",
        "8192",
        "1500 MHz with cublaslt/dense to 1700 MHz with cusparselt/2_4",
    ]


def test_the_clock_after_an_engines_load_says_nothing():
    """It is read 0.2 ms after the load has ended: 1,964 MHz in one engine and 1,485 in another at one M."""
    rows = [step("prefill", name, 1024, 25.0, clock_mhz=clock) for name, clock in ((DENSE, 1964.3), (SLID, 1485.2))]
    assert "Different clocks at one M" not in rules(rows)
    text = text_of(rows)
    assert "1964" not in text and "1485" not in text
    assert "1964" in text_of(rows + kernel(DENSE, 64, 12.0, clock_mhz=1964.3))


def test_a_step_says_itself_what_is_wrong_with_it():
    rows = [
        step("prefill", DENSE, 512, 10.0, host_bound=True, tokens_min=500, tokens_max=512),
        step("prefill", DENSE, 1024, 25.0, width=0.2, tokens_min=1024, tokens_max=1024),
        step("prefill", DENSE, 2048, 50.0),
        step("decode", DENSE, 64, 10.0, sequences_min=60),
        step("decode", DENSE, 128, 10.5, sequences_min=128),
    ]
    found = rules(rows)
    assert [M for _, M, _ in found.pop("Host-bound or flat step")] == ["512"]
    assert [str(text) for *_, text in found.pop("Step that did not hold M tokens")] == ["steps of 500 to 512 tokens"]
    assert [M for _, M, _ in found.pop("Decode window that did not hold M sequences")] == ["64"]
    assert [M for _, M, _ in found.pop("Wide confidence interval")] == ["1024"]
    assert not found


def test_a_repeat_that_disagrees_is_named(tmp_path):
    text, _ = markdown(ours(tmp_path / "results"), PUBLISHED)
    mine = text.split("\n## Source ")[1]
    found = [row for row in rows_under(mine, "Anomalies") if row[0] == "Repeat that disagrees"]
    assert ["prefill BitNet-2B/INT8/cublaslt/dense", "512"] in [row[1:3] for row in found]
    assert f"42,750.0 against 7,789.9 tokens/s in `{PUBLISHED}`" in [row[3] for row in found]
    assert not [row for row in found if row[1].startswith("kernel")]  # cold figures are no repeat of hot ones


def test_a_healthy_run_has_no_anomalies():
    rows = [step("prefill", name, M, M / speed) for name, speed in ((DENSE, 50), (SLID, 60)) for M in (512, 1024)]
    assert rules(rows + kernel(DENSE, 64, 12.0) + kernel(SLID, 64, 10.0)) == {}


# Steps, roofline, searches.


def test_a_step_that_was_taken_apart():
    parts = {"gemm_ms": 6.0, "attention_ms": 2.0, "fused_ms": 1.0, "rest_ms": 0.5, "idle_ms": 0.5, "host_bound": False}
    text = text_of([step("prefill", DENSE, 512, 10.0, **parts, energy_j_per_token=0.0125, graph_mode="FULL")])
    made = rows_under(text, "prefill BitNet-2B INT8, what a step is made of")
    assert made == [["cublaslt/dense", "512", "6.000", "2.000", "1.000", "0.500", "0.500", "60.0"]]
    more = rows_under(text, "prefill BitNet-2B INT8, more about the step")
    assert more == [["cublaslt/dense", "512", "no", "0.012500", "FULL"]]


def test_the_gemm_share_is_estimated_where_the_layers_are_known():
    rows = [step("prefill", DENSE, 64, 10.0), *kernel(DENSE, 64, 25.0)]
    text = text_of(rows, layers={"BitNet-2B": 30})
    assert rows_under(text, "prefill BitNet-2B INT8, estimated GEMM share of a step (%)") == [["64", "30.0"]]
    assert "estimated GEMM share" not in text_of(rows)


def test_the_roofline_is_shown_where_it_was_computed():
    roof = {"roofline_us": 5.0, "roofline_pct": 50.0, "roofline_limit": "memory", "clock_mhz": 1980.0}
    roof |= {"effective_tops": 80.0}
    rows = kernel(DENSE, 64, 10.0, **roof)
    found = rows_under(text_of(rows), "kernel BitNet-2B INT8 roofline")
    assert found[0] == ["cublaslt/dense", "qkv", "64", "10.000", "5.000", "50.0", "memory", "1980", "80.0"]
    (figure,) = [f for f in figures(Source("", rows=rows), [], "results") if f.name.endswith("roofline")]
    operations = 2 * 64 * 3840 * 2560
    assert max(tops for _, tops in figure.panels[0]["series"][0]["roof"]) >= operations / 5.0 / 1e6
    assert "The roofline is unknown" in text_of(kernel(DENSE, 64, 10.0))


def test_what_searching_was_worth(tmp_path):
    root = ours(tmp_path / "results")
    top = [{"algorithm": "a", "name": "n", "latency_us": us, "workspace": 0, "kernels": []} for us in (10.0, 11.0)]
    entry = {"linear": "qkv", "N": 3840, "K": 2560, "K_slid": 2560, "M": 64, "output": "BF16"}
    entry |= {"algorithms": 9, "top": top}
    path = root / HARDWARE / "tuning" / "BitNet-2B" / "INT8" / "cusparselt" / "2_8.csv"
    path.parent.mkdir(parents=True)
    path.write_text(to_csv({"entries": [entry | {"default_us": 15.0, "library_us": 12.0}]}))
    assert path.read_text().startswith(",".join(COLUMNS))
    text, refused = markdown(root)
    assert refused == []
    found = rows_under(text, "What the search for algorithms was worth")
    assert found == [["BitNet-2B/INT8/cusparselt/2_8", "1", "1.500", "1.500", "1.200", "1.200"]]
    edit(path, lambda text: text.replace("10.000", "0"))
    assert "as after a dry run" in markdown(root)[1][0]


def test_no_two_configurations_of_a_figure_look_alike():
    names = [DENSE._replace(backend=name) for name in ("cublaslt", "cutlass", "torch", "vllm")]
    for pattern in ("2_4", "2_6", "2_8", "2_10", "2_12", "2_14", "2_16", "2_inf"):
        names += [SLID._replace(backend=name, sparsity=pattern) for name in ("auto", "cusparselt")]
    rows = [step("prefill", name, M, 10.0) for name in names for M in (512, 1024)]
    (figure,) = [f for f in figures(Source("", rows=rows), [], "results") if f.name.endswith("throughput")]
    looks = [style(*series["style"]) for series in figure.panels[0]["series"]]
    assert len({str(look) for look in looks}) == len(names) == len(looks)
    assert len({(look["color"], look["marker"]) for look in looks}) == len(names)


def test_a_csv_of_before_the_rivals_is_still_read(tmp_path):
    root = ours(tmp_path / "results")
    file = gathered(root, "kernel")
    with open(file, encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    later = re.compile(r".*int32_us|best.*|speedup.*|alg_id_.*")
    kept = [name for name in table[0] if not later.fullmatch(name)]
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, kept, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    assert read_source(root, HARDWARE).refused == []


@pytest.mark.parametrize("patterns", [2, 12, 20])
def test_the_figure_of_steps_has_few_bars_of_the_ends(patterns):
    names = [Configuration("m", "INT8", "cusparselt", f"2_{2 * i + 4}") for i in range(patterns)]
    names += [Configuration("m", "INT8", backend, "dense") for backend in ("cutlass", "vllm")]
    Ms = [512 << i for i in range(7)]
    rows = [Row(HARDWARE, "prefill", name, M, "ok", {"gemm_ms": M / 1000}) for name in names for M in Ms]
    (figure,) = [f for f in figures(Source("", rows=rows), [], "results") if f.name.endswith("steps")]
    (panel,) = figure.panels
    assert set(panel["labels"]) >= {"2:4 512", "2:4 32k", "cutlass 512", "vllm 32k"}
    assert len(panel["labels"]) <= 12
    assert set(panel["parts"]["gemm"]) == {1.0}  # microseconds per token
    assert len(figure.table.rows) == 5 * len(rows)  # the table has all
