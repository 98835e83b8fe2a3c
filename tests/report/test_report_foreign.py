"""Files of others: nothing of them vanishes in silence, and nothing in them ends the report."""

import shutil

import pytest

from foreign import (
    DENSE,
    INT8,
    KERNEL,
    KERNELS,
    RUNS,
    SEARCH,
    SLID,
    THROUGHPUT,
    configurations,
    run_row,
    search_row,
    tidy,
)
from reports import HARDWARE, PUBLISHED, edit, markdown, ours, rows_under
from slidesparse.errors import RecordError
from slidesparse.report.sources.places import MANY, folders, nothing
from slidesparse.report.sources.read import read_source
from slidesparse.report.write import write_comparison, write_reports

# One point in two layouts


def test_a_point_in_two_layouts_is_shown_once_and_named(copy):
    before, _ = markdown(copy)
    linears = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]
    latency = [13.640, 12.739, 21.320, 18.412]
    searches = "".join(search_row(us, N=N, K=K) for us, (N, K) in zip(latency, linears, strict=True))
    tidy(copy, kernel=KERNEL + searches, throughput=THROUGHPUT + run_row(15.185) + run_row(15.185, backend="cutlass"))
    text, refused = markdown(copy)
    assert refused == [
        f"{copy} has 1 kernel and 1 prefill points of {HARDWARE} twice:"
        " in the published layout, which is used, and in the tidy tables"
    ]
    for title in (
        "kernel BitNet-2B FP8 sum over the linears of a layer, hot latency (µs)",
        "prefill BitNet-2B INT8 cublaslt/dense",
    ):
        assert rows_under(text, title) == rows_under(before, title)
    assert "kernel BitNet-2B FP8, sum of hot GEMM latencies of a layer, over cublaslt/dense" in text
    assert f"- {refused[0]}" in text
    assert "### prefill BitNet-2B INT8 cutlass/dense" in text  # only there, so it is used
    assert "tidy/RTX4090_cc89_py312_cu129_x86_64/kernel.csv" not in text.split("## Result files")[1]


def test_layouts_that_disagree_are_named(copy):
    tidy(copy, throughput=THROUGHPUT + run_row(15.185) + run_row(20, M=1024))
    (twice, apart) = read_source(copy, HARDWARE).refused
    assert "has 2 prefill points" in twice
    assert apart == (
        f"{copy}: of the figures of these points, 1 differ in the tidy tables, most"
        " prefill BitNet-2B/INT8/cublaslt/dense M=1024: 20,500 instead of 16,034.12 tokens/s"
    )


def test_our_layout_comes_before_those_of_others(copy):
    ours(copy)
    source = read_source(copy, HARDWARE)
    (apart, twice, *rest) = source.refused
    assert "308 kernels of BitNet-2B INT8 in the published layout had hot caches" in apart
    assert "4 kernel and 4 prefill and 4 decode points" in twice
    assert "in our layout, which is used, and in the published layout" in twice
    assert all("differ in the published layout" in sentence for sentence in rest)
    points = [(*row.point, row.linear) for row in source.rows]
    assert len(points) == len(set(points))
    measured = [row for row in source.stage("prefill") if row.M == 512 and row.configuration.dtype == "INT8"]
    assert sum(row.values.get("step_ms") is not None for row in measured) == 2


# Names


@pytest.mark.parametrize("pattern", ["4_8", "2_7", "8_8", "inner32", "9" * 90, "²_4"])
def test_an_unknown_pattern_is_refused_and_the_rest_is_reported(copy, pattern):
    shutil.move(copy / SLID, (copy / SLID).parent.parent / "moved.csv")
    moved = copy / SLID.replace("2_8", pattern)
    moved.parent.mkdir()
    (copy / SLID).parent.parent.joinpath("moved.csv").rename(moved)
    search = copy / SEARCH
    search.rename(search.with_name(f"alg_search_BitNet-2B-INT8_{pattern}.csv"))
    text, refused = markdown(copy)
    assert len(refused) == 2
    assert all("is no pattern" in sentence and "'" in sentence for sentence in refused)
    assert str(moved) in refused[0]
    assert ("INT8", "cusparselt", "2_6") in configurations(read_source(copy, HARDWARE))
    assert pattern not in text.split("## Passed")[1].split("\n##")[0]
    assert "over cublaslt/dense" in text


