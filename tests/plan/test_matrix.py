"""The points that a configuration plans, on each kind of hardware."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from configured import A100, CPU, RTX4090, overlaid, read, with_change
from places import ROOT
from slidesparse.errors import HardwareError
from slidesparse.files import sha256_file
from slidesparse.machine import families, hardware, vllm
from slidesparse.plan import matrix as planning
from slidesparse.plan import prompts
from slidesparse.plan.backends import BACKENDS, DTYPES, STAGES, TIMED
from slidesparse.plan.matrix import (
    auto_backends,
    compared,
    entries,
    hardware_keys,
    left_out,
    plan,
    planned,
    validated,
)
from slidesparse.plan.table import Table, seats
from slidesparse.points.plan import ACCEPTABLE
from slidesparse.sparsity.patterns import Pattern

H100 = "H100_cc90_py312_cu130_x86_64"
TWINS = ("BitNet-2B-synthetic", "BitNet-2B-synthetic-16k")


def matrix(config, key):
    """The Keys of a matrix without their hardware key, which is the same for all."""
    keys = planning.matrix(config, key)
    assert all(each.hardware == key for each in keys)
    assert all(each.prompt == prompts.USUAL for each in keys)
    return [each[1:7] for each in keys]


def variants(config, key):
    """The Keys of the variants of stock vLLM in a matrix, as `matrix`."""
    return [each[1:7] for each in planning.variants(planning.matrix(config, key))]


@pytest.mark.parametrize(
    ("key", "kernel", "prefill", "decode", "quality"),
    [(RTX4090, 162, 70, 40, 10), (A100, 81, 35, 20, 5), (CPU, 10, 10, 10, 10)],
)
def test_number_of_points(key, kernel, prefill, decode, quality):
    rows = matrix(validated(read()), key)
    numbers = {"kernel": kernel, "prefill": prefill, "decode": decode, "quality": quality}
    assert Counter(row[0] for row in rows) == numbers
    assert len(set(rows)) == len(rows)


def test_rows_of_the_matrix():
    rows = matrix(validated(read()), RTX4090)
    assert rows[0] == ("kernel", "BitNet-2B", "INT8", "cublaslt", "dense", 64)
    assert ("kernel", "BitNet-2B", "FP8", "cusparselt", "2_inf", 16384) in rows
    assert ("prefill", "BitNet-2B", "FP8", "cusparselt", "2_12", 512) not in rows
    for stage, _, _, backend, sparsity, M in rows:
        assert (sparsity == "dense") == (not BACKENDS[backend].sparse)
        assert stage in BACKENDS[backend].stages
        assert type(M) is int
        assert Pattern(sparsity)


def test_models_of_one_shape_share_kernel_points():
    """Each under the name of the model that has the dimensions; prefill and decode are every model's own.

    Generated weights have no quality.
    """
    alone = matrix(validated(read()), RTX4090)
    for models in ("[BitNet-2B-synthetic]", "[BitNet-2B, BitNet-2B-synthetic]"):
        config = validated(with_change(f"models: {models}"))
        rows = matrix(config, RTX4090)
        assert [row for row in rows if row[0] == "kernel"] == [row for row in alone if row[0] == "kernel"]
        engines = {model: [row for row in rows if row[0] != "kernel" and row[1] == model] for model in config["models"]}
        for model, found in engines.items():
            without = ("kernel", "quality") if model == "BitNet-2B-synthetic" else ("kernel",)
            assert found == [(stage, model, *row) for stage, _, *row in alone if stage not in without]
    assert plan(config, RTX4090)["shapes"] == dict.fromkeys(TWINS, "BitNet-2B")
    of = entries(config)
    assert of["BitNet-2B-synthetic"] == {"source": "generated", "seed": 20260305, "shape": of["BitNet-2B"]["shape"]}


@pytest.mark.parametrize("name", [None, "extended.yaml"])
def test_a_configuration_is_run_in_one_go(name):
    rows = matrix(validated(overlaid(read(), read(name) if name else {})), RTX4090)
    for stages in (("kernel",), ("prefill", "decode", "quality")):
        runs = [row[1:5] for row in rows if row[0] in stages]
        changes = [run for previous, run in zip([None, *runs], runs, strict=False) if run != previous]
        assert len(changes) == len(set(changes))


def test_one_dense_and_one_sparse_backend_score_a_checkpoint():
    config = validated(overlaid(read("extended.yaml"), {"models": ["BitNet-2B"]}))
    rows = [row for row in matrix(config, RTX4090) if row[0] == "quality"]
    backends = {"dense": "cublaslt"} | dict.fromkeys(("2_4", "2_6", "2_8", "2_10"), "cusparselt")
    assert rows == [
        ("quality", "BitNet-2B", dtype, backend, sparsity, 20480)
        for dtype in ("INT8", "FP8")
        for sparsity, backend in backends.items()
    ]
    assert not any(row[0] == "quality" for row in matrix(validated(with_change("quality: {tokens: 0}")), RTX4090))


def test_a_text_is_known_by_its_content(tmp_path):
    text, other = tmp_path / "text", tmp_path / "other"
    for path in (text, other):
        path.write_text("a")
    config = validated(with_change(f"quality: {{text: {text}}}"))
    before = planned(config, RTX4090)["measure"]["quality"]
    assert before == {"text": str(text), "sha256": sha256_file(other), "context": 1024}
    text.write_text("b")
    assert planned(config, RTX4090)["measure"]["quality"]["sha256"] != before["sha256"]


def test_a_text_of_a_hub_is_known_by_its_name_with_a_commit():
    text = f"hf://datasets/owner/name@{'0' * 40}/raw/text.txt"
    config = validated(with_change(f"quality: {{text: '{text}'}}"))
    assert planned(config, RTX4090)["measure"]["quality"] == {"text": text, "context": 1024}
    table, w = Table(config), SimpleNamespace(hardware=RTX4090)
    manifest = table.text(w)
    assert table.text_named(SimpleNamespace(text=Path(manifest).stem)) == text
    assert Table(validated(read())).text(w) == []


def test_the_plan_tells_the_report_what_is_acceptable():
    config = validated(with_change("{quality: {acceptable: 2.5}, cpu: {quality: {acceptable: 7}}}"))
    assert (plan(config, RTX4090)["acceptable"], plan(config, CPU)["acceptable"]) == (2.5, 7)
    assert plan(validated({}), CPU)["acceptable"] == ACCEPTABLE


def test_what_the_hardware_cannot_run_is_left_out_with_the_reason():
    config = validated(read())
    assert left_out(config, A100) == [{"what": "FP8", "reason": families.supports(A100, "FP8")}]
    assert left_out(config, RTX4090) == left_out(config, CPU) == []


def test_engines_are_left_out_where_their_vllm_was_not_tested(monkeypatch):
    """Only on this machine: nobody knows what another one has."""
    monkeypatch.setattr(vllm, "version", lambda: "0.19.1")
    monkeypatch.setattr(hardware, "key", lambda: RTX4090)
    config = read()
    assert {stage for stage, *_ in matrix(config, RTX4090)} == {"kernel"}
    (item,) = left_out(config, RTX4090)
    assert item["what"] == "prefill, decode and quality"
    assert "tested with vLLM 0.26 to 0.33 and this is 0.19.1" in item["reason"]
    assert {stage for stage, *_ in matrix(config, A100)} == {*STAGES}
    monkeypatch.setattr(vllm, "version", lambda: None)  # a login node
    assert {stage for stage, *_ in matrix(config, RTX4090)} == {*STAGES}
    assert planned(config, A100)["dtypes"] == ["INT8"]
    assert matrix(config, "V100_cc70_py312_cu129_x86_64") == []


def test_cpu_section_is_laid_over_the_rest():
    config = validated(read())
    plan = planned(config, CPU)
    assert plan["models"] == ["BitNet-small"]
    assert plan["dtypes"] == ["INT8", "FP8"]
    assert plan["kernel"] == config["cpu"]["kernel"] == {"M": [16], "sparsity": config["prefill"]["sparsity"]}
    assert plan["decode"] == {"M": [8], "sparsity": config["decode"]["sparsity"]}
    assert plan["measure"]["prefill"] == config["measure"]["prefill"] | config["cpu"]["measure"]["prefill"]
    assert plan["hardware"] == CPU
    assert "cpu" not in plan
    assert planned(config, RTX4090)["models"] == ["BitNet-2B"]


def test_extended_backends_run_where_they_can():
    config = validated(overlaid(read(), read("extended.yaml")))
    runs = {(stage, backend, sparsity) for stage, _, _, backend, sparsity, _ in matrix(config, RTX4090)}
    assert ("kernel", "torch", "dense") in runs
    assert ("prefill", "torch", "dense") in runs
    assert ("decode", "vllm", "dense") in runs
    assert ("kernel", "vllm", "dense") not in runs
    assert ("prefill", "auto", "2_8") in runs
    assert ("prefill", "auto", "dense") in runs
    assert ("kernel", "auto", "2_8") not in runs
    assert ("prefill", "cublaslt", "2_8") in runs
    assert ("kernel", "cublaslt", "2_8") not in runs
    assert ("decode", "onednn", "2_4") in {
        (stage, backend, sparsity) for stage, _, _, backend, sparsity, _ in matrix(config, CPU)
    }


def test_stock_vllm_is_one_row_an_M_and_its_variants_are_planned_beside():
    config = validated(with_change("backends: {dense: [cublaslt, vllm]}\nprefill: {M: [512, 8192]}\ndecode: {M: [64]}"))
    rows = matrix(config, H100)
    mine = [row for row in rows if row[3] not in ("cublaslt", "cusparselt")]
    assert mine == [
        (stage, "BitNet-2B", dtype, "vllm", "dense", M)
        for dtype in ("INT8", "FP8")
        for stage, M in (("prefill", 512), ("prefill", 8192), ("decode", 64))
    ]
    measured = variants(config, H100)
    assert len(measured) == 2 * (8 + 2 + 4)
    engines = [row[1:5] for row in measured]
    changes = [one for before, one in zip([None, *engines], engines, strict=False) if one != before]
    assert len(changes) == len(set(changes)) == 2 * 8
    asked = plan(config, H100)
    assert asked["points"]["prefill"]["BitNet-2B/INT8/vllm/dense"] == [512, 8192]
    assert asked["variants"]["prefill"]["BitNet-2B/INT8/vllm-piecewise-32/dense"] == [512, 8192]
    assert asked["variants"]["prefill"]["BitNet-2B/INT8/vllm-full-1/dense"] == [512]
    assert "BitNet-2B/INT8/vllm-full-1/dense" not in asked["variants"]["decode"]
    assert plan(validated(read()), H100)["variants"] == {}
    assert len(variants(config, RTX4090)) == 2 * 3 * 2  # FlashAttention 2 has piecewise graphs only


def test_stock_vllm_runs_on_cpus_too():
    config = validated(with_change("cpu: {backends: {dense: [onednn, vllm]}}"))
    rows = matrix(config, CPU)
    assert ("prefill", "BitNet-small", "FP8", "vllm", "dense", 128) in rows
    assert {row[3] for row in variants(config, CPU)} == {"vllm-eager"}


def test_torch_runs_in_engines_where_its_product_is_its_own():
    config = validated(overlaid(read(), read("extended.yaml")))
    types = {(stage, dtype) for stage, _, dtype, backend, _, _ in matrix(config, RTX4090) if backend == "torch"}
    assert types == {("kernel", "INT8"), ("kernel", "FP8"), ("prefill", "FP8"), ("decode", "FP8")}


def test_ternary_weights_run_with_int8_and_fp8_is_left_out_by_name():
    config = validated(with_change("backends: {dense: [cublaslt, ternary, auto], dense_on_pruned: [ternary]}"))
    rows = [row for row in matrix(config, RTX4090) if row[3] == "ternary"]
    assert {row[2] for row in rows} == {"INT8"}
    assert {(row[0], row[4]) for row in rows} >= {("kernel", "dense"), ("prefill", "dense"), ("decode", "2_8")}
    why = {"what": "ternary FP8", "reason": "ternary multiplies INT8 only"}
    assert left_out(config, RTX4090) == [why] and why not in left_out(config, A100)  # which has no FP8 at all
    dense = config["backends"]["dense"]
    assert compared(RTX4090, "INT8", "dense", dense) == [("cublaslt", "dense"), ("ternary", "dense")]
    assert compared(RTX4090, "FP8", "dense", dense) == [("cublaslt", "dense")]
    assert compared(RTX4090, "INT8", "2_8", ["cublaslt"]) == [("cusparselt", "2_8")]  # it is not configured
    tables = auto_backends("results", RTX4090, "M", "INT8", "dense", dense)
    assert tables["ternary"] == f"results/{RTX4090}/tuning/M/INT8/ternary/dense.json"


def test_kernels_for_hopper_run_there_and_are_left_out_by_name_elsewhere():
    config = validated(with_change("backends: {sparse: [cusparselt, cutlass_sparse, auto]}"))
    rows = [row for row in matrix(config, H100) if row[3] == "cutlass_sparse"]
    assert {(row[0], row[2]) for row in rows} == {(stage, dtype) for stage in TIMED for dtype in DTYPES}
    assert {row[4] for row in rows if row[0] == "kernel"} == set(config["kernel"]["sparsity"])
    why = "cutlass_sparse has kernels for compute capability 9.0 only, and RTX4090 has 8.9"
    assert left_out(config, RTX4090) == [{"what": "cutlass_sparse", "reason": why}] and not left_out(config, H100)
    assert not any(row[3] == "cutlass_sparse" for key in (RTX4090, CPU) for row in matrix(config, key))


def test_auto_compares_another_sparse_backend_if_it_is_configured_and_runs_here():
    config = validated(with_change("backends: {sparse: [cusparselt, cutlass_sparse, auto]}"))
    for key, more in ((H100, [("cutlass_sparse", "2_8")]), (RTX4090, [])):
        names = planning.configured(planned(config, key))
        assert compared(key, "FP8", "2_8", names) == [("cusparselt", "2_8"), *more]
        assert compared(key, "FP8", "dense", names) == [("cublaslt", "dense")]
        tables = auto_backends("results", key, "M", "FP8", "2_8", names)
        assert {*tables} == {"cusparselt", "cublaslt", *(name for name, _ in more)}


@pytest.mark.parametrize("name", [None, "extended.yaml", "measured.yaml", "decode.yaml"])
def test_no_configuration_of_ours_measures_the_newest_backends_yet(name):
    config, newest = validated(overlaid(read(), read(name) if name else {})), {"ternary", "cutlass_sparse"}
    assert not any(row[3] in newest for key in (RTX4090, H100, CPU) for row in matrix(config, key))


@pytest.mark.parametrize(("key", "section"), [(RTX4090, "backends"), (CPU, "cpu: {backends")])
def test_auto_runs_every_pattern_of_a_stage(key, section):
    own = "reference" if key == CPU else "cusparselt"
    change = f"{section}: {{sparse: [{own}, auto]}}" + "}" * section.count("{")
    rows = matrix(validated(with_change(change)), key)
    runs = {backend: {(*row[:3], *row[4:]) for row in rows if row[3] == backend} for backend in (own, "auto")}
    assert runs["auto"] == {row for row in runs[own] if row[0] in ("prefill", "decode")}


@pytest.mark.parametrize("key", [RTX4090, CPU])
def test_what_auto_chooses_by_and_among_is_planned(key):
    """Its kernel points are the sparse backend's, and those of dense backends that are not measured beside it."""
    config = validated(read())
    kernels = {(backend, sparsity) for stage, _, _, backend, sparsity, _ in matrix(config, key) if stage == "kernel"}
    found = compared(key, "FP8", "2_8", config["backends"]["dense"])
    assert set(found) <= kernels
    assert found == ([("reference", "2_8"), ("onednn", "dense")] if key == CPU else [("cusparselt", "2_8")])
    tables = auto_backends("results", key, "M", "FP8", "2_8", ["cutlass", "torch"])
    place = f"results/{key}/tuning/M/FP8"
    if key == CPU:
        assert tables == {name: f"{place}/{name}/{sparsity}.json" for name, sparsity in found}
    else:
        searched = {name: f"{place}/{name}/{of}.json" for name, of in (("cusparselt", "2_8"), ("cublaslt", "dense"))}
        assert tables == searched | {"cutlass": None, "torch": None}
        assert "torch" not in auto_backends("results", key, "M", "INT8", "2_8", ["cutlass", "torch"])
        assert auto_backends("results", key, "M", "FP8", "2_8", ["vllm"]) == searched


