"""The report: figures come out as they went in, bad files are refused by name, the same inputs give the same bytes."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import synthetic
from slidesparse.errors import RecordError
from slidesparse.files import write_json
from slidesparse.report.gather import gather_all
from slidesparse.report.markdown import fixed, table
from slidesparse.report.sources import hardware_keys, read_source
from slidesparse.report.write import write_report, write_reports

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "resources" / "published"
HARDWARE = synthetic.HARDWARE
KERNELS = "benchmark_kernel/{}/alg_search_results/" + HARDWARE
PREFILL = (
    "throughput_benchmark_results/prefill/RTX4090_cc89_INT8_py312_cu129_x86_64/cublaslt/BitNet-2B-INT8_prefill.csv"
)
DENSE_KERNEL = KERNELS.format("cuBLASLt") + "/INT8/alg_search_BitNet-2B-INT8.csv"
SPARSE_KERNEL = KERNELS.format("cuSPARSELt") + "/INT8/alg_search_BitNet-2B-INT8_2_8.csv"

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


def rows_under(text, title):
    """Cells of the table under a heading."""
    _, _, after = text.partition(f"# {title}\n")
    assert after, f"no heading {title}"
    lines = re.split(r"\n#+ ", after)[0].splitlines()
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    return [row for row in found[1:] if set(row[0]) - set("-:")]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    output = tmp_path_factory.mktemp("published") / "report.md"
    assert write_report(HARDWARE, [PUBLISHED], output) == []
    return output.read_text()


@pytest.fixture
def copy(tmp_path):
    """A copy of the published files that a test may damage."""
    return Path(shutil.copytree(PUBLISHED, tmp_path / "published"))


def report(tmp_path, *sources):
    """(text of the report, refused sentences)."""
    refused = write_report(HARDWARE, sources, tmp_path / "report.md")
    return (tmp_path / "report.md").read_text(), refused


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
    with open(folder / "latency" / dtype / "latency_BitNet-2B-INT8.csv", newline="") as stream:
        latency = {(row[0], row[1], row[2]): row[3:] for row in list(csv.reader(stream))[1:]}
    for linear, (N, K) in synthetic.LINEARS.items():
        found = rows_under(published, f"kernel BitNet-2B {dtype} {linear} (N={N}, K={K}), latency (µs)")
        assert [row[1:] for row in found] == [latency[row[0], str(N), str(K)] for row in found]
        assert len(found) == 9
    with open(folder / "latency" / dtype / "total_latency_BitNet-2B-INT8.csv", newline="") as stream:
        totals = list(csv.reader(stream))[1:]
    sums = rows_under(published, f"kernel BitNet-2B {dtype} sum over the linears of a layer, latency (µs)")
    for mine, theirs in zip(sums, totals, strict=True):  # theirs are sums of more digits than were published
        assert [float(cell) for cell in mine] == pytest.approx([float(cell) for cell in theirs], abs=0.0025)
    with open(folder / "speedup" / dtype / "total_speedup_BitNet-2B-INT8.csv", newline="") as stream:
        speedups = [[row[0], *row[2:]] for row in list(csv.reader(stream))[1:]]
    found = rows_under(published, f"kernel BitNet-2B {dtype}, sum of GEMM latencies of a layer")
    assert found[:-1] == speedups
    assert found[-1] == ["bound", "2.00", "1.50", "1.33", "1.25", "1.20", "1.17", "1.14", "1.00"]


def test_speedups_name_their_denominator_and_what_is_above_the_bound(published):
    assert "Denominator: cublaslt/dense of the same M. Bound: L/(L-2)." in published
    found = rows_under(published, "prefill BitNet-2B INT8, tokens/s of the published protocol")
    assert found[3] == ["4096", "1.43", "1.16", "1.23", "1.13"]
    assert "equal efficiency: cusparselt/2_8 at M=1024, cusparselt/2_10 at M=1024" in published


def test_the_published_provenance(published):
    assert "- Hardware: NVIDIA GeForce RTX 4090" in published
    assert "- Measured: 2026-01-28T13:07:28.088624 to 2026-01-28T13:11:23.620525" in published
    first, second = rows_under(published, "Provenance")
    assert first[2:5] == ["prefill, decode", "not recorded", "not recorded"]
    assert second[2:6] == ["kernel", "NVIDIA GeForce RTX 4090", "CUDA 13.0, runtime 12.9", "2.9.0+cu129"]


def test_the_report_lists_its_files(published):
    files = [row[0].strip("`") for row in rows_under(published, "Result files")]
    assert len(files) == 10 + 10 + 18 + 1
    assert all((PUBLISHED / file).is_file() for file in files)


def test_a_checkout_of_the_published_repository_is_read_as_well(copy, tmp_path):
    tools = tmp_path / "checkout" / "slidesparse" / "tools"
    tools.mkdir(parents=True)
    for name in ("throughput_benchmark_results", "vllm_bench_logs"):
        shutil.move(copy / name, tools / name)
    shutil.move(copy / "benchmark_kernel", tools.parent / "benchmark_kernel")
    source = read_source(tmp_path / "checkout", HARDWARE)
    assert len(source.rows) == 70 + 40 + 648
    assert len(source.tasks) == 8
    assert hardware_keys([tmp_path / "checkout"]) == [HARDWARE]


# Refusals, published layout.


def edit(path, change):
    text = path.read_text()
    changed = change(text)
    assert changed != text
    path.write_text(changed)


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
def test_a_bad_published_file_is_refused_by_name(copy, tmp_path, name):
    file, change, cause = DAMAGE[name]
    edit(copy / file, change)
    text, refused = report(tmp_path, copy)
    assert len(refused) == 1
    assert str(copy / file) in refused[0]
    assert cause in refused[0]
    assert "\n" not in refused[0]
    assert f"- {refused[0]}" in text
    whole, mine = read_source(PUBLISHED, HARDWARE), read_source(copy, HARDWARE)
    assert len(whole.rows) - len(mine.rows) == (7 if file == PREFILL else 36)
    if file == PREFILL:
        assert "#### prefill BitNet-2B INT8 cublaslt/dense" not in text
        assert "No speed-up: no dense backend was measured." in text
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


def test_minus_one_means_failed(copy, tmp_path):
    edit(copy / PREFILL, lambda text: re.sub(r"128,53.1983,.*", "128,-1.0000,-1.0000,-1.0000", text))
    edit(copy / SPARSE_KERNEL, lambda text: re.sub(r"\n64,2560,3840,.*", "\n64,2560,3840,0" + "," * 15, text))
    text, refused = report(tmp_path, copy)
    assert refused == []
    assert "prefill: BitNet-2B INT8 34/35, BitNet-2B FP8 35/35; total 69/70" in text
    assert "total 647/648" in text
    assert rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")[-1] == ["32768", "failed", "—", "—"]
    assert rows_under(text, "kernel BitNet-2B INT8 o (N=2560, K=2560), latency (µs)")[0][4] == "failed"
    sums = rows_under(text, "kernel BitNet-2B INT8 sum over the linears of a layer, latency (µs)")
    assert sums[0][4] == "—"
    failed = rows_under(text, "Missing, failed, left out")
    assert ["prefill", "BitNet-2B/INT8/cublaslt/dense", "32768"] in [row[:3] for row in failed]


def test_a_damaged_status_file_is_refused(copy, tmp_path):
    (status,) = copy.glob("vllm_bench_logs/*/*.json")
    edit(status, lambda text: text.replace("99.91210627555847", '"long"'))
    text, (sentence,) = report(tmp_path, copy)
    assert f"{status} is damaged: task 1 has no duration" in sentence
    assert "No task table" in text


# Our layout.


def ours(root, driver="580.95", **properties):
    """A small run: dense and 2_8, prefill, decode and kernel, gathered."""
    sparse = {"backend": "cusparselt", "sparsity": "2_8"}
    for stage, Ms in (("prefill", (512, 1024)), ("decode", (64, 128)), ("kernel", (64, 128))):
        synthetic.write(root, stage, Ms, 0.012, driver=driver, **properties)
        synthetic.write(root, stage, Ms, 0.010, place=sparse, driver=driver, **properties)
    assert gather_all(root, HARDWARE) == []
    return root


def gathered(root, stage="prefill"):
    return root / HARDWARE / stage / "BitNet-2B" / "INT8" / "cublaslt" / "dense" / f"BitNet-2B-INT8_{stage}.csv"


def test_our_points_have_steady_state_columns(tmp_path):
    text, refused = report(tmp_path, ours(tmp_path / "results"))
    assert refused == []
    assert rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")[0] == (
        ["512", "83.33", "42,750", "1.54", "12.000", "11.880 to 12.120", "42,667"]
    )
    assert rows_under(text, "decode BitNet-2B INT8, steady-state step time")[0] == ["64", "1.20"]
    assert rows_under(text, "kernel BitNet-2B INT8, sum of GEMM latencies of a layer") == (
        [["64", "1.20"], ["128", "1.20"], ["bound", "1.33"]]
    )
    assert "latency with warm caches" in text
    assert "kernel: BitNet-2B INT8 16/16; total 16/16" in text
    assert "Not the published protocol" not in text


def test_a_run_of_another_length_says_so(tmp_path):
    (file,) = synthetic.write(tmp_path / "results", "prefill", [512])
    value = synthetic.point(file)
    value["results"] |= {"steps": 16}
    write_json(file, value)
    gather_all(tmp_path / "results", HARDWARE)
    text, _ = report(tmp_path, tmp_path / "results")
    assert "Not the published protocol: 16 steps instead of 128." in text


OUR_DAMAGE = {
    "cut in a row": (lambda text: text[:-7], "its last line has no end"),
    "a short row": (lambda text: text.replace(",0.26.0\n", "\n", 1), "row 1 has 26 of 27 columns"),
    "two rows for an M": (lambda text: text + text.splitlines()[1] + "\n", "two rows for M_prefill=512"),
    "an unknown column": (lambda text: text.replace("vllm\n", "sglang\n"), "unknown column sglang"),
    "NaN": (lambda text: text.replace("42750", "NaN"), "'NaN' is no finite number"),
    "a zero": (lambda text: text.replace("42750", "0"), "tokens_per_s = 0, as after a dry run"),
    "a boolean": (lambda text: text.replace("false", "no", 1), "column git_dirty: 'no' is neither true nor false"),
    "an unknown status": (lambda text: text.replace(",ok,", ",fine,", 1), "unknown status"),
    "nothing measured": (
        lambda text: re.sub(r"42750,1.536,12,", ",,,", text),
        "is ok but has no tokens_per_s or step_ms",
    ),
}


@pytest.mark.parametrize("name", OUR_DAMAGE)
def test_a_bad_csv_of_ours_is_refused_by_name(tmp_path, name):
    root = ours(tmp_path / "results")
    change, cause = OUR_DAMAGE[name]
    edit(gathered(root), change)
    text, (sentence,) = report(tmp_path, root)
    assert str(gathered(root)) in sentence
    assert cause in sentence
    assert f"- {sentence}" in text
    assert "#### prefill BitNet-2B INT8 cublaslt/dense" not in text
    assert "#### prefill BitNet-2B INT8 cusparselt/2_8" in text


def test_a_kernel_csv_that_lacks_a_linear_is_refused(tmp_path):
    root = ours(tmp_path / "results")
    edit(gathered(root, "kernel"), lambda text: "\n".join(text.splitlines()[:-1]) + "\n")
    _, (sentence,) = report(tmp_path, root)
    assert "is truncated: M=128 lacks down" in sentence


def test_a_csv_in_the_wrong_folder_is_refused(tmp_path):
    root = ours(tmp_path / "results")
    file = gathered(root)
    file.rename(file.with_name("BitNet-2B-FP8_prefill.csv"))
    _, (sentence,) = report(tmp_path, root)
    assert "does not belong there: the CSV of this folder is BitNet-2B-INT8_prefill.csv" in sentence


def test_two_provenances_are_both_shown_and_not_divided(tmp_path):
    root = ours(tmp_path / "results")
    synthetic.write(root, "prefill", [2048], 0.02, driver="590.10", commit="b" * 40)
    sparse = {"backend": "cusparselt", "sparsity": "2_8"}
    synthetic.write(root, "prefill", [2048], 0.01, place=sparse)
    gather_all(root, HARDWARE)
    text, _ = report(tmp_path, root)
    origins = rows_under(text, "Provenance")
    assert [row[4] for row in origins] == ["580.95", "590.10"]
    assert f"`{root}` holds points of different driver: 580.95, 590.10." in text
    assert "holds points of different git_commit" in text
    dense = rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")
    assert [row[-1] for row in dense] == ["P1", "P1", "P2"]
    ratios = rows_under(text, "prefill BitNet-2B INT8, steady-state step time")
    assert [row[0] for row in ratios] == ["512", "1024", "bound"]
    assert "Left out: 1 ratios of points that differ in hardware name" in text


def test_two_sources_are_not_mixed(tmp_path):
    root = ours(tmp_path / "results")
    text, _ = report(tmp_path, root, PUBLISHED)
    mine, theirs = text.split("\n## Source ")[1:]
    assert rows_under(mine, "prefill BitNet-2B INT8 cublaslt/dense")[0][2] == "42,750"
    assert rows_under(theirs, "prefill BitNet-2B INT8 cublaslt/dense")[0][2] == "7,790"
    assert "total 4/4" in mine
    assert "total 70/70" in theirs
    assert [row[0] for row in rows_under(text, "Provenance")] == ["P1", "P2", "P3"]


def test_another_commit_alone_does_not_stop_a_ratio(tmp_path):
    root = ours(tmp_path / "results")
    synthetic.write(root, "prefill", [1024], 0.01, commit="b" * 40, place={"backend": "cusparselt", "sparsity": "2_8"})
    gather_all(root, HARDWARE)
    text, _ = report(tmp_path, root)
    assert len(rows_under(text, "Provenance")) == 2
    assert rows_under(text, "prefill BitNet-2B INT8, steady-state step time")[1] == ["1024", "1.20"]


def test_what_is_missing_failed_or_left_out_is_said_with_its_reason(tmp_path):
    root = ours(tmp_path / "results")
    big = synthetic.path(root, "prefill", 32768)
    write_json(big, synthetic.out_of_memory(big))
    gather_all(root, HARDWARE)
    log = "results/prefill/M2048.log"
    write_json(big.with_name("M2048.failed.json"), {"reason": "the engine | died", "log": log})
    names = [("INT8", "cublaslt", "dense"), ("INT8", "cusparselt", "2_8"), ("INT8", "cusparselt", "2_4")]
    points = [("prefill", "BitNet-2B", *name, M) for name in names for M in (512, 1024, 2048, 32768)]
    synthetic.plan(root, points, [{"dtype": "FP8", "reason": "it needs compute capability 8.9"}])
    text, refused = report(tmp_path, root)
    assert refused == []
    assert "prefill: BitNet-2B INT8 4/12; total 4/12" in text
    found = rows_under(text, "Missing, failed, left out")
    assert ["prefill", "BitNet-2B/INT8/cublaslt/dense", "2048", "—", "the engine \\| died", log] in found
    assert [row[4] for row in found if row[2] == "32768"] == ["20 GiB asked for, 3 GiB free"]
    assert ["prefill", "BitNet-2B/INT8/cusparselt/2_4", "512, 1024, 2048, 32768"] in found
    assert ["prefill", "BitNet-2B/INT8/cusparselt/2_8", "2048, 32768"] in found
    assert "- FP8: it needs compute capability 8.9" in text
    dense = rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")
    assert [row[1] for row in dense] == ["83.33", "83.33", "failed", "out of memory"]


def test_what_is_not_in_the_plan_is_counted_as_it_is(tmp_path):
    root = ours(tmp_path / "results")
    synthetic.plan(root, [("prefill", "BitNet-2B", "INT8", "cublaslt", "dense", M) for M in (512, 2048)])
    text, _ = report(tmp_path, root)
    assert rows_under(text, "Passed")[0] == ["BitNet-2B INT8", "1/2", "2/2", "3/4"]


def test_nothing_measured_yet(tmp_path):
    root = tmp_path / "results"
    synthetic.plan(root, [("kernel", "BitNet-2B", "INT8", "cublaslt", "dense", 64)])
    write_json(root / "models" / "BitNet-2B" / "shape.json", {"linears": [{}, {}, {}, {}]})
    text, _ = report(tmp_path, root)
    assert "kernel: BitNet-2B INT8 0/4; total 0/4" in text
    assert "- Hardware: name not recorded" in text


def test_unknown_hardware_is_an_error(tmp_path):
    with pytest.raises(RecordError, match=f"no source holds anything of hardware H200.*there is: {HARDWARE}"):
        write_report("H200_cc90_py312_cu129_x86_64", [PUBLISHED], tmp_path / "report.md")
    assert not (tmp_path / "report.md").exists()


def test_models_and_conversions(tmp_path):
    root = ours(tmp_path / "results")
    files = {"model.safetensors": {"size": 1000, "sha256": "0" * 64}}
    source = {"kind": "hub", "repository": "microsoft/bitnet", "revision": "abc"}
    write_json(root / "models" / "BitNet-2B" / "manifest.json", {"source": source, "files": files})
    write_json(root / "models" / "Other" / "manifest.json", {"source": {"kind": "local", "path": "/x"}, "files": {}})
    for sparsity, changed in (("2_8", 250), ("dense", 0)):
        manifest = {"weights": 12345, "zeros_before": 5185, "changed": changed, "files": files}
        write_json(root / "checkpoints" / "BitNet-2B" / "INT8" / f"{sparsity}.json", manifest)
    text, _ = report(tmp_path, root)
    assert rows_under(text, "Models and checkpoints") == [
        ["BitNet-2B", "microsoft/bitnet at abc", "1", "1,000"],
        ["checkpoint", "weights", "zeros before", "changed by pruning", "changed (%)", "bytes"],
        ["BitNet-2B/INT8/dense", "12,345", "5,185", "0", "0.000", "1,000"],
        ["BitNet-2B/INT8/2_8", "12,345", "5,185", "250", "2.025", "1,000"],
    ]


def test_points_that_nobody_gathered_are_mentioned(tmp_path):
    root = ours(tmp_path / "results")
    gathered(root).unlink()
    text, _ = report(tmp_path, root)
    assert "Points that are in no CSV yet" in text
    assert f"- {gathered(root).parent}" in text


def test_same_inputs_same_bytes(tmp_path):
    root = ours(tmp_path / "results")
    first, _ = report(tmp_path, root, PUBLISHED)
    for file in root.rglob("*"):
        os.utime(file, (1, 1))
    again, _ = report(tmp_path, root, PUBLISHED)
    assert first == again


# All hardware keys at once.


def state(root):
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in root.rglob("*") if file.is_file()}


def test_all_reports(tmp_path):
    root = tmp_path / "results"
    cpu = "cpu-Xeon_cc0_py311_cu0_x86_64"
    place = {"hardware": cpu, "backend": "onednn", "model": "BitNet-tiny"}
    synthetic.write(root, "kernel", [16, 64], place=place)
    (bad,) = synthetic.write(root, "prefill", [32], place=place)
    bad.write_text("{")
    (refused,) = write_reports(root, [root, tmp_path / "absent", PUBLISHED])
    assert str(bad) in refused
    mine = (root / cpu / "report.md").read_text()
    assert refused in mine
    assert "kernel: BitNet-tiny INT8 8/8; total 8/8" in mine
    assert rows_under(mine, "Tasks")[5][:3] == ["Task 6 kernel, dense", "success", "5.0"]
    theirs = (root / HARDWARE / "report.md").read_text()
    assert "total 70/70" in theirs
    assert [file.name for file in (root / HARDWARE).iterdir()] == ["report.md"]
    before = state(root)
    assert write_reports(root, [root, tmp_path / "absent", PUBLISHED]) == [refused]
    assert state(root) == before


def test_all_reports_rewrite_only_what_changed(tmp_path):
    root = ours(tmp_path / "results")
    synthetic.write(root, "kernel", [64], place={"hardware": "H200_cc90_py312_cu130_x86_64"})
    write_reports(root, [root])
    before = state(root)
    synthetic.write(root, "prefill", [4096])
    write_reports(root, [root])
    changed = {file for file, found in state(root).items() if before.get(file) != found}
    folder = root / HARDWARE
    assert changed == {
        synthetic.path(root, "prefill", 4096),
        gathered(root),
        folder / "tasks.csv",
        folder / "report.md",
    }


def test_all_reports_of_what_was_only_planned(tmp_path):
    root = tmp_path / "results"
    synthetic.plan(root, [("decode", "BitNet-2B", "INT8", "cublaslt", "dense", 64)])
    assert write_reports(root, [root], HARDWARE) == []
    text = (root / HARDWARE / "report.md").read_text()
    assert "decode: BitNet-2B INT8 0/1; total 0/1" in text
    tasks = rows_under(text, "Tasks")
    assert tasks[4][1:4] == ["missing", "—", "0/1"]
    assert tasks[5][1] == "skipped"


# Programs and imports.


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "workflow" / "scripts" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": ""},
        check=False,
    )


def test_programs(tmp_path, published):
    output = tmp_path / "report.md"
    done = run("write_report.py", "--hardware", HARDWARE, "--sources", PUBLISHED, "--output", output)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert output.read_text() == published
    failed = run("write_report.py", "--hardware", "H200_cc90_py312_cu129_x86_64", "--sources", ROOT, "--output", output)
    assert failed.returncode == 1
    assert failed.stderr.startswith("write_report.py: no source holds anything")
    root = ours(tmp_path / "results")
    gathered(root).with_name("M512.json").write_text("{")
    done = run("write_reports.py", "--results", root, "--sources", root, PUBLISHED)
    assert done.returncode == 0
    assert done.stderr.startswith("refused: ")
    assert "M512.json is damaged" in done.stderr
    assert (root / HARDWARE / "report.md").is_file()
    failed = run("write_reports.py", "--results", root, "--sources", root, "--hardware", "H200_cc90_py312_cu129_x86_64")
    assert failed.returncode == 1
    assert not (root / "H200_cc90_py312_cu129_x86_64").exists()


def test_the_report_imports_nothing_heavy():
    code = (
        "import sys, slidesparse.report.write;"
        "print([m for m in ('torch', 'vllm', 'snakemake', 'pynvml', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_numbers():
    assert fixed(15.185, 2) == "15.19"
    assert fixed(2.675, 2) == "2.68"
    assert fixed(7789.9184, 0, thousands=True) == "7,790"
    assert fixed(1e-7, 2) == "0.00"
    assert fixed(None, 2) == "—"
    assert table(("a", "b"), [("x|y", None)], "l") == ["| a | b |", "| --- | ---: |", "| x\\|y | — |", ""]