def test_unknown_names_in_a_tidy_table_take_their_rows_only(tmp_path):
    rows = [
        run_row(10),
        run_row(12, backend="cuSPARSELt", pattern="2_8"),
        run_row(12, backend="cuSPARSELt", pattern="4_8"),
        run_row(13, backend="cuSPARSELt", pattern="2_7"),
        run_row(13, backend="cuSPARSELt", pattern="4_8", M=1024),
        run_row(13, dtype="INT3"),
        run_row(13, backend="magic"),
        run_row(13, backend="cuSPARSELt"),
        run_row(14, dtype="FP8E4M3"),
        run_row(14).replace("prefill", "training"),
    ]
    folder = tidy(tmp_path, throughput=THROUGHPUT + "".join(rows))
    text, refused = markdown(tmp_path)
    start = f"{folder / 'throughput.csv'}: row"
    assert all(sentence.startswith(start) for sentence in refused)
    said = [sentence.removeprefix(start) for sentence in refused]
    assert said[0].startswith("s 3, 5 not used: '4_8' is no pattern")
    assert said[1].startswith(" 4 not used: '2_7' is no pattern")
    assert said[2].startswith(" 6 not used: the type 'INT3' is none of INT8, FP8")
    assert said[3].startswith(" 7 not used: the backend 'magic' is none of cublaslt")
    assert said[4].startswith(" 8 not used: the backend 'cuSPARSELt' is sparse, and no pattern")
    assert said[5].startswith(" 10 not used: the stage 'training' is neither prefill nor decode")
    assert len(said) == 6
    assert "### prefill BitNet-2B INT8 cusparselt/2_8" in text
    assert "### prefill BitNet-2B FP8 cublaslt/dense" in text


@pytest.mark.parametrize(
    ("place", "cause"),
    [
        (f"{INT8}/magic/BitNet-2B-INT8_prefill.csv", "the backend 'magic' is none of"),
        (f"{RUNS.format('prefill', 'INT3')}/cublaslt/BitNet-2B-INT3_prefill.csv", "the type 'INT3' is none of"),
        (f"{INT8}/cublaslt/inner32/BitNet-2B-INT8_prefill.csv", "'inner32' is no pattern"),
        (f"{INT8}/BitNet-2B-INT8_prefill.csv", "a file lies in"),
        (f"{INT8}/cublaslt/2_8/more/BitNet-2B-INT8_prefill.csv", "a file lies in"),
        (f"{INT8}/cublaslt/BitNet-2B-INT8.csv", "is not called"),
        (f"{INT8}/cusparselt/BitNet-2B-INT8_prefill.csv", "is sparse, and no pattern"),
    ],
)
def test_a_published_file_in_an_unknown_place_is_refused(copy, place, cause):
    file = copy / place
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(copy / DENSE, file)
    (sentence,) = read_source(copy, HARDWARE).refused
    assert str(file) in sentence
    assert cause in sentence
    text, _ = markdown(copy)
    assert "total 70/70" in text


@pytest.mark.parametrize(("kept", "pattern"), [("6_8", "2_8"), ("4_6", "2_6"), ("8_10", "2_10"), ("2_4", "2_4")])
def test_the_paper_counts_the_weights_that_are_kept(copy, kept, pattern):
    before = rows_under(markdown(copy)[0], f"prefill BitNet-2B INT8 cusparselt/{pattern}")
    folder = copy / INT8 / "cusparselt"
    (folder / pattern).rename(folder / kept)
    search = copy / SEARCH.replace("2_8", pattern)
    edit(search, lambda text: text.replace(f"# Sparsity: {pattern}", f"# Sparsity: {kept}") + "\n")
    search.rename(search.with_name(f"alg_search_BitNet-2B-INT8_{kept}.csv"))
    text, refused = markdown(copy)
    assert refused == []
    assert rows_under(text, f"prefill BitNet-2B INT8 cusparselt/{pattern}") == before
    assert "total 648/648" in text


def test_the_papers_pattern_in_a_tidy_table(tmp_path):
    rows = run_row(10) + run_row(12, backend="cuSPARSELt", pattern="6_8")
    folder = tidy(tmp_path, throughput=THROUGHPUT + rows)
    source = read_source(tmp_path, HARDWARE)
    assert ("INT8", "cusparselt", "2_8") in configurations(source) and source.refused == []
    table = THROUGHPUT + rows + run_row(13, backend="cuSPARSELt", pattern="2_8")
    (folder / "throughput.csv").write_text(table)
    source = read_source(tmp_path, HARDWARE)
    assert [row.configuration.column for row in source.rows] == ["cublaslt/dense"]
    (sentence,) = source.refused
    assert "rows 2, 3 not used: the table holds 2 rows for stage=prefill, dtype=INT8, model=BitNet-2B" in sentence


