"""Figures that cannot be, and tables that nobody reads: each is named, and the reports of the others are written."""

import ast
import re

import pytest

import synthetic
from foreign import DENSE, KERNEL, SEARCH, THROUGHPUT, run_row, search_row, tidy
from reports import HARDWARE, PUBLISHED, edit, kernel, markdown, ours, rows_under, set_column, step, text_of
from slidesparse.plan.key import Configuration
from slidesparse.points import records
from slidesparse.report.sources.read import read_source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import write_reports

CUBLASLT, AUTO = (Configuration("BitNet-2B", "INT8", backend, "dense") for backend in ("cublaslt", "auto"))
SPARSE = Configuration("BitNet-2B", "INT8", "cusparselt", "2_8")


@pytest.mark.parametrize("value", [0, -5])
@pytest.mark.parametrize(
    ("stage", "column"), [("decode", "gpu_step_ms"), ("kernel", "speedup_best_dense"), ("kernel", "latency_int32_us")]
)
def test_a_figure_that_cannot_be_refuses_its_file(tmp_path, stage, column, value):
    root, path = impossible(tmp_path, stage, column, value)
    refused = read_source(root, HARDWARE).refused
    assert [sentence for sentence in refused if f"{path} " in sentence and f"has {column} = {value}" in sentence]


def test_a_refused_file_leaves_the_reports_of_the_others(tmp_path):
    root, path = impossible(tmp_path, "decode", "gpu_step_ms", 0)
    refused = write_reports(tmp_path / "out", [root, PUBLISHED])
    assert [sentence for sentence in refused if f"{path} " in sentence]
    assert (tmp_path / "out" / "comparison.en.md").is_file()


def impossible(tmp_path, stage, column, value):
    """A folder of results and its table of one stage, all of whose rows have `value` in `column`."""
    root = ours(tmp_path / "results")
    M = 64 if stage == "decode" else 128
    synthetic.write(root, stage, [M], place={"backend": "cusparselt", "sparsity": "2_8"})
    gather_all(root, HARDWARE)
    (path,) = root.glob(f"*/{stage}/*/*/cusparselt/2_8/*.csv")
    set_column(path, column, [value] * (len(path.read_text().splitlines()) - 1))
    return root, path


def test_a_median_outside_its_interval_is_refused(tmp_path):
    root = ours(tmp_path / "results")
    (path,) = root.glob("*/prefill/*/*/cublaslt/dense/*.csv")
    set_column(path, "step_ms_ci_high", [0.001, 0.001])
    _, refused = markdown(root)
    assert any("outside" in sentence and str(path) in sentence for sentence in refused)


@pytest.mark.parametrize("name", ["BitNet-2B-INT8_prefill.CSV", "BitNet-2B-INT8_prefill.csv.txt"])
def test_a_table_without_a_place_is_named(copy, name):
    path = (copy / DENSE).rename((copy / DENSE).with_name(name))
    refused = read_source(copy, HARDWARE).refused
    assert f"{path} is not read: no table has this name in this place" in refused


def test_a_tidy_table_that_lacks_a_shape_says_so(tmp_path):
    shapes = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]
    rows = [search_row(20.0, M=M, N=N, K=K) for M in (64, 128) for N, K in shapes]
    folder = tidy(tmp_path, kernel=KERNEL + "".join(rows[:-1]))
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    assert sentence == (
        f"{folder / 'kernel.csv'}: BitNet-2B FP8 cublaslt/dense M=128 lacks N=2560 K=6912: it counts in no sum"
    )


def test_a_row_of_a_tidy_table_that_cannot_be_leaves_the_others(tmp_path):
    good = [search_row(20.0, M=M) for M in (64, 128)]
    folder = tidy(tmp_path, kernel=KERNEL + "".join([*good, search_row(20.0, M=256).replace(",20.0,", ",-20.0,")]))
    source = read_source(tmp_path, HARDWARE)
    assert source.refused == [f"{folder / 'kernel.csv'}: row 3 not used: it has latency_us = -20.0"]
    assert [row.M for row in source.stage("kernel")] == [64, 128]


@pytest.mark.parametrize("line", ["# GPU:H100", "# gpu: H100", "#Gpu : H100", "## GPU: H100", " # GPU = H100"])
def test_a_head_of_another_gpu_is_understood_however_it_is_written(tmp_path, line):
    folder = tidy(tmp_path, kernel=f"{line}\n{KERNEL}{search_row(20.0)}")
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    assert sentence.startswith(f"{folder / 'kernel.csv'} does not belong there: its header says GPU H100")


