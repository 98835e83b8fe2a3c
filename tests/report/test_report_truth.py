"""Faults of the report's sentences that a hostile search found, and what is said instead."""

import pytest

import synthetic
from foreign import KERNEL, THROUGHPUT, run_row, search_row, tidy
from reports import H200, HARDWARE, PUBLISHED, SPARSE, compared, markdown, ours, rows_under, text_of
from slidesparse.files import read_json, write_json
from slidesparse.plan.key import Configuration
from slidesparse.report.document.model import Figure, Section, Table, say
from slidesparse.report.document.publish import name_apart, publish
from slidesparse.report.sections import comparison
from slidesparse.report.sources.read import hardware_keys
from slidesparse.report.sources.rows import Provenance, Row
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import analysed, held_sources, summaries_of

L40S = "L40S_cc89_py312_cu129_x86_64"
MACHINE = Provenance("NVIDIA H200", "580.95")


def row(stage, backend, sparsity, M, **values):
    name = Configuration("BitNet-2B", "INT8", backend, sparsity)
    values = {"requests_per_s": 1.0, "tokens_per_s": 1.0 * M, "elapsed_time_s": 1.0} | values
    return Row(H200, stage, name, M, "ok", values, MACHINE)


def step(backend, sparsity, M, ms, **more):
    ends = {"step_ms_ci_low": 0.99 * ms, "step_ms_ci_high": 1.01 * ms, "gpu_step_ms": ms}
    return row("prefill", backend, sparsity, M, step_ms=ms, **ends, **more)


def test_means_across_gpus_count_no_M_at_which_auto_ran_dense_kernels(tmp_path):
    keys = (HARDWARE, L40S)
    for key in keys:
        for M, linears in ((512, "cublaslt"), (1024, "cusparselt")):
            synthetic.write(tmp_path, "prefill", [M], 0.012 * M, place={"hardware": key})
            place = {"hardware": key, "backend": "auto", "sparsity": "2_8"}
            (path,) = synthetic.write(tmp_path, "prefill", [M], 0.010 * M, place=place)
            point = read_json(path)
            ran = {"backend": linears, "algorithm": "0"}
            point["results"]["linears"] = dict.fromkeys(synthetic.LINEARS, ran)
            write_json(path, point)
        assert gather_all(tmp_path, key) == []
    text = compared(tmp_path)
    assert "INT8 auto/2_8, steady-state step time, over cublaslt/dense, geometric mean over 1 of the" in text


def test_tables_and_figures_of_one_name_are_files_of_their_own(tmp_path):
    tables = [Table("same", ("x",), [[str(i)]]) for i in range(3)]
    panel = {
        "kind": "lines",
        "title": "",
        "y": "y",
        "series": [{"label": "a", "style": (0,), "x": [1, 2], "y": [1, 2]}],
    }
    figures = [Figure("same", say("None."), [panel], Table("behind", ("y",), [[str(i)]])) for i in range(2)]
    document = Section("title", [*tables, *figures])
    publish(document, tmp_path, "report", ["en"])
    folder = tmp_path / "report"
    assert sorted(path.name for path in folder.glob("*.csv")) == [
        *("behind.csv", "behind_2.csv", "contents.csv", "same.csv", "same_2.csv", "same_3.csv")
    ]
    assert sorted(path.name for path in folder.glob("*.svg")) == ["same.svg", "same_2.svg"]
    assert [(folder / f"same{i}.csv").read_text() for i in ("", "_2", "_3")] == ["x\n0\n", "x\n1\n", "x\n2\n"]
    name_apart(document)
    assert [table.name for table in tables] == ["same", "same_2", "same_3"]


def test_every_table_of_the_comparison_has_a_name_of_its_own():
    summaries = []
    for key in hardware_keys([PUBLISHED]):
        held = held_sources(key, [PUBLISHED])
        summaries += summaries_of(key, held, analysed(held))
    names = [table.name for table in comparison.document(summaries).walk(Table)]
    assert len(names) == len(set(names))


