"""What makes a point stale, and what does not: contents count, places do not."""

import json
from argparse import Namespace

import pytest

import synthetic
from slidesparse import files, program
from slidesparse.errors import RecordError
from slidesparse.files import sealed, write_json
from slidesparse.machine import hardware
from slidesparse.plan.key import Key
from slidesparse.points import answers, measure, request
from slidesparse.points.validate import read_point
from slidesparse.tuning import table as tables

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


def rewritten(path, how):
    """Let another program write a JSON file again: an editor with other spaces and ends of lines."""
    value = json.loads(path.read_text())
    texts = {"CRLF": path.read_bytes().replace(b"\n", b"\r\n"), "no last end": path.read_bytes().rstrip(b"\n")}
    texts |= {"spaces": json.dumps(value, indent=4).encode(), "one line": json.dumps(value).encode()}
    path.write_bytes(texts[how])


@pytest.mark.parametrize("how", ["CRLF", "no last end", "spaces", "one line"])
def test_a_table_that_an_editor_wrote_again_makes_no_point_stale(tmp_path, how):
    basis, table = manifest(tmp_path / "a.json"), tmp_path / "h/tuning/m/INT8/cublaslt/dense.json"
    write_json(table, sealed({"entries": [{"latency_us": 1.5e-7, "name": "é"}]}))
    before = request.request(KEY, {}, basis, table)
    rewritten(table, how)
    assert request.request(KEY, {}, basis, table) == before
    write_json(table, sealed({"entries": [{"latency_us": 2.5e-7, "name": "é"}]}))
    assert request.request(KEY, {}, basis, table) != before


def test_a_table_that_cannot_be_read_is_refused_by_name(tmp_path):
    """Also one that is larger than any table: a report catches this, and goes on with the other points."""
    basis, table = manifest(tmp_path / "a.json"), tmp_path / "dense.json"
    with open(table, "wb") as stream:
        stream.truncate(files.READ_LIMIT + 1)
    with pytest.raises(RecordError, match=r"dense\.json cannot be read \(it is larger than"):
        request.request(KEY, {}, basis, table)


@pytest.mark.parametrize("what", ["an edited table", "a cut table", "an edited CSV"])
def test_no_search_replaces_what_was_edited(tmp_path, what):
    """Another search may choose otherwise, and then all points would be measured again. A user decides that."""
    table = tmp_path / hardware.key() / "tuning/Mine/INT8/reference/2_8.json"
    shape, linears = tmp_path / "shape.json", [{"name": "o", "N": 64, "K": 96}]
    write_json(shape, {"linears": linears})
    top = {"algorithm": 1, "name": "a", "latency_us": 2.0, "workspace": 0, "kernels": []}
    entry = {"linear": "o", "N": 64, "K": 96, "K_slid": 128, "M": 16, "output": "INT32", "algorithms": 1, "top": [top]}
    made = {"request": request.of_table(table, linears, [16], {}), "backend": "reference", "entries": [entry]}
    made |= {"parameters": {}, "protocol": request.PROTOCOL["tune"]}
    made |= {"run": {"utc": "2026-11-01"}} if what == "an edited CSV" else {}
    write_json(table, made if what == "an edited CSV" else sealed(made))
    beside = table.with_suffix(".csv")
    beside.write_text(tables.to_csv(made))
    measure.tune(table, shape, [16], {}, worker=None)  # it answers
    if what == "an edited table":
        table.write_text(table.read_text().replace("2.0", "1.0"))
    elif what == "a cut table":
        table.write_bytes(table.read_bytes()[:-40])
    else:
        beside.write_text(beside.read_text().replace("2.0", "1.0"))
    before = table.read_bytes(), beside.read_bytes()
    with pytest.raises(RecordError, match="to tune again|to make it again"):
        measure.tune(table, shape, [16], {}, worker=None)
    assert (table.read_bytes(), beside.read_bytes()) == before


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