@pytest.mark.parametrize("line", ["# warmup=5, repeat=9", "#Warmup: 5, repeat=9", "## WARMUP = 5, repeat=9"])
def test_other_numbers_of_calls_are_understood_however_they_are_written(copy, line):
    edit(copy / SEARCH, lambda text: re.sub("# warmup=.*", line, text))
    rows = [row for row in read_source(copy, HARDWARE).stage("kernel") if row.provenance.protocol]
    assert {row.provenance.protocol for row in rows} == {"warmup=5, repeat=9"} and len(rows) == 36


def test_operations_per_second_must_follow_from_the_latency(copy):
    assert read_source(copy, HARDWARE).refused == []
    lines = (copy / SEARCH).read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("M,")) + 1
    cells = lines[at].split(",")
    latency = lines[at - 1].split(",").index("lat_us_1")
    cells[latency] = str(float(cells[latency]) * 0.85)
    lines[at] = ",".join(cells)
    (copy / SEARCH).write_text("\n".join(lines) + "\n")
    (sentence,) = read_source(copy, HARDWARE).refused
    assert "contradicts itself" in sentence and "follows from lat_us_1" in sentence


def test_requests_of_other_lengths_are_not_divided(copy):
    """Prompts of 128 tokens beside those of 1,024, each file right in itself."""
    before, _ = markdown(copy)
    sparse = copy / str(DENSE).replace("cublaslt", "cusparselt/2_4")
    assert sparse.is_file()

    def shorter(text):
        head, *rows = text.splitlines()
        names, out = head.split(","), [head]
        for row in rows:
            cells = dict(zip(names, row.split(","), strict=True))
            M, length = int(cells["M_prefill"]), 128
            steps, tokens = int(cells["N_prefill"]), float(cells["tokens_per_s"])
            cells |= {"prompt_len": length, "max_num_seqs": M // length, "num_prompts": steps * M // length}
            rate = tokens / (length + 1)
            cells |= {"requests_per_s": f"{rate:.6f}", "elapsed_time_s": f"{cells['num_prompts'] / rate:.6f}"}
            out.append(",".join(str(cells[name]) for name in names))
        return "\n".join(out) + "\n"

    edit(sparse, shorter)
    text, refused = markdown(copy)
    assert refused == []
    title = "prefill BitNet-2B INT8, tokens/s of the published protocol, over cublaslt/dense"
    assert "cusparselt/2_4" in before and all(len(row) == 4 for row in rows_under(text, title))
    assert "versions, protocol, power limit or requests" in text


def test_steps_that_stay_the_same_over_fine_Ms_are_flat():
    Ms = (1024, 1536, 2048, 3072, 4096)
    rows = [step("prefill", name, M, ms) for name, ms in ((CUBLASLT, 64.0), (SPARSE, 50.0)) for M in Ms]
    assert "left out M=1024, 1536, 2048, 3072, 4096 (flat steps)" in text_of(rows)


def test_an_engine_of_auto_may_be_the_one_dense_engine():
    rows = [step("prefill", name, 4096, ms) for name, ms in ((AUTO, 64.0), (SPARSE, 50.0))]
    text = text_of(rows)
    assert "over auto/dense: the largest ratio is 1.28" in text
    assert "no dense backend was measured" not in text


def test_what_auto_ran_may_be_unknown():
    name = SPARSE._replace(backend="auto")
    rows = [step("prefill", each, 4096, ms) for each, ms in ((CUBLASLT, 64.0), (name, 50.0))]
    text = text_of(rows)
    assert "it is unknown which kernels ran in INT8 auto/2_8. These engines count as dense." in text
    assert "no sparse kernel ran" not in text


def test_a_layer_that_lacks_linears_is_no_lack_of_a_dense_backend():
    text = text_of(kernel(CUBLASLT, 64, 18.0)[:3] + kernel(SPARSE, 64, 10.0)[:3])
    assert "no speed-up over dense, because both sides have no M in common, or other outputs, or a layer lacks" in text
    assert "no dense backend was measured" not in text


def test_one_root_under_two_names_is_one_source(tmp_path):
    root = ours(tmp_path / "results")
    write_reports(tmp_path / "out", [root, f"{root}/"])
    assert f"Sources: `{root}`\n" in (tmp_path / "out" / HARDWARE / "report.en.md").read_text()


def test_a_tidy_count_below_zero_is_not_used(tmp_path):
    row = run_row(15.185).replace(",128,65.8545,", ",-128,65.8545,")
    tidy(tmp_path, throughput=THROUGHPUT + row)
    assert any("it has steps = -128" in sentence for sentence in read_source(tmp_path, HARDWARE).refused)


def test_linears_are_named_by_their_shapes_whatever_the_order_of_the_head(copy):
    before, _ = markdown(copy)

    def reverse(text):
        (line,) = [line for line in text.splitlines() if "NK_list:" in line]
        head, _, pairs = line.partition("NK_list: ")
        other = str([list(pair) for pair in ast.literal_eval(pairs)][::-1])
        return text.replace(line, f"{head}NK_list: {other}")

    edit(copy / SEARCH, reverse)
    assert markdown(copy) == (before, [])


def test_hot_and_cold_kernels_are_not_set_side_by_side(tmp_path):
    root = ours(tmp_path / "results")
    shapes = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]
    rows = "".join(search_row(20.0, N=N, K=K, dtype="INT8", backend="cuSPARSELt", pattern="2_10") for N, K in shapes)
    tidy(root, kernel=KERNEL + rows)
    text, refused = markdown(root)
    assert any("4 kernels of BitNet-2B INT8 in the tidy tables had hot caches" in sentence for sentence in refused)
    assert "cusparselt/2_10" not in text


