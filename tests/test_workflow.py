"""The workflow as a user runs it, in fresh clones: what is measured, what is not measured again, and what survives."""

import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections import Counter

import pytest

from slidesparse import hardware
from workflow_clone import TINY, Clone, InFlight, wait_until

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.engine,
    pytest.mark.skipif(hardware.detect().gpu, reason="these clones measure BitNet-tiny on the CPU"),
]

KEY = hardware.key()
RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
A100 = "A100_cc80_py312_cu129_x86_64"
STAGES = ("kernel", "prefill", "decode")

MANY = """
cpu: {prefill: {M: [40, 48, 56]}}
measure: {prefill: {steps: 600}}
"""
"""Over TINY: two engines with three prefill points of a second or more each, so that there is a middle to kill in."""


def point(stage, backend, sparsity, M, dtype="INT8", model="BitNet-tiny"):
    """Path of a point of this machine."""
    return f"results/{KEY}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{M}.json"


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """Makes places for clones, and ends what is left of those that were made there."""
    made = []

    def make(of, name="clone"):
        made.append(of(tmp_path_factory.mktemp(name) / "clone"))
        return made[-1]

    yield make
    for clone in made:
        clone.stop()


@pytest.fixture(scope="session")
def bare(directory):
    """A clone in which nothing has been run. Not to be changed."""
    return directory(Clone.of_working_tree, "bare")


@pytest.fixture(scope="session")
def default(bare, directory):
    """A clone in which the default configuration has been run, and that call. Not to be changed."""
    clone = directory(bare.copy, "default")
    return clone, clone.run("all")


@pytest.fixture(scope="session")
def single(bare, directory):
    """A clone in which one point was asked for by its path, and that call. Not to be changed."""
    clone = directory(bare.copy, "single")
    return clone, clone.run(point("prefill", "reference", "2_8", 32), config=TINY)


@pytest.fixture(scope="session")
def tiny(single, directory):
    """A clone in which the tiny configuration has been run, and that call. Not to be changed."""
    clone = directory(single[0].copy, "tiny")
    return clone, clone.run("all", config=TINY)


@pytest.fixture
def copy(directory):
    """Makes copies of clones for one test; then ends what is left of them and makes room."""
    made = []

    def make(clone):
        made.append(directory(clone.copy, "copy"))
        return made[-1]

    yield make
    for clone in made:
        clone.stop()
        shutil.rmtree(clone.directory / "resources")


@pytest.fixture
def fresh(bare, copy):
    """A clone in which nothing has been run."""
    return copy(bare)


@pytest.fixture
def finished(tiny, copy):
    """A clone in which the tiny configuration has been run."""
    return copy(tiny[0])


# The default configuration


def test_the_default_configuration_ends_with_a_report(default):
    clone, call = default
    measured = {"measure_kernel": 36, "measure_prefill": 20, "measure_decode": 20}
    made = {"describe_model": 1, "fetch_model": 1, "convert_checkpoint": 10, "tune_backend": 18}
    assert call.jobs == measured | made | {"gather_points": 38, "write_report": 1, "write_comparison": 1, "all": 1}
    assert [len(clone.points(stage)) for stage in STAGES] == [36, 20, 20]
    assert clone.failures() == []
    report = clone.report()
    for stage, passed in zip(STAGES, ("144/144", "20/20", "20/20"), strict=True):
        assert re.search(rf"^{stage}: .*; total {passed}$", report, re.MULTILINE)
    assert "Nothing failed" in report


def test_a_second_call_does_nothing(default, copy):
    clone = copy(default[0])
    before = clone.files("results/**/*")
    assert clone.run("all").jobs == {}
    assert clone.files("results/**/*") == before


def test_a_deleted_point_is_measured_again_and_no_other(default, copy):
    clone = copy(default[0])
    deleted = point("prefill", "reference", "2_6", 128, "FP8")
    before = clone.points()
    (clone.directory / deleted).unlink()
    call = clone.run("all")
    assert call.jobs == {"measure_prefill": 1, "gather_points": 1, "write_report": 1, "write_comparison": 1, "all": 1}
    assert call.points == {deleted}
    after = clone.points()
    assert after.keys() == before.keys()
    assert {path for path in before if after[path] != before[path]} == {deleted}


