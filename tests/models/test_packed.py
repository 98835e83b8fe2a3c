"""Packed models, as transformers' BitNet integration stores them, give the codes of their BF16 master."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.integrations import bitnet as integration

from bad_inputs import GENERATED, SHAPE
from slidesparse import models
from slidesparse.errors import CheckpointError
from slidesparse.models import checkpoints, safetensors_io
from slidesparse.models.bitnet import LINEAR
from slidesparse.report.sections.overview import pruned_by_position
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.prune import prune, violations
from slidesparse.sparsity.quantize import absmean_scale, ternary
from slidesparse.sparsity.slide import unslide

DOWN = "model.layers.0.mlp.down_proj"
OFFLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
POSITIONS = "pruning goes by position, because the latent weights by whose magnitude it would go are not there"


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """(root, manifest) of the BF16 model. Not to be changed."""
    root = tmp_path_factory.mktemp("master")
    return root, models.fetch("tiny", GENERATED, root)


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def stored(codes, scale, form):
    """[(suffix, dtype, shape, bytes)] of a linear's tensors in a form of storing it."""
    packed = ("U8", integration.pack_weights(codes.clone()))
    weight = packed if form == "packed" else ("BF16", codes.to(torch.bfloat16))
    scale = scale.to(torch.bfloat16).reshape(1)
    return [
        (".weight", weight[0], tuple(weight[1].shape), as_bytes(weight[1])),
        (".weight_scale", "BF16", (1,), as_bytes(scale)),
    ]


def store(master, directory, form="packed", linear_class="autobitlinear", quantization=OFFLINE, change=None):
    """The registry entry of a local model at `directory`: the master in another form, after `change` of its tensors.

    change: called with {name: [dtype, shape, bytes]}.
    """
    root, manifest = master
    shutil.copytree(models.ensure(manifest, root), directory)
    weights, config = directory / "model.safetensors", directory / "config.json"
    header, tensors = safetensors_io.read_header(weights), {}
    for name, tensor in header.tensors.items():
        data = safetensors_io.read(weights, header, name)
        if not LINEAR.fullmatch(name):
            tensors[name] = [tensor.dtype, tensor.shape, data.tobytes()]
            continue
        latent = torch.from_numpy(data).view(torch.bfloat16).view(tensor.shape)
        inverse = absmean_scale(latent)
        scale = torch.tensor(inverse if linear_class == "bitlinear" else 1 / inverse)
        for suffix, *facts in stored(ternary(latent, inverse), scale, form):
            tensors[name.removesuffix(".weight") + suffix] = facts
    if change:
        change(tensors)
    entries = [(name, dtype, shape, lambda data=data: data) for name, (dtype, shape, data) in tensors.items()]
    safetensors_io.write(weights, sorted(entries, key=lambda entry: -safetensors_io.ITEMSIZE[entry[1]]))
    said = json.loads(config.read_text())
    if quantization:
        said["quantization_config"] = quantization | {"linear_class": linear_class}
    config.write_text(json.dumps(said))
    return {"source": "local", "path": str(directory), "shape": SHAPE}


def converted(entry, root, sparsity="dense", dtype="INT8"):
    """(manifest, directory) of the checkpoint that is made of a local model."""
    manifest = checkpoints.convert(models.fetch("packed", entry, root), dtype, sparsity, root, progress=False)
    return manifest, checkpoints.directory(manifest, root)


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize(
    ("form", "linear_class", "quantization"),
    [
        ("packed", "autobitlinear", OFFLINE),
        ("packed", "bitlinear", OFFLINE),
        ("unpacked", "autobitlinear", OFFLINE),
        ("unpacked", "autobitlinear", None),
    ],
)
def test_a_packed_model_has_the_codes_of_its_master(master, tmp_path, form, linear_class, quantization, dtype):
    root, manifest = master
    dense = checkpoints.convert(manifest, dtype, "dense", tmp_path, progress=False)
    entry = store(master, tmp_path / "mine", form, linear_class, quantization)
    made, directory = converted(entry, tmp_path, dtype=dtype)
    source = models.ensure(manifest, root)
    assert made["layers"] == dense["layers"]
    for layer in dense["layers"]:
        name = layer["name"] + ".weight"
        ours, theirs = (
            checkpoints.read_tensor(folder, name) for folder in (directory, checkpoints.directory(dense, tmp_path))
        )
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
        exact = 1 / absmean_scale(checkpoints.read_tensor(source, name))
        scale = checkpoints.read_tensor(directory, name + "_scale")
        assert scale.shape == (layer["N"], 1)
        assert scale.unique().numel() == 1
        assert scale[0].item() == pytest.approx(exact, rel=2**-8)  # the stored scale is of BF16
    assert "bitnet" not in json.loads((directory / "config.json").read_text())["quantization_config"].values()


