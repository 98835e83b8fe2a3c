"""The report of published files: the figures of the seed report digit for digit, and whatever stands beside them."""

import csv
import shutil
import subprocess
import sys

import pytest

import synthetic
from reports import HARDWARE, PUBLISHED, markdown, rows_under
from slidesparse.report.document.model import fixed
from slidesparse.report.sources.read import hardware_keys, read_source

# M, requests/s, tokens/s, elapsed (s) of cuBLASLt, as the RTX 4090's own report prints them.
SEED = {
    "prefill BitNet-2B INT8 cublaslt/dense": """
        512 15.19 7,790 8.43
        1024 15.64 16,034 8.18
        2048 30.73 31,494 8.33
        4096 46.00 47,154 11.13
        8192 52.27 53,580 19.59
        16384 51.93 53,233 39.43
        32768 53.20 54,528 76.99""",
    "prefill BitNet-2B FP8 cublaslt/dense": """
        512 15.72 8,065 8.14
        1024 15.64 16,029 8.19
        2048 30.42 31,179 8.42
        4096 45.01 46,135 11.38
        8192 47.10 48,279 21.74
        16384 45.32 46,452 45.19
        32768 45.07 46,199 90.88""",
    "decode BitNet-2B INT8 cublaslt/dense": """
        64 25.69 6,989 2.49
        128 38.79 10,551 3.30
        256 53.86 14,649 4.75
        512 48.58 13,214 10.54""",
    "decode BitNet-2B FP8 cublaslt/dense": """
        64 27.73 7,542 2.31
        128 36.62 9,960 3.50
        256 56.47 15,361 4.53
        512 56.05 15,245 9.14""",
}


@pytest.fixture(scope="module")
def published():
    text, refused = markdown(PUBLISHED)
    assert refused == []
    return text


@pytest.mark.parametrize("title", SEED)
def test_the_seed_tables_digit_for_digit(published, title):
    assert rows_under(published, title) == [line.split() for line in SEED[title].strip().splitlines()]


def test_the_published_task_table(published):
    rows = rows_under(published, "Tasks")
    assert [(row[1], row[2]) for row in rows] == [
        ("success", "99.9"),
        ("skipped", "—"),
        ("skipped", "—"),
        ("success", "5254.9"),
        ("success", "2317.4"),
        ("success", "38.4"),
        ("success", "104.1"),
        ("success", "112.6"),
    ]
    assert "6 success, 0 failed, 2 skipped; total 7927.3 s (2.20 h)." in published


def test_the_published_pass_counts(published):
    assert "prefill: BitNet-2B INT8 35/35, BitNet-2B FP8 35/35; total 70/70" in published
    assert "decode: BitNet-2B INT8 20/20, BitNet-2B FP8 20/20; total 40/40" in published
    assert "total 648/648" in published
    passed = rows_under(published, "Passed")
    assert [row[1:] for row in passed if len(row) == 11 and row[0] != "kernel"] == [["36/36"] * 9 + ["324/324"]] * 2
    searches = rows_under(published, "kernel BitNet-2B INT8 searches")
    assert [row[0] for row in searches] == ["cublaslt/dense"] + [
        f"cusparselt/2_{L}" for L in (4, 6, 8, 10, 12, 14, 16, "inf")
    ]
    assert {row[1] for row in searches} == {"36/36"}