@pytest.mark.parametrize(("key", "section"), [(RTX4090, "backends"), (CPU, "cpu: {backends")])
def test_auto_runs_the_dense_checkpoint_where_it_is_a_dense_backend(key, section):
    own = "onednn" if key == CPU else "cublaslt"
    config = validated(with_change(f"{section}: {{dense: [{own}, auto]}}" + "}" * section.count("{")))
    rows = matrix(config, key)
    runs = {name: {(*row[:3], *row[4:]) for row in rows if row[3] == name} for name in (own, "auto")}
    assert runs["auto"] == {row for row in runs[own] if row[0] in ("prefill", "decode")}
    found, place = compared(key, "FP8", "dense", [own]), f"results/{key}/tuning/M/FP8"
    assert found == [(own, "dense")]
    tables = auto_backends("results", key, "M", "FP8", "dense", [own, "torch", "auto"])
    assert tables == {own: f"{place}/{own}/dense.json"} | ({} if key == CPU else {"torch": None})


def test_tiny_configuration_is_tiny_everywhere():
    config = validated(overlaid(read(), read("test/tiny.yaml")))
    assert [len(matrix(config, key)) for key in (RTX4090, CPU)] == [6, 6]


def test_hardware_is_one_key_a_list_or_this_machine():
    config = validated(with_change(f"hardware: [{RTX4090}, {A100}]"))
    assert hardware_keys(config) == [RTX4090, A100]
    assert hardware_keys(validated(with_change(f"hardware: {A100}"))) == [A100]
    assert hardware_keys(validated(read())) == [hardware.detect().key]