@pytest.mark.parametrize("broken", [False, True])
def test_a_search_of_other_shapes_costs_no_other(copy, broken):
    """The first one that is read has one shape; or it announces five, and has not all of their rows."""
    path = sorted(copy.glob("benchmark_kernel/cuBLASLt/*/*/FP8/alg_search_*.csv"))[0]
    lines = path.read_text().splitlines()
    (head,) = [line for line in lines if "NK_list:" in line]
    shapes = "[[3840, 2560]]" if not broken else head.partition("NK_list: ")[2][:-1] + ", [128256, 2560]]"
    changed = [f"{head.partition('NK_list: ')[0]}NK_list: {shapes}" if line == head else line for line in lines]
    kept = [line for line in changed if broken or not re.match("[0-9]+,(2560|13824),", line)]
    path.write_text("\n".join(kept) + "\n")
    text, (sentence,) = markdown(copy)
    assert ("is truncated" if broken else "has 1 linears, and most of BitNet-2B have 4") in sentence
    assert "kernel BitNet-2B INT8, sum of hot GEMM latencies of a layer, over cublaslt/dense: the largest" in text


def test_a_kernel_without_a_figure_is_no_cold_one(copy):
    before, _ = markdown(copy)
    records.write_failure(synthetic.path(copy, "kernel", 64, "cusparselt", "2_8"), "it broke", "some.log")
    text, refused = markdown(copy)
    assert not any("hot caches" in sentence for sentence in refused)
    assert "sum of hot GEMM latencies of a layer, over cublaslt/dense: the largest" in text


def test_one_slow_point_does_not_make_all_larger_ones_flat():
    times = {512: 3951.0, 1024: 77.0, 2048: 87.0, 4096: 153.0, 8192: 308.0, 16384: 602.0}
    rows = [step("prefill", CUBLASLT, M, ms) for M, ms in times.items()]
    rows += [step("prefill", SPARSE, M, ms) for M, ms in times.items() if M > 2048]
    assert "of 6 M: even at 3, left out M=512, 1024, 2048 (no usable point)." in text_of(rows)


def test_operations_may_have_two_decimals(tmp_path):
    rows = [search_row(12.74, M=1, N=N, K=K) for N, K in [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]]
    cells = [row.split(",") for row in rows]
    for row in cells:
        row[11] = row[12] = f"{float(row[12]):.2f}"
    tidy(tmp_path, kernel=KERNEL + "".join(map(",".join, cells)))
    assert read_source(tmp_path, HARDWARE).refused == []


def test_many_wrong_rows_are_few_sentences(tmp_path):
    rows = [search_row(12.74, M=M) for M in range(1, 200)]
    cells = [row.split(",") for row in rows]
    for row in cells:
        row[12] = str(2 * float(row[12]))
    tidy(tmp_path, kernel=KERNEL + "".join(map(",".join, cells)))
    refused = read_source(tmp_path, HARDWARE).refused
    assert len(refused) < 30
    assert any("179 more rows not used" in sentence for sentence in refused)


def test_one_more_shape_does_not_cost_the_others(tmp_path):
    shapes = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]
    rows = [search_row(20.0, M=M, N=N, K=K) for M in (64, 128, 256) for N, K in shapes]
    tidy(tmp_path, kernel=KERNEL + "".join(rows) + search_row(90.0, N=128256))
    source = read_source(tmp_path, HARDWARE)
    (sentence,) = source.refused
    assert "row 13 not used: most configurations lack the shape N=128256 K=2560" in sentence
    assert {row.linear for row in source.stage("kernel")} == {"qkv", "o", "gate_up", "down"}
