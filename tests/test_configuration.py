"""Every wrong configuration gets its sentence, every right one the points that were published."""

import copy
from collections import Counter
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from slidesparse import hardware
from slidesparse.backends import BACKENDS
from slidesparse.configuration import (
    candidates,
    compared,
    entries,
    hardware_keys,
    left_out,
    matrix,
    plan,
    planned,
    validated,
    variants,
)
from slidesparse.configuration_schema import SCHEMA
from slidesparse.errors import ConfigurationError, HardwareError
from slidesparse.patterns import Pattern

ROOT = Path(__file__).parents[1]
RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
A100 = "A100_cc80_py312_cu129_x86_64"
CPU = "cpu-AMD-EPYC_cc0_py311_cu0_x86_64"


def overlaid(base, change):
    """What Snakemake makes of two configuration files: sections merge, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return copy.deepcopy(change)
    return base | {key: overlaid(base.get(key), value) for key, value in change.items()}


def read(name="config.yaml"):
    return yaml.safe_load((ROOT / "config" / name).read_text())


def with_change(text):
    return overlaid(read(), yaml.safe_load(text))


def schema():
    return yaml.safe_load(SCHEMA.read_text())


def sections(node):
    """Every object of the schema, wherever it stands."""
    if isinstance(node, dict):
        if "properties" in node or "patternProperties" in node:
            yield node
        for child in node.values():
            yield from sections(child)
    elif isinstance(node, list):
        for child in node:
            yield from sections(child)


def documented_keys(node, definitions, prefix=""):
    """Dotted names of all keys; those that `cpu` shares, and those of a cluster's jobs, count once."""
    if "$ref" in node:
        if prefix.startswith("cpu."):
            return
        prefix = "cluster.…." if node["$ref"] == "#/$defs/job" else prefix
        node = definitions[node["$ref"].rpartition("/")[2]]
    for key, child in node.get("properties", {}).items():
        inner = list(documented_keys(child, definitions, f"{prefix}{key}."))
        yield from inner or [f"{prefix}{key}"]
    for child in node.get("patternProperties", {}).values():
        yield from documented_keys(child, definitions, f"{prefix}{{model}}.")


def test_defaults_are_the_configuration_file():
    assert validated({}) == validated(read())


def test_configuration_is_left_as_it_is():
    config = read()
    before = copy.deepcopy(config)
    full = validated(config)
    for key in (RTX4090, CPU):
        planned(full, key)["kernel"]["M"].append(7)
    assert config == before
    assert full == validated(before)


@pytest.mark.parametrize("name", ["extended.yaml", "test/tiny.yaml"])
def test_other_files_are_valid_on_top(name):
    validated(overlaid(read(), read(name)))


