"""The workflow as a user runs it, in fresh clones: what one call measures and where it ends."""

import hashlib
import json
import re

import pytest

from slidesparse.files import sealed, write_json
from slidesparse.plan.backends import STAGES
from workflow_clone import KEY, ON_CPU, ONE_PATTERN, TINY, expect, point

pytest_plugins = ["clones"]
pytestmark = ON_CPU


# The default configuration


@pytest.mark.parametrize("patterns", [1, pytest.param(4, marks=pytest.mark.drills)])
def test_the_default_configuration_ends_with_a_report(patterns, request):
    if patterns == 1:
        clone, call = request.getfixturevalue("default")
    else:
        clone = request.getfixturevalue("fresh")
        call = clone.run("all")
    of_each = 2 * (1 + patterns)  # of both types: dense, and each pattern
    made = {f"measure_{stage}": of_each for stage in STAGES} | {"tune_backend": of_each, "gather_points": 4 * of_each}
    made |= {"describe_model": 1, "fetch_model": 1, "convert_checkpoint": of_each}
    assert call.jobs == made | {"write_report": 1, "write_comparison": 1, "all": 1}
    assert [len(clone.points(stage)) for stage in STAGES] == [of_each] * 4
    assert clone.failures() == []
    report = clone.report()
    for stage, passed in zip(STAGES, (4 * of_each, *[of_each] * 3), strict=True):
        assert re.search(rf"^{stage}: .*; total {passed}/{passed}$", report, re.MULTILINE)
    assert "Nothing failed" in report


def test_the_default_run_prints_at_most_forty_lines(default):
    _, call = default
    lines = call.output.splitlines()
    assert len(lines) <= 40, call.output
    largest = "( at best (INT8|FP8) .+|: no ratio counts)"  # none counts if the CPU is busy
    assert re.fullmatch(rf"Report: results/{KEY}/report\.en\.html · prefill{largest} · 0 failed", lines[-1])
    assert re.search(r"^(local)?rule measure_prefill:$", call.everything, re.MULTILINE)


def test_a_second_call_does_nothing(default, copy):
    clone, first = copy(default[0]), default[1]
    before = clone.files("results/**/*")
    call = clone.run("all", config=ONE_PATTERN)
    assert call.jobs == {}
    assert call.output.splitlines()[-1] == first.output.splitlines()[-1]
    assert clone.files("results/**/*") == before


def test_a_deleted_point_is_measured_again_and_no_other(default, copy):
    clone = copy(default[0])
    deleted = point("prefill", "reference", "2_8", 128, "FP8", "BitNet-small")
    before = clone.points()
    (clone.directory / deleted).unlink()
    call = clone.run("all", config=ONE_PATTERN)
    assert call.jobs == {"measure_prefill": 1, "gather_points": 1, "write_report": 1, "write_comparison": 1, "all": 1}
    assert call.points == {deleted}
    after = clone.points()
    assert after.keys() == before.keys()
    assert {path for path in before if after[path] != before[path]} == {deleted}


@pytest.mark.parametrize(("stage", "Ms", "count"), [("prefill", [128, 64], 4), ("kernel", [16, 64], 4)])
def test_one_more_M_is_one_more_point_of_each_configuration(default, stage, Ms, count):
    clone, _ = default
    call = clone.dry_run("all", config=[ONE_PATTERN, f"cpu: {{{stage}: {{M: {Ms}}}}}"])
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


def test_another_prompt_is_measured_beside_what_is_there(finished):
    more = [TINY, "cpu: {prefill: {prompt: [1024, 16]}}"]
    before = finished.points()
    call = finished.run("all", config=more)
    assert call.jobs == {"measure_prefill": 2, "gather_points": 2, "write_report": 1, "write_comparison": 1, "all": 1}
    paths = {point("prefill", *place, "32-prompt16") for place in (("onednn", "dense"), ("reference", "2_8"))}
    assert call.points == paths
    after = finished.points()
    assert after.keys() == before.keys() | paths and after.items() >= before.items()
    made = json.loads(after[point("prefill", "onednn", "dense", "32-prompt16")][1])
    assert made["results"]["prompt_lens"] == [16, 16] and made["results"]["sequences"] == [2, 2]
    assert (made["key"]["M"], made["key"]["prompt"]) == (32, 16)
    report = finished.report()
    assert "prompts of at most 32 tokens · prompts of at most 16 tokens in BitNet-tiny-prompt16" in report
    assert "prefill BitNet-tiny-prompt16 INT8, steady-state step time, over onednn/dense" in report
    assert "Nothing failed" in report
    assert finished.run("all", config=more).jobs == {}
    assert finished.dry_run("all", config=TINY).points == set()


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
    assert [call.jobs[f"measure_{stage}"] for stage in STAGES] == [2, 1, 2, 0]
    ((path, facts),) = single[0].points().items()
    assert clone.points()[path] == facts
    assert [len(clone.points(stage)) for stage in STAGES] == [2, 2, 2, 0]


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
    write_json(table, sealed(json.loads(table.read_text()) | {"changed": True}))
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
    assert "prefill BitNet-tiny INT8, steady-state step time, from stock vLLM to sparse" in finished.report()
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
