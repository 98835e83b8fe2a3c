"""Published files: bad ones are refused by name, and nothing of them is used."""

import re
import shutil
from pathlib import Path

import pytest

from reports import HARDWARE, PUBLISHED, edit, markdown, rows_under
from slidesparse.report.sources.read import read_source

KERNELS = "benchmark_kernel/{}/alg_search_results/" + HARDWARE
PREFILL = (
    "throughput_benchmark_results/prefill/RTX4090_cc89_INT8_py312_cu129_x86_64/cublaslt/BitNet-2B-INT8_prefill.csv"
)
DENSE_KERNEL = KERNELS.format("cuBLASLt") + "/INT8/alg_search_BitNet-2B-INT8.csv"
SPARSE_KERNEL = KERNELS.format("cuSPARSELt") + "/INT8/alg_search_BitNet-2B-INT8_2_8.csv"


@pytest.fixture
def copy(tmp_path):
    """A copy of the published files that a test may damage."""
    return Path(shutil.copytree(PUBLISHED, tmp_path / "published"))


DAMAGE = {
    "cut in a row": (PREFILL, lambda text: text[:-20], "is truncated: its last line has no end"),
    "a short row": (PREFILL, lambda text: text.replace(",8.4294", ""), "row 1 has 7 of 8 columns"),
    "a long row": (PREFILL, lambda text: text.replace("8.4294", "8.4294,1"), "row 1 has 9 of 8 columns"),
    "no rows": (PREFILL, lambda text: text.splitlines()[0] + "\n", "holds no rows"),
    "nothing": (PREFILL, lambda text: "", "holds no header"),
    "two rows for an M": (PREFILL, lambda text: text + text.splitlines()[1] + "\n", "two rows for M_prefill=512"),
    "an unknown column": (
        PREFILL,
        lambda text: (
            "\n".join(f"{line},{'energy' if i == 0 else 1}" for i, line in enumerate(text.splitlines())) + "\n"
        ),
        "unknown column energy",
    ),
    "a missing column": (PREFILL, lambda text: text.replace(",N_prefill", ""), "missing column N_prefill"),
    "NaN": (PREFILL, lambda text: text.replace("7789.9184", "nan"), "column tokens_per_s: 'nan' is no finite number"),
    "infinity": (PREFILL, lambda text: text.replace("7789.9184", "inf"), "'inf' is no finite number"),
    "a word": (PREFILL, lambda text: text.replace("512,512", "512,many"), "'many' is no whole number"),
    "an empty cell": (PREFILL, lambda text: text.replace("7789.9184", ""), "row 1 has no tokens_per_s"),
    "a dry run": (
        PREFILL,
        lambda text: re.sub(r"128,15.1850,.*", "128,0.0000,0.0000,0.0000", text),
        "requests_per_s, tokens_per_s, elapsed_time_s = 0, as after a dry run",
    ),
    "a negative rate": (PREFILL, lambda text: text.replace("7789.9184", "-7.5"), "tokens_per_s = -7.5, below zero"),
    "a search cut at a row": (
        DENSE_KERNEL,
        lambda text: "\n".join(text.splitlines()[:-1]),
        "is truncated: it holds 35 of 36 announced rows",
    ),
    "a search cut in a row": (DENSE_KERNEL, lambda text: text[:-12], "row 36 has"),
    "a search twice": (
        SPARSE_KERNEL,
        lambda text: text + "\n" + text.splitlines()[-1],
        "two rows for M=16384, N=13824",
    ),
    "a search of zeros": (SPARSE_KERNEL, lambda text: text.replace(",11.141,", ",0.000,"), "lat_us_1 = 0"),
    "a search with NaN": (SPARSE_KERNEL, lambda text: text.replace(",11.141,", ",nan,"), "no finite number"),
    "a search of another backend": (
        SPARSE_KERNEL,
        lambda text: text.replace("# Backend: cuSPARSELt", "# Backend: cuBLASLt"),
        "its header says Backend cublaslt, its place says cusparselt",
    ),
    "a search of another pattern": (
        SPARSE_KERNEL,
        lambda text: text.replace("# Sparsity: 2_8", "# Sparsity: 2_6"),
        "its header says Sparsity 2_6, its place says 2_8",
    ),
    "a search of another GPU": (SPARSE_KERNEL, lambda text: text.replace("# CC: cc89", "# CC: cc90"), "says CC cc90"),
    "a search without a header": (
        SPARSE_KERNEL,
        lambda text: text.replace("# NK_list", "# NK"),
        "no readable M_list and NK_list",
    ),
    "a search of an unannounced shape": (
        SPARSE_KERNEL,
        lambda text: text.replace("\n64,2560,3840", "\n64,2592,3840"),
        "does not announce M=64 N=2592 K=3840",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_published_file_is_refused_by_name(copy, name):
    file, change, cause = DAMAGE[name]
    edit(copy / file, change)
    text, refused = markdown(copy)
    assert len(refused) == 1
    assert str(copy / file) in refused[0]
    assert cause in refused[0]
    assert "\n" not in refused[0]
    assert f"- {refused[0]}" in text
    whole, mine = read_source(PUBLISHED, HARDWARE), read_source(copy, HARDWARE)
    assert len(whole.rows) - len(mine.rows) == (7 if file == PREFILL else 36)
    if file == PREFILL:
        assert "### prefill BitNet-2B INT8 cublaslt/dense" not in text
        assert "prefill BitNet-2B INT8, tokens/s of the published protocol, over cublaslt/dense" not in text
        assert rows_under(text, "prefill BitNet-2B FP8 cublaslt/dense")[0][2] == "8,065"


def test_a_file_under_another_name_is_refused(copy):
    file = copy / PREFILL
    file.rename(file.with_name("BitNet-2B-FP8_prefill.csv"))
    (sentence,) = read_source(copy, HARDWARE).refused
    assert "it is not called {model}-INT8_prefill.csv" in sentence


def test_two_files_of_one_configuration_are_not_averaged(copy):
    file = copy / SPARSE_KERNEL
    shutil.copy(file, file.with_name("alg_search_BitNet-2B-FP8_2_8.csv"))
    (sentence,) = read_source(copy, HARDWARE).refused
    assert "holds the same configuration as" in sentence


def test_minus_one_means_failed(copy):
    edit(copy / PREFILL, lambda text: re.sub(r"128,53.1983,.*", "128,-1.0000,-1.0000,-1.0000", text))
    edit(copy / SPARSE_KERNEL, lambda text: re.sub(r"\n64,2560,3840,.*", "\n64,2560,3840,0" + "," * 15, text))
    text, refused = markdown(copy)
    assert refused == []
    assert "prefill: BitNet-2B INT8 34/35, BitNet-2B FP8 35/35; total 69/70" in text
    assert "total 647/648" in text
    assert rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")[-1] == ["32768", "failed", "—", "—"]
    assert rows_under(text, "kernel BitNet-2B INT8 o (N=2560, K=2560), hot latency (µs)")[0][4] == "failed"
    sums = rows_under(text, "kernel BitNet-2B INT8 sum over the linears of a layer, hot latency (µs)")
    assert sums[0][4] == "—"
    failed = rows_under(text, "Missing, failed, left out")
    assert ["prefill", "BitNet-2B/INT8/cublaslt/dense", "32768"] in [row[:3] for row in failed]


def test_a_damaged_status_file_is_refused(copy):
    (status,) = copy.glob("vllm_bench_logs/*/*.json")
    edit(status, lambda text: text.replace("99.91210627555847", '"long"'))
    text, (sentence,) = markdown(copy)
    assert f"{status} is damaged: task 1 has no duration" in sentence
    assert "No task table" in text