def test_partial_section_keeps_the_other_defaults():
    config = validated({"measure": {"prefill": {"steps": 4}}, "cpu": {"decode": {"M": [2]}}})
    assert config["measure"]["prefill"] == validated({})["measure"]["prefill"] | {"steps": 4}
    assert config["cpu"]["models"] == ["BitNet-tiny"]
    assert config["cpu"]["decode"] == {"M": [2]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        # unknown keys, before anything else
        (
            "kernel: {sparsty: 1, M: [0]}",
            "kernel.sparsty (with the value 1) is not a key: kernel has M, sparsity; did you",
        ),
        ("prefil: {M: [64]}", 'prefil (with the value {"M": [64]}) is not a key: the configuration has hardware,'),
        ("measure: {decode: {outputlen: 3}}", "measure.decode.outputlen (with the value 3) is not a key"),
        (
            "registry: {BitNet-2B: {shape: {hidden: 3}}}",
            "registry.BitNet-2B.shape.hidden (with the value 3) is not a key",
        ),
        ("cpu: {hardware: auto}", 'cpu.hardware (with the value "auto") is not a key: cpu has models, dtypes'),
        ("registry: {a b: {}}", "registry.a b is not a usable name for a model"),
        ("cluster: {hardware: {H100: {}}}", "cluster.hardware.H100 is not a hardware key, such as RTX4090_cc89_py312"),
        ("cluster: {gpu: {mem: 1}}", "cluster.gpu.mem (with the value 1) is not a key: cluster.gpu has partition,"),
        ("cluster: {gpu: {runtime: 1h}}", 'cluster.gpu.runtime is "1h", but must be a positive whole number'),
        ("cluster: {gpu: {gpu: 'h100:2'}}", 'cluster.gpu.gpu is "h100:2", but must be the type of a GPU, such as h100'),
        ("cluster: {cpu: {gpu: a100}}", 'cluster.cpu.gpu is "a100", but this needs no GPU: leave it out'),
        (
            f"cluster: {{hardware: {{{CPU}: {{gpu: a100}}}}}}",
            f'cluster.hardware.{CPU}.gpu is "a100", but this needs no GPU: leave it out',
        ),
        ("share_host: [prefil]", 'share_host[0] is "prefil", but allowed are tune, kernel, prefill, decode; did you'),
        ("registry: {28: {}}", "registry.28 is not a key, because YAML does not read it as text"),
        # patterns
        (
            "kernel: {sparsity: [2_8]}",
            'kernel.sparsity[0] is the number 28, but must be text, "2_L" with an even L of at',
        ),
        ("kernel: {sparsity: [2_8]}", 'so quote it: "2_8"'),
        ("kernel: {sparsity: ['2_4', 2:8]}", "kernel.sparsity[1] is the number 128, but must be text"),
        ("kernel: {sparsity: [2:8]}", 'so quote it: "2_8"'),
        ("kernel: {sparsity: [2_16]}", 'so quote it: "2_16"'),
        ("kernel: {sparsity: [2:16]}", 'so quote it: "2_16"'),
        ("kernel: {sparsity: [6:8]}", 'so quote it: "2_8"'),
        ("kernel: {sparsity: ['2:8']}", 'kernel.sparsity[0] is "2:8"'),
        ("kernel: {sparsity: ['2:8']}", 'write "2_8"'),
        ("prefill: {sparsity: ['2_7']}", 'prefill.sparsity[0] is "2_7", but must be text, "2_L" with an even L'),
        ("prefill: {sparsity: ['2_7']}", 'L is odd, and the nearest patterns are "2_6" and "2_8"'),
        ("decode: {sparsity: ['3_8']}", "the first number counts zeros and is always 2"),
        ("decode: {sparsity: ['6:8']}", '6 of 8 weights kept is two zeros in every 8, written "2_8"'),
        ("decode: {sparsity: ['2_2']}", 'L is 2, and the smallest pattern is "2_4"'),
        ("decode: {sparsity: ['2_infinity']}", 'did you mean "2_inf"?'),
        ("decode: {sparsity: [dense]}", "the dense backends measure dense by themselves"),
        ("decode: {sparsity: [rubbish]}", 'decode.sparsity[0] is "rubbish"'),
        ("decode: {sparsity: [.nan]}", "decode.sparsity[0] is the number NaN"),
        ("decode: {sparsity: [null]}", "decode.sparsity[0] is empty"),
        (
            "decode: {sparsity: 2_8}",
            "decode.sparsity is the number 28, but must be a list of at least one pattern, such as",
        ),
        ("decode: {sparsity: 2_8}", 'write ["2_8"]'),
        (
            "decode: {sparsity: ['2_8', '2_8']}",
            'decode.sparsity[1] is "2_8", but decode.sparsity[0] is too: name it once',
        ),
        # M
        ("decode: {M: [0]}", "decode.M[0] is 0, but must be a positive whole number"),
        ("decode: {M: [4, -4]}", "decode.M[1] is -4, but must be a positive whole number"),
        ("decode: {M: [true]}", "decode.M[0] is true, but must be a positive whole number"),
        ("decode: {M: [64.0]}", "decode.M[0] is 64.0, but must be a positive whole number; write 64"),
        ("decode: {M: [64.5]}", "decode.M[0] is 64.5, but must be a positive whole number"),
        ("decode: {M: ['64']}", 'decode.M[0] is "64", but must be a positive whole number; write 64 without quotes'),
        (
            "decode: {M: 64}",
            "decode.M is the number 64, but must be a list of at least one M, such as [64, 128]; write [64]",
        ),
        ("decode: {M: []}", "decode.M is an empty list, but must be a list of at least one M"),
        ("tune: {M: [64, 128, 64]}", "tune.M[2] is 64, but tune.M[0] is too: name it once"),
        (
            "prefill: {M: [1536]}",
            "prefill.M[0] is 1536, but an M above measure.prefill.prompt_cap must be a multiple of it",
        ),
        ("cpu: {prefill: {M: [1536]}}", "cpu.prefill.M[0] is 1536, but an M above"),
        ("cpu: {kernel: {M: [0]}}", "cpu.kernel.M[0] is 0, but must be a positive whole number"),
        ("prefill:", "prefill is empty, but must be a section with M and sparsity"),
        # names
        ("dtypes: [int8]", 'dtypes[0] is "int8", but allowed are INT8, FP8; did you mean INT8?'),
        ("dtypes: [INT8, FP16]", 'dtypes[1] is "FP16", but allowed are INT8, FP8; did you mean FP8?'),
        ("dtypes: []", "dtypes is an empty list, but must be a list with INT8, FP8 or both"),
        (
            "models: [BitNet-3B]",
            'models[0] is "BitNet-3B", but the registry has BitNet-2B, BitNet-2B-synthetic, BitNet-tiny; did you mean',
        ),
        (
            "cpu: {models: [none]}",
            'cpu.models[0] is "none", but the registry has BitNet-2B, BitNet-2B-synthetic, BitNet-tiny',
        ),
        (
            "backends: {dense: [cublas]}",
            'backends.dense[0] is "cublas", but allowed are cublaslt, cutlass, torch, vllm; did',
        ),
        (
            "backends: {dense: [cusparselt]}",
            "cusparselt is a sparse backend on NVIDIA GPUs and belongs in backends.sparse",
        ),
        ("backends: {sparse: [cublaslt]}", "cublaslt is a dense backend on NVIDIA GPUs and belongs in backends.dense"),
        ("backends: {dense: [onednn]}", "onednn is a dense backend on CPUs and belongs in cpu.backends.dense"),
        (
            "cpu: {backends: {sparse: [cusparselt]}}",
            "cusparselt is a sparse backend on NVIDIA GPUs and belongs in backends.",
        ),
        ("backends: {dense_on_pruned: [vllm]}", "vllm cannot run pruned checkpoints"),
        ("cpu: {backends: {dense_on_pruned: [vllm]}}", "vllm cannot run pruned checkpoints"),
        (
            "backends: {sparse: [vllm]}",
            "vllm is a dense backend on NVIDIA GPUs and belongs in backends.dense",
        ),
        (
            "cpu: {backends: {sparse: [vllm]}}",
            "vllm is a dense backend on CPUs and belongs in cpu.backends.dense",
        ),
        ("backends: {dense: [vllm-full-1]}", 'backends.dense[0] is "vllm-full-1", but allowed are cublaslt, cutlass,'),
        ("backends: {dense: [auto]}", "auto is a sparse backend on NVIDIA GPUs and belongs in backends.sparse"),
        ("cpu: {backends: {dense: [auto]}}", "auto is a sparse backend on CPUs and belongs in cpu.backends.sparse"),
        # kernels that auto could choose by
        (
            "{backends: {sparse: [cusparselt, auto]}, kernel: {sparsity: ['2_4', '2_6', '2_10']}}",
            "prefill runs auto/2_8, which takes the fastest kernel measured, but the kernel stage does not measure"
            ' cusparselt/2_8: backends.sparse must have cusparselt, and kernel.sparsity "2_8"',
        ),
        (
            "backends: {sparse: [auto]}",
            "prefill runs auto/2_4, which takes the fastest kernel measured, but the kernel",
        ),
        (
            "cpu: {backends: {sparse: [reference, auto]}, decode: {sparsity: ['2_20']}}",
            "decode runs auto/2_20, which takes the fastest kernel measured, but the kernel stage does not measure"
            ' reference/2_20: cpu.backends.sparse must have reference, and cpu.kernel.sparsity "2_20"',
        ),
        # hardware
        (
            "hardware: RTX4090",
            'hardware is "RTX4090", but must be auto, or a hardware key such as RTX4090_cc89_py312_cu129',
        ),
        ("hardware: Auto", "did you mean auto?"),
        ("hardware: [auto]", 'hardware[0] is "auto", but must be a hardware key'),
        ("hardware: []", "hardware is an empty list"),
        ("hardware: 4090", "hardware is the number 4090"),
        ("hardware: cpu-EPYC_cc80_py311_cu0_x86_64", 'hardware is "cpu-EPYC_cc80_py311_cu0_x86_64", but must be auto'),
        # numbers
        (
            "measure: {kernel: {relative_ci: 1e-2}}",
            'measure.kernel.relative_ci is "1e-2", but must be a number above 0',
        ),
        (
            "measure: {kernel: {relative_ci: 1e-2}}",
            "write 0.01, because YAML reads an exponent without a point as text",
        ),
        (
            "measure: {kernel: {relative_ci: 1}}",
            "measure.kernel.relative_ci is 1, but must be a number above 0 and below 1",
        ),
        (
            "measure: {kernel: {time_limit_s: .inf}}",
            "measure.kernel.time_limit_s is Infinity, but must be a number of seconds",
        ),
        (
            "measure: {kernel: {min_samples: 2000}}",
            "measure.kernel.min_samples is 2000, but it must be at most max_samples",
        ),
        ("cpu: {measure: {tune: {min_samples: 51}}}", "cpu.measure.tune.min_samples is 51"),
        ("resident: {idle_s: 0}", "resident.idle_s is 0, but must be a number of seconds above 0"),
        ("report: {sources: results}", 'report.sources is "results", but must be a list of at least one directory'),
        # registry
        (
            "registry: {BitNet-2B: {shape: {num_attention_heads: 7}}}",
            "registry.BitNet-2B.shape.num_attention_heads is 7, but it must divide hidden_size, which is 2560",
        ),
        (
            "registry: {BitNet-tiny: {shape: {num_key_value_heads: 3}}}",
            "registry.BitNet-tiny.shape.num_key_value_heads is 3, but it must divide num_attention_heads, which is 4",
        ),
        (
            "registry: {X: {source: hubb}}",
            'registry.X.source is "hubb", but allowed are hub, local, generated; did you mean',
        ),
        ("registry: {X: {}}", "registry.X.source is missing"),
        (
            "registry: {BitNet-2B: {source: local}}",
            "registry.BitNet-2B.path is missing, which source local needs: add it",
        ),
        (
            "registry: {BitNet-2B: {repository: bitnet}}",
            'registry.BitNet-2B.repository is "bitnet", but must be the name of',
        ),
        ("registry: {BitNet-2B: {revision: 1234567}}", "registry.BitNet-2B.revision is the number 1234567"),
        ("registry: {BitNet-2B: {revision: --help}}", 'registry.BitNet-2B.revision is "--help", but must be a branch'),
        (
            "registry: {BitNet-tiny: {shape: BitNet-3B}}",
            'registry.BitNet-tiny.shape is "BitNet-3B", but the registry has BitNet-2B, BitNet-2B-synthetic,',
        ),
        (
            "registry: {BitNet-tiny: {shape: BitNet-tiny}}",
            'registry.BitNet-tiny.shape is "BitNet-tiny", but must be its dimensions, or the name of another model',
        ),
        (
            "registry: {BitNet-tiny: {shape: BitNet-2B-synthetic}}",
            'registry.BitNet-tiny.shape is "BitNet-2B-synthetic", but must be the name of a model with dimensions of'
            ' its own, and BitNet-2B-synthetic has the shape of "BitNet-2B"',
        ),
        ("registry: {BitNet-tiny: {shape: 2}}", "registry.BitNet-tiny.shape is the number 2, but must be a section"),
    ],
)
def test_wrong_configuration(change, sentence):
    with pytest.raises(ConfigurationError) as error:
        validated(with_change(change))
    message = str(error.value)
    assert sentence in message
    assert "\n" not in message


