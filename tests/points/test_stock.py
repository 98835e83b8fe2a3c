"""Stock vLLM: a few variants of it are measured at each M, and the fastest is its point. No GPU needed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import synthetic
from places import PROGRAMS
from reports import markdown, rows_under
from slidesparse.errors import RecordError
from slidesparse.files import read_json, sealed, write_json
from slidesparse.plan import stock
from slidesparse.plan.key import Key
from slidesparse.points import answers, choose_stock, measure, records, request, status
from slidesparse.points.request import expected_digests
from slidesparse.points.validate import read_point
from slidesparse.report.tables.gather import gather, gather_all
from slidesparse.report.tables.point_rows import throughput_row
from slidesparse.report.tables.tasks import tasks_table
from workflow_clone import TINY, Clone

PROGRAM = PROGRAMS / "choose_stock.py"
PARAMETERS = {"steps": 128}
HARDWARE = "H100_cc90_py312_cu130_x86_64"


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (("prefill", 32, None), ["vllm-eager"]),
        (("decode", 4, None), ["vllm-eager"]),
        (("decode", 64, 3), [f"vllm-piecewise-{splits}{own}" for own in ("", "-own") for splits in (1, 32)]),
        (("prefill", 8192, 3), ["vllm-piecewise-32", "vllm-piecewise-32-own"]),
        (("prefill", 4096, 2), ["vllm-piecewise-32", "vllm-piecewise-32-own"]),
        (("decode", 64, 2), ["vllm-piecewise-32", "vllm-piecewise-32-own"]),
        (
            ("prefill", 4096, 3),
            [f"vllm-{mode}-{n}{own}" for own in ("", "-own") for mode in ("full", "piecewise") for n in (1, 32)],
        ),
    ],
)
def test_variants_that_run_differently_are_candidates(asked, names):
    assert stock.variants_at(*asked) == names


@pytest.mark.parametrize(
    ("key", "count"),
    [("RTX4090_cc89", 2), ("RTX3090_cc86", 2), ("RTXPRO6000_cc120", 2), ("H100_cc90", 8), ("B200_cc100", 8)],
)
def test_a_gpu_is_searched_among_what_its_attention_supports(key, count):
    """vLLM takes FlashAttention 2 everywhere but on Hopper and data-centre Blackwell."""
    key = Key(f"{key}_py312_cu130_x86_64", "prefill", "BitNet-2B", "INT8", "vllm", "dense", 1024)
    assert len(key.variants) == count


@pytest.mark.parametrize(
    ("asked", "mode", "ran"),
    [
        ("vllm-full-32-own", "PIECEWISE", "vllm-piecewise-32-own"),
        ("vllm-full-1", "FULL", "vllm-full-1"),
        ("vllm-piecewise-1", "FULL", "vllm-piecewise-1"),  # a batch of decodes
        ("vllm-piecewise-32", "NONE", "vllm-piecewise-32"),  # a large step of prefill
        ("vllm-eager", "eager", "vllm-eager"),
    ],
)
def test_a_variant_has_the_name_of_what_ran(asked, mode, ran):
    assert stock.ran(asked, mode) == ran


def test_a_variant_whose_graphs_vllm_changed_is_chosen_by_what_ran(tmp_path):
    """As on Hopper with a vLLM that was built without FlashAttention 3."""
    where = synthetic.path(tmp_path, "prefill", 1024, backend="vllm", hardware=HARDWARE)
    manifest = basis(tmp_path)
    for number, (name, path) in enumerate(request.variant_paths(where).items()):
        asked = request.request(Key.of(path), PARAMETERS, manifest)
        made = synthetic.point(path, 0.01 + 0.001 * number)
        made["results"] |= {"graph_mode": "PIECEWISE", "gpu_step_ms": 9.0 + (name != "vllm-full-32")}
        write_json(path, made | {"request": asked})
    choose_stock.choose(where, manifest, PARAMETERS)
    point = read_json(where)
    assert point["results"]["variant"] == "vllm-piecewise-1"  # asked for as vllm-full-1
    assert point["results"]["variants"]["vllm-full-1"]["ran"] == "vllm-piecewise-1"
    assert "ran" not in point["results"]["variants"]["vllm-piecewise-1"]
    assert throughput_row(point)["least_gpu_variant"] == "vllm-piecewise-32"


def test_the_name_of_a_variant_says_what_it_sets():
    assert stock.VARIANTS["vllm-full-32"] == ("FULL", 32, False)
    assert stock.VARIANTS["vllm-piecewise-1-own"] == ("FULL_AND_PIECEWISE", 1, True)
    assert stock.VARIANTS["vllm-eager"].graphs == "NONE"
    assert len(stock.VARIANTS) == len(set(stock.VARIANTS.values())) == 9


# Choosing


def basis(root):
    """The manifest of the dense checkpoint."""
    path = root / "checkpoints" / "BitNet-2B" / "INT8" / "dense.json"
    write_json(path, {"weights": 100})
    return path


def best(root, M=64, hardware=HARDWARE):
    """Where the point of stock vLLM belongs."""
    return synthetic.path(root, "decode", M, backend="vllm", hardware=hardware)


def measured(root, M=64, steps=(0.04, 0.02, 0.03, 0.05)):
    """Points of the candidates at M, with the median steps in seconds, or None for out of memory; their paths."""
    found = request.variant_paths(best(root, M))
    manifest = basis(root)
    for path, step in zip(found.values(), steps, strict=True):
        made = synthetic.point(path, step, seconds=2.0) if step else synthetic.out_of_memory(path)
        asked = request.request(Key.of(path), PARAMETERS, manifest)
        write_json(path, made | {"request": asked})
    return found


def chosen(root, M=64):
    """The point of stock vLLM, chosen."""
    choose_stock.choose(best(root, M), basis(root), PARAMETERS)
    return read_point(best(root, M), expected_digests([best(root, M)], PARAMETERS)[best(root, M)])


def test_the_fastest_candidate_is_the_point_of_stock_vllm(tmp_path):
    measured(tmp_path)
    point = chosen(tmp_path)
    fastest = read_point(request.variant_paths(best(tmp_path))["vllm-piecewise-32"])
    assert point["status"] == "ok" and point["key"]["backend"] == "vllm"
    assert point["results"].pop("variant") == "vllm-piecewise-32"
    variants = point["results"].pop("variants")
    assert {name: each["step_s"]["median"] for name, each in variants.items()} == {
        "vllm-piecewise-1": 0.04,
        "vllm-piecewise-32": 0.02,
        "vllm-piecewise-1-own": 0.03,
        "vllm-piecewise-32-own": 0.05,
    }
    assert point["results"] == fastest["results"]
    assert point["run"] == fastest["run"] | {"seconds": 8.0}
    assert (point["hardware"], point["software"]) == (fastest["hardware"], fastest["software"])
    assert point["request"]["tuning"] is None


def test_by_the_time_of_the_gpu_the_rival_is_the_variant_that_takes_least(tmp_path):
    """Its steps may be slower by the clock, where the host is late by chance."""
    for path, gpu in zip(measured(tmp_path).values(), (4.9, 5.3, 5.1, 5.2), strict=True):
        change(path, "results", gpu_step_ms=gpu)
    results = chosen(tmp_path)["results"]
    assert (results["variant"], results["gpu_step_ms"]) == ("vllm-piecewise-32", 5.3)
    row = throughput_row(read_json(best(tmp_path)))
    assert (row["least_gpu_variant"], row["least_gpu_step_ms"]) == ("vllm-piecewise-1", 4.9)
    assert row["gpu_step_ms"] == 5.3


def test_a_candidate_without_memory_leaves_the_others(tmp_path):
    measured(tmp_path, steps=(None, 0.02, None, 0.01))
    results = chosen(tmp_path)["results"]
    assert results["variant"] == "vllm-piecewise-32-own"
    left = results["variants"]["vllm-piecewise-1"]
    assert (left["status"], left["reason"]) == ("out_of_memory", "20 GiB asked for, 3 GiB free")
    assert left["step_s"] is None and left["gpu_step_ms"] is None


def test_without_memory_for_any_the_point_is_out_of_memory(tmp_path):
    measured(tmp_path, steps=[None] * 4)
    point = chosen(tmp_path)
    assert (point["status"], point["reason"]) == ("out_of_memory", "20 GiB asked for, 3 GiB free")
    assert "variant" not in point["results"] and len(point["results"]["variants"]) == 4


def test_another_point_of_a_variant_is_noticed(tmp_path):
    """It answers the same request and may be older than the choice, as files that were copied."""
    paths = measured(tmp_path)
    for path in paths.values():
        write_json(path, sealed(read_json(path)))
    chosen(tmp_path)
    assert not answers.is_of_other_variants(best(tmp_path))
    other = paths["vllm-piecewise-1"]
    true = other.read_bytes()
    point = synthetic.point(other, 0.01) | {"request": read_json(other)["request"]}
    write_json(other, sealed(point))
    assert answers.is_of_other_variants(best(tmp_path))
    other.write_bytes(true)
    assert not answers.is_of_other_variants(best(tmp_path))
    for path in paths.values():
        path.unlink()
    assert not answers.is_of_other_variants(best(tmp_path))


def test_another_point_of_a_variant_from_before_points_had_digests_is_noticed(tmp_path):
    """It has another figure, and any time."""
    paths = measured(tmp_path)
    chosen(tmp_path)
    assert not answers.is_of_other_variants(best(tmp_path))
    other = paths["vllm-piecewise-1"]
    write_json(other, synthetic.point(other, 0.01) | {"request": read_json(other)["request"]})
    os.utime(other, (10**9, 10**9))
    assert answers.is_of_other_variants(best(tmp_path))


def test_a_variant_that_was_edited_is_named(tmp_path):
    """The end of its file, where its digest stands, says nothing of it."""
    paths = measured(tmp_path)
    for path in paths.values():
        write_json(path, sealed(read_json(path)))
    chosen(tmp_path)
    planned = [("decode", "BitNet-2B", "INT8", "vllm", "dense", 64)]
    synthetic.plan(tmp_path, planned, parameters={"decode": PARAMETERS}, hardware=HARDWARE)
    assert gather_all(tmp_path, HARDWARE) == []
    assert "1 of 1 points are there" in status.screen(tmp_path)
    edited = paths["vllm-piecewise-1-own"]
    edited.write_text(edited.read_text().replace("0.03", "0.01", 1))
    assert not answers.is_of_other_variants(best(tmp_path))
    (refused,) = gather_all(tmp_path, HARDWARE)
    assert refused.startswith(f"{edited} was changed after it was measured")
    assert f"{edited} is damaged; delete it and it is measured again" in status.screen(tmp_path)


def change(path, name, **values):
    """Change a section of a point."""
    point = json.loads(path.read_text())
    write_json(path, point | {name: point[name] | values})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text("{"), "is damaged"),
        (lambda path: path.write_text("[]"), "is damaged: it holds no JSON object"),
        (
            lambda path: change(path, "results", step_s=None),
            "is not a valid point: .*; delete it and it is measured again",
        ),
        (lambda path: change(path, "request", digest="0" * 64), "answers another request: .*; delete it"),
        (lambda path: change(path, "key", M=7), "does not belong there: .*; delete it"),
    ],
)
def test_a_candidate_that_cannot_be_used_is_named_and_recorded(tmp_path, damage, sentence):
    path = measured(tmp_path)["vllm-piecewise-1-own"]
    damage(path)
    with pytest.raises(RecordError, match=sentence) as error:
        choose_stock.choose(best(tmp_path), basis(tmp_path), PARAMETERS, log="some.log")
    failure = json.loads(records.failure_of(best(tmp_path)).read_text())
    assert str(path) in failure["reason"] == str(error.value)
    assert failure["log"] == "some.log" and not best(tmp_path).exists()
    measured(tmp_path)
    chosen(tmp_path)
    assert not records.failure_of(best(tmp_path)).exists()


def test_another_request_of_any_kind_is_another_digest(tmp_path):
    measured(tmp_path)
    digest = chosen(tmp_path)["request"]["digest"]
    assert expected_digests([best(tmp_path)], {"steps": 1}) != {best(tmp_path): digest}
    write_json(tmp_path / "checkpoints/BitNet-2B/INT8/dense.json", {"weights": 101})
    assert expected_digests([best(tmp_path)], PARAMETERS) != {best(tmp_path): digest}
    (tmp_path / "checkpoints/BitNet-2B/INT8/dense.json").unlink()
    assert expected_digests([best(tmp_path)], PARAMETERS) == {best(tmp_path): None}


def test_the_program(tmp_path):
    measured(tmp_path)
    command = [sys.executable, PROGRAM, "--output", best(tmp_path), "--basis", basis(tmp_path)]
    command += ["--parameters", json.dumps(PARAMETERS)]
    environment = {"PYTHONPATH": str(PROGRAM.parents[1]), "PATH": ""}
    subprocess.run(command, env=environment, check=True)
    assert json.loads(best(tmp_path).read_text())["results"]["variant"] == "vllm-piecewise-32"
    request.variant_paths(best(tmp_path))["vllm-piecewise-1"].unlink()
    failed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("choose_stock.py: ") and len(failed.stderr.splitlines()) == 1


def test_an_engine_of_a_variant_is_made_for_all_its_points(tmp_path):
    plan = {"points": {"decode": {"BitNet-2B/INT8/vllm/dense": [64, 128]}}}
    name = "BitNet-2B/INT8/vllm-piecewise-1/dense"
    plan |= {"variants": {"decode": {name: [64, 128]}, "prefill": {name: [512]}}}
    plan["parameters"] = {"prefill": {"steps": 1}, "decode": PARAMETERS}
    key = Key.of(request.variant_paths(best(tmp_path))["vllm-piecewise-1"])
    assert measure._others(plan, key) == [
        ["prefill", 512, {"steps": 1, "prompt_cap": 1024}],
        ["decode", 64, PARAMETERS],
        ["decode", 128, PARAMETERS],
    ]


# Reporting


def test_the_csv_names_the_variant_and_those_that_lost_have_none(tmp_path):
    measured(tmp_path)
    chosen(tmp_path)
    assert gather_all(tmp_path, HARDWARE) == []
    (table,) = tmp_path.rglob("*.csv")
    assert table.parts[-3:-1] == ("vllm", "dense")
    header, row = (line.split(",") for line in table.read_text().splitlines())
    assert dict(zip(header, row, strict=True))["variant"] == "vllm-piecewise-32"
    assert gather([best(tmp_path)], table, expected_digests([best(tmp_path)], PARAMETERS)) == 1
    with pytest.raises(RecordError, match="answers another request"):
        gather([best(tmp_path)], table, expected_digests([best(tmp_path)], {"steps": 1}))


def test_a_point_that_a_variant_failed_says_which_and_why(tmp_path):
    configuration = ("BitNet-2B", "INT8", "vllm", "dense")
    synthetic.plan(tmp_path, [("decode", *configuration, M) for M in (64, 128, 256)], hardware=HARDWARE)
    found = measured(tmp_path)
    lost = found["vllm-piecewise-32"]
    lost.unlink()
    records.write_failure(lost, "the engine died", "results/some.log")
    waiting = request.variant_paths(best(tmp_path, 128))["vllm-piecewise-1"]
    records.write_failure(waiting, "its program ended", None, unless=os.getpid())
    screen = status.screen(tmp_path)
    assert "0 of 3 points are there, 1 in flight, 1 failed, 1 missing" in screen
    assert "  decode BitNet-2B/INT8/vllm/dense M=64: vllm-piecewise-32: the engine died (results/some.log)" in screen
    assert "in flight: decode BitNet-2B/INT8/vllm/dense M=128, since" in screen
    waiting.with_suffix(".failed.json").unlink()
    assert gather_all(tmp_path, HARDWARE) == []
    text, _ = markdown(tmp_path, hardware=HARDWARE)
    problems = rows_under(text, "Missing, failed, left out")
    assert problems[0][:5] == ["decode", "/".join(configuration), "64", "—", "vllm-piecewise-32: the engine died"]
    assert problems[-1] == ["decode", "/".join(configuration), "128, 256"]
    assert rows_under(text, "Passed") == [["BitNet-2B INT8", "0/3", "0/3"]]
    measured(tmp_path)
    chosen(tmp_path)
    gather_all(tmp_path, HARDWARE)
    assert "the engine died" not in markdown(tmp_path, hardware=HARDWARE)[0]
    assert status.screen(tmp_path).count("failed") == 0


def test_stock_vllm_needs_no_tuning_table(tmp_path):
    synthetic.plan(tmp_path, [("decode", "BitNet-2B", "INT8", "vllm", "dense", 64)], hardware=HARDWARE)
    assert {row["task"]: row["status"] for row in tasks_table(tmp_path, HARDWARE)}["3 offline tuning"] == "skipped"


# Planning and running

KEY = f"H100_cc90_py{sys.version_info.major}{sys.version_info.minor}_cu130_{os.uname().machine}"
SWEEP = f"""
hardware: {KEY}
backends: {{dense: [cublaslt, vllm]}}
prefill: {{M: [32, 8192], sparsity: ["2_8"]}}
"""


@pytest.fixture
def clone(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    clone.pretend({"": [["NVIDIA H100 PCIe", [9, 0], "GPU-0"]]})
    yield clone
    clone.stop()
    shutil.rmtree(clone.directory)


def of_stock(stage, backend, M):
    """Path of a point of stock vLLM, or of a variant of it."""
    return f"results/{KEY}/{stage}/BitNet-tiny/INT8/{backend}/dense/M{M}.json"


@pytest.mark.workflow
def test_variants_are_measured_once_and_the_fastest_is_chosen(clone):
    def run(status=0):
        return clone.run("prefill", "decode", config=[TINY, SWEEP], status=status)

    fails = of_stock("decode", "vllm-piecewise-1", 4)
    clone.say("fail", [f"{KEY}/decode/INT8/vllm-piecewise-1/dense/4"])
    clone.say("fast", [f"{KEY}/prefill/INT8/vllm-piecewise-32-own/dense/{M}" for M in (32, 8192)])
    clone.say("large", [f"{KEY}/prefill/INT8/vllm-piecewise-32/dense/8192"])
    call = run(1)
    assert (call.jobs["measure_stock"], call.jobs["choose_stock"]) == (14, 3)
    assert (call.jobs["measure_prefill"], call.jobs["measure_decode"], call.jobs["tune_backend"]) == (4, 2, 2)
    for M, count in ((32, 8), (8192, 2)):
        results = json.loads((clone.directory / of_stock("prefill", "vllm", M)).read_text())["results"]
        assert (results["variant"], len(results["variants"])) == ("vllm-piecewise-32-own", count)
    assert results["variants"]["vllm-piecewise-32"]["status"] == "out_of_memory"
    assert clone.failures() == [fails.replace(".json", ".failed.json")]
    assert "  decode BitNet-tiny/INT8/vllm/dense M=4: vllm-piecewise-1: " in call.output  # the summary at its end
    engines = [point.split("/")[3] for what, point, _ in clone.journal if what == "begin"]
    changes = [engine for before, engine in zip([None, *engines], engines, strict=False) if engine != before]
    assert len(changes) == len(set(changes)) == 10, changes
    text = clone.only(f"results/{KEY}/report.en.md").read_text()
    assert "| decode | BitNet-tiny/INT8/vllm/dense | 4 | — | vllm-piecewise-1: " in text

    clone.say("fail")
    before = clone.points()
    again = run()
    assert again.jobs == {"measure_stock": 1, "choose_stock": 1, "gather_points": 1, "decode": 1}
    assert again.points == {fails}
    assert {path: clone.points()[path] for path in before} == before
    assert run().jobs == {}

    deleted = of_stock("prefill", "vllm-full-1", 32)
    clone.remove(deleted)
    again = run()
    assert again.jobs == {"measure_stock": 1, "choose_stock": 1, "gather_points": 1, "prefill": 1}
    assert again.points == {deleted}
    clone.remove(of_stock("prefill", "vllm", 32))
    assert run().jobs == {"choose_stock": 1, "gather_points": 1, "prefill": 1}
    clone.remove(*{str(Path(path).parent) for path in clone.points() if "/vllm-" in path})
    assert clone.dry_run(of_stock("prefill", "vllm", 32), config=[TINY, SWEEP]).jobs == {}
    call = clone.dry_run("prefill", config=[TINY, SWEEP, "measure: {prefill: {steps: 5}}"])
    assert (call.jobs["measure_stock"], call.jobs["choose_stock"]) == (10, 2)


@pytest.mark.workflow
def test_stock_vllm_is_planned_on_cpus_and_by_its_path(clone):
    key = "cpu-AMD-EPYC_cc0_py311_cu0_x86_64"
    both = f"hardware: {key}\ncpu: {{backends: {{dense: [onednn, vllm]}}}}"
    call = clone.dry_run("prefill", "decode", config=[TINY, both])
    assert (call.jobs["measure_stock"], call.jobs["choose_stock"]) == (2, 2)
    assert (call.jobs["measure_prefill"], call.jobs["tune_backend"]) == (2, 2)
    path = of_stock("decode", "vllm", 4)
    call = clone.dry_run(path)
    assert call.jobs == {"fetch_model": 1, "convert_checkpoint": 1, "measure_stock": 4, "choose_stock": 1}
    assert call.points == {of_stock("decode", name, 4) for name in stock.variants_at("decode", 4, 3)}
    for backend in ("vllm", "vllm-piecewise-1"):
        slid = of_stock("decode", backend, 4).replace("/dense/", "/2_8/")
        assert "cannot be made" in clone.dry_run(slid, status=1).output
