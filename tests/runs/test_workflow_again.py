"""The workflow called again: what is not measured a second time, and what is."""

import hashlib
import json
import os
import time

import pytest

from workflow_clone import KEY, ON_CPU, TINY, expect

pytest_plugins = ["clones"]
pytestmark = ON_CPU


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
    clone.edit("workflow/slidesparse/timing/protocol.py", r"\A", "# A new comment.\n")


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
    finished.edit("workflow/slidesparse/points/request.py", r'^(PROTOCOL = .*"decode": )\d+', r"\g<1>99")
    expect(finished.dry_run("all", config=TINY), finished.points("decode"))


def test_another_dtype_measures_its_points_only(tiny):
    clone, _ = tiny
    points = [path.replace("/INT8/", "/FP8/") for path in clone.points()]
    call = clone.dry_run("all", config=[TINY, "dtypes: [INT8, FP8]"])
    expect(call, points, convert_checkpoint=2, tune_backend=2)
