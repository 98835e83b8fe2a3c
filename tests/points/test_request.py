"""What makes a point stale, and what does not: contents count, places do not."""

import json
from argparse import Namespace

import pytest

import synthetic
from slidesparse import program
from slidesparse.errors import RecordError
from slidesparse.files import write_json
from slidesparse.plan.key import Key
from slidesparse.points import answers, measure, request
from slidesparse.points.validate import read_point

KEY = Key(synthetic.HARDWARE, "prefill", "Mine", "INT8", "cublaslt", "dense", 512)


def manifest(place, **source):
    """A checkpoint's manifest of a model from `source`."""
    files = {"model.safetensors": {"size": 1, "sha256": "0" * 64}}
    write_json(place, {"files": files, "model_manifest": {"source": source, "files": files}})
    return place


def digest(basis):
    return request.request(KEY, {"steps": 24}, basis)["digest"]


def test_a_local_model_may_move(tmp_path):
    here = manifest(tmp_path / "a.json", kind="local", path="/somewhere")
    there = manifest(tmp_path / "b.json", kind="local", path="/elsewhere")
    assert digest(here) == digest(there)


@pytest.mark.parametrize("change", [{"revision": "1" * 40}, {"repository": "c/d"}])
def test_another_commit_of_a_hub_is_another_model(tmp_path, change):
    source = {"kind": "hub", "repository": "a/b", "revision": "0" * 40}
    assert digest(manifest(tmp_path / "a.json", **source)) != digest(manifest(tmp_path / "b.json", **source | change))


def test_a_basis_that_changes_in_place_is_read_again(tmp_path):
    path = tmp_path / "a.json"
    first = digest(manifest(path, kind="hub", repository="a/b", revision="0" * 40))
    assert digest(manifest(path, kind="hub", repository="a/b", revision="1" * 40)) != first


def test_the_head_of_a_point_says_what_it_answers(tmp_path):
    (path,) = synthetic.write(tmp_path, "prefill", [512])
    synthetic.own_digest(path)
    asked = answers.stored_digest(path)
    assert asked and answers.is_point(path, {"digest": asked})
    assert not answers.is_point(path, {"digest": "1" * 64})
    whole = path.read_bytes()
    for damaged in (whole[:-2], whole[:-40], b"", b"{}\n", whole.replace(b'"digest"', b'"digits"', 1)):
        path.write_bytes(damaged)
        assert answers.stored_digest(path) is None
    path.write_bytes(whole.replace(b'"results"', b'"resultt"', 1))
    assert answers.stored_digest(path) == asked and not answers.is_point(path, {"digest": asked})
    path.unlink()
    assert answers.stored_digest(path) is None


@pytest.mark.parametrize(
    ("field", "value"), [("protocol", 4), ("parameters", {"steps": 99}), ("tuning", "0" * 64), ("checkpoint", "1" * 64)]
)
def test_a_digest_is_that_of_the_request_beside_it(tmp_path, field, value):
    (path,) = synthetic.write(tmp_path, "prefill", [512])
    asked = synthetic.own_digest(path)
    assert read_point(path, asked)
    point = json.loads(path.read_text())
    point["request"][field] = value
    write_json(path, point)
    with pytest.raises(RecordError, match="contradicts itself: its digest is not that of its request"):
        read_point(path, asked)


def test_out_of_memory_is_no_result_of_a_cpu(tmp_path):
    (path,) = synthetic.write(tmp_path, "prefill", [512], place={"hardware": "cpu-Xeon_cc0_py312_cu0_x86_64"})
    point = json.loads(path.read_text())
    write_json(path, point | {"status": "out_of_memory", "results": {}, "reason": "no memory"})
    with pytest.raises(RecordError, match="out of memory is no result on a CPU"):
        read_point(path)


def test_a_text_in_a_point_is_not_its_digest(tmp_path):
    (path,) = synthetic.write(tmp_path, "prefill", [512])
    asked = answers.stored_digest(path)
    evil = '\n "request": {\n  "digest": "' + "f" * 64 + '"'
    point = json.loads(path.read_text())
    write_json(path, {"reason": evil} | {name: value for name, value in point.items() if name != "reason"})
    assert answers.stored_digest(path) == asked


@pytest.mark.parametrize(
    "linears",
    [
        [],
        {},
        [{"name": "qkv", "N": 0, "K": 256}],
        [{"name": "qkv", "N": 512, "K": -256}],
        [{"name": "a/b", "N": 1, "K": 1}],
    ]
    + [[{"name": "o", "N": 1 << 40, "K": 1}], [{"name": "o", "N": 1.0, "K": 1}], [{"name": "o", "N": 1, "K": 1}] * 2],
    ids=str,
)
def test_a_shape_without_usable_linears_is_refused(tmp_path, linears):
    path = tmp_path / "shape.json"
    write_json(path, {"linears": linears})
    with pytest.raises(RecordError, match="does not describe the linears of a model"):
        request.linears(path)


@pytest.mark.parametrize("manifest", [[], {}, {"files": []}, {"files": {"a": 1}}], ids=str)
def test_what_is_no_manifest_of_a_checkpoint_is_refused_before_a_worker_is_asked(tmp_path, manifest):
    path = tmp_path / "dense.json"
    write_json(path, manifest)
    with pytest.raises(RecordError, match="is no manifest of a checkpoint: delete it to make it again"):
        measure.check_manifest(path)


@pytest.mark.parametrize(
    "plan",
    [
        [],
        {"parameters": []},
        {"parameters": {"kernel": 7}},
        {"share_host": 5},
        {"idle_s": "abc"},
        {"points": {"decode": 1}},
    ],
    ids=str,
)
def test_a_plan_of_the_wrong_types_is_a_sentence(tmp_path, plan):
    path = tmp_path / "plan.json"
    write_json(path, plan)
    with pytest.raises(RecordError, match=r"plan\.json is no plan: the next run writes it anew"):
        program.worker(Namespace(plan=str(path), no_resident=False, owner=None, seat=None))