@pytest.mark.parametrize(("stage", "Ms", "count"), [("prefill", [32, 64, 128], 10), ("kernel", [16, 32, 64], 18)])
def test_one_more_M_is_one_more_point_of_each_configuration(default, stage, Ms, count):
    clone, _ = default
    call = clone.dry_run("all", config=f"cpu: {{{stage}: {{M: {Ms}}}}}")
    assert call.jobs == {
        f"measure_{stage}": count,
        "gather_points": count,
        "write_report": 1,
        "write_comparison": 1,
        "all": 1,
    }
    known = clone.points(stage)
    assert call.points == {re.sub(r"M\d+", f"M{Ms[1]}", path) for path in known}
    assert not call.points & known.keys()


# One point, and the library that measures it


def test_a_point_is_built_by_its_path_with_its_needs_only(single):
    clone, call = single
    made = ("describe_model", "fetch_model", "convert_checkpoint", "tune_backend", "measure_prefill")
    assert call.jobs == dict.fromkeys(made, 1)
    assert list(clone.points()) == [point("prefill", "reference", "2_8", 32)]
    assert not clone.files("results/**/*.csv").keys() - clone.files("results/*/tuning/**/*.csv").keys()
    assert not clone.files("results/*/report.*.md")


def test_the_rest_leaves_that_point_as_it_is(single, tiny):
    clone, call = tiny
    assert [call.jobs[f"measure_{stage}"] for stage in STAGES] == [2, 1, 2]
    ((path, facts),) = single[0].points().items()
    assert clone.points()[path] == facts
    assert [len(clone.points(stage)) for stage in STAGES] == [2, 2, 2]


def test_points_come_from_the_library_and_the_commit_of_the_clone(tiny):
    clone, _ = tiny
    commit = clone.git("rev-parse", "HEAD")
    for path, (_, content) in clone.points().items():
        assert json.loads(content)["run"]["git"] == {"commit": commit, "dirty": False}, path


def test_jobs_import_the_library_of_the_clone(fresh):
    probe = fresh.beside / "probe.smk"
    probe.write_text(
        f'include: "{fresh.directory}/Snakefile"\n\n\n'
        "rule probe:\n    output:\n        'probe'\n    shell:\n"
        "        'python3 -c \"import slidesparse; print(slidesparse.__file__)\" > {output}'\n"
    )
    fresh.run("probe", "--snakefile", str(probe))
    imported = (fresh.directory / "probe").read_text().strip()
    assert imported == str(fresh.directory / "workflow/slidesparse/__init__.py")


# The backend auto


def test_an_engine_point_of_auto_is_built_by_its_path_from_what_was_measured(finished):
    asked = point("prefill", "auto", "2_8", 32)
    assert finished.run(asked, config=TINY).jobs == {"choose_kernels": 1, "measure_prefill": 1}
    path = f"results/{KEY}/tuning/BitNet-tiny/INT8/auto/2_8.json"
    _, content = finished.files(path)[path]
    choices = json.loads(content)
    assert {entry["linear"] for entry in choices["entries"]} == {"qkv", "o", "gate_up", "down"}
    for entry in choices["entries"]:
        assert entry["us"].keys() == {"onednn", "reference"} and entry["backend"] == min(
            entry["us"], key=entry["us"].get
        )
    assert choices["tables"] == {"reference": "../reference/2_8.json", "onednn": "../onednn/dense.json"}
    measured = json.loads((finished.directory / asked).read_text())
    assert measured["request"]["tuning"] == hashlib.sha256(content).hexdigest()
    assert finished.dry_run(asked, config=TINY).jobs == {}

    both = [TINY, "cpu: {backends: {sparse: [reference, auto]}}"]
    before = finished.points()
    call = finished.run("all", config=both)
    expected = {"measure_decode": 1, "gather_points": 2, "write_report": 1, "write_comparison": 1, "all": 1}
    assert call.jobs == expected and finished.points().items() >= before.items()
    assert "auto/2_8" in finished.report()
    assert finished.dry_run("all", config=both).jobs == {}

    table = finished.directory / f"results/{KEY}/tuning/BitNet-tiny/INT8/onednn/dense.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | {"changed": True}))
    again = [path for path in finished.points() if "/onednn/" in path or "/auto/" in path]
    assert len(again) == 5
    expect(finished.dry_run("all", config=both), again, choose_kernels=1)


