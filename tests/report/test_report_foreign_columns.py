"""Columns, heads and names of others' files: what contradicts itself or its place is named; what is lacking counts."""

import re
import shutil
from pathlib import Path

import pytest

from foreign import (
    DENSE,
    INT8,
    KERNEL,
    KERNELS,
    SEARCH,
    THROUGHPUT,
    run_row,
    search_row,
    tidy,
)
from reports import H100, HARDWARE, PUBLISHED, edit, gathered, markdown, ours, rows_under
from slidesparse.report.sources.read import hardware_keys, read_source

# Columns, heads and names of files


CONTRADICTIONS = {
    "tokens/s": (lambda text: text.replace("7789.9184", "7800.9184"), "tokens_per_s = 7800.92, but 7789.9"),
    "elapsed": (lambda text: text.replace("8.4294", "9.4294"), "elapsed_time_s = 9.4294, but 8.42937 follows"),
    "steps": (lambda text: text.replace("2048,1024,2,256,128", "2048,1024,2,256,64"), "has 64 steps, but 128 follow"),
    "M": (lambda text: text.replace("2048,1024,2", "2048,512,2"), "M=2048, but its prompts make M=1024"),
    "a head of another GPU": (lambda text: f"# GPU: NVIDIA A100-SXM4-80GB\n{text}", "its header says GPU NVIDIA A100"),
    "a head of another type": (lambda text: f"# dtype: FP8E4M3\n{text}", "its header says dtype FP8E4M3"),
    "a head of another model": (lambda text: f"# Model: Llama-1B-INT8\n{text}", "its header says Model Llama-1B-INT8"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_file_that_contradicts_itself_is_refused(copy, name):
    change, cause = CONTRADICTIONS[name]
    edit(copy / DENSE, change)
    text, (sentence,) = markdown(copy)
    assert sentence.startswith(f"{copy / DENSE} ")
    assert cause in sentence
    assert "prefill: BitNet-2B INT8 28/35, BitNet-2B FP8 35/35; total 63/70" in text


HEADS = {
    "GPU": ("# GPU: NVIDIA GeForce RTX 4090", "# GPU: NVIDIA GeForce RTX 3090"),
    "dtype": ("# dtype: INT8 ->", "# dtype: FP8E4M3 ->"),
    "Model": ("# Model: BitNet-2B-INT8", "# Model: Qwen-7B-INT8"),
}


@pytest.mark.parametrize("word", HEADS)
def test_a_search_whose_head_names_something_else_is_refused(copy, word):
    edit(copy / SEARCH, lambda text: text.replace(*HEADS[word]))
    text, (sentence,) = markdown(copy)
    assert f"{copy / SEARCH} does not belong there: its header says {word} " in sentence
    assert "total 612/612" in text


def test_a_tidy_row_that_contradicts_itself_is_not_used(tmp_path):
    wrong = run_row(10, M=1024).replace(",10250,", ",10300,")
    folder = tidy(tmp_path, throughput=THROUGHPUT + run_row(10) + wrong)
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    where = f"{folder / 'throughput.csv'}: row 2 not used: it contradicts itself: M=1024 has tokens_per_s = 10300"
    assert sentence.startswith(where)
    assert [row.M for row in read_source(tmp_path, HARDWARE).rows] == [512]
    edit(folder / "throughput.csv", lambda text: f"# GPU: NVIDIA H100 PCIe\n{text}")
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    assert "its header says GPU NVIDIA H100 PCIe, its place says RTX4090" in sentence


@pytest.mark.parametrize("column", ["tokens_per_s", "elapsed_time_s", "steady_tokens_per_s"])
def test_a_gathered_csv_that_contradicts_itself_is_refused(tmp_path, column):
    file = gathered(ours(tmp_path))
    header, first, *rest = file.read_text().splitlines()
    cells, at = first.split(","), header.split(",").index(column)
    cells[at] = f"{float(cells[at]) * 1.01:.10g}"
    file.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
    source = read_source(tmp_path, HARDWARE)
    (sentence,) = source.refused
    assert f"{file} contradicts itself: M=512 has {column} = " in sentence
    assert len(source.stage("prefill")) == 2


@pytest.mark.parametrize("file", [DENSE, SEARCH])
def test_a_byte_order_mark_and_blank_lines_at_the_end_are_read(copy, file):
    before, _ = markdown(copy)
    edit(copy / file, lambda text: f"\ufeff{text}\n\n \n")
    assert markdown(copy) == (before, [])


@pytest.mark.parametrize("name", ["{} (1)", "{} copy", "{} - Copy"])
def test_a_copy_beside_its_file_is_refused_as_one(copy, name):
    before, _ = markdown(copy)
    for file in (copy / DENSE, copy / SEARCH):
        shutil.copy(file, file.with_name(f"{name.format(file.stem)}.csv"))
    table = tidy(copy, throughput=THROUGHPUT + run_row(11, backend="cutlass")) / "throughput.csv"
    shutil.copy(table, table.with_name(f"{name.format(table.stem)}.csv"))
    text, refused = markdown(copy)
    assert len(refused) == 3
    assert all("has the name of a copy of" in sentence for sentence in refused)
    assert "total 648/648" in text


def test_a_copy_in_our_layout_is_refused_as_one(tmp_path):
    file = gathered(ours(tmp_path))
    shutil.copy(file, file.with_name(f"{file.stem} (1).csv"))
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    assert f"has the name of a copy of {file.name}" in sentence


def test_a_folder_with_a_space_is_named_and_the_rest_reported(copy):
    spaced = copy / INT8.replace("RTX4090", "RTX 4090")
    (copy / INT8).rename(spaced)
    search = copy / KERNELS.format("cuBLASLt")
    search.rename(search.with_name(HARDWARE.replace("RTX4090", "RTX 4090")))
    text, refused = markdown(copy)
    assert [str(spaced) in refused[0], len(refused)] == [True, 2]
    assert all("its name has a space" in sentence for sentence in refused)
    assert "rename it RTX4090_cc89_INT8_py312_cu129_x86_64" in refused[0]
    assert hardware_keys([copy]) == [HARDWARE]
    assert "BitNet-2B FP8 35/35" in text


def test_folders_that_no_report_reads_are_named(copy):
    (copy / "throughput_benchmark_results" / "training").mkdir()
    ours(copy)
    (copy / "RTX 4090_cc89_py312_cu129_x86_64" / "prefill").mkdir(parents=True)
    (copy / INT8).with_name(HARDWARE).mkdir()
    named = [sentence for sentence in read_source(copy, HARDWARE).refused if "is not read" in sentence]
    assert len(named) == 3
    assert sum("is not a hardware key with the type, such as" in sentence for sentence in named) == 1
    assert sum("neither prefill nor decode" in sentence for sentence in named) == 1
    assert sum("has a space" in sentence for sentence in named) == 1


# What was asked for, and when


def test_points_that_a_sweep_lacks_are_counted(copy):
    edit(copy / DENSE, lambda text: "".join(text.splitlines(keepends=True)[:-1]))
    text, refused = markdown(copy)
    assert refused == []
    assert "prefill: BitNet-2B INT8 34/35, BitNet-2B FP8 35/35; total 69/70" in text
    assert ["prefill", "BitNet-2B/INT8/cublaslt/dense", "32768"] in rows_under(text, "Missing, failed, left out")
    assert rows_under(text, "Tasks")[3][3] == "69/70"
    assert "7 M × 5 backends" in text


def test_what_a_refused_search_announces_is_counted(copy):
    edit(copy / SEARCH, lambda text: "\n".join(text.splitlines()[:-1]))
    text, (sentence,) = markdown(copy)
    assert "35 of 36 announced rows" in sentence
    assert "total 612/648" in text


def test_the_span_of_a_run_covers_its_tasks(copy):
    text, _ = markdown(copy)
    assert "- Measured: 2026-01-28T10:59:16 to 2026-01-28T13:11:23.620525" in text
    assert "Log of the run, by its status file: `bitnet_bench_20260128_105916.log`" in text
    (status,) = copy.glob("vllm_bench_logs/*/*.json")
    whole = status.read_text()
    status.unlink()
    for odd in ('"soon"', '"0001-01-01T00:00:00"', '""', "null", "7"):
        other = whole.replace('"2026-01-28T13:11:23.620525"', odd)
        status.with_name("bitnet_bench_20260199_999999_status.json").write_text(other)
        assert markdown(copy)[1] == []
    shutil.rmtree(copy / "vllm_bench_logs")
    text, _ = markdown(copy)
    assert "without prefill, decode, whose times are not recorded" in text
    searches = sorted(copy.glob("benchmark_kernel/cu*/alg_search_results/*/*/*.csv"))
    edit(searches[0], lambda text: re.sub("# Time: .*\n", "", text))
    assert "without some of kernel, prefill, decode, whose times are not recorded" in markdown(copy)[0]


def test_a_search_with_an_empty_figure_is_refused(copy):
    edit(copy / SEARCH, lambda text: re.sub(r"\n(64,2560,3840,\d+),[^,]*,", r"\n\1,,", text))
    (sentence,) = read_source(copy, HARDWARE).refused
    assert sentence == f"{copy / SEARCH} is damaged: it has a row without tops_1"


def test_a_fused_kernel_without_a_length_is_named(tmp_path):
    copy = Path(shutil.copytree(PUBLISHED / "tidy", tmp_path / "tidy"))
    edit(copy / H100 / "quant_kernels.csv", lambda text: text.replace(",2560,", ",,", 1))
    text, (sentence,) = markdown(tmp_path, hardware=H100)
    assert "row 1 not used: it has no usable K" in sentence
    assert "quantise and lift" in text


def test_a_task_of_a_thousand_years_is_refused(copy):
    (status,) = copy.glob("vllm_bench_logs/*/*.json")
    edit(status, lambda text: text.replace("99.91210627555847", "9" * 12))
    (sentence,) = read_source(copy, HARDWARE).refused
    assert "task 1 has no duration" in sentence


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("NVIDIA GeForce RTX 4090", True),
        ("RTX4090", True),
        ("GeForce RTX4090", True),
        ("NVIDIA GeForce RTX 4080", False),
    ],
)
def test_a_gpu_has_several_names(copy, name, right):
    edit(copy / DENSE, lambda text: f"# GPU: {name}\n{text}")
    assert bool(read_source(copy, HARDWARE).refused) != right


