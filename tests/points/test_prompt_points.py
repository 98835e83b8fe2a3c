"""Points at another prompt: what decides them, what their engine holds, and where they belong."""

import json

import pytest

import synthetic
from slidesparse.errors import RecordError
from slidesparse.files import digest, write_json
from slidesparse.plan.key import Key
from slidesparse.points import measure, request, status
from slidesparse.points.validate import read_point

PLACE = ("BitNet-2B", "INT8", "cublaslt", "dense")
USUAL = Key(synthetic.HARDWARE, "prefill", *PLACE, 8192)
LONG = USUAL._replace(prompt=2048)


@pytest.fixture
def basis(tmp_path):
    place = tmp_path / "checkpoints" / "BitNet-2B" / "INT8" / "dense.json"
    write_json(place, {"files": {}})
    return place


def test_the_usual_prompt_is_in_a_request_as_it_was_before_there_were_others(basis):
    """Written out, so that no kept point is measured again by accident."""
    names = ("hardware", "stage", "model", "dtype", "backend", "sparsity", "M")
    asked = {
        "key": dict(zip(names, USUAL, strict=False)),
        "protocol": request.PROTOCOL["prefill"],
        "parameters": {"steps": 24, "prompt_cap": 1024},
        "basis": digest({"files": {}}),
        "tuning": None,
    }
    for parameters in ({"steps": 24}, {"steps": 24, "prompt_cap": 1024, "time_limit_s": 600}):
        assert request.request(USUAL, parameters, basis)["digest"] == digest(asked)


def test_another_prompt_is_another_request(basis):
    made = request.request(LONG, {"steps": 24}, basis)
    assert made["parameters"] == {"steps": 24, "prompt_cap": 2048}
    assert made["digest"] != request.request(USUAL, {"steps": 24}, basis)["digest"]


def test_an_engine_holds_the_points_of_its_own_prompt(basis):
    name, long = USUAL.configuration.name, LONG.configuration.name
    points = {"prefill": {name: [512, 8192], long: [8192, 32768]}, "decode": {name: [64]}}
    plan = {"points": points, "parameters": {"prefill": {"steps": 24}, "decode": {"output_len": 8}}}
    own, other = ({"steps": 24, "prompt_cap": prompt} for prompt in (1024, 2048))
    usual = [["prefill", 512, own], ["prefill", 8192, own], ["decode", 64, {"output_len": 8}]]
    assert measure._others(plan, USUAL) == usual
    assert measure._others(plan, LONG) == [["prefill", 8192, other], ["prefill", 32768, other]]


def test_a_point_belongs_to_its_prompt(tmp_path):
    (path,) = synthetic.write(tmp_path, "prefill", ["8192-prompt2048"])
    assert read_point(path)["key"]["prompt"] == 2048
    for name, said in (("M8192.json", "prompt 2048, its path says 1024"), ("M8192-prompt4096.json", "says 4096")):
        path.rename(path.with_name(name))
        path = path.with_name(name)
        with pytest.raises(RecordError, match=said):
            read_point(path)


def test_status_names_the_prompt_of_what_is_missing(tmp_path):
    asked = [("prefill", *USUAL.configuration, 8192), *(("prefill", *LONG.configuration, M) for M in (8192, 32768))]
    synthetic.plan(tmp_path, asked, parameters={"prefill": {"steps": 24}})
    (path,) = synthetic.write(tmp_path, "prefill", ["8192-prompt2048"])
    point = json.loads(path.read_text())
    point["request"]["parameters"] = {"steps": 24, "prompt_cap": 2048}
    write_json(path, point)
    lines = status.screen(tmp_path).splitlines()
    assert lines[0] == f"{synthetic.HARDWARE}: 1 of 3 points are there, 2 missing"
    assert "  prefill BitNet-2B/INT8/cublaslt/dense: M=8192, 32768-prompt2048" in lines


def test_a_plan_with_a_name_of_another_form_is_damaged(tmp_path):
    synthetic.plan(tmp_path, [("prefill", *PLACE, "more", 8192)])
    with pytest.raises(RecordError, match="is no plan of points"):
        status.screen(tmp_path)