def test_stock_vllm_is_measured_beside_what_is_there(finished):
    before = finished.points()
    stock = "cpu: {backends: {dense: [onednn, vllm]}}"
    call = finished.run("all", config=[TINY, stock])
    made = {"measure_stock": 2, "choose_stock": 2, "gather_points": 2, "write_report": 1, "write_comparison": 1}
    assert call.jobs == made | {"all": 1}
    after = finished.points()
    assert {path: after[path] for path in before} == before
    for stage, M in (("prefill", 32), ("decode", 4)):
        best = json.loads(after[point(stage, "vllm", "dense", M)][1])
        assert best["results"]["variant"] == "vllm-eager"
        assert best["run"]["seconds"] == json.loads(after[point(stage, "vllm-eager", "dense", M)][1])["run"]["seconds"]
    assert "prefill BitNet-tiny INT8, from stock vLLM to sparse" in finished.report()
    assert "Nothing failed" in finished.report()
    assert finished.run("all", config=[TINY, stock]).jobs == {}


# Models of one shape


def test_a_model_of_a_measured_shape_shares_its_kernel_points_and_tables(finished):
    overlay = [TINY, "registry: {Twin: {source: generated, seed: 7, shape: BitNet-tiny}}"]
    before = finished.points()
    call = finished.run("all", config=[*overlay, "cpu: {models: [Twin]}"])
    made = {"fetch_model": 1, "convert_checkpoint": 2, "measure_prefill": 2, "measure_decode": 2, "gather_points": 4}
    assert call.jobs == made | {"write_report": 1, "write_comparison": 1, "all": 1}
    after = finished.points()
    twins = {path.replace("BitNet-tiny", "Twin") for path in before if "/kernel/" not in path}
    assert after.keys() == before.keys() | twins
    assert {path: after[path] for path in before} == before
    table = finished.directory / f"results/{KEY}/tuning/BitNet-tiny/INT8/reference/2_8.json"
    measured = json.loads(after[point("prefill", "reference", "2_8", 32, model="Twin")][1])
    assert measured["request"]["tuning"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert "Nothing failed" in finished.report()
    assert finished.dry_run("all", config=[*overlay, "cpu: {models: [BitNet-tiny, Twin]}"]).points == set()


# What measures nothing again


def touch_everything(clone):
    """Give every file a new time, in the reverse order: what was made last is the oldest then."""
    paths = [path for path in clone.directory.rglob("*") if path.is_file() and ".git" not in path.parts]
    paths.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    begin = time.time_ns() - len(paths) * 10**6
    for i, path in enumerate(paths):
        os.utime(path, ns=(begin + i * 10**6,) * 2)


def edit_comment_of_rules(clone):
    clone.edit("workflow/rules/throughput.smk", r"\A# .*", "# Another comment.")


def edit_comment_of_program(clone):
    clone.edit("workflow/scripts/measure_point.py", r"\A", "# A new comment.\n")


def edit_comment_of_library(clone):
    clone.edit("workflow/slidesparse/timing.py", r"\A", "# A new comment.\n")


def forget_weights(clone):
    clone.forget_weights()


@pytest.mark.parametrize(
    "change",
    [touch_everything, edit_comment_of_rules, edit_comment_of_program, edit_comment_of_library, forget_weights],
)
def test_nothing_is_measured_again_after(change, finished):
    change(finished)
    assert finished.dry_run("all", config=TINY).jobs == {}


def test_nothing_is_measured_again_in_a_new_clone_beside_copied_results(tiny, directory):
    again = directory(tiny[0].cloned_again, "again")
    assert again.dry_run("all", config=TINY).jobs == {}


SMALL = """{hidden_size: 64, intermediate_size: 96, num_hidden_layers: 1, num_attention_heads: 2,
    num_key_value_heads: 1, vocab_size: 64}"""


@pytest.mark.parametrize(
    "unrelated",
    [
        f"registry: {{Other: {{source: generated, seed: 1, shape: {SMALL}}}}}",
        "resident: {idle_s: 60}",
        "measure: {prefill: {time_limit_s: 300}, decode: {time_limit_s: 300}}",
    ],
)
def test_nothing_is_measured_again_for_an_unrelated_key(tiny, unrelated):
    assert tiny[0].dry_run("all", config=[TINY, unrelated]).jobs == {}


# What measures something again


def test_without_weights_one_more_M_is_one_more_point_of_each_configuration(finished):
    before = finished.points()
    finished.forget_weights()
    call = finished.run("all", config=[TINY, "cpu: {prefill: {M: [32, 48]}, decode: {M: [4, 8]}}"])
    assert call.jobs == {
        "measure_prefill": 2,
        "measure_decode": 2,
        "gather_points": 4,
        "write_report": 1,
        "write_comparison": 1,
        "all": 1,
    }
    after = finished.points()
    assert {path: after[path] for path in before} == before
    manifests = finished.files("results/checkpoints/*/*/*.json") | finished.files("results/models/*/manifest.json")
    assert len(manifests) == 3
    for path, (_, content) in manifests.items():
        weights = finished.directory / path.removesuffix("/manifest.json").removesuffix(".json")
        weights = finished.directory / "resources" / weights.relative_to(finished.directory / "results")
        for name, facts in json.loads(content)["files"].items():
            assert hashlib.sha256((weights / name).read_bytes()).hexdigest() == facts["sha256"], f"{weights}/{name}"


def expect(call, points, **made):
    """Assert that a dry run measures exactly the `points`, and beside them makes what `made` says."""
    assert call.points == set(points)
    counts = {f"measure_{stage}": sum(f"/{stage}/" in path for path in points) for stage in STAGES}
    folders = {path.rpartition("/")[0] for path in points}
    expected = counts | {"gather_points": len(folders), "write_report": 1, "write_comparison": 1, "all": 1} | made
    assert call.jobs == {rule: count for rule, count in expected.items() if count}


def test_a_changed_tuning_table_measures_its_points_again(finished):
    path = finished.directory / f"results/{KEY}/tuning/BitNet-tiny/INT8/reference/2_8.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"changed": True}))
    points = [path for path in finished.points() if "/reference/2_8/" in path]
    assert len(points) == 3
    expect(finished.dry_run("all", config=TINY), points)


def test_a_changed_checkpoint_measures_engine_points_again(tiny):
    clone, _ = tiny
    points = {**clone.points("prefill"), **clone.points("decode")}
    assert len(points) == 4
    call = clone.dry_run("all", config=[TINY, "registry: {BitNet-tiny: {seed: 7}}"])
    expect(call, points, fetch_model=1, convert_checkpoint=2)


def test_a_changed_parameter_measures_the_points_of_its_stage_again(tiny):
    clone, _ = tiny
    expect(clone.dry_run("all", config=[TINY, "measure: {prefill: {steps: 5}}"]), clone.points("prefill"))


def test_a_new_protocol_version_measures_the_points_of_its_stage_again(finished):
    finished.edit("workflow/slidesparse/records.py", r'^(PROTOCOL = .*"decode": )\d+', r"\g<1>99")
    expect(finished.dry_run("all", config=TINY), finished.points("decode"))


def test_another_dtype_measures_its_points_only(tiny):
    clone, _ = tiny
    points = [path.replace("/INT8/", "/FP8/") for path in clone.points()]
    call = clone.dry_run("all", config=[TINY, "dtypes: [INT8, FP8]"])
    expect(call, points, convert_checkpoint=2, tune_backend=2)


# Kills and failures


@pytest.fixture
def planned(finished):
    """The paths of the points that MANY adds to what is there, and one that was deleted."""
    lost = point("decode", "onednn", "dense", 4)
    (finished.directory / lost).unlink()
    finished.only("results/cpu-*/report.en.md").unlink()
    configurations = (("onednn", "dense"), ("reference", "2_8"))
    return {lost, *(point("prefill", *configuration, M) for configuration in configurations for M in (40, 48, 56))}


def finish(clone, before, planned):
    """The next plain call measures the `planned` points that are not there, and leaves those that are as they are."""
    present = clone.points()
    assert {path: present[path] for path in before} == before
    call = clone.run("all", config=[TINY, MANY])
    after = clone.points()
    assert "LockException" not in call.output
    assert call.points == planned - present.keys()
    assert after.keys() == present.keys() | planned
    assert {path: after[path] for path in present} == present
    assert clone.failures() == []
    assert "Nothing failed" in clone.report()
    clone.wait_until_alone()


def test_after_a_killed_workflow_the_next_call_finishes(finished, planned):
    before = finished.points()
    call = finished.start("--cores", "1", "all", config=[TINY, MANY])
    flight = InFlight(finished, call)
    os.kill(call.pid, signal.SIGKILL)
    call.wait(-signal.SIGKILL)
    finished.wait_until_alone()
    assert call.points - finished.points().keys() == {flight.path}
    finish(finished, before, planned)


@pytest.mark.parametrize(
    ("victim", "reason", "logged"),
    [
        ("program", "its program ended before the measurement did", "Killed"),
        ("worker", "the resident worker was lost during the measurement", "the resident worker was lost"),
    ],
)
def test_a_kill_costs_the_point_in_flight_only(finished, planned, victim, reason, logged):
    before = finished.points()
    call = finished.start("--cores", "1", "all", config=[TINY, MANY])
    flight = InFlight(finished, call)
    os.kill(getattr(flight, victim), signal.SIGKILL)
    call.wait(1)
    finished.wait_until_alone()
    assert finished.points().keys() == before.keys() | planned - {flight.path}
    assert finished.failures() == [flight.path.replace(".json", ".failed.json")]
    failure = json.loads((finished.directory / finished.failures()[0]).read_text())
    assert reason in failure["reason"]
    assert logged in (finished.directory / failure["log"]).read_text()
    assert failure["log"] in finished.report()
    finish(finished, before, planned)


def test_a_second_run_in_the_same_directory_is_refused(finished, planned):
    before = finished.points()
    first = finished.start("--cores", "1", "all", config=[TINY, MANY])
    lock = finished.directory / ".snakemake/slidesparse.lock"
    wait_until(lambda: lock.read_text() == str(first.pid))
    second = finished.start("--cores", "1", "all", config=[TINY, MANY]).wait(1)
    sentence = f"another run (process {first.pid}) is working in this directory: wait for it, or stop it"
    assert second.output.count(sentence) == 1
    assert "Traceback" not in second.output
    assert second.points == set()
    beside = finished.dry_run("all", config=[TINY, MANY])
    assert beside.points <= planned
    assert first.running()
    first.process.kill()
    first.wait(-signal.SIGKILL)
    finished.wait_until_alone()
    assert finished.dry_run("all", config=[TINY, MANY]).points == planned - (finished.points().keys() - before.keys())


def test_a_failing_point_spares_its_neighbours(finished):
    measured = {point("kernel", "onednn", "dense", 16), point("decode", "onednn", "dense", 4)}
    failed = {point("prefill", "onednn", "dense", 32), point("prefill", "reference", "2_8", 32)}
    for path in measured | failed:
        shutil.rmtree((finished.directory / path).parent)
    before = finished.points()
    call = finished.run("all", config=[TINY, "measure: {prefill: {time_limit_s: 0.000001}}"], status=1)
    assert call.points == measured | failed
    after = finished.points()
    assert after.keys() == before.keys() | measured
    assert {path: after[path] for path in before} == before
    for stage in ("kernel", "decode"):
        finished.only(f"results/*/{stage}/BitNet-tiny/INT8/onednn/dense/*.csv")
    assert finished.failures() == sorted(path.replace(".json", ".failed.json") for path in failed)
    report = finished.report()
    for path in failed:
        log = path.replace(".json", ".log")
        assert "the time limit ended the measurement" in (finished.directory / log).read_text()
        assert re.search(rf"^\| prefill \| .* the time limit ended .* \| {re.escape(log)} \|$", report, re.MULTILINE)
    finished.wait_until_alone()


# What is refused, and what is planned


@pytest.mark.parametrize(
    ("overlay", "sentence"),
    [
        ("kernal: {M: [64]}", r"kernal .* is not a key: .*; did you mean kernel\?"),
        ("prefill: {sparsity: [2_8]}", r'prefill\.sparsity\[0\] is the number 28, .* so quote it: "2_8"'),
    ],
)
def test_a_wrong_configuration_gets_one_sentence_and_writes_nothing(fresh, overlay, sentence):
    before = fresh.files()
    call = fresh.run("all", config=overlay, status=1)
    assert len(re.findall(rf"^{sentence}$", call.output, re.MULTILINE)) == 1, call.output
    assert "Traceback" not in call.output
    written = fresh.files().keys() - before.keys()
    assert not {path for path in written if not re.search(r"^\.snakemake/|/__pycache__/", path)}


@pytest.mark.parametrize(
    ("key", "prefill", "decode", "kernel", "left_out"),
    [(RTX4090, 70, 40, 162, None), (A100, 35, 20, 81, "FP8 cannot run on A100: .* 8.9, and it has 8.0")],
)
def test_hardware_that_is_not_here_can_be_planned(fresh, key, prefill, decode, kernel, left_out):
    call = fresh.dry_run("all", "--config", f"hardware={key}")
    measured = {"measure_prefill": prefill, "measure_decode": decode, "measure_kernel": kernel}
    assert {rule: count for rule, count in call.jobs.items() if rule.startswith("measure_")} == measured
    assert bool(re.search(rf"^FP8 is left out on {key}: {left_out}$", call.output, re.MULTILINE)) == bool(left_out)
    assert "BitNet-2B" in call.output and "BitNet-tiny" not in call.output
    assert not fresh.files(f"results/{key}/**/*")


def test_models_of_one_shape_are_planned_with_one_set_of_kernel_points(fresh):
    auto = "backends: {sparse: [cusparselt, auto]}"
    call = fresh.dry_run("all", "--config", f"hardware={RTX4090}", config=[auto, "models: [BitNet-2B-synthetic]"])
    measured = {"measure_kernel": 162, "measure_prefill": 126, "measure_decode": 72}
    expected = measured | {"describe_model": 1, "fetch_model": 1, "tune_backend": 18, "choose_kernels": 8}
    assert call.jobs.items() >= expected.items()
    of = Counter(tuple(path.split("/")[2:4]) for path in call.points)
    twin = "BitNet-2B-synthetic"
    assert of == {("kernel", "BitNet-2B"): 162, ("prefill", twin): 126, ("decode", twin): 72}
    assert f"results/{RTX4090}/tuning/BitNet-2B/INT8/auto/2_8.json" in call.output
    assert f"/tuning/{twin}/" not in call.output
    both = fresh.dry_run("all", "--config", f"hardware={RTX4090}", config=[auto, f"models: [BitNet-2B, {twin}]"])
    assert both.jobs.items() >= (expected | {"fetch_model": 2, "measure_prefill": 252, "measure_decode": 144}).items()
    assert len(both.points) == 162 + 252 + 144


def test_a_point_of_other_hardware_is_not_measured_here(fresh):
    asked = f"results/{RTX4090}/kernel/BitNet-2B/INT8/cublaslt/dense/M64.json"
    table = fresh.directory / f"results/{RTX4090}/tuning/BitNet-2B/INT8/cublaslt/dense.json"
    sentence = f"this machine is {KEY} and the results asked for belong to {RTX4090}: measure them there"
    call = fresh.run(asked, "--config", f"hardware={RTX4090}", status=1)
    assert call.jobs == {"describe_model": 1, "tune_backend": 1, "measure_kernel": 1}
    assert sentence in table.with_suffix(".log").read_text()
    assert sentence in call.output
    assert not table.exists()
    table.write_text("{}")  # as if it had been tuned there
    table.with_suffix(".csv").touch()
    call = fresh.run(asked, "--config", f"hardware={RTX4090}", status=1)
    assert call.jobs == {"measure_kernel": 1}
    assert sentence in (fresh.directory / asked).with_suffix(".log").read_text()
    assert sentence in call.output
    assert fresh.points() == {}