def test_what_was_measured_in_unlike_ways_says_so(tmp_path):
    ours(tmp_path / "a" / "results", protocol=1)
    other = tmp_path / "b" / "results"
    for stage, Ms in (("prefill", (512, 1024)), ("kernel", (64, 128))):
        for place, seconds in (({}, 0.012), (SPARSE, 0.010)):
            place = place | {"hardware": L40S}
            synthetic.write(other, stage, Ms, seconds, place=place, protocol=2)
    gather_all(other, L40S)
    text = compared(tmp_path / "a" / "results", other)
    assert "Measured in unlike ways: protocol 1; protocol 2." in text
    assert "(protocol 1)" in text and "(protocol 2)" in text


def test_more_M_of_one_source_are_no_unlike_way(tmp_path):
    """Lengths of requests follow M, so only the M that both have are held against one another."""
    for name, Ms in (("a", (512, 1024)), ("b", (512, 1024, 2048))):
        runs = [("cuBLASLt", "dense", 90), ("cuSPARSELt", "2_4", 100)]
        rows = [run_row(rate / M, M=M, backend=backend, pattern=pattern) for backend, pattern, rate in runs for M in Ms]
        tidy(tmp_path / name, throughput=THROUGHPUT + "".join(rows))
    text = compared(tmp_path / "a", tmp_path / "b")
    assert "tokens/s" in text and "Measured in unlike ways" not in text


@pytest.mark.parametrize(
    ("Ms", "times", "waves"),
    [
        ((256, 384, 448, 512), (4.0, 8.0, 8.2, 8.4), ["384", "448", "512"]),
        ((64, 128, 256), (4.0, 4.5, 5.5), []),
    ],
)
def test_a_decode_run_in_two_waves_is_found_on_any_grid(Ms, times, waves):
    rows = [
        row("decode", "cublaslt", "dense", M, tokens_per_s=256 * M / s, elapsed_time_s=s, requests_per_s=M / s)
        for M, s in zip(Ms, times, strict=True)
    ]
    found = [line for line in rows_under(text_of(rows), "Anomalies") if "two waves" in line[-1]] if waves else []
    assert [line[2] for line in found] == waves
    assert ("two waves" in text_of(rows)) == bool(waves)


def test_a_window_of_more_sequences_than_M_is_no_figure_of_M():
    rows = [
        row(
            "decode",
            backend,
            sparsity,
            64,
            step_ms=ms,
            step_ms_ci_low=ms,
            step_ms_ci_high=ms,
            gpu_step_ms=ms,
            sequences_min=64,
            sequences_max=most,
        )
        for backend, sparsity, ms, most in (("cublaslt", "dense", 10.0, 90), ("cusparselt", "2_8", 9.0, 64))
    ]
    text = text_of(rows)
    assert "64 to 90 sequences" in text
    assert "over cublaslt/dense: no ratio counts." in text


def test_a_disqualified_dense_engine_is_no_best_one():
    rows = [
        step("vllm", "dense", 4096, 80.0),
        step("cublaslt", "dense", 4096, 60.0),
        step("cutlass", "dense", 4096, 30.0, tokens_min=1024, tokens_max=2048),
        step("cusparselt", "2_8", 4096, 50.0),
    ]
    (line,) = rows_under(text_of(rows), "prefill BitNet-2B INT8, steady-state step time, from stock vLLM to sparse")
    assert line[3:5] == ["cublaslt/dense", "60.000"]


def test_a_dense_backend_without_a_figure_is_named():
    rows = [step("cublaslt", "dense", M, M / 100) for M in (1024, 2048)] + [
        *(step("cutlass", "dense", M, M / 90) for M in (1024, 2048, 4096)),
        *(step("cusparselt", "2_8", M, M / 110) for M in (1024, 2048, 4096, 8192)),
    ]
    text = text_of(rows)
    assert "Dense backends without a figure here, which may be faster: cublaslt at M=4096 (no usable point)." in text
    assert "left out M=8192 (the denominator has no figure)" in text


