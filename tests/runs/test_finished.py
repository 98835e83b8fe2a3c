"""Finished points stay: what answers is not measured again, and nothing is deleted before it is replaced."""

import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from slidesparse.files import sealed, sha256_file, write_json
from workflow_clone import KEY, ON_CPU, TINY, Clone, point, wait_until

pytestmark = ON_CPU

OTHER = "cpu: {measure: {kernel: {max_samples: 6}}}"
"""A change of parameters that makes the kernel points stale."""

KERNEL = {point("kernel", "reference", "2_8", 16), point("kernel", "onednn", "dense", 16)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A clone in which the shortest way is finished."""
    clone = Clone.of_working_tree(tmp_path_factory.mktemp("finished") / "clone")
    clone.run("all", config=[TINY])
    return clone


@pytest.fixture
def clone(finished, tmp_path):
    copy = finished.copy(tmp_path / "clone")
    yield copy
    copy.stop()


def contents(clone):
    """Path -> content of what took measuring: points and tuning tables."""
    files = clone.points() | clone.files(f"results/{KEY}/tuning/**/*.json")
    return {name: content for name, (_, content) in files.items()}


def test_a_second_call_does_nothing(clone):
    assert not clone.dry_run("all", config=[TINY]).jobs


def test_an_input_that_is_made_again_measures_nothing_again(clone):
    """Also where it is needed for a point that was deleted with it."""
    before = contents(clone)
    for path in [*clone.directory.glob("results/models/*/*.json"), *clone.directory.glob("results/checkpoints/*/*/*")]:
        path.unlink()
    clone.run("all", config=[TINY])
    assert contents(clone) == before
    deleted = point("kernel", "reference", "2_8", 16)
    for path in [*clone.directory.glob("results/models/*/*.json"), clone.directory / deleted]:
        path.unlink()
    clone.run("all", config=[TINY])
    after = contents(clone)
    assert {path for path in before if after[path] != before[path]} == {deleted}
    assert not clone.dry_run("all", config=[TINY]).jobs


def test_stale_points_are_found_without_records_of_snakemake(clone):
    shutil.rmtree(clone.directory / ".snakemake")
    assert not clone.dry_run("all", config=[TINY]).points
    assert clone.dry_run("all", config=[TINY, OTHER]).points == KERNEL
    for path in clone.directory.glob("results/**/*.*"):  # a clock went back
        os.utime(path, (2 * 10**9, 2 * 10**9))
    assert clone.dry_run("all", config=[TINY, OTHER]).points == KERNEL


def test_a_failure_costs_no_finished_point_and_is_not_forgotten(clone):
    before = contents(clone)
    clone.edit(
        "workflow/slidesparse/kernel/point.py", r"^def measure\(request\):\n", "def measure(request):\n    1 / 0\n"
    )
    for options in ((), ("--workflow-profile", "none", "--keep-going", "--resources", "gpu=1")):
        clone.run("kernel", *options, config=[TINY, OTHER], status=1)
        assert contents(clone) == before
        assert clone.dry_run("kernel", config=[TINY, OTHER]).points == KERNEL
    clone.git("checkout", "--quiet", "workflow")
    clone.run("kernel", config=[TINY])
    assert contents(clone) == before
    clone.run("kernel", config=[TINY, OTHER])
    assert not clone.dry_run("kernel", config=[TINY, OTHER]).jobs
    changed = {name for name, content in contents(clone).items() if before[name] != content}
    assert changed == KERNEL


def test_a_damaged_table_costs_no_finished_point(clone):
    table = clone.only(f"results/{KEY}/tuning/BitNet-tiny/INT8/reference/2_8.json")
    before = contents(clone)
    table.write_bytes(table.read_bytes()[:-40])
    call = clone.run("kernel", config=[TINY], status=1)
    assert re.search(r"2_8\.json is not a tuning table .*; delete it to tune again", call.output)
    after = contents(clone)
    name = table.relative_to(clone.directory).as_posix()
    assert {path for path in before if after[path] != before[path]} == {name}


def test_a_backup_that_a_killed_run_left_is_no_obstacle(clone):
    left = clone.directory / ".snakemake" / "backups" / "results" / KEY / "report"
    left.mkdir(parents=True)
    (left / "old.svg").write_text("old")
    (clone.directory / "results" / KEY / "report.en.md").unlink()
    clone.run("all", config=[TINY])
    assert not (left / "old.svg").exists()


def test_a_run_whose_lock_is_deleted_ends(clone):
    lock = clone.directory / "results" / ".lock"
    held = lock.stat().st_mtime_ns
    shutil.rmtree(clone.directory / ".snakemake")
    call = clone.start("--cores", "1", "kernel", config=[TINY, OTHER])
    wait_until(lambda: lock.stat().st_mtime_ns != held)
    lock.unlink()
    assert call.process.wait(60) != 0
    assert "results/.lock, the lock of this run, is gone" in call.output
    clone.run("kernel", config=[TINY, OTHER])


def test_a_run_whose_results_are_moved_away_ends_and_reports_nothing(clone):
    results, aside = clone.directory / "results", clone.directory / "aside"
    before, held = contents(clone), (results / ".lock").stat().st_mtime_ns
    call = clone.start("--cores", "1", "kernel", config=[TINY, OTHER])
    wait_until(lambda: (results / ".lock").stat().st_mtime_ns != held)
    results.rename(aside)
    assert call.process.wait(60) != 0
    assert "the lock of this run, is gone" in call.output and "Report:" not in call.output
    shutil.rmtree(results, ignore_errors=True)
    aside.rename(results)
    assert contents(clone).keys() == before.keys()


def test_a_csv_follows_its_points(clone):
    """It is gathered again for another M or another point, and not because it has more than is planned."""
    wider = "cpu: {kernel: {M: [16, 24]}}"
    clone.run("kernel", config=[TINY, wider])
    assert not clone.dry_run("kernel", config=[TINY]).jobs
    clone.run("all", config=[TINY])
    assert not clone.dry_run("all", config=[TINY]).jobs
    clone.run("kernel", "--until", "measure_kernel", config=[TINY, OTHER])  # killed before it could gather
    shutil.rmtree(clone.directory / ".snakemake")
    for path in clone.directory.glob("results/**/*.*"):
        os.utime(path, (10**9, 10**9))
    assert clone.dry_run("kernel", config=[TINY, OTHER]).jobs == {"gather_points": 2, "kernel": 1}


def test_a_shape_that_lies_costs_nothing(clone):
    """Without linears, or with those of another model, it is made again before anything is measured by it."""
    path = clone.only("results/models/BitNet-tiny/shape.json")
    before, true = contents(clone), path.read_text()
    for linears in ([], [{"name": "qkv", "N": 3840, "K": 2560}]):
        path.write_text(json.dumps(json.loads(true) | {"linears": linears}))
        clone.run("all", config=[TINY])
        assert contents(clone) == before
        assert path.read_text() == true
        assert not clone.dry_run("all", config=[TINY]).jobs


def test_a_manifest_of_other_weights_costs_nothing_and_is_noticed(clone):
    """Also without records: it is made again before anything is converted or measured by it."""
    before = contents(clone)
    other = "registry: {BitNet-tiny: {seed: 7}}"
    shutil.rmtree(clone.directory / ".snakemake")
    assert clone.dry_run("all", config=[TINY, other]).jobs["fetch_model"] == 1
    clone.run("results/models/BitNet-tiny/manifest.json", config=[TINY, other])
    shutil.rmtree(clone.directory / ".snakemake")
    clone.run("all", config=[TINY])
    assert contents(clone) == before
    assert not clone.dry_run("all", config=[TINY]).jobs


@pytest.mark.parametrize(
    ("change", "seal", "sentence"),
    [
        ({"algorithm": [1]}, sealed, "is not a tuning table (an algorithm of it is none); delete it to tune again"),
        ({"latency_us": 1.0}, dict, "was changed after it was written: put it back, or delete it to tune again"),
    ],
    ids=["a wrong type", "another figure"],
)
def test_a_table_that_was_edited_is_used_by_nobody(clone, change, seal, sentence):
    """Its head and its end look whole."""
    path = clone.only(f"results/{KEY}/tuning/BitNet-tiny/INT8/reference/2_8.json")
    before, true = contents(clone), path.read_bytes()
    table = json.loads(true)
    table["entries"][0]["top"][0] |= change
    path.write_text(json.dumps(seal(table), indent=1) + "\n")
    call = clone.run("all", config=[TINY], status=1)
    assert f"2_8.json {sentence}" in call.output
    assert "Traceback" not in call.output
    name = path.relative_to(clone.directory).as_posix()
    assert {one for one, content in contents(clone).items() if before[one] != content} == {name}
    assert "0 failed" not in call.output and "no table has this name" not in call.output
    path.write_bytes(true)
    clone.run("all", config=[TINY])
    assert contents(clone) == before
    assert clone.failures() == []


def test_a_table_of_another_search_costs_no_point(clone):
    """Such as another backend's, whole and sealed."""
    path = clone.only(f"results/{KEY}/tuning/BitNet-tiny/INT8/onednn/dense.json")
    before, true = contents(clone), path.read_bytes()
    path.write_bytes(clone.only(f"results/{KEY}/tuning/BitNet-tiny/INT8/reference/2_8.json").read_bytes())
    call = clone.run("all", config=[TINY], status=1)
    assert "dense.json is the table of another search: put its own back, or delete it to tune again" in call.output
    assert {one for one, content in contents(clone).items() if before[one] != content} == {
        path.relative_to(clone.directory).as_posix()
    }
    path.write_bytes(true)
    clone.run("all", config=[TINY])
    assert contents(clone) == before


@pytest.mark.parametrize("change", ["deleted", "of another search"])
def test_the_csv_beside_a_table_is_the_tables(clone, change):
    path = clone.only(f"results/{KEY}/tuning/BitNet-tiny/INT8/onednn/dense.csv")
    before, true = contents(clone), path.read_text()
    if change == "deleted":
        path.unlink()
    else:
        path.write_text(true.replace(",16,", ",17,"))
    clone.run("all", config=[TINY])
    assert path.read_text() == true
    assert contents(clone) == before
    assert not clone.dry_run("all", config=[TINY]).jobs


def test_a_library_that_is_edited_during_a_measurement_names_no_point(clone):
    """The worker may have loaded the old module or the new one."""
    lost = point("kernel", "reference", "2_8", 16)
    (clone.directory / lost).unlink()
    call = clone.start("--cores", "1", "kernel", config=[TINY])
    begun = clone.directory / lost.replace(".json", ".failed.json")
    wait_until(begun.exists)
    clone.edit("workflow/slidesparse/kernel/point.py", r'"zero_rate": ZERO_RATE,', '"zero_rate": 0.123,')
    call.wait(1)
    assert "/slidesparse was changed during the measurement, which counts for nothing: run again" in call.output
    assert not (clone.directory / lost).exists()
    clone.run("kernel", config=[TINY])
    point_of = json.loads((clone.directory / lost).read_text())
    assert point_of["run"]["git"]["dirty"] is True and point_of["results"]["zero_rate"] == 0.123


@pytest.mark.drills
def test_a_report_of_another_plan_is_made_again_and_counts_no_point_of_it(clone):
    """Its measurement failed. On the way back nothing is to be measured, and status and report say today's plan."""
    before = contents(clone)
    clone.edit(
        "workflow/slidesparse/kernel/point.py", r"^def measure\(request\):\n", "def measure(request):\n    1 / 0\n"
    )
    clone.run("all", config=[TINY, OTHER], status=1)
    clone.run("report", config=[TINY, OTHER])
    assert re.search("kernel: 0/[0-9]+ linears passed, 2 points failed", clone.report())
    assert clone.status().startswith(f"{KEY}: 4 of 6 points are there, 2 failed")
    clone.git("checkout", "--quiet", "workflow")
    clone.run("all", config=[TINY])
    assert contents(clone) == before
    assert "the plan has" not in clone.report()
    assert clone.status().startswith(f"{KEY}: 6 of 6 points are there\n")
    assert not clone.dry_run("all", config=[TINY]).jobs


def test_a_report_that_is_asked_for_with_another_configuration_knows_the_points(clone):
    plan = clone.files(f"results/{KEY}/plan.json")
    clone.run("report")
    assert clone.files(f"results/{KEY}/plan.json") == plan
    assert re.search("kernel: ([0-9]+)/\\1 linears passed, 0 points failed", clone.report())
    assert "of another configuration" not in clone.report()
    (clone.directory / f"results/{KEY}/plan.json").unlink()
    clone.run("report", config=[TINY, OTHER])
    assert "of another configuration" not in clone.report()


@pytest.mark.drills
def test_choices_of_auto_follow_the_points_without_records_of_snakemake(clone):
    auto = "cpu: {backends: {sparse: [reference, auto]}}"
    more = "cpu: {kernel: {M: [16, 24]}}"
    clone.run("all", config=[TINY, auto, more])
    chosen = clone.only(f"results/{KEY}/tuning/BitNet-tiny/INT8/auto/2_8.json")
    bare = {name: value for name, value in json.loads(chosen.read_text()).items() if name != "sha256"}
    write_json(chosen, bare | {"sparse_gain": 9.0})
    assert clone.dry_run("all", config=[TINY, auto, more]).jobs["choose_kernels"] == 1
    write_json(chosen, bare)  # as before choices had a digest; the same kernels
    assert not clone.dry_run(chosen.relative_to(clone.directory).as_posix(), config=[TINY, auto, more]).jobs
    shutil.rmtree(clone.directory / ".snakemake")
    assert clone.dry_run("all", config=[TINY, auto]).jobs["choose_kernels"] == 1


def test_a_folder_in_place_of_a_point_is_one_sentence(clone):
    path = clone.directory / point("kernel", "onednn", "dense", 16)
    path.unlink()
    path.mkdir()
    call = clone.run("kernel", config=[TINY], status=1)
    assert "rm: cannot remove" not in call.output
    assert "Traceback" not in call.output


def test_status_counts_no_point_of_another_search(clone):
    """Another table makes engine points stale. Until they are replaced they are not there."""
    search = "cpu: {tune: {M: [16, 32, 48]}}"
    table = f"results/{KEY}/tuning/BitNet-tiny/INT8/onednn/dense.json"
    clone.run(table, config=[TINY, search])
    assert clone.status().startswith(f"{KEY}: 3 of 6 points are there, 3 missing\n")


def test_stale_points_whose_archive_gave_them_no_time_are_measured(clone):
    """Snakemake takes time 0 for no time, and then nothing is older than the marker."""
    shutil.rmtree(clone.directory / ".snakemake")
    for path in KERNEL:
        os.utime(clone.directory / path, (0, 0))
    assert clone.dry_run("kernel", config=[TINY, OTHER]).points == KERNEL


def test_a_table_that_changes_while_a_client_waits_names_no_point(clone):
    """The point would carry the digest of one table, and its worker would read another."""
    path = next(path for path in sorted(KERNEL) if "/reference/" in path)
    table = clone.directory / Path(path).parent.with_suffix(".json").as_posix().replace("/kernel/", "/tuning/")
    (clone.directory / path).unlink()
    locks = clone.beside
    locks.mkdir(exist_ok=True)
    with open(locks / "slidesparse-host.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        call = clone.start("--cores", "1", path, config=[TINY])
        log = (clone.directory / path).with_suffix(".log")
        wait_until(lambda: (log.exists() and "waiting" in log.read_text()) or not call.running())
        content = json.loads(table.read_text())
        write_json(table, sealed(content | {"entries": content["entries"][::-1]}))
    call.wait()
    stored = json.loads((clone.directory / path).read_text())["request"]["tuning"]
    assert stored == sha256_file(table)
