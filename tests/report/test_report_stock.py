"""Stock vLLM in the report: what is gained over it is told apart, and none of it is called a gain of sparsity alone."""

import csv
import shutil

import pytest

import synthetic
from reports import HARDWARE, SPARSE, markdown, ours, rows_under
from slidesparse.files import read_json, write_json
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import write_report


def report(tmp_path, **stages):
    """A small run of ours, and stock vLLM beside it at (stage, M, seconds); its root."""
    root = ours(tmp_path / "results")
    for stage, Ms in stages.items():
        for file in synthetic.write(root, stage, Ms, place={"backend": "vllm"}):
            point = synthetic.point(file, 0.018)
            point["results"]["variant"] = "vllm-full-1-own"
            write_json(file, point)
    assert gather_all(root, HARDWARE) == []
    return root


@pytest.mark.parametrize(
    ("language", "title"),
    [
        ("en", "prefill BitNet-2B INT8, steady-state step time, from stock vLLM to sparse"),
        ("zh", "prefill BitNet-2B INT8，稳态单步时间，从原版 vLLM 到稀疏"),
    ],
)
def test_what_fusion_and_what_sparsity_give_is_told_apart(tmp_path, language, title):
    root = report(tmp_path, prefill=(512,))
    synthetic.write(root, "prefill", (1024,), 0.024)  # twice the tokens take longer: no flat step
    slow = {"backend": "cutlass"}
    synthetic.write(root, "prefill", (512,), 0.015, place=slow)
    gather_all(root, HARDWARE)
    text, _ = markdown(root, language=language)
    assert rows_under(text, title) == [
        ["512", "vllm-full-1-own", "18.000", "cublaslt/dense", "12.000", "1.50 (1.48–1.52)"]
        + ["cusparselt/2_8", "10.000", "1.20 (1.18–1.22)", "1.80 (1.77–1.83)", "1.25 (1.23–1.27)"]
    ]


def test_a_figure_shows_the_factors_and_a_table_the_dense_rivals(tmp_path):
    """Stock takes 18 ms, ours with its library 15, ours with the fastest 12, and 2:8 takes 10."""
    root = report(tmp_path, prefill=(512,))
    synthetic.write(root, "prefill", (1024,), 0.024)  # twice the tokens take longer: no flat step
    synthetic.write(root, "prefill", (512,), 0.015, place={"backend": "cutlass"})
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    write_report(HARDWARE, [root], tmp_path)
    (name,) = (tmp_path / "report").glob("*_factors.csv")
    with name.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["M"] == "512"]
    found = {row["factor"]: (row["engine"], round(float(row["value"]), 3)) for row in rows}
    assert found == {
        "fusion": ("cutlass/dense", 1.2),
        "library": ("cublaslt/dense", 1.25),
        "sparsity": ("cusparselt/2_8", 1.2),
    }
    rivals = rows_under(text, "prefill BitNet-2B INT8, steady-state step time")
    assert rivals[:1] == [["512", "1", "0.80 (0.79–0.81)", "0.67 (0.66–0.68)"]]


def test_without_sparse_or_dense_rows_no_gain_is_made_up(tmp_path):
    synthetic.write(tmp_path, "prefill", (512,), 0.018, place={"backend": "vllm"})
    synthetic.write(tmp_path, "prefill", (512,), 0.010, place=SPARSE)
    gather_all(tmp_path, HARDWARE)
    text, _ = markdown(tmp_path)
    assert "from stock vLLM to sparse" not in text
    assert "prefill: no speed-up over dense, because no dense backend other than stock vLLM was measured." in text
    synthetic.write(tmp_path, "prefill", (512,), 0.012)
    shutil.rmtree(tmp_path / HARDWARE / "prefill/BitNet-2B/INT8/cusparselt")
    gather_all(tmp_path, HARDWARE)
    text, _ = markdown(tmp_path)
    (row,) = rows_under(text, "prefill BitNet-2B INT8, steady-state step time, from stock vLLM to sparse")
    assert row[-6:] == ["1.50 (1.48–1.52)", "—", "—", "—", "—", "—"]


def test_decode_is_also_compared_by_what_the_gpu_took(tmp_path):
    root = report(tmp_path, decode=(64,))
    for file in (root / HARDWARE / "decode").rglob("M64.json"):
        point = read_json(file)
        point["results"]["gpu_step_ms"] = {"vllm": 4.0, "cublaslt": 3.2, "cusparselt": 2.5}[point["key"]["backend"]]
        write_json(file, point)
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    assert rows_under(text, "decode BitNet-2B INT8, GPU time of a step, from stock vLLM to sparse") == [
        ["64", "vllm-full-1-own", "4.000", "cublaslt/dense", "3.200", "1.25"]
        + ["cusparselt/2_8", "2.500", "1.28", "1.60", "—"]
    ]
    assert rows_under(text, "decode BitNet-2B INT8, GPU time of a step, over cublaslt/dense")[0] == ["64", "1.28"]
    assert "prefill BitNet-2B INT8, GPU time" not in text
    file = root / HARDWARE / "decode/BitNet-2B/INT8/vllm/dense/M64.json"
    point = read_json(file)
    point["results"]["variants"] = {
        "vllm-full-1-own": {"status": "ok", "gpu_step_ms": 4.0},
        "vllm-piecewise-1": {"status": "ok", "gpu_step_ms": 3.6},
        "vllm-piecewise-32": {"status": "out_of_memory", "gpu_step_ms": None},
    }
    write_json(file, point)
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    (row,) = rows_under(text, "decode BitNet-2B INT8, GPU time of a step, from stock vLLM to sparse")
    assert (row[1:3], row[5], row[9]) == (["vllm-piecewise-1", "3.600"], "1.13", "1.44")
    (row,) = rows_under(text, "decode BitNet-2B INT8, steady-state step time, from stock vLLM to sparse")
    assert row[1:3] == ["vllm-full-1-own", "18.000"]


def test_stock_vllm_is_no_best_dense_backend(tmp_path):
    """A sparse backend over it is labelled so, even where it is the fastest dense one, and gets no bound."""
    root = report(tmp_path, prefill=(512,), decode=(64,))
    synthetic.write(root, "decode", (64,), 0.006, place={"backend": "vllm"})
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    assert "the fastest dense backend of each M" not in text
    ours_only = rows_under(text, "decode BitNet-2B INT8, steady-state step time, over cublaslt/dense")
    assert ours_only[0] == ["64", "1.20 (1.18–1.22)"]
    over = "over stock vLLM (fusion and sparsity together)"
    assert rows_under(text, f"decode BitNet-2B INT8, steady-state step time, {over}") == [
        ["64", "0.50 (0.49–0.51)", "0.60 (0.59–0.61)"]
    ]
    assert f"- decode BitNet-2B INT8, steady-state step time, {over}: the largest ratio is 0.60 (0.59–0.61) at" in text
    assert not [row for row in rows_under(text, "Conclusions") if "stock" in row[4]]
    more = rows_under(text, "prefill BitNet-2B INT8, more about the step")
    assert more == [["vllm/dense", "512", "vllm-full-1-own"]]