def test_kernels_and_prefill_at_an_M_name_what_is_left_out():
    text, _ = markdown(PUBLISHED)
    line = next(each for each in text.splitlines() if "FP8 at M=16384" in each and "and of prefill" in each)
    assert "; left out cusparselt/2_4, cusparselt/2_8, cusparselt/2_10 (above the bound)." in line


def test_linears_of_other_shapes_are_not_compared_across_gpus(tmp_path):
    other = "L40S_cc89_py312_cu129_x86_64"
    for key in (HARDWARE, other):
        for place in ({}, SPARSE):
            for path in synthetic.write(tmp_path, "kernel", [64, 128], place=place | {"hardware": key}):
                point = read_json(path)
                if key == other:
                    gemm = next(each for each in point["results"]["gemms"] if each["name"] == "gate_up")
                    gemm |= {"N": 2 * gemm["N"], "effective_tops": 2 * gemm["effective_tops"]}
                    write_json(path, point)
        assert gather_all(tmp_path, key) == []
    text = compared(tmp_path)
    assert "kernel BitNet-2B INT8: L40S and RTX4090 have linears of other shapes, so they are not compared." in text
    assert not [line for line in text.splitlines() if line.startswith("- kernel ") and "geometric mean over" in line]


def test_sums_of_other_numbers_of_linears_are_not_compared_across_gpus(tmp_path):
    body = {3: "", 4: ""}
    for backend, pattern, us in (("cuBLASLt", "dense", 10.0), ("cuSPARSELt", "2_4", 7.0)):
        for at, (N, K) in enumerate(((2560, 2560), (13824, 2560), (2560, 6912), (3840, 2560))):
            for n in body:
                body[n] += search_row(us, N=N, K=K, backend=backend, pattern=pattern) if at < n else ""
    tidy(tmp_path, kernel=KERNEL + body[4])
    folder = tmp_path / "tidy" / L40S
    folder.mkdir()
    (folder / "kernel.csv").write_text(KERNEL + body[3].replace("RTX4090,89", "L40S,89"))
    text = compared(tmp_path)
    said = (
        "kernel BitNet-2B FP8: a layer has other numbers of linears (L40S 3, RTX4090 4), so its sums are not compared."
    )
    assert f"- {said}\n" in text and text.count(said) == 3  # in the conclusions, and above both tables
    assert "geometric mean over" not in text.partition("## Figures")[0]


def test_patterns_of_all_backends_are_in_the_figure_of_the_comparison(tmp_path):
    root = ours(tmp_path / "results")
    patterns = [f"2_{L}" for L in (4, 6, 8, 10, 12)]
    for sparsity in patterns:
        synthetic.write(root, "prefill", (512, 1024), 0.010, place={"backend": "cusparselt", "sparsity": sparsity})
    gather_all(root, HARDWARE)
    held = held_sources(HARDWARE, [root])
    summaries = summaries_of(HARDWARE, held, analysed(held))
    (figure,) = [f for f in comparison.comparison_figures(summaries, ["one"]) if f.name == "comparison_speedup"]
    assert "Only in its table: 2:12." in str(figure.caption)
    assert {line[6] for line in figure.table.rows} >= {f"cusparselt/{sparsity}" for sparsity in patterns}


def test_kernel_sentences_count_the_M_that_a_pattern_lacks(tmp_path):
    for M in (64, 128):
        synthetic.write(tmp_path, "kernel", [M], place={})
    synthetic.write(tmp_path, "kernel", [128], place=SPARSE)
    assert gather_all(tmp_path, HARDWARE) == []
    text, _ = markdown(tmp_path)
    assert "cusparselt/2_8, of 2 M: " in text and "left out M=64 (no usable point)" in text