# Roots


def test_a_root_that_is_too_low_names_the_folder_above(copy):
    for low in (
        "benchmark_kernel",
        "throughput_benchmark_results",
        "throughput_benchmark_results/prefill",
        INT8,
        KERNELS.format("cuSPARSELt"),
        "vllm_bench_logs/RTX4090",
    ):
        assert f"under {copy / low}: give {copy}, the folder above" in nothing(copy / low)
    assert nothing(copy / "benchmark_kernel").startswith("found 2 kernel folders, no throughput folder, under")
    root = ours(copy.parent / "results")
    for low in (root / HARDWARE, root / HARDWARE / "prefill"):
        assert nothing(low).endswith(f": give {root}, the folder above")
    folder = tidy(copy, throughput=THROUGHPUT + run_row(10))
    assert nothing(folder).endswith(f"give {copy}, the folder above")
    assert nothing(copy) is None


def test_a_root_that_is_too_high_names_the_folders_below(copy, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    copy.rename(tmp_path / "a" / "b" / "published")
    found = nothing(tmp_path)
    assert found.startswith(f"found 2 kernel folders, 4 throughput folders, under {tmp_path}: give ")
    assert found.endswith(f"give {tmp_path / 'a' / 'b' / 'published'}, below it")


def test_a_root_that_holds_nothing_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes" / "of" / "mine").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert nothing(tmp_path / "absent") == f"{tmp_path / 'absent'} does not exist"
    assert nothing(tmp_path / "file") == f"{tmp_path / 'file'} is no folder"
    assert nothing(tmp_path / "empty") == f"{tmp_path / 'empty'} is empty"
    assert nothing(tmp_path / "notes").startswith("found no kernel folder, no throughput folder and no hardware key")


def test_tables_and_folders_at_the_root_are_named(tmp_path):
    for name in ("kernel", "throughput"):
        root = tmp_path / name
        root.mkdir()
        (root / f"{name}.csv").write_text(THROUGHPUT)
        assert nothing(root).startswith(f"{root / name}.csv is not read: a tidy table belongs in {root / 'tidy'}/")
    shutil.copytree(PUBLISHED / INT8, tmp_path / "mine" / "RTX4090_cc89_INT8_py312_cu129_x86_64")
    assert "found no kernel folder, 1 throughput folder" in nothing(tmp_path / "mine")
    assert "throughput_benchmark_results/{stage}/" in nothing(tmp_path / "mine")


def test_half_a_source_elsewhere_is_named(copy):
    (copy / "old").mkdir()
    (copy / "throughput_benchmark_results").rename(copy / "old" / "throughput_benchmark_results")
    (sentence,) = read_source(copy, HARDWARE).refused
    assert sentence == f"{copy / 'old' / 'throughput_benchmark_results'} is not read: it belongs in {copy}"


def test_the_search_for_a_layout_is_bounded_and_follows_no_link(tmp_path):
    deep = tmp_path
    for number in range(200):
        deep = deep / f"{number}"
    deep.mkdir(parents=True)
    (tmp_path / "0" / "loop").symlink_to(tmp_path)
    for number in range(MANY + 10):
        (tmp_path / "0" / f"wide{number}").mkdir()
    assert len(list(folders(tmp_path))) <= MANY
    assert not any("loop" in folder.parts for folder in folders(tmp_path))
    assert "no hardware key" in nothing(tmp_path)


def test_sources_that_hold_nothing_are_an_error_of_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    sources = [tmp_path / "empty", tmp_path / "absent"]
    said = f"no source holds anything to report: {sources[0]} is empty; {sources[1]} does not exist"
    with pytest.raises(RecordError) as error:
        write_reports(tmp_path / "results", sources)
    assert str(error.value) == said
    with pytest.raises(RecordError, match="is empty; .* does not exist"):
        write_comparison(tmp_path / "results", sources)
    assert not (tmp_path / "results").exists()


def test_an_empty_source_beside_another_fails_nothing(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "tidy" / HARDWARE).mkdir(parents=True)
    (tmp_path / "tidy" / "H200_cc90_py312_cu129_x86_64").mkdir()
    (tmp_path / "tidy" / HARDWARE / "throughput.csv").write_text(THROUGHPUT + run_row(10))
    (named,) = write_reports(tmp_path / "results", [tmp_path / "results", tmp_path])
    assert "no source holds anything of hardware H200" in named
    text = (tmp_path / "results" / HARDWARE / "report.en.md").read_text()
    assert "prefill: BitNet-2B INT8 1/1; total 1/1" in text