def test_unused_keys_of_a_model_are_dropped():
    config = validated(with_change("registry: {BitNet-2B: {source: local, path: weights}}"))
    assert set(config["registry"]["BitNet-2B"]) == {"source", "path", "shape"}


@pytest.mark.parametrize(
    ("key", "kernel", "prefill", "decode"), [(RTX4090, 162, 70, 40), (A100, 81, 35, 20), (CPU, 36, 20, 20)]
)
def test_number_of_points(key, kernel, prefill, decode):
    rows = matrix(validated(read()), key)
    assert Counter(row[0] for row in rows) == {"kernel": kernel, "prefill": prefill, "decode": decode}
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
    """Each under the name of the model that has the dimensions; prefill and decode are every model's own."""
    alone = matrix(validated(read()), RTX4090)
    for models in ("[BitNet-2B-synthetic]", "[BitNet-2B, BitNet-2B-synthetic]"):
        config = validated(with_change(f"models: {models}"))
        rows = matrix(config, RTX4090)
        assert [row for row in rows if row[0] == "kernel"] == [row for row in alone if row[0] == "kernel"]
        engines = {model: [row for row in rows if row[0] != "kernel" and row[1] == model] for model in config["models"]}
        for model, found in engines.items():
            assert found == [(stage, model, *row) for stage, _, *row in alone if stage != "kernel"]
    assert plan(config, RTX4090)["shapes"] == {"BitNet-2B-synthetic": "BitNet-2B"}
    of = entries(config)
    assert of["BitNet-2B-synthetic"] == {"source": "generated", "seed": 20260305, "shape": of["BitNet-2B"]["shape"]}