def test_a_packed_model_computes_what_transformers_computes(master, tmp_path):
    def layer(linear_class):
        kind = {"autobitlinear": integration.AutoBitLinear, "bitlinear": integration.BitLinear}[linear_class]
        return kind(SHAPE["intermediate_size"], SHAPE["hidden_size"], bias=False, dtype=torch.float32)

    for linear_class in ("autobitlinear", "bitlinear"):
        entry = store(master, tmp_path / linear_class / "mine", linear_class=linear_class)
        _, directory = converted(entry, tmp_path / linear_class)
        theirs = layer(linear_class)
        tensors = {
            name: checkpoints.read_tensor(directory.parents[3] / "mine", f"{DOWN}.{name}")
            for name in ("weight", "weight_scale")
        }
        with torch.compiler.set_stance("force_eager"):
            theirs.load_state_dict(tensors)
            product = theirs(127 * torch.eye(SHAPE["intermediate_size"])) / 127  # of scale 1, so exact in 8 bits
        codes = checkpoints.read_tensor(directory, f"{DOWN}.weight")
        scale = checkpoints.read_tensor(directory, f"{DOWN}.weight_scale")
        torch.testing.assert_close(product.t(), codes * scale)


def test_positions_decide_what_is_pruned_and_a_note_says_so_once(master, tmp_path, capfd):
    entry, pattern = store(master, tmp_path / "mine"), Pattern("2_8")
    dense, directory = converted(entry, tmp_path)
    assert POSITIONS not in capfd.readouterr().err
    pruned, slid = converted(entry, tmp_path, "2_8")
    said = capfd.readouterr().err
    assert said.count(POSITIONS) == 1
    assert "warning" not in said
    assert pruned["changed"] > 0
    for layer in pruned["layers"]:
        codes = checkpoints.read_tensor(directory, layer["name"] + ".weight")
        expected, changed = prune(codes, torch.ones_like(codes), pattern)
        kept = unslide(checkpoints.read_tensor(slid, layer["name"] + ".weight"), pattern, layer["K"])
        assert torch.equal(kept, expected)
        assert (violations(kept, pattern), layer["changed"]) == (0, changed)
    assert pruned_by_position(SimpleNamespace(checkpoints=[dense])) == []
    (sentence,) = pruned_by_position(SimpleNamespace(checkpoints=[dense, pruned]))
    assert str(sentence).startswith("packed: the weights are stored as -1, 0 and 1, so pruning goes by position")


def put(name, dtype=None, shape=None, data=None):
    """A change of a tensor: None leaves what it has."""

    def change(tensors):
        old = tensors[name]
        tensors[name] = [dtype or old[0], shape or old[1], data or old[2]]

    return change


def latents(tensors):
    values = np.linspace(-1, 1, 64 * 96, dtype=np.float32)
    tensors[f"{DOWN}.weight"] = ["F32", (64, 96), values.tobytes()]


