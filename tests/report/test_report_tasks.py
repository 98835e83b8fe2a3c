"""The table of tasks: how long each took and how much of it is done."""

import csv
import os

import pytest

import synthetic
from slidesparse.files import sha256_file, write_json
from slidesparse.points import records
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.tables.tasks import tasks_table, write_tasks


def table(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def benchmark(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t100.0\n")


def checkpoint(root, dtype, sparsity, seconds=None):
    write_json(root / "checkpoints" / "BitNet-2B" / dtype / f"{sparsity}.json", {"weights": 100, "changed": 1})
    if seconds is not None:
        benchmark(root / "tasks" / "BitNet-2B" / dtype / sparsity / "convert_checkpoint.tsv", seconds)


def tasks_by_number(root):
    return {row["task"][0]: row for row in tasks_table(root, synthetic.HARDWARE)}


def test_task_durations(tmp_path):
    synthetic.write(tmp_path, "prefill", [512, 1024], seconds=3.0)
    synthetic.write(tmp_path, "prefill", [512], seconds=4.0, place={"backend": "cusparselt", "sparsity": "2_8"})
    synthetic.write(tmp_path, "kernel", [64, 128], seconds=1.25)
    synthetic.write(tmp_path, "kernel", [64], seconds=0.5, place={"backend": "cusparselt", "sparsity": "2_10"})
    synthetic.write(tmp_path, "kernel", [64], seconds=0.25, place={"backend": "cusparselt", "sparsity": "2_inf"})
    gather_all(tmp_path, synthetic.HARDWARE)
    write_json(tmp_path / "models" / "BitNet-2B" / "manifest.json", {"files": {}})
    benchmark(tmp_path / "tasks" / "BitNet-2B" / "fetch_model.tsv", 10)
    checkpoint(tmp_path, "INT8", "dense", 20.5)
    checkpoint(tmp_path, "INT8", "2_8", 40)
    checkpoint(tmp_path, "INT8", "2_4")
    tuning = tmp_path / synthetic.HARDWARE / "tuning" / "BitNet-2B" / "INT8" / "cublaslt" / "dense.json"
    write_json(tuning, {})
    benchmark(tuning.with_suffix(".tsv"), 7)
    rows = tasks_by_number(tmp_path)
    assert {number: (row["status"], row["seconds"]) for number, row in rows.items()} == {
        "1": ("success", 30.5),
        "2": ("success", 40),
        "3": ("success", 7),
        "4": ("success", 10.0),
        "5": ("missing", None),
        "6": ("success", 2.5),
        "7": ("success", 0.5),
        "8": ("success", 0.25),
    }
    assert rows["2"]["note"] == "duration of 1 of 2 not recorded"
    assert [rows["4"][name] for name in ("items_ok", "items_failed", "items_expected")] == [3, 0, 3]


def test_a_job_that_found_its_table_does_not_change_how_long_the_search_took(tmp_path):
    tuning = tmp_path / synthetic.HARDWARE / "tuning" / "BitNet-2B" / "INT8" / "cublaslt" / "dense.json"
    write_json(tuning, {"run": {"seconds": 41.5}})
    benchmark(tuning.with_suffix(".tsv"), 0.3)
    assert tasks_by_number(tmp_path)["3"]["seconds"] == 41.5


def test_task_status(tmp_path):
    (file, *_) = synthetic.write(tmp_path, "decode", [64, 128])
    big = synthetic.path(tmp_path, "decode", 512)
    write_json(big, synthetic.out_of_memory(big))
    gather_all(tmp_path, synthetic.HARDWARE)
    rows = tasks_by_number(tmp_path)
    assert (rows["5"]["status"], rows["5"]["items_ok"], rows["5"]["note"]) == ("success", 2, "1 out of memory")
    assert rows["3"]["status"] == "skipped"
    assert (rows["1"]["status"], rows["1"]["note"]) == ("missing", "2 of 2 missing")
    dense = ("BitNet-2B", "INT8", "cublaslt", "dense")
    synthetic.plan(tmp_path, [("decode", *dense, M) for M in (64, 128, 256, 512)])
    rows = tasks_by_number(tmp_path)
    assert (rows["5"]["status"], rows["5"]["note"]) == ("missing", "1 out of memory; 1 not measured")
    assert (rows["3"]["status"], rows["3"]["items_expected"]) == ("missing", 1)
    assert rows["4"]["status"] == "skipped"
    records.write_failure(file.parent / "M256.json", "its program ended", None, unless=os.getpid())
    rows = tasks_by_number(tmp_path)
    assert (rows["5"]["status"], rows["5"]["items_failed"]) == ("missing", 0)
    assert rows["5"]["note"] == "1 out of memory; 1 being measured"
    write_json(file.parent / "M256.failed.json", {"reason": "it broke"})
    rows = tasks_by_number(tmp_path)
    assert (rows["5"]["status"], rows["5"]["items_failed"], rows["5"]["items_expected"]) == ("failed", 1, 4)


def test_tasks_csv(tmp_path):
    synthetic.write(tmp_path, "decode", [64])
    gather_all(tmp_path, synthetic.HARDWARE)
    path = write_tasks(tmp_path, synthetic.HARDWARE)
    assert path == tmp_path / synthetic.HARDWARE / "tasks.csv"
    header, *rows = path.read_text().splitlines()
    assert header == "task,status,seconds,note,items_ok,items_failed,items_expected"
    assert len(rows) == 8


@pytest.mark.parametrize("seconds", ["nan", "-500", "1e17", "\t", "ten"])
def test_an_impossible_duration_counts_as_none(tmp_path, seconds):
    checkpoint(tmp_path, "INT8", "2_8", seconds)
    [row] = [row for row in tasks_table(tmp_path, synthetic.HARDWARE) if row["task"].startswith("2 ")]
    assert row["seconds"] is None and "duration of 1 of 1 not recorded" in row["note"]


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"s\tsha256 of what was made\n-1\t%s\n", b""])
def test_a_record_of_a_duration_that_cannot_be_read_is_replaced(tmp_path, content):
    manifest, record = tmp_path / "manifest.json", tmp_path / "fetch_model.tsv"
    write_json(manifest, {"files": 1})
    record.write_bytes(content.replace(b"%s", sha256_file(manifest).encode()))
    records.keep_duration(record, manifest, 41.5)
    assert records.duration_of(record) == 41.5


def test_a_job_that_finds_its_work_done_keeps_how_long_the_work_took(tmp_path):
    manifest, record = tmp_path / "manifest.json", tmp_path / "tasks" / "fetch_model.tsv"
    write_json(manifest, {"files": 1})
    records.keep_duration(record, manifest, 41.5)
    assert records.duration_of(record) == 41.5
    records.keep_duration(record, manifest, 0.2)
    assert records.duration_of(record) == 41.5
    write_json(manifest, {"files": 2})
    records.keep_duration(record, manifest, 30)
    assert records.duration_of(record) == 30