@pytest.mark.parametrize("name", [None, "extended.yaml"])
def test_a_configuration_is_run_in_one_go(name):
    rows = matrix(validated(overlaid(read(), read(name) if name else {})), RTX4090)
    for stages in (("kernel",), ("prefill", "decode")):
        runs = [row[1:5] for row in rows if row[0] in stages]
        changes = [run for previous, run in zip([None, *runs], runs, strict=False) if run != previous]
        assert len(changes) == len(set(changes))


def test_what_the_hardware_cannot_run_is_left_out_with_the_reason():
    config = validated(read())
    assert left_out(config, A100) == [{"dtype": "FP8", "reason": hardware.supports(A100, "FP8")}]
    assert left_out(config, RTX4090) == left_out(config, CPU) == []
    assert planned(config, A100)["dtypes"] == ["INT8"]
    assert matrix(config, "V100_cc70_py312_cu129_x86_64") == []


def test_cpu_section_is_laid_over_the_rest():
    config = validated(read())
    plan = planned(config, CPU)
    assert plan["models"] == ["BitNet-tiny"]
    assert plan["dtypes"] == ["INT8", "FP8"]
    assert plan["kernel"] == {"M": [16, 64], "sparsity": config["kernel"]["sparsity"]}
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
    assert ("prefill", "auto", "dense") not in runs
    assert ("kernel", "auto", "2_8") not in runs
    assert ("prefill", "cublaslt", "2_8") in runs
    assert ("kernel", "cublaslt", "2_8") not in runs
    assert ("decode", "onednn", "2_4") in {
        (stage, backend, sparsity) for stage, _, _, backend, sparsity, _ in matrix(config, CPU)
    }