def test_the_head_and_counts_of_a_run(copy):
    text, _ = markdown(copy)
    assert "- Architecture: Ada Lovelace, compute capability 8.9" in text
    assert "7 M × 5 backends and patterns × 2 models and types = 70 points." in text
    assert "9 M × 9 backends and patterns × 2 models and types = 162 points, × 4 linears = 648." in text
    assert "Base models: 3 (BitNet-2B BF16, BitNet-2B FP8, BitNet-2B INT8). Models in a pattern: 8." in text


def test_a_tidy_row_of_minus_one_is_a_point_that_failed(tmp_path):
    def failed(row, first=12):
        cells = row.split(",")
        cells[first : first + 3] = ["-1"] * 3
        return ",".join(cells)

    rows = [run_row(10), run_row(12, backend="cusparselt", pattern="2_4")]
    lost = [
        failed(run_row(10, M=1024, backend=name, pattern=of))
        for name, of in (("cuBLASLt", "dense"), ("cusparselt", "2_4"))
    ]
    kernels = KERNEL + search_row(10) + failed(search_row(10, M=128), first=10)
    tidy(tmp_path, throughput=THROUGHPUT + "".join(rows + lost), kernel=kernels)
    text, refused = markdown(tmp_path)
    assert refused == []
    assert "prefill: 2/4 points passed, 2 failed" in text
    assert "kernel: 1/2 linears passed, 1 points failed" in text
    assert "2 points of engines, 2 failed" in text
    assert "no ratio of 2:4 at M=1024 (failed)" in text
