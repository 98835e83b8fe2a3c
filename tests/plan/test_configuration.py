"""Every wrong configuration gets its sentence, every right one the points that were published."""

import copy

import pytest
import yaml
from jsonschema import Draft202012Validator

from configured import CPU, RTX4090, overlaid, read, with_change
from places import ROOT
from slidesparse.errors import ConfigurationError
from slidesparse.machine import naming
from slidesparse.plan.backends import BACKENDS
from slidesparse.plan.matrix import planned, validated
from slidesparse.plan.schema import SCHEMA, checked


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
    assert config["cpu"]["models"] == ["BitNet-small"]
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
        ("share_host: [prefil]", 'share_host[0] is "prefil", but allowed are tune, kernel, prefill, decode, quality;'),
        ("quality: {tokens: 1000}", "quality.tokens is 1000, but it must be a multiple of quality.context, which is"),
        ("cpu: {quality: {context: 7}}", "cpu.quality.tokens is 20480, but it must be a multiple of cpu.quality.co"),
        ("quality: {acceptable: -1}", "quality.acceptable is -1, but must be a number of percent, 0 or more"),
        ("quality: {text: 'hf://datasets/a/b@main/c'}", "quality.text is 'hf://datasets/a/b@main/c', but a text of"),
        ("cpu: {quality: {text: 'hf://a/b'}}", "cpu.quality.text is 'hf://a/b', but a text of a hub is hf://datasets/"),
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
            "decode.M is the number 64, but must be a list of M, such as [64, 128], which may be empty; write [64]",
        ),
        ("tune: {M: []}", "tune.M is an empty list, but must be a list of at least one M"),
        ("tune: {M: [64, 128, 64]}", "tune.M[2] is 64, but tune.M[0] is too: name it once"),
        (
            "prefill: {M: [1536]}",
            "prefill.M[0] is 1536, but an M above prefill.prompt[0] must be a multiple of it, which is 1024, or no",
        ),
        ("cpu: {prefill: {M: [1536]}}", "cpu.prefill.M[0] is 1536, but an M above"),
        ("prefill: {M: [1024, 3072], prompt: [1024, 2048]}", "prefill.M[1] is 3072, but an M above prefill.prompt[1]"),
        (
            "prefill: {prompt: []}",
            "prefill.prompt is an empty list, but must be a list of at least one length, such as [1024, 2048]",
        ),
        ("prefill: {prompt: [1024, 1024]}", "prefill.prompt[1] is 1024, but prefill.prompt[0] is too: name it once"),
        (
            "prefill: {M: [8192], prompt: [8192]}",
            "prefill.prompt[0] is 8192, but BitNet-2B has 4096 positions, and a prompt needs one more than its tokens:"
            " leave it out, or take a model with more (registry.BitNet-2B.positions)",
        ),
        ("prefill: {M: [4096], prompt: [4096]}", "prefill.prompt[0] is 4096, but BitNet-2B has 4096 positions"),
        (
            "cpu: {prefill: {M: [8192], prompt: [1024, 4096]}}",
            "cpu.prefill.prompt[1] is 4096, but BitNet-small has 4096 positions",
        ),
        ("measure: {prefill: {prompt_cap: 512}}", "measure.prefill.prompt_cap (with the value 512) is not a key"),
        ("registry: {BitNet-tiny: {positions: 0}}", "registry.BitNet-tiny.positions is 0, but must be a positive"),
        ("registry: {BitNet-2B-prompt2048: {}}", "registry.BitNet-2B-prompt2048 is not a usable name for a model"),
        ("cpu: {kernel: {M: [0]}}", "cpu.kernel.M[0] is 0, but must be a positive whole number"),
        ("prefill:", "prefill is empty, but must be a section with M, prompt and sparsity"),
        # names
        ("dtypes: [int8]", 'dtypes[0] is "int8", but allowed are INT8, FP8; did you mean INT8?'),
        ("dtypes: [INT8, FP16]", 'dtypes[1] is "FP16", but allowed are INT8, FP8; did you mean FP8?'),
        ("dtypes: []", "dtypes is an empty list, but must be a list with INT8, FP8 or both"),
        (
            "models: [BitNet-3B]",
            'models[0] is "BitNet-3B", but the registry has BitNet-2B, BitNet-2B-synthetic, BitNet-2B-synthetic-16k,',
        ),
        (
            "cpu: {models: [none]}",
            "BitNet-2B-synthetic-16k, BitNet-small, BitNet-tiny",
        ),
        (
            "backends: {dense: [cublas]}",
            'backends.dense[0] is "cublas", but allowed are cublaslt, cutlass, torch, ternary, vllm, auto; did',
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
        ("backends: {dense_on_pruned: [auto]}", "; auto belongs in backends.sparse or in backends.dense"),
        # kernels that auto could choose by
        (
            "{backends: {sparse: [cusparselt, auto]}, kernel: {sparsity: ['2_4', '2_6', '2_10']}}",
            "prefill runs auto/2_8, which takes the fastest kernel measured, but the kernel stage does not measure"
            ' cusparselt/2_8: backends.sparse must have cusparselt, and kernel.sparsity "2_8"',
        ),
        (
            "backends: {dense: [cutlass, auto]}",
            "prefill runs auto/dense, which takes the fastest kernel measured, but the kernel stage does not measure"
            " cublaslt/dense: backends.dense must have cublaslt",
        ),
        ("cpu: {backends: {dense: [auto]}}", "not measure onednn/dense: cpu.backends.dense must have onednn"),
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
            "registry: {BitNet-2B: {source: local, path: ~no-such-user/weights}}",
            'registry.BitNet-2B.path is "~no-such-user/weights", but there is no such user here: write it out',
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


def test_no_advice_repeats_the_value():
    with pytest.raises(ConfigurationError, match='at most 9998, or "2_inf"$'):
        validated(with_change("prefill: {sparsity: ['2_99999998']}"))


def test_unused_keys_of_a_model_are_dropped():
    config = validated(with_change("registry: {BitNet-2B: {source: local, path: weights}}"))
    assert set(config["registry"]["BitNet-2B"]) == {"source", "path", "shape"}


def test_schema_is_a_schema_that_describes_and_closes_everything():
    whole = schema()
    Draft202012Validator.check_schema(whole)
    for section in sections(whole):
        if "additionalProperties" in section or section.get("type") == "object":
            assert section["additionalProperties"] is False
            assert "title" in section
            for key, entry in section.get("properties", {}).items():
                assert entry.get("description"), key


@pytest.mark.parametrize("processor", ["gpu", "cpu"])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_may_be_named_where_it_runs(name, processor):
    one = BACKENDS[name]
    backends = {"sparse" if one.sparse else "dense": [name]}
    config = {"backends": backends} if processor == "gpu" else {"cpu": {"backends": backends}}
    if one.processor in (processor, "any"):
        checked(config)
    else:
        with pytest.raises(ConfigurationError, match=f"backends.*{name}"):
            checked(config)


def test_schema_knows_the_hardware_key():
    properties = schema()["properties"]
    assert properties["hardware"]["pattern"] == f"^(?:auto|{naming.KEY_PATTERN})$"
    assert properties["hardware"]["items"]["pattern"] == f"^(?:{naming.KEY_PATTERN})$"
    assert list(properties["cluster"]["properties"]["hardware"]["patternProperties"]) == [f"^{naming.KEY_PATTERN}$"]


def test_readme_documents_every_key():
    text = (ROOT / "config" / "README.md").read_text()
    keys = list(documented_keys(schema(), schema()["$defs"]))
    assert len(keys) > 40
    assert [key for key in keys if f"| `{key}` |" not in text] == []
