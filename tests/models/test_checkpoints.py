"""Converting a model: what is written, that it appears whole or not at all, and that it can be made again."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from slidesparse import models
from slidesparse.errors import CheckpointError
from slidesparse.models import checkpoints, safetensors_io
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.prune import prune, violations
from slidesparse.sparsity.quantize import absmean_scale, store_as, ternary
from slidesparse.sparsity.slide import unslide
from tiny import ENTRY

DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("resources")


@pytest.fixture(scope="module")
def model(root):
    return models.fetch("BitNet-tiny", ENTRY, root, root / "models.lock.json")


def convert(model, dtype, sparsity, root):
    return checkpoints.convert(model, dtype, sparsity, root, progress=False)


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize("sparsity", ["dense", "2_4", "2_6", "2_8", "2_10", "2_16"])
def test_every_linear_is_the_models_own(root, model, dtype, sparsity):
    manifest = convert(model, dtype, sparsity, root)
    directory, source = checkpoints.directory(manifest, root), models.ensure(model, root)
    pattern = Pattern(sparsity)
    total = 0
    for layer in manifest["layers"]:
        name = layer["name"] + ".weight"
        latent = checkpoints.read_tensor(source, name)
        scale = absmean_scale(latent)
        expected, changed = prune(ternary(latent, scale), latent, pattern)
        stored = checkpoints.read_tensor(directory, name)
        assert stored.shape == (layer["N"], pattern.K_slid(layer["K"])) == (layer["N"], layer["K_slid"])
        codes = unslide(stored.view(torch.int8), pattern, layer["K"])
        assert torch.equal(codes, store_as(expected, dtype).view(torch.int8))
        assert violations(codes, pattern) == 0
        scales = checkpoints.read_tensor(directory, name + "_scale")
        assert scales.shape == (layer["N"], 1) and scales.dtype == torch.float32
        assert torch.equal(scales, torch.full_like(scales, 1 / scale))
        assert layer["changed"] == changed and (changed == 0) == pattern.dense
        total += changed
    assert len(manifest["layers"]) == 14
    assert manifest["changed"] == total
    for kept in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.ffn_sub_norm.weight"):
        assert torch.equal(checkpoints.read_tensor(directory, kept), checkpoints.read_tensor(source, kept))


def test_config_says_all_that_a_reader_needs(root, model):
    config = json.loads((checkpoints.directory(convert(model, "FP8", "2_8", root), root) / "config.json").read_text())
    quantization = config["quantization_config"]
    group = quantization["config_groups"]["group_0"]
    assert quantization["quant_method"] == "compressed-tensors" and quantization["ignore"] == ["lm_head"]
    assert group["weights"]["strategy"] == "channel" and group["weights"]["type"] == "float"
    assert group["input_activations"]["strategy"] == "token" and group["input_activations"]["dynamic"]
    assert quantization["slidesparse"] == {
        "version": checkpoints.CONVERTER,
        "sparsity": "2_8",
        "Z": 2,
        "L": 8,
        "window": 4,
        "window_order": "even-odd",
        "alignment": 128,
        "K_slid": {"256": 384, "688": 1152},
    }
    dense = json.loads((checkpoints.directory(convert(model, "INT8", "dense", root), root) / "config.json").read_text())
    assert "slidesparse" not in dense["quantization_config"]


def test_lost_weights_are_made_again_to_the_same_bytes(root, model):
    manifest = convert(model, "INT8", "2_8", root)
    directory = checkpoints.directory(manifest, root)
    weights = directory / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    for item in directory.iterdir():
        item.unlink()
    directory.rmdir()
    assert checkpoints.ensure(manifest, root) == directory
    assert weights.read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "changed", "truncated"])
def test_a_damaged_checkpoint_is_made_again(root, model, damage, capsys):
    manifest = convert(model, "INT8", "2_4", root)
    weights = checkpoints.directory(manifest, root) / "model.safetensors"
    content = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(content[:-1] + (b"" if damage == "truncated" else bytes([content[-1] ^ 1])))
    checkpoints.ensure(manifest, root)
    assert weights.read_bytes() == content
    assert "model.safetensors" in capsys.readouterr().err


def test_another_recipe_is_refused(root, model):
    manifest = convert(model, "INT8", "2_10", root)
    manifest["files"]["model.safetensors"] = manifest["files"]["model.safetensors"] | {"sha256": "0" * 64}
    with pytest.raises(CheckpointError, match="gave other bytes"):
        checkpoints.ensure(manifest, root)
    manifest["converter"] = 0
    with pytest.raises(CheckpointError, match="converter 0"):
        checkpoints.ensure(manifest, root)


@pytest.mark.parametrize(
    ("name", "stored", "shape", "data", "cause"),
    [
        (f"{DOWN}.weight", "F32", (4, 8), torch.full((4, 8), float("nan")), "NaN"),
        (f"{DOWN}.weight", "F32", (32,), torch.ones(32), "not a matrix"),
        (f"{DOWN}.weight", "I8", (4, 8), torch.ones(4, 8, dtype=torch.int8), "not a matrix"),
    ],
)
def test_a_damaged_model_leaves_nothing(tmp_path, name, stored, shape, data, cause):
    source = tmp_path / "source"
    source.mkdir()
    safetensors_io.write(source / "model.safetensors", [(name, stored, shape, lambda: data.numpy())])
    with pytest.raises(CheckpointError, match=cause):
        weights = [source / "model.safetensors"]
        checkpoints._convert_weights(weights, tmp_path / "out.safetensors", "INT8", Pattern("2_8"), progress=False)
    assert [item.name for item in tmp_path.iterdir()] == ["source"]


def test_a_killed_conversion_leaves_no_visible_checkpoint(tmp_path, root, model):
    """Killed while its weights are being written; the next conversion clears up and succeeds."""
    program = (
        "import json, os, signal, sys\n"
        "from slidesparse.models import checkpoints\n"
        "convert = checkpoints._convert\n"
        "def killed(read, name, *rest):\n"
        "    if name.startswith('model.layers.1'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return convert(read, name, *rest)\n"
        "checkpoints._convert = killed\n"
        "checkpoints.convert(json.loads(sys.argv[1]), 'INT8', '2_8', sys.argv[2], progress=False)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(model), str(tmp_path)]
    assert subprocess.run(command, env=os.environ).returncode == -signal.SIGKILL
    parent = tmp_path / "checkpoints" / "BitNet-tiny" / "INT8"
    assert not (parent / "2_8").exists()
    manifest = convert(model, "INT8", "2_8", tmp_path)
    assert manifest == convert(model, "INT8", "2_8", root)
    assert sorted(item.name for item in parent.iterdir() if item.is_dir()) == ["2_8"]
