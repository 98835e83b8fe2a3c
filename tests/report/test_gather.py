"""Gathering: whole points become one CSV, everything else is refused by name."""

import csv
import json
import random
import re
import shutil
import subprocess
import sys

import pytest

import synthetic
from places import PROGRAMS, ROOT
from slidesparse.errors import RecordError
from slidesparse.files import write_json
from slidesparse.plan.key import Key
from slidesparse.points import records, request
from slidesparse.points.request import expected_digests
from slidesparse.points.validate import read_point
from slidesparse.report.sources.read import read_source
from slidesparse.report.tables.columns import COLUMNS
from slidesparse.report.tables.gather import gather, gather_all
from slidesparse.report.tables.point_rows import throughput_row
from slidesparse.report.tables.tasks import tasks_table

PROGRAM = PROGRAMS / "gather_points.py"


def table(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def change(file, **sections):
    """Rewrite a point with sections changed: `results={"tokens_per_s": 0}` changes that one value."""
    value = json.loads(file.read_text())
    for name, part in sections.items():
        value[name] = value[name] | part if isinstance(part, dict) else part
    write_json(file, value)


@pytest.mark.parametrize("stage", ["prefill", "decode", "kernel"])
def test_columns_and_order(tmp_path, stage):
    files = synthetic.write(tmp_path, stage, [1024, 64, 512])
    output = tmp_path / "out.csv"
    rows = gather(files, output)
    found = table(output)
    assert len(found) == rows == (12 if stage == "kernel" else 3)
    assert list(found[0]) == [column for column in COLUMNS[stage] if column != "prompt"]
    M = "M" if stage == "kernel" else f"M_{stage}"
    assert [int(row[M]) for row in found[:: 4 if stage == "kernel" else 1]] == [64, 512, 1024]
    assert {row["gpu_name"] for row in found} == {"NVIDIA GeForce RTX 4090"}
    if stage == "kernel":
        assert [row["linear"] for row in found[:4]] == list(synthetic.LINEARS)
        assert found[0]["latency_us"] == "10000"
        assert found[0]["latency_hot_us"] == "5000"
        assert found[0]["exact"] == "true"
    else:
        assert found[0]["step_ms"] == "10"
        assert float(found[0]["steady_tokens_per_s"]) == 6400


def test_published_columns_come_first():
    names = list(COLUMNS["prefill"])
    assert names[:5] == ["M_prefill", "prompt_len", "max_num_seqs", "num_prompts", "N_prefill"]
    assert names[5:8] == ["requests_per_s", "tokens_per_s", "elapsed_time_s"]
    assert "output_len" in list(COLUMNS["decode"])[:9]


def test_same_points_same_bytes(tmp_path):
    files = synthetic.write(tmp_path, "kernel", [64, 128, 256, 512])
    gather(files, tmp_path / "a.csv")
    random.Random(3).shuffle(files)
    gather(files, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("stage", ["prefill", "kernel"])
def test_out_of_memory_is_a_row(tmp_path, stage):
    files = synthetic.write(tmp_path, stage, [64])
    big = synthetic.path(tmp_path, stage, 32768)
    write_json(big, synthetic.out_of_memory(big))
    gather([*files, big], tmp_path / "out.csv")
    last = table(tmp_path / "out.csv")[-1]
    assert last["status"] == "out_of_memory"
    assert last["reason"] == "20 GiB asked for, 3 GiB free"


def test_what_a_kernel_point_asked_of_its_process_is_a_column(tmp_path):
    apart, other = synthetic.write(tmp_path, "kernel", [64, 128])
    change(apart, request={"process": "no sparse products"})
    gather([apart, other], tmp_path / "out.csv")
    assert [row["process"] for row in table(tmp_path / "out.csv")] == ["no sparse products"] * 4 + [""] * 4


def test_an_algorithm_of_several_parts_and_no_hot_figure(tmp_path):
    (file,) = synthetic.write(tmp_path, "kernel", [64])
    value = json.loads(file.read_text())
    for gemm in value["results"]["gemms"]:
        gemm |= {"algorithm": {"split_k": 2, "id": 7}, "hot": None, "exact": None}
    write_json(file, value)
    gather([file], tmp_path / "out.csv")
    row = table(tmp_path / "out.csv")[0]
    assert row["alg_id"] == '{"id":7,"split_k":2}'
    assert row["latency_hot_us"] == row["exact"] == ""


DAMAGE = {
    "truncated": (lambda file: file.write_text(file.read_text()[:-40]), "damaged"),
    "empty": (lambda file: file.write_text(""), "damaged"),
    "not text": (lambda file: file.write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    "a list": (lambda file: file.write_text("[1]"), "no JSON object"),
    "NaN": (lambda file: file.write_text(file.read_text().replace('"seconds": 2.5', '"seconds": NaN')), "NaN"),
    "zero": (lambda file: change(file, results={"tokens_per_s": 0}), "results.tokens_per_s"),
    "negative": (lambda file: change(file, results={"elapsed_s": -1.0}), "results.elapsed_s"),
    "no results": (lambda file: change(file, results=[]), "results"),
    "unknown status": (lambda file: change(file, status="good"), "status"),
    "unknown field": (lambda file: write_json(file, json.loads(file.read_text()) | {"extra": 1}), "extra"),
    "newer schema": (lambda file: change(file, schema=2), "schema"),
    "out of memory without a reason": (lambda file: change(file, status="out_of_memory"), "reason"),
    "wrong M": (lambda file: change(file, key={"M": 7}), "its key says M 7, its path says 512"),
    "wrong dtype": (lambda file: change(file, key={"dtype": "FP8"}), "its key says dtype FP8, its path says INT8"),
    "wrong hardware": (
        lambda file: change(file, key={"hardware": "H100_cc90_py312_cu129_x86_64"}),
        "its key says hardware H100",
    ),
    "missing": (lambda file: file.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_point_is_refused_by_name(tmp_path, name):
    files = synthetic.write(tmp_path, "prefill", [512, 1024])
    damage, cause = DAMAGE[name]
    damage(files[0])
    with pytest.raises(RecordError) as error:
        gather(files, tmp_path / "out.csv")
    assert str(files[0]) in str(error.value)
    assert cause in str(error.value)
    assert str(files[1]) not in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.csv").exists()


def test_a_kernel_point_without_linears_is_refused(tmp_path):
    (file,) = synthetic.write(tmp_path, "kernel", [64])
    change(file, results={"gemms": []})
    with pytest.raises(RecordError, match="gemms"):
        read_point(file)


def test_a_moved_point_is_refused(tmp_path):
    (file,) = synthetic.write(tmp_path, "decode", [64])
    other = synthetic.path(tmp_path, "decode", 64, backend="cusparselt", sparsity="2_8")
    other.parent.mkdir(parents=True)
    shutil.move(file, other)
    with pytest.raises(RecordError, match="its key says backend cublaslt, its path says cusparselt"):
        gather([other], tmp_path / "out.csv")


def test_a_file_that_is_no_point_is_refused(tmp_path):
    stray = tmp_path / "point.json"
    stray.write_text("{}")
    with pytest.raises(RecordError, match="is not the path of a point"):
        gather([stray], tmp_path / "out.csv")


def test_every_bad_point_is_named(tmp_path):
    files = synthetic.write(tmp_path, "prefill", [1, 2, 3, 4, 5, 6, 7, 8])
    for file in files[:7]:
        file.write_text("{")
    with pytest.raises(RecordError) as error:
        gather(files, tmp_path / "out.csv")
    assert all(str(file) in str(error.value) for file in files[:5])
    assert "and 2 more" in str(error.value)


def test_points_of_two_configurations_are_not_mixed(tmp_path):
    files = synthetic.write(tmp_path, "prefill", [512])
    files += synthetic.write(tmp_path, "prefill", [1024], place={"dtype": "FP8"})
    with pytest.raises(RecordError, match="another configuration"):
        gather(files, tmp_path / "out.csv")


def test_a_second_point_for_an_M_is_refused(tmp_path):
    (file,) = synthetic.write(tmp_path / "a", "prefill", [512])
    (again,) = synthetic.write(tmp_path / "b", "prefill", [512])
    with pytest.raises(RecordError, match="second point for M=512"):
        gather([file, again], tmp_path / "out.csv")


def test_digests(tmp_path):
    files = synthetic.write(tmp_path, "prefill", [512, 1024])
    output = tmp_path / "out.csv"
    known = dict(zip(files, map(synthetic.own_digest, files), strict=True))
    assert gather(files, output, known) == 2
    output.unlink()
    with pytest.raises(RecordError) as error:
        gather(files, output, known | {files[1]: "2" * 64})
    assert str(files[1]) in str(error.value)
    assert "answers another request" in str(error.value)
    assert "delete it" in str(error.value)
    with pytest.raises(RecordError, match="lacks M2048.json"):
        gather(files, output, known | {files[0].with_name("M2048.json"): "1" * 64})
    with pytest.raises(RecordError, match="not asked for M1024.json"):
        gather(files, output, {files[0]: known[files[0]]})
    assert not output.exists()


def requested(root, stage, M, parameters):
    """A point that answers its request, with the files that the request depends on."""
    tuning = root / synthetic.HARDWARE / "tuning" / "BitNet-2B" / "INT8" / "cublaslt" / "dense.json"
    write_json(tuning, {"entries": []})
    basis = root / ("models/BitNet-2B/shape.json" if stage == "kernel" else "checkpoints/BitNet-2B/INT8/dense.json")
    write_json(basis, {"linears": [{"name": name} for name in synthetic.LINEARS]})
    file = synthetic.path(root, stage, M)
    peers = {"cutlass": None, "torch": None} if stage == "kernel" else {}  # rivals of cublaslt, which need no table
    asked = request.request(Key.of(file), parameters, basis, tuning, peers)
    write_json(file, synthetic.point(file) | {"request": asked})
    return file, basis, tuning


@pytest.mark.parametrize("stage", ["kernel", "decode"])
def test_the_expected_digest_is_that_of_the_request(tmp_path, stage):
    parameters = {"warmup_s": 1}
    file, basis, tuning = requested(tmp_path, stage, 64, parameters)
    output = tmp_path / "out.csv"
    assert gather([file], output, expected_digests([file], parameters)) > 0
    with pytest.raises(RecordError, match="another request"):
        gather([file], output, expected_digests([file], {"warmup_s": 2}))
    for changed in (basis, tuning):
        before = changed.read_text()
        write_json(changed, {"linears": [], "entries": [1]})
        with pytest.raises(RecordError, match="another request"):
            gather([file], output, expected_digests([file], parameters))
        changed.write_text(before)
    tuning.unlink()
    assert expected_digests([file], parameters) == {file: None}
    assert gather([file], output, {file: None}) > 0


def test_an_engine_point_answers_for_the_tuning_table_of_the_model_that_has_its_shape(tmp_path):
    _, _, tuning = requested(tmp_path, "kernel", 64, {})
    basis = tmp_path / "checkpoints" / "Twin" / "INT8" / "dense.json"
    write_json(basis, {})
    file = synthetic.path(tmp_path, "decode", 64, model="Twin")
    asked = request.request(Key.of(file), {"steps": 1}, basis, tuning)
    points = [("decode", "Twin", "INT8", "cublaslt", "dense", 64)]
    synthetic.plan(tmp_path, points, parameters={"decode": {"steps": 1}}, shapes={"Twin": "BitNet-2B"})
    assert expected_digests([file], {"steps": 1}) == {file: asked["digest"]}
    row = next(row for row in tasks_table(tmp_path, synthetic.HARDWARE) if row["task"].startswith("3"))
    assert (row["status"], row["items_ok"], row["items_expected"]) == ("success", 1, 1)


def test_an_older_csv_survives_a_refusal(tmp_path):
    files = synthetic.write(tmp_path, "prefill", [512])
    output = tmp_path / "out.csv"
    gather(files, output)
    before = output.read_bytes()
    files[0].write_text("{")
    with pytest.raises(RecordError):
        gather(files, output)
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_no_points():
    with pytest.raises(RecordError, match="no points"):
        gather([], "out.csv")


def test_gather_all_takes_the_good_and_names_the_bad(tmp_path):
    good, bad = synthetic.write(tmp_path, "prefill", [512, 1024])
    bad.write_text("{")
    (other,) = synthetic.write(tmp_path, "kernel", [64])
    refused = gather_all(tmp_path, synthetic.HARDWARE)
    assert len(refused) == 1
    assert str(bad) in refused[0]
    csv_file = good.parent / "BitNet-2B-INT8_prefill.csv"
    assert [row["M_prefill"] for row in table(csv_file)] == ["512"]
    assert (other.parent / "BitNet-2B-INT8_kernel.csv").is_file()
    stamp = csv_file.stat().st_mtime_ns, csv_file.stat().st_ino
    gather_all(tmp_path, synthetic.HARDWARE)
    assert (csv_file.stat().st_mtime_ns, csv_file.stat().st_ino) == stamp


def test_a_csv_does_not_outlive_its_points(tmp_path):
    """Of points that are all refused nothing is read, and a point that failed since counts as failed."""
    files = synthetic.write(tmp_path, "prefill", [512, 1024])
    gather_all(tmp_path, synthetic.HARDWARE)
    (table,) = files[0].parent.glob("*.csv")
    before = table.read_bytes()
    for file, M in zip(files, (512, 1024), strict=True):
        file.unlink()
        records.write_failure(file, f"why {M}", "log")
    source = read_source(tmp_path, synthetic.HARDWARE)
    assert [(row.M, row.status) for row in source.stage("prefill")] == [(512, "failed"), (1024, "failed")]
    for file in files:
        file.write_text("{}")
    *refused, aside = gather_all(tmp_path, synthetic.HARDWARE)
    assert len(refused) == 2 and f"{table} is of points that are all refused: its figures are in" in aside
    assert not table.exists() and table.with_name(f"{table.name}.old").read_bytes() == before


def test_gather_all_refuses_planned_points_of_another_request(tmp_path):
    file, *_ = requested(tmp_path, "decode", 64, {"steps": 1})
    requested(tmp_path, "decode", 128, {"steps": 1})
    points = [("decode", "BitNet-2B", "INT8", "cublaslt", "dense", 64)]
    synthetic.plan(tmp_path, points, parameters={"decode": {"steps": 1}})
    assert gather_all(tmp_path, synthetic.HARDWARE) == []
    synthetic.plan(tmp_path, points, parameters={"decode": {"steps": 2}})
    (sentence,) = gather_all(tmp_path, synthetic.HARDWARE)
    assert sentence == f"{file} is of another configuration (steps 1, the plan has 2), so it is in no CSV of this plan"
    found = table(file.parent / "BitNet-2B-INT8_decode.csv")
    assert [row["M_decode"] for row in found] == ["128"]  # not planned, so nothing is known of its request


def test_a_stale_point_is_told_from_one_of_another_configuration(tmp_path):
    file, basis, _ = requested(tmp_path, "decode", 64, {"steps": 1})
    synthetic.plan(
        tmp_path, [("decode", *file.parts[-5:-1], 64)], parameters={"decode": {"steps": 1, "time_limit_s": 9}}
    )
    assert gather_all(tmp_path, synthetic.HARDWARE) == []
    write_json(basis, {"linears": []})
    (stale,) = gather_all(tmp_path, synthetic.HARDWARE)
    assert f"{file} answers another request" in stale
    assert "delete it" in stale
    many = {"decode": {"steps": 1, "repeats": 2, "max_samples": 5}}
    synthetic.plan(tmp_path, [("decode", *file.parts[-5:-1], 64)], parameters=many)
    (other,) = gather_all(tmp_path, synthetic.HARDWARE)
    assert "of another configuration (max_samples none, the plan has 5; repeats none, the plan has 2)" in other
    assert "delete" not in other
    assert "damaged" not in other


def test_a_damaged_plan_is_named(tmp_path):
    synthetic.write(tmp_path, "prefill", [512])
    (tmp_path / synthetic.HARDWARE / "plan.json").write_text('{"points": {"prefill": {"INT8": [512]}}}')
    (sentence,) = gather_all(tmp_path, synthetic.HARDWARE)
    assert "plan.json is damaged" in sentence


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": ""},
        check=False,
    )


def test_program(tmp_path):
    files = synthetic.write(tmp_path, "decode", [64, 128])
    output = tmp_path / "out.csv"
    done = run("--points", *files, "--output", output)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(table(output)) == 2
    file, *_ = requested(tmp_path / "results", "decode", 64, {"steps": 1})
    done = run("--points", file, "--output", output, "--parameters", '{"steps": 1}')
    assert (done.returncode, done.stderr) == (0, "")
    failed = run("--points", file, "--output", output, "--parameters", '{"steps": 2}')
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "M64.json answers another request" in failed.stderr


# tasks.csv


@pytest.mark.parametrize("field", ["N", "K"])
def test_a_kernel_point_of_another_shape_is_refused(tmp_path, field):
    """It agrees with itself; the model's shape.json says otherwise."""
    other, good = synthetic.write(tmp_path, "kernel", [64, 128])
    linears = [{"name": name, "N": N, "K": K} for name, (N, K) in synthetic.LINEARS.items()]
    write_json(tmp_path / "models" / "BitNet-2B" / "shape.json", {"linears": linears})
    point = json.loads(other.read_text())
    gemm = point["results"]["gemms"][0]
    for name, value in gemm.items():
        if name in (field, "effective_tops") or (name, field) == ("K_slid", "K"):
            gemm[name] = 2 * value
    write_json(other, point)
    (sentence,) = gather_all(tmp_path, synthetic.HARDWARE)
    says = rf".*/M64\.json: qkv has .*{field}={gemm[field]}.*, but .*/shape\.json says N=3840, K=2560; .*"
    assert re.fullmatch(says, sentence)
    assert [row["M"] for row in table(next(good.parent.glob("*.csv")))] == ["128"] * 4


@pytest.mark.parametrize("change", [lambda gemms: gemms[:2], lambda gemms: [*gemms[:3], gemms[0]]])
def test_a_kernel_point_without_all_linears_of_its_shape_is_refused(tmp_path, change):
    other, good = synthetic.write(tmp_path, "kernel", [64, 128])
    linears = [{"name": name, "N": N, "K": K} for name, (N, K) in synthetic.LINEARS.items()]
    write_json(tmp_path / "models" / "BitNet-2B" / "shape.json", {"linears": linears})
    point = json.loads(other.read_text())
    point["results"]["gemms"] = change(point["results"]["gemms"])
    write_json(other, point)
    (sentence,) = gather_all(tmp_path, synthetic.HARDWARE)
    assert re.search(r"M64\.json has the linears .*, but .*/shape\.json has down, gate_up, o, qkv; ", sentence)
    assert [row["M"] for row in table(next(good.parent.glob("*.csv")))] == ["128"] * 4


@pytest.mark.parametrize(("stage", "field", "value"), [("prefill", "peak_memory_bytes", "x"), ("kernel", "exact", 2)])
def test_a_point_that_no_row_can_be_read_of_again_hides_no_other(tmp_path, stage, field, value):
    bad, good = synthetic.write(tmp_path, stage, [64, 128])
    point = json.loads(bad.read_text())
    results = point["results"]
    (results["gemms"][0] if stage == "kernel" else results)[field] = value
    write_json(bad, point)
    (sentence,) = gather_all(tmp_path, synthetic.HARDWARE)
    assert str(bad) in sentence
    assert {row.get("M") or row.get("M_prefill") for row in table(next(good.parent.glob("*.csv")))} == {"128"}


# What the host bounds.


def engine(gpu_step_ms, half_ms=0.1, reasons=(0, 0), stored=False, step_ms=10.0):
    """A prefill point of `step_ms` whose interval has this half-width, with the reasons of throttling around it."""
    point = synthetic.point(synthetic.path(ROOT, "prefill", 512), step_ms / 1000)
    repeats = [(step_ms + shift) / 1000 for shift in (-half_ms, 0, 0, 0, half_ms)]
    states = zip(("before", "after"), reasons, strict=True)
    point["results"] |= {"repeats_s": repeats, "gpu_step_ms": gpu_step_ms, "host_bound": stored}
    point["results"]["state"] = {when: {"throttle_reasons": reason} for when, reason in states}
    return point


@pytest.mark.parametrize(
    ("point", "bound", "capped"),
    [
        (engine(9.4), True, False),  # 6 % longer than the GPU's work, which the protocol's 1.1 lets pass
        (engine(9.75), False, False),  # 2.5 % are within the noise of the profile and of the wall
        (engine(9.4, half_ms=0.5), False, False),
        (engine(9.4, reasons=(4, 0)), False, True),  # the profile ran at another clock
        (engine(9.4, reasons=(0, 0x24)), False, True),
        (engine(9.4, reasons=(None, 0)), False, None),  # not known: the protocol's mark stays
        (engine(5.0, half_ms=6.0, stored=True), True, False),  # such noise is the host's own
        (engine(5.0, reasons=(0, 4), stored=True), True, True),
        (engine(None), False, False),
        (engine(10.2), False, False),
    ],
)
def test_a_step_is_bound_by_the_host_if_it_exceeds_the_gpus_work_by_more_than_noise(point, bound, capped):
    row = throughput_row(point)
    assert (row["host_bound"], row["power_capped"]) == (bound, capped)


def test_what_an_old_point_does_not_tell_is_not_known():
    point = engine(9.4)
    for name in ("state", "host_bound"):
        del point["results"][name]
    row = throughput_row(point)
    assert row["host_bound"] is None and row["power_capped"] is None


def test_a_csv_does_not_outlive_points_that_were_deleted(tmp_path):
    (file,) = synthetic.write(tmp_path, "decode", [8])
    gather_all(tmp_path, synthetic.HARDWARE)
    (table,) = file.parent.glob("*.csv")
    file.unlink()
    assert gather_all(tmp_path, synthetic.HARDWARE) == [] and table.exists()  # it was copied without its points
    file.with_suffix(".log").touch()
    (aside,) = gather_all(tmp_path, synthetic.HARDWARE)
    assert f"{table} is of points that are gone" in aside and not table.exists()
