"""The prompt of prefill points: their names, which of them a plan has, and which do not fit a model."""

import json
from types import SimpleNamespace

import pytest

from configured import RTX4090, overlaid, read, with_change
from slidesparse.errors import RecordError
from slidesparse.plan import prompts
from slidesparse.plan.key import Configuration, Key
from slidesparse.plan.matrix import matrix, plan, validated
from slidesparse.plan.table import Table

TWO = f"{{hardware: {RTX4090}, prefill: {{M: [512, 2048, 8192], prompt: [1024, 2048], sparsity: ['2_4']}}}}"
PLACE = ("BitNet-2B", "INT8", "cublaslt", "dense")
FOLDER = f"results/{RTX4090}/prefill/{'/'.join(PLACE)}"


def wildcards(key):
    """The wildcards of a point's rule."""
    names = ("hardware", "stage", "model", "dtype", "backend", "sparsity")
    return SimpleNamespace(**dict(zip(names, key[:6], strict=True)), m=prompts.name(key.M, key.prompt))


def test_the_name_of_a_point_has_its_prompt_unless_it_is_the_usual_one():
    for name, step in (("8192", (8192, 1024)), ("8192-prompt2048", (8192, 2048)), ("16-prompt10240", (16, 10240))):
        key = Key.of(f"{FOLDER}/M{name}.json")
        assert (key.M, key.prompt) == step
        assert key.path("results") == f"{FOLDER}/M{name}.json"
        assert ("prompt" in key.stored) == ("prompt" in name)
        assert key.configuration.key(key.hardware, key.stage, key.M) == key


@pytest.mark.parametrize("name", ["8192-prompt1024", "8192-prompt02048", "8192-prompt0", "8192-prompt", "8192-2048"])
def test_a_name_that_no_point_has(name):
    with pytest.raises(RecordError, match="is not the path of a point"):
        Key.of(f"{FOLDER}/M{name}.json")


@pytest.mark.parametrize("stage", ["kernel", "decode", "quality"])
def test_no_other_stage_has_prompts(stage):
    with pytest.raises(RecordError, match="is not the path of a point"):
        Key.of(f"{FOLDER.replace('/prefill/', f'/{stage}/')}/M64-prompt16.json")


def test_a_model_at_a_prompt_has_a_name_of_its_own():
    key = Key.of(f"{FOLDER}/M8192-prompt2048.json")
    assert key.configuration == Configuration("BitNet-2B-prompt2048", *PLACE[1:])
    assert key.configuration.name == "BitNet-2B-prompt2048/INT8/cublaslt/dense"
    assert key.configuration.weights == key._replace(prompt=1024).configuration.model == "BitNet-2B"


def test_a_plan_has_every_M_at_every_prompt_that_makes_other_steps():
    """512 tokens are one prompt of 512, whatever longer prompts are allowed, and so measured once."""
    config = validated(with_change(TWO))
    held = plan(config, RTX4090)["points"]["prefill"]
    assert held["BitNet-2B/INT8/cublaslt/dense"] == [512, 2048, 8192]
    assert held["BitNet-2B-prompt2048/INT8/cublaslt/dense"] == [2048, 8192]
    one = validated(with_change("prefill: {M: [512, 4096], prompt: [2048]}"))
    names = {key.file for key in matrix(one, RTX4090) if key.stage == "prefill"}
    assert names == {"M512-prompt2048.json", "M4096-prompt2048.json"}


def test_each_prompt_has_an_engine_of_its_own_and_all_share_one_csv():
    config = validated(with_change(TWO))
    table = Table(config)
    keys = [key for key in matrix(config, RTX4090) if key.stage == "prefill" and key.configuration[1:] == PLACE[1:]]
    assert len({key.path("results") for key in keys}) == len(keys) == 5
    assert table.points(wildcards(keys[0])) == [key.path("results") for key in keys]
    assert len([path for path in table.csvs() if path.startswith(FOLDER)]) == 1
    order = {}
    for key in keys:
        order.setdefault(key.prompt, set()).add(table.priority(wildcards(key)))
    assert all(len(found) == 1 for found in order.values()) and min(order[1024]) > max(order[2048])
    said = {key.prompt: json.loads(table.measuring(RTX4090, "prefill", wildcards(key).m)) for key in keys}
    assert {prompt: values["prompt_cap"] for prompt, values in said.items()} == {1024: 1024, 2048: 2048}


def test_stock_vllm_is_chosen_from_variants_at_its_prompt():
    config = validated(overlaid(with_change(TWO), {"backends": {"dense": ["cublaslt", "vllm"]}}))
    key = next(key for key in matrix(config, RTX4090) if key.backend == "vllm" and key.prompt == 2048)
    variants = Table(config).variants(wildcards(key))
    assert variants and all(path.endswith(f"/{key.file}") for path in variants)
    assert {*variants} <= {*Table(config).planned("prefill")}


def test_the_configuration_of_long_prompts_measures_what_it_says():
    config = validated(overlaid(read(), read("prompts.yaml")))
    keys = matrix(config, "H200_cc90_py312_cu130_x86_64_prompts")
    assert {key.file for key in keys} == {f"M{M}-prompt{n}.json" for M in (8192, 32768) for n in (2048, 8192)}
    assert {key.configuration.column for key in keys} == {
        "cublaslt/dense",
        "vllm/dense",
        "cusparselt/2_4",
        "cusparselt/2_8",
    }
    assert {(key.stage, key.model) for key in keys} == {("prefill", "BitNet-2B-synthetic-16k")}
