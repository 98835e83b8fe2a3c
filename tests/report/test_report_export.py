"""Our results in the published layout: what is written comes back as it was."""

import json

import pytest

import synthetic
from reports import HARDWARE, SPARSE, gathered, markdown, ours, rows_under
from slidesparse.errors import RecordError
from slidesparse.files import write_json
from slidesparse.report.sources.read import read_source
from slidesparse.report.tables.export import export
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.tables.tasks import write_tasks


def by_point(source, column):
    return {(r.stage, r.configuration, r.M, r.linear): r.values[column] for r in source.rows if r.values.get(column)}


def test_figures_survive_the_way_there_and_back(tmp_path):
    root = ours(tmp_path / "results")
    write_tasks(root, HARDWARE)
    assert export(root, HARDWARE, tmp_path / "theirs") == []
    mine, theirs = read_source(root, HARDWARE), read_source(tmp_path / "theirs", HARDWARE)
    assert theirs.refused == []
    for column in ("requests_per_s", "tokens_per_s", "elapsed_time_s"):
        assert by_point(theirs, column) == pytest.approx(by_point(mine, column), abs=5e-5)
    assert by_point(theirs, "latency_us") == pytest.approx(by_point(mine, "latency_hot_us"), abs=5e-4)
    assert [row["seconds"] for row in theirs.tasks[3:]] == [row["seconds"] for row in mine.tasks[3:]]
    text, _ = markdown(tmp_path / "theirs")
    ours_text, _ = markdown(root)
    title = "prefill BitNet-2B INT8 cublaslt/dense"
    assert rows_under(text, title) == [row[:4] for row in rows_under(ours_text, title)]


def test_what_the_published_programs_read(tmp_path):
    root = ours(tmp_path / "results")
    export(root, HARDWARE, tmp_path / "theirs")
    folder = tmp_path / "theirs" / "throughput_benchmark_results" / "decode" / "RTX4090_cc89_INT8_py312_cu129_x86_64"
    figures = json.loads((folder / "cusparselt" / "2_8" / "json" / "BitNet-2B-INT8_M64.json").read_text())
    assert figures["num_requests"] == 64
    assert figures["total_num_tokens"] == 64 * (16 + 256)
    assert figures["tokens_per_second"] == pytest.approx(figures["total_num_tokens"] / figures["elapsed_time"])
    kernels = tmp_path / "theirs" / "benchmark_kernel" / "cuSPARSELt" / "alg_search_results" / HARDWARE / "INT8"
    text = (kernels / "alg_search_BitNet-2B-INT8_2_8.csv").read_text()
    assert "# NK_list: [(3840, 3840), (2560, 3840), (13824, 3840), (2560, 10368)]" in text
    assert "# caches: hot" in text
    found = json.loads((kernels / "alg_search_BitNet-2B-INT8_2_8.json").read_text())
    assert found["nk_entries"]["(2560,10368)"]["alg_by_m"]["128"]["lat_us"] == pytest.approx(5000)


def test_algorithms_keep_their_numbers(tmp_path):
    root = tmp_path / "results"
    for place, algorithm in (({}, "QgAAAA" + "A" * 80 + "=="), (SPARSE, "3:-1")):
        (file,) = synthetic.write(root, "kernel", [64], place=place)
        value = synthetic.point(file)
        for gemm in value["results"]["gemms"]:
            gemm["algorithm"] = algorithm
        write_json(file, value)
    assert gather_all(root, HARDWARE) == []
    export(root, HARDWARE, tmp_path / "theirs", caches="cold")
    source = read_source(tmp_path / "theirs", HARDWARE)
    assert {row.values["alg_id"] for row in source.rows} == {"66", "3/split -1"}
    assert {row.values["latency_us"] for row in source.rows} == {10000.0}


def test_what_cannot_be_exported_is_named(tmp_path):
    root = ours(tmp_path / "results")
    big = synthetic.path(root, "prefill", 32768)
    write_json(big, synthetic.out_of_memory(big))
    synthetic.write(root, "kernel", [64], place={"backend": "torch"})
    gather_all(root, HARDWARE)
    left = export(root, HARDWARE, tmp_path / "theirs")
    assert "prefill BitNet-2B/INT8/cublaslt/dense M=32768: 20 GiB asked for, 3 GiB free" in left
    assert "kernel BitNet-2B/INT8/torch/dense: the published layout has no place for torch" in left
    assert len(left) == 2
    with pytest.raises(RecordError, match="holds no results of hardware"):
        export(tmp_path / "nothing", HARDWARE, tmp_path / "theirs")
    gathered(root).write_text("M\n")
    assert any("cannot be read" in sentence for sentence in export(root, HARDWARE, tmp_path / "again"))