def test_matrix_of_something_that_is_no_hardware_key():
    with pytest.raises(HardwareError, match="'H200' is not a hardware key"):
        matrix(validated(read()), "H200")


@pytest.mark.parametrize(("count", "places"), [(1, (1, 1)), (2, (1, 1)), (3, (2, 1)), (4, (2, 2))])
def test_engines_that_are_divided_by_one_another_share_a_gpu(count, places):
    kernels = [("H100", "M", dtype, "cusparselt", f"2_{L}", True) for dtype in ("INT8", "FP8") for L in (4, 6, 8)]
    engines = [(*kernel[:5], False) for kernel in kernels]
    found = seats(kernels + engines, count)
    by_type = [{found[key] for key in engines if key[2] == dtype} for dtype in ("INT8", "FP8")]
    assert tuple(map(len, by_type)) == places
    assert set.union(*by_type) == {found[key] for key in kernels} == set(range(count))
    assert count == 1 or not set.intersection(*by_type)


def test_more_models_than_gpus_take_turns_on_them():
    engines = [("H100", model, "INT8", "cublaslt", "dense", False) for model in "ABC"]
    assert list(seats(engines, 2).values()) == [0, 1, 0]


def test_in_another_directory_text_and_model_are_those_of_the_repository(tmp_path, monkeypatch):
    before = planned(validated(read()), CPU)["measure"]["quality"]
    monkeypatch.chdir(tmp_path)
    config = validated(read())
    assert planned(config, CPU)["measure"]["quality"] == before
    assert config["registry"]["BitNet-small"]["path"] == str(ROOT / "resources/trained/BitNet-small")
    (tmp_path / "resources" / "text").mkdir(parents=True)
    (tmp_path / "resources" / "text" / "held_out.txt").write_text("mine")
    assert planned(config, CPU)["measure"]["quality"]["sha256"] != before["sha256"]
