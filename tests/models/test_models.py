"""Models: shapes, checkpoints made from a seed, local directories, and weights that come back as they were."""

import json
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from places import PROGRAMS
from slidesparse import models
from slidesparse.errors import CheckpointError, ConfigurationError
from slidesparse.files import OWN, sha256_file
from slidesparse.kernel.products import ZERO_RATE
from slidesparse.models import bitnet, contents, generate, safetensors_io
from slidesparse.sparsity.quantize import absmean_scale, ternary
from tiny import ENTRY
from tiny import SHAPE as TINY

BITNET_2B = {
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 30,
    "num_attention_heads": 20,
    "num_key_value_heads": 5,
    "vocab_size": 128256,
}
SMALLEST = {"source": "generated", "seed": 7, "shape": TINY | {"num_hidden_layers": 1, "vocab_size": 258}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Manifest and root of BitNet-tiny as configured."""
    root = tmp_path_factory.mktemp("resources")
    return models.fetch("BitNet-tiny", ENTRY, root), root


@pytest.fixture
def smallest(tmp_path):
    """Manifest, root and directory of a model that a test may damage."""
    root = tmp_path / "resources"
    return models.fetch("small", SMALLEST, root), root, root / "models" / "small"


def copy_as_local(directory, target):
    """A local model with its registry entry, copied from a generated one."""
    shutil.copytree(directory, target)
    return {"source": "local", "path": str(target), "shape": SMALLEST["shape"]}


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_linears_of_bitnet_2b():
    shape = models.describe("BitNet-2B", {"source": "hub", "shape": BITNET_2B})
    assert shape.pop("model") == "BitNet-2B"
    assert {(linear["name"], linear["N"], linear["K"]) for linear in shape.pop("linears")} == {
        ("qkv", 3840, 2560),
        ("o", 2560, 2560),
        ("gate_up", 13824, 2560),
        ("down", 2560, 6912),
    }
    assert shape == BITNET_2B


def test_describing_a_model_loads_nothing_heavy():
    code = (
        "import sys; from slidesparse import models; models.describe('x', {'shape': %r});"
        "heavy = {'numpy', 'torch', 'huggingface_hub', 'transformers', 'safetensors'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code % TINY], check=True, env={"PYTHONPATH": str(PROGRAMS.parent)})


def test_the_generated_bytes_never_change(tiny):
    manifest, root = tiny
    assert manifest["schema"] == 1
    assert manifest["model"] == "BitNet-tiny"
    assert manifest["source"] == {"kind": "generated", "generator": 2, "seed": 20260305, **TINY}
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == {
        "config.json": "6e8c7b4f9a7002758c26a96d2f75097b6d7801bd7306fa4a15f9cbda198a83a7",
        "generation_config.json": "4b56013010bba13a0dbb2aad54919ffd87f80e9ac8f28560d96bede8f0e94f8c",
        "model.safetensors": "11c2810b15965c1051c39107a1050e1a5638c32a024a5a0a7514ca82711b8a20",
        "tokenizer.json": "ffe7bde26c8bb7a91b8eb8140bff1a670e195ff01952a37b9217f7980603e4b3",
        "tokenizer_config.json": "d1aa6490cec05f518926f34fd5b4d4b9fee228b3141d548f054719a57c79a253",
    }
    directory = root / "models" / "BitNet-tiny"
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == {
        item.name: sha256_file(item) for item in directory.iterdir() if item.name != OWN
    }


def test_every_bfloat16_value_is_the_nearest_one():
    for kind, (offset, exponent) in generate.VALUES.items():
        k = np.arange(-1020, 1021)
        exact = offset + (k * (261 + abs(k)) if kind == "linear" else k) / 2.0**exponent
        nearest = torch.from_numpy(exact).to(torch.float32).to(torch.bfloat16)
        assert generate.bfloat16_table(kind).tolist() == nearest.view(torch.uint16).tolist()


def test_embeddings_are_normal_like():
    k = torch.from_numpy(generate.values(1, 0, (1 << 18,), "embedding")).view(torch.bfloat16).double() * 2**11
    assert abs(k.mean()) < 2
    assert k.std() == pytest.approx(209, rel=0.01)
    assert ((k / k.std()) ** 4).mean() == pytest.approx(3, abs=0.25)  # 3 for a normal, 2.85 for eight summed bytes


def test_linears_have_the_ternary_zeros_of_the_trained_model():
    weight = torch.from_numpy(generate.values(1, 0, (512, 512), "linear")).view(torch.bfloat16).float()
    codes = ternary(weight, absmean_scale(weight))
    assert (codes == 0).float().mean() == pytest.approx(ZERO_RATE, abs=0.005)
    assert (codes.sum() / codes.numel()).abs() < 0.005


def test_tensors_of_the_full_model_are_those_of_the_released_checkpoint():
    tensors = {name: shape for name, shape, _ in bitnet.tensors(BITNET_2B)}
    assert len(tensors) == 332
    assert tensors["model.embed_tokens.weight"] == (128256, 2560)
    assert tensors["model.layers.29.self_attn.k_proj.weight"] == (640, 2560)
    assert tensors["model.layers.0.mlp.ffn_sub_norm.weight"] == (6912,)
    linears = [shape for name, shape in tensors.items() if name.endswith("_proj.weight")]
    assert sum(rows * columns for rows, columns in linears) == 2_084_044_800


def test_transformers_loads_it_as_bitnet_and_the_ternary_logits_spread(tiny):
    manifest, root = tiny
    directory = models.ensure(manifest, root)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    assert type(model) is transformers.BitNetForCausalLM
    config = model.config
    assert (config.hidden_act, config.tie_word_embeddings, config.rms_norm_eps) == ("relu2", True, 1e-5)
    assert (config.rope_parameters["rope_theta"], config.max_position_embeddings) == (500000.0, 4096)
    assert {name: getattr(config, name) for name in TINY} == TINY
    assert model.dtype == torch.bfloat16
    stored = safetensors_io.read_header(directory / "model.safetensors").tensors
    assert set(stored) == set(model.state_dict()) - {"lm_head.weight"}

    model = model.float()
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            scale = parameter.data.abs().mean().clamp(min=1e-5)
            parameter.data = (parameter.data / scale).round().clamp(-1, 1) * scale
        elif "norm" in name:
            assert parameter.min() >= 0.5
            assert parameter.max() <= 1.5
            assert parameter.std() > 0.05
    tokens = torch.randint(TINY["vocab_size"], (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(tokens).logits
    assert logits.std(dim=-1).mean() >= 1


def test_the_tokenizer_round_trips_every_byte(tiny):
    _, root = tiny
    tokenizer = transformers.AutoTokenizer.from_pretrained(root / "models" / "BitNet-tiny")
    for text in ("Hello, world!\n\t ", "ternär 三元 🙂", "".join(map(chr, range(1, 0x250)))):
        ids = tokenizer(text)["input_ids"]
        assert ids == list(text.encode())
        assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (256, 257)
    assert tokenizer.decode([256, 72, 105, 257], skip_special_tokens=True) == "Hi"


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path):
    entry = SMALLEST | {"shape": SMALLEST["shape"] | {"vocab_size": 257}}
    with pytest.raises(ConfigurationError, match="at least 258"):
        models.fetch("small", entry, tmp_path)
    assert not (tmp_path / "models" / "small").exists()


def test_seed_and_shape_decide_the_weights_and_a_changed_entry_replaces_them(smallest):
    manifest, root, directory = smallest
    inode = (directory / "model.safetensors").stat().st_ino
    assert models.fetch("small", SMALLEST, root) == manifest
    assert (directory / "model.safetensors").stat().st_ino == inode
    other = models.fetch("small", SMALLEST | {"seed": 8}, root)
    assert other["files"]["model.safetensors"]["sha256"] != manifest["files"]["model.safetensors"]["sha256"]
    assert models.ensure(manifest, root) == directory
    assert sha256_file(directory / "model.safetensors") == manifest["files"]["model.safetensors"]["sha256"]
    assert sorted(item.name for item in directory.iterdir()) == sorted([OWN, *manifest["files"]])


@pytest.mark.parametrize("gone", ["directory", "file", "everything"])
def test_ensure_makes_again_what_is_gone(smallest, gone):
    manifest, root, directory = smallest
    if gone == "file":
        (directory / "model.safetensors").unlink()
    else:
        shutil.rmtree(directory if gone == "directory" else root)
    assert models.ensure(manifest, root) == directory
    assert {name: sha256_file(directory / name) for name in manifest["files"]} == {
        name: facts["sha256"] for name, facts in manifest["files"].items()
    }


def test_ensure_names_and_removes_a_damaged_file_and_heals_at_the_next_call(smallest):
    manifest, root, directory = smallest
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors was damaged .* deleted"):
        models.ensure(manifest, root)
    assert not path.exists()
    assert models.ensure(manifest, root) == directory
    assert sha256_file(path) == manifest["files"]["model.safetensors"]["sha256"]


def test_ensure_hashes_a_file_once(smallest, monkeypatch):
    manifest, root, directory = smallest
    hashed = []
    monkeypatch.setattr(
        "slidesparse.models.verified.sha256_file", lambda path: hashed.append(path.name) or sha256_file(path)
    )
    models.ensure(manifest, root)
    assert hashed == []
    (directory / "config.json").touch()
    models.ensure(manifest, root)
    assert hashed == ["config.json"]
    models.ensure(manifest, root)
    assert hashed == ["config.json"]


def test_a_manifest_that_the_generator_no_longer_reproduces_is_refused(smallest):
    manifest, root, directory = smallest
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    shutil.rmtree(directory)
    with pytest.raises(CheckpointError, match=r"model\.safetensors, generated again, is not what"):
        models.ensure(manifest, root)
    assert not directory.exists()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"files": {}}, "lists no files"),
        ({"files": {"../x.safetensors": {"size": 1, "sha256": "0" * 64}}}, "no plain file name"),
        ({"files": {"x.safetensors": {"size": 1, "sha256": "short"}}}, "lacks the size or sha256"),
        ({"source": None}, "lacks its model, source or files"),
    ],
)
def test_ensure_refuses_a_damaged_manifest(smallest, change, cause):
    manifest, root, _ = smallest
    with pytest.raises(CheckpointError, match=cause):
        models.ensure(manifest | change, root)


def test_verify_checks_any_directory_against_a_file_list(smallest):
    manifest, _, directory = smallest
    models.verify(directory, manifest["files"])
    (directory / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        models.verify(directory, manifest["files"])
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        models.verify(directory, manifest["files"])


def test_a_local_model_is_checked_where_it_is(smallest, tmp_path):
    manifest, _, directory = smallest
    entry = copy_as_local(directory, tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("not needed")
    local = models.fetch("mine", entry, tmp_path / "other")
    assert local["source"] == {"kind": "local", "path": str(tmp_path / "mine")}
    assert local["files"] == manifest["files"]
    assert models.ensure(local, tmp_path / "other") == tmp_path / "mine"
    assert not (tmp_path / "other" / "models" / "mine").exists()

    weights = tmp_path / "mine" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has changed"):
        models.ensure(local, tmp_path / "other")
    assert weights.exists()
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        models.ensure(local, tmp_path / "other")


def pickled(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def pointer(directory):
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def index(directory, *shards):
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(shards))}))


def sharded(directory, *names):
    """Split the weights into two files of `names`, of which the first has one tensor, with their index."""
    whole = directory / "model.safetensors"
    header = safetensors_io.read_header(whole)
    tensors = [
        (name, tensor.dtype, tensor.shape, lambda name=name: safetensors_io.read(whole, header, name))
        for name, tensor in header.tensors.items()
    ]
    parts = {names[0]: tensors[:1], names[1]: tensors[1:]}
    table = {name: file for file, entries in parts.items() for name, *_ in entries}
    written = {file: directory / f"{file}.new" for file in parts}
    for file, entries in parts.items():
        safetensors_io.write(written[file], entries)
    for file, path in written.items():
        path.rename(directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return table


def without_a_head(directory):
    edit_config(directory, tie_word_embeddings=False)


def index_without_a_head(directory):
    sharded(directory, *SHARDS)
    without_a_head(directory)
    for shard in SHARDS:
        (directory / shard).write_bytes(b"not looked at")


def marked(encoding):
    def mark(directory):
        path = directory / "config.json"
        path.write_text(path.read_text(), encoding=encoding)

    return mark


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]

BROKEN = {
    "no directory": (shutil.rmtree, "cannot be read"),
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config not JSON": (lambda d: (d / "config.json").write_text("{"), "config.json is not JSON"),
    "config a list": (lambda d: (d / "config.json").write_text("[]"), "no model's config.json"),
    "another architecture": (
        lambda d: edit_config(d, model_type="llama", architectures=["LlamaForCausalLM"]),
        "'llama' model, but only BitNet",
    ),
    "another shape": (lambda d: edit_config(d, num_hidden_layers=24), "num_hidden_layers 24, but the registry says 1"),
    "another activation": (lambda d: edit_config(d, hidden_act="silu"), "hidden_act 'silu', but BitNet's is 'relu2'"),
    "biases": (lambda d: edit_config(d, attention_bias=True), "attention_bias True, but linears with a bias"),
    "no head size": (lambda d: edit_config(d, head_dim=None), "head_dim null: remove it, or write 64"),
    "no head": (without_a_head, "lacks the tensor lm_head.weight, and config.json does not tie it to the embedding"),
    "an index without a head": (index_without_a_head, r"index\.json lacks the tensor lm_head\.weight, and"),
    "a byte order mark": (marked("utf-8-sig"), "begins with a byte order mark, of UTF-8; save it .*: correct it"),
    "another encoding": (marked("utf-16"), "begins with a byte order mark, of UTF-16"),
    "a pointer instead of its configuration": (
        lambda d: (d / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "config.json is not JSON .*pointer of git LFS .*git lfs pull",
    ),
    "another head size": (lambda d: edit_config(d, head_dim=128), "head_dim 128, but the registry says 64"),
    "pickled weights": (pickled, "only pickled weights"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no weights"),
    "a pointer instead of weights": (
        pointer,
        "not a valid safetensors file but a pointer of git LFS",
    ),
    "a shard missing": (
        lambda d: index(d, "model.safetensors", "model-2.safetensors"),
        "model-2.safetensors, but there",
    ),
    "a shard outside": (lambda d: index(d, "../model.safetensors"), "outside the model's directory"),
    "an absolute shard": (lambda d: index(d, "/etc/x.safetensors"), "outside the model's directory"),
    "no index": (lambda d: (d / "model.safetensors.index.json").write_text("[]"), "not the index"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_local_directory_that_cannot_serve_is_named_with_the_cause(smallest, tmp_path, case):
    breaking, cause = BROKEN[case]
    entry = copy_as_local(smallest[2], tmp_path / "mine")
    breaking(tmp_path / "mine")
    with pytest.raises(CheckpointError, match=cause) as error:
        models.fetch("mine", entry, tmp_path / "other")
    assert "delete" not in str(error.value)


@pytest.mark.parametrize(("hidden", "size"), [(66, 33), (640, 320)])
def test_heads_that_no_attention_runs_are_refused_before_anything_is_made(tmp_path, hidden, size):
    shape = SMALLEST["shape"] | {"hidden_size": hidden, "num_attention_heads": 2}
    with pytest.raises(ConfigurationError, match=f"heads of {size} channels"):
        models.fetch("small", SMALLEST | {"shape": shape}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [SHARDS, ["a.safetensors", "consolidated.safetensors"]])
def test_the_index_decides_which_weights_are_the_models(smallest, tmp_path, names):
    entry = copy_as_local(smallest[2], tmp_path / "mine")
    sharded(tmp_path / "mine", *names)
    for other in ("model.safetensors", "model-00003-of-00003.safetensors", "consolidated.00.safetensors"):
        (tmp_path / "mine" / other).write_bytes(b"of another form")
    manifest = models.fetch("mine", entry, tmp_path / "other")
    assert sorted(name for name in manifest["files"] if name.endswith(".safetensors")) == sorted(names)


def test_a_model_with_an_output_head_of_its_own_is_taken(smallest, tmp_path):
    entry, weights = copy_as_local(smallest[2], tmp_path / "mine"), tmp_path / "mine" / "model.safetensors"
    header, old = safetensors_io.read_header(weights), weights.rename(tmp_path / "old")
    tensors = {"lm_head.weight": "model.embed_tokens.weight"} | {name: name for name in header.tensors}
    entries = [
        (name, header.tensors[of].dtype, header.tensors[of].shape, lambda of=of: safetensors_io.read(old, header, of))
        for name, of in tensors.items()
    ]
    safetensors_io.write(weights, entries)
    without_a_head(tmp_path / "mine")
    assert models.fetch("mine", entry, tmp_path / "other")["files"]


def test_the_programs_write_shape_and_manifest(tmp_path):
    common = ["--model", "small", "--entry", json.dumps(SMALLEST), "--output"]
    for program, output, more in [
        ("describe_model.py", "shape.json", []),
        ("fetch_model.py", "manifest.json", ["--resources", str(tmp_path / "resources")]),
    ]:
        subprocess.run(
            [sys.executable, PROGRAMS / program, *common, tmp_path / output, *more],
            check=True,
            env={"PYTHONPATH": str(PROGRAMS.parent)},
        )
    assert json.loads((tmp_path / "shape.json").read_text()) == models.describe("small", SMALLEST)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == models.fetch("small", SMALLEST, tmp_path / "resources")


def test_a_disk_that_fills_up_leaves_nothing_visible(tmp_path):
    command = [sys.executable, PROGRAMS / "fetch_model.py", "--model", "small", "--entry", json.dumps(SMALLEST)]
    done = subprocess.run(
        [*command, "--output", tmp_path / "manifest.json", "--resources", tmp_path / "resources"],
        env={"PYTHONPATH": str(PROGRAMS.parent)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "model small cannot be read or written" in done.stderr
    assert not (tmp_path / "resources" / "models" / "small").exists()
    assert not list(tmp_path.rglob("*.safetensors*"))
    models.fetch("small", SMALLEST, tmp_path / "resources")


def test_a_program_ends_with_one_sentence(tmp_path):
    entry = {"source": "local", "path": str(tmp_path / "nowhere"), "shape": TINY}
    arguments = ["--model", "mine", "--entry", json.dumps(entry), "--output", tmp_path / "manifest.json"]
    done = subprocess.run(
        [sys.executable, PROGRAMS / "fetch_model.py", *arguments, "--resources", tmp_path / "resources"],
        env={"PYTHONPATH": str(PROGRAMS.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fetch_model.py: model mine: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "consolidated.safetensors", "original/model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "adapter_model.safetensors", "optimizer.safetensors"], ["model.safetensors"]),
        ([*SHARDS, "model.safetensors", "model.safetensors.index.json"], SHARDS),
        ([*SHARDS, "consolidated.00.safetensors", "model.safetensors.index.json"], SHARDS),
        (SHARDS, SHARDS),
        ([*SHARDS, "model.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["a.safetensors", "b.safetensors", "model.safetensors.index.json"], ["a.safetensors", "b.safetensors"]),
    ],
)
def test_one_form_of_the_weights_is_wanted(names, weights):
    found = contents.wanted(["config.json", *names], "a repository")
    assert [name for name in found if name.endswith(".safetensors")] == weights