def test_every_published_configuration_has_its_table(published):
    for stage, Ms in (("prefill", 7), ("decode", 4)):
        for dtype in ("INT8", "FP8"):
            for column in ("cublaslt/dense", *(f"cusparselt/2_{L}" for L in (4, 6, 8, 10))):
                assert len(rows_under(published, f"{stage} BitNet-2B {dtype} {column}")) == Ms


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_kernel_figures_agree_with_those_of_the_authors(published, dtype):
    folder = PUBLISHED / "benchmark_kernel" / "kernel_speedup_results" / HARDWARE
    with open(folder / "latency" / dtype / "latency_BitNet-2B-INT8.csv", encoding="utf-8", newline="") as stream:
        latency = {(row[0], row[1], row[2]): row[3:] for row in list(csv.reader(stream))[1:]}
    for linear, (N, K) in synthetic.LINEARS.items():
        found = rows_under(published, f"kernel BitNet-2B {dtype} {linear} (N={N}, K={K}), hot latency (µs)")
        assert [row[1:] for row in found] == [latency[row[0], str(N), str(K)] for row in found]
        assert len(found) == 9
    with open(folder / "latency" / dtype / "total_latency_BitNet-2B-INT8.csv", encoding="utf-8", newline="") as stream:
        totals = list(csv.reader(stream))[1:]
    sums = rows_under(published, f"kernel BitNet-2B {dtype} sum over the linears of a layer, hot latency (µs)")
    for mine, theirs in zip(sums, totals, strict=True):  # theirs are sums of more digits than were published
        assert [float(cell) for cell in mine] == pytest.approx([float(cell) for cell in theirs], abs=0.0025)
    with open(folder / "speedup" / dtype / "total_speedup_BitNet-2B-INT8.csv", encoding="utf-8", newline="") as stream:
        speedups = [[row[0], *row[2:]] for row in list(csv.reader(stream))[1:]]
    found = rows_under(
        published, f"kernel BitNet-2B {dtype}, sum of hot GEMM latencies of a layer, over cublaslt/dense"
    )
    assert found[:-1] == speedups
    assert found[-1] == ["bound", "2.00", "1.50", "1.33", "1.25", "1.20", "1.17", "1.14", "1.00"]


def test_speedups_name_their_denominator_and_what_is_above_the_bound(published):
    assert "Denominator: cublaslt/dense, at the same M. Bound: L/(L-2)." in published
    found = rows_under(published, "prefill BitNet-2B INT8, tokens/s of the published protocol, over cublaslt/dense")
    assert found[3] == ["4096", "1.43", "1.16", "1.23", "1.13"]
    assert "equal efficiency: cusparselt/2_8 at M=1024, cusparselt/2_10 at M=1024" in published


def test_the_published_provenance(published):
    assert "- Hardware: NVIDIA GeForce RTX 4090" in published
    assert "- Measured: 2026-01-28T10:59:16 to 2026-01-28T13:11:23.620525" in published
    first, second = rows_under(published, "Provenance")
    assert first[2:5] == ["prefill, decode", "not recorded", "not recorded"]
    assert second[2:6] == ["kernel", "NVIDIA GeForce RTX 4090", "CUDA 13.0, runtime 12.9", "2.9.0+cu129"]


def test_the_report_lists_its_files(published):
    files = [row[0].strip("`") for row in rows_under(published, "Result files")]
    assert len(files) == 10 + 10 + 18 + 1
    assert all((PUBLISHED / file).is_file() for file in files)


def test_a_checkout_of_the_published_repository_is_read_as_well(tmp_path):
    copy = shutil.copytree(PUBLISHED, tmp_path / "published")
    tools = tmp_path / "checkout" / "slidesparse" / "tools"
    tools.mkdir(parents=True)
    for name in ("throughput_benchmark_results", "vllm_bench_logs"):
        shutil.move(copy / name, tools / name)
    shutil.move(copy / "benchmark_kernel", tools.parent / "benchmark_kernel")
    source = read_source(tmp_path / "checkout", HARDWARE)
    assert len(source.rows) == 70 + 40 + 648
    assert len(source.tasks) == 8
    assert hardware_keys([tmp_path / "checkout"]) == [HARDWARE]


def test_the_report_imports_nothing_heavy():
    code = (
        "import sys, slidesparse.report.write;"
        "heavy = ('torch', 'vllm', 'snakemake', 'pynvml', 'numpy', 'matplotlib', 'pandas');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_numbers():
    assert fixed(15.185, 2) == "15.19"
    assert fixed(2.675, 2) == "2.68"
    assert fixed(7789.9184, 0, thousands=True) == "7,790"
    assert fixed(1e-7, 2) == "0.00"
    assert fixed(None, 2) == "—"
