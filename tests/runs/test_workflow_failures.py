"""The workflow killed, failing, refused or planned for other hardware: what is left and what is said."""

import json
import os
import re
import shutil
import signal
from collections import Counter

import pytest

from workflow_clone import KEY, ON_CPU, TINY, InFlight, point, wait_until

pytest_plugins = ["clones"]
pytestmark = ON_CPU

RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
A100 = "A100_cc80_py312_cu129_x86_64"

MANY = """
cpu: {prefill: {M: [40, 56]}}
measure: {prefill: {steps: 200}}
"""
"""Over TINY: two engines with two prefill points of a second each, so that there is a middle to kill in."""


# Kills and failures


@pytest.fixture
def planned(finished):
    """The paths of the points that MANY adds to what is there, and one that was deleted."""
    lost = point("decode", "onednn", "dense", 4)
    (finished.directory / lost).unlink()
    finished.only("results/cpu-*/report.en.md").unlink()
    configurations = (("onednn", "dense"), ("reference", "2_8"))
    return {lost, *(point("prefill", *configuration, M) for configuration in configurations for M in (40, 56))}


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


@pytest.mark.drills
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
    ("number", "times"),
    [(signal.SIGINT, 1), pytest.param(signal.SIGINT, 2, marks=pytest.mark.drills), (signal.SIGTERM, 2)],
    ids=str,
)
def test_signals_end_a_run_without_a_traceback(finished, planned, number, times):
    """Twice, as somebody who is in a hurry does, to all of the run's processes, as a terminal does.

    A second SIGINT ends it at once. Otherwise its last line says that it was stopped.
    """
    before = finished.points()
    call = finished.start("--cores", "1", "all", config=[TINY, MANY])
    InFlight(finished, call)
    for _ in range(times):
        os.killpg(call.pid, number)
        call.let_pass(0.3)
    assert call.process.wait(30) != 0
    assert "Traceback" not in call.output
    if (number, times) != (signal.SIGINT, 2):
        wanted = planned | {path for path in before if "/prefill/" not in path}
        left = f"{len(wanted - finished.points().keys())} of {len(wanted)} points missing"
        assert call.output.splitlines()[-1] == f"Stopped by {number.name} with {left}: call it again to go on"
    finished.wait_until_alone()
    assert {path: finished.points()[path] for path in before} == before


@pytest.mark.parametrize(
    ("victim", "reason", "logged"),
    [
        pytest.param("program", "its program ended before the measurement did", "Killed", marks=pytest.mark.drills),
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
    lock = finished.directory / "results/.lock"
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
    assert len(re.findall(rf"^ *\S+\.yaml: {sentence}$", call.output, re.MULTILINE)) == 1, call.output
    assert "Traceback" not in call.output
    written = fresh.files().keys() - before.keys()
    assert not {path for path in written if not re.search(r"^\.snakemake/|/__pycache__/", path)}


@pytest.mark.parametrize(
    ("key", "prefill", "decode", "kernel", "quality", "left_out"),
    [(RTX4090, 70, 40, 162, 10, None), (A100, 35, 20, 81, 5, "FP8 cannot run on A100: .* 8.9, and it has 8.0")],
)
def test_hardware_that_is_not_here_can_be_planned(fresh, key, prefill, decode, kernel, quality, left_out):
    call = fresh.dry_run("all", "--config", f"hardware={key}")
    measured = {"measure_prefill": prefill, "measure_decode": decode, "measure_kernel": kernel}
    measured["measure_quality"] = quality
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
    assert len(both.points) == 162 + 252 + 144 + 10  # quality is that of BitNet-2B


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