ONE, NAN = torch.ones(64), torch.full((1,), float("nan"))
WRONG = {
    "no scale": (lambda tensors: tensors.pop(f"{DOWN}.weight_scale"), rf"{DOWN}\.weight is packed, but .*_scale"),
    "a scale of its own for each row": (
        put(f"{DOWN}.weight_scale", "F32", (64,), as_bytes(ONE)),
        r"weight_scale has the shape \[64\], but a packed matrix has one scale",
    ),
    "a scale that is no number": (put(f"{DOWN}.weight_scale", "F32", (1,), as_bytes(NAN)), "is not a positive number"),
    "a scale of zero": (put(f"{DOWN}.weight_scale", "F32", (1,), bytes(4)), "is not a positive number"),
    "a scale of integers": (put(f"{DOWN}.weight_scale", "I32", (1,), bytes(4)), "weight_scale is I32"),
    "four values where three are": (
        put(f"{DOWN}.weight", data=bytes([0b01110110]) * 16 * 96),
        f"{DOWN}.weight: .* two bits that are 3",
    ),
    "another number of rows": (
        put(f"{DOWN}.weight", shape=(32, 96), data=bytes([0b01010110]) * 32 * 96),
        r"weight holds \[128, 96\], packed four to a byte, but .* has \[64, 96\]",
    ),
    "all zero": (put(f"{DOWN}.weight", data=bytes([0b01010101]) * 16 * 96), f"{DOWN}.weight: all its weights are zero"),
    "latent weights beside a scale": (latents, f"{DOWN}.weight: beside a weight_scale .* -1, 0 and 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_packed_model_that_is_wrong_is_named_in_a_sentence(master, tmp_path, case):
    change, cause = WRONG[case]
    with pytest.raises(CheckpointError, match=cause) as error:
        converted(store(master, tmp_path / "mine", change=change), tmp_path)
    assert "\n" not in str(error.value)


def test_a_packed_matrix_of_which_nothing_tells_the_scale_is_refused_at_fetch(master, tmp_path):
    entry = store(master, tmp_path / "mine", quantization=None)
    with pytest.raises(CheckpointError, match="is packed, but config.json has no quantization_config that says"):
        models.fetch("packed", entry, tmp_path)


QUANTIZED = {
    "of another method": ({"quant_method": "gptq", "bits": 4}, "weights quantised by 'gptq'"),
    "of ours": ({"quant_method": "compressed-tensors"}, "weights quantised by 'compressed-tensors'"),
    "no section": ("bitnet", "quantization_config that is no section"),
    "another class": (OFFLINE | {"linear_class": "triton"}, "linear_class 'triton'"),
    "another mode": (OFFLINE | {"quantization_mode": "half"}, "quantization_mode 'half'"),
    "with norms of its own": (OFFLINE | {"use_rms_norm": True}, "use_rms_norm"),
    "without some linears": (OFFLINE | {"modules_to_not_convert": ["lm_head", "model.layers.0"]}, "'model.layers.0'"),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_what_cannot_be_read_is_told_from_config_json(master, tmp_path, case):
    quantization, cause = QUANTIZED[case]
    root, manifest = master
    shutil.copytree(models.ensure(manifest, root), tmp_path / "mine")
    config = tmp_path / "mine" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": quantization}))
    for weights in (tmp_path / "mine").glob("*.safetensors"):
        weights.write_bytes(b"not looked at")
    with pytest.raises(CheckpointError, match=cause):
        models.fetch("mine", {"source": "local", "path": str(tmp_path / "mine"), "shape": SHAPE}, tmp_path)


def test_a_model_that_is_quantised_while_it_runs_is_latent(master, tmp_path):
    root, manifest = master
    shutil.copytree(models.ensure(manifest, root), tmp_path / "mine")
    config = tmp_path / "mine" / "config.json"
    online = {"quantization_config": OFFLINE | {"quantization_mode": "online", "modules_to_not_convert": ["lm_head"]}}
    config.write_text(json.dumps(json.loads(config.read_text()) | online))
    made, _ = converted({"source": "local", "path": str(tmp_path / "mine"), "shape": SHAPE}, tmp_path, "2_8")
    assert made["layers"] == checkpoints.convert(manifest, "INT8", "2_8", tmp_path, progress=False)["layers"]