def test_stock_vllm_is_one_row_an_M_and_its_variants_are_planned_beside():
    config = validated(with_change("backends: {dense: [cublaslt, vllm]}\nprefill: {M: [512, 8192]}\ndecode: {M: [64]}"))
    rows = matrix(config, RTX4090)
    mine = [row for row in rows if row[3] not in ("cublaslt", "cusparselt")]
    assert mine == [
        (stage, "BitNet-2B", dtype, "vllm", "dense", M)
        for dtype in ("INT8", "FP8")
        for stage, M in (("prefill", 512), ("prefill", 8192), ("decode", 64))
    ]
    measured = variants(rows, RTX4090)
    assert len(measured) == 2 * (8 + 2 + 4)
    engines = [row[1:5] for row in measured]
    changes = [one for before, one in zip([None, *engines], engines, strict=False) if one != before]
    assert len(changes) == len(set(changes)) == 2 * 8
    asked = plan(config, RTX4090)
    assert asked["points"]["prefill"]["BitNet-2B/INT8/vllm/dense"] == [512, 8192]
    assert asked["variants"]["prefill"]["BitNet-2B/INT8/vllm-piecewise-32/dense"] == [512, 8192]
    assert asked["variants"]["prefill"]["BitNet-2B/INT8/vllm-full-1/dense"] == [512]
    assert "BitNet-2B/INT8/vllm-full-1/dense" not in asked["variants"]["decode"]
    assert plan(validated(read()), RTX4090)["variants"] == {}


def test_stock_vllm_runs_on_cpus_too():
    config = validated(with_change("cpu: {backends: {dense: [onednn, vllm]}}"))
    rows = matrix(config, CPU)
    assert ("prefill", "BitNet-tiny", "FP8", "vllm", "dense", 32) in rows
    assert {row[3] for row in variants(rows, CPU)} == {"vllm-eager"}


def test_torch_runs_in_engines_where_its_product_is_its_own():
    config = validated(overlaid(read(), read("extended.yaml")))
    types = {(stage, dtype) for stage, _, dtype, backend, _, _ in matrix(config, RTX4090) if backend == "torch"}
    assert types == {("kernel", "INT8"), ("kernel", "FP8"), ("prefill", "FP8"), ("decode", "FP8")}


@pytest.mark.parametrize(("key", "section"), [(RTX4090, "backends"), (CPU, "cpu: {backends")])
def test_auto_runs_every_pattern_of_a_stage(key, section):
    own = "reference" if key == CPU else "cusparselt"
    change = f"{section}: {{sparse: [{own}, auto]}}" + "}" * section.count("{")
    rows = matrix(validated(with_change(change)), key)
    runs = {backend: {(*row[:3], *row[4:]) for row in rows if row[3] == backend} for backend in (own, "auto")}
    assert runs["auto"] == {row for row in runs[own] if row[0] != "kernel"}


@pytest.mark.parametrize("key", [RTX4090, CPU])
def test_what_auto_chooses_by_and_among_is_planned(key):
    """Its kernel points are the sparse backend's, and those of dense backends that are not measured beside it."""
    config = validated(read())
    kernels = {(backend, sparsity) for stage, _, _, backend, sparsity, _ in matrix(config, key) if stage == "kernel"}
    found = compared(key, "2_8")
    assert set(found) <= kernels
    assert found == ([("reference", "2_8"), ("onednn", "dense")] if key == CPU else [("cusparselt", "2_8")])
    tables = candidates("results", key, "M", "FP8", "2_8")
    place = f"results/{key}/tuning/M/FP8"
    if key == CPU:
        assert tables == {name: f"{place}/{name}/{sparsity}.json" for name, sparsity in found}
    else:
        searched = {name: f"{place}/{name}/{of}.json" for name, of in (("cusparselt", "2_8"), ("cublaslt", "dense"))}
        assert tables == searched | {"cutlass": None, "torch": None}
        assert "torch" not in candidates("results", key, "M", "INT8", "2_8")


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


def test_schema_is_a_schema_that_describes_and_closes_everything():
    whole = schema()
    Draft202012Validator.check_schema(whole)
    for section in sections(whole):
        if "additionalProperties" in section or section.get("type") == "object":
            assert section["additionalProperties"] is False
            assert "title" in section
            for key, entry in section.get("properties", {}).items():
                assert entry.get("description"), key


def test_schema_knows_the_backends_and_the_hardware_key():
    properties = schema()["properties"]
    for processor, backends in (("gpu", properties["backends"]), ("cpu", properties["cpu"]["properties"]["backends"])):
        for kind in ("dense", "sparse"):
            names = {
                name
                for name, b in BACKENDS.items()
                if b.processor in (processor, "any") and b.sparse == (kind == "sparse")
            }
            assert set(backends["properties"][kind]["items"]["enum"]) == names
    assert properties["hardware"]["pattern"] == f"^(?:auto|{hardware.KEY_PATTERN})$"
    assert properties["hardware"]["items"]["pattern"] == f"^(?:{hardware.KEY_PATTERN})$"
    assert list(properties["cluster"]["properties"]["hardware"]["patternProperties"]) == [f"^{hardware.KEY_PATTERN}$"]


def test_readme_documents_every_key():
    text = (ROOT / "config" / "README.md").read_text()
    keys = list(documented_keys(schema(), schema()["$defs"]))
    assert len(keys) > 40
    assert [key for key in keys if f"| `{key}` |" not in text] == []
