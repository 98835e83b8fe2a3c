"""Whatever is wrong with a model, a checkpoint or what a hub sends, a user reads one sentence that names it."""

import json
import shutil

import numpy as np
import pytest

from bad_inputs import GENERATED, SHA, SHAPE, Place, refused
from local_hub import Hub, serving
from slidesparse import errors, models
from slidesparse.files import sha256_file
from slidesparse.models import checkpoints, safetensors_io

LINEAR, NORM = "model.layers.0.mlp.down_proj.weight", "model.norm.weight"
REPOSITORY = "owner/bitnet"
PATH = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a generated model, its manifest, and a dense and a slid checkpoint. Not to be changed."""
    root = tmp_path_factory.mktemp("made")
    manifest = models.fetch("tiny", GENERATED, root)
    for sparsity in ("dense", "2_8"):
        checkpoints.convert(manifest, "INT8", sparsity, root, progress=False)
    return root


ALL_ZERO, TERNARY = "all its weights are zero", "its weights have one magnitude, as if they were ternary already"


class Resources(Place):
    """A folder with a model and its checkpoints."""

    def __init__(self, directory, made):
        super().__init__(directory)
        self.root = directory / "resources"
        shutil.copytree(made, self.root)
        self.model = self.root / "models" / "tiny"
        self.weights = self.model / "model.safetensors"

    def local(self):
        """Fetch the folder of the model as a local one, and convert it."""
        entry = {"source": "local", "path": str(self.model), "shape": SHAPE}
        manifest = models.fetch("mine", entry, self.root)
        return checkpoints.convert(manifest, "INT8", "2_8", self.root, progress=False)

    def rewrite(self, change, path=None):
        """Write a safetensors file again after `change`(tensors {name: [dtype, shape, bytes]})."""
        path = path or self.weights
        header = safetensors_io.read_header(path)
        tensors = {
            name: [tensor.dtype, tensor.shape, safetensors_io.read(path, header, name).tobytes()]
            for name, tensor in header.tensors.items()
        }
        change(tensors)
        entries = [(name, dtype, shape, lambda data=data: data) for name, (dtype, shape, data) in tensors.items()]
        safetensors_io.write(path, sorted(entries, key=lambda entry: -safetensors_io.ITEMSIZE[entry[1]]))

    def checkpoint(self, **change):
        """Use the slid checkpoint by its manifest after `change` of it."""
        manifest = json.loads((self.root / "checkpoints/tiny/INT8/2_8/manifest.json").read_text()) | change
        checkpoints.ensure(manifest, self.root)

    def own_checkpoint(self, change):
        """Use the slid checkpoint after `change` of its weights, to which its manifest has been made to fit."""
        path = self.root / "checkpoints/tiny/INT8/2_8/model.safetensors"
        self.rewrite(change, path)
        manifest = json.loads(path.with_name("manifest.json").read_text())
        manifest["files"][path.name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
        checkpoints.ensure(manifest, self.root)

    def manifest(self, **change):
        """Use the model by its manifest after `change` of it."""
        models.ensure(models.fetch("tiny", GENERATED, self.root) | change, self.root)

    def hub(self, prepare, **change):
        """Fetch a model from a hub that `prepare`(hub, files) has set up."""
        from huggingface_hub import constants

        hub = Hub()
        files = {item.name: item.read_bytes() for item in self.model.iterdir()}
        prepare(hub, files)
        entry = {"source": "hub", "repository": REPOSITORY, "revision": "main", "shape": SHAPE} | change
        with serving(hub) as address, pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", address)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + PATH)
            patch.setattr(constants, "HF_HUB_CACHE", str(self.directory / "cache"))
            patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
            patch.setattr(models.hub, "PAUSE_S", 0.0)
            models.fetch("ours", entry, self.directory / "hub", self.directory / "models.lock.json")


@pytest.fixture
def place(tmp_path, made):
    return Resources(tmp_path, made)


def published(**attributes):
    """A hub that has the model, and misbehaves as `attributes` say."""

    def prepare(hub, files):
        hub.add(REPOSITORY, files)
        for name, value in attributes.items():
            setattr(hub, name, value)

    return prepare


def tampering(hub, files):
    hub.add(REPOSITORY, files)
    hub.served["tokenizer.json"] = bytes([files["tokenizer.json"][0] ^ 1]) + files["tokenizer.json"][1:]


def without(*names):
    def prepare(hub, files):
        hub.add(REPOSITORY, {name: data for name, data in files.items() if name not in names} | {"w.bin": b"x"})

    return prepare


def not_a_number(name):
    def change(tensors):
        dtype, _, data = tensors[name]
        nan = b"\xff\x7f" if dtype == "BF16" else b"\0\0\xc0\x7f"
        tensors[name][2] = nan + data[len(nan) :]

    return change


def reshaped(name, shape):
    def change(tensors):
        dtype = tensors[name][0]
        tensors[name][1:] = shape, bytes(int(np.prod(shape)) * safetensors_io.ITEMSIZE[dtype])

    return change


def header(table):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + b"1234"


def tensor(dtype="I8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def weights(content):
    return lambda place: (place.weights.write_bytes(content), place.local())


def model(change):
    return lambda place: (change(place), place.local())


def second_shard(place):
    shutil.copy(place.weights, place.model / "other.safetensors")


Checkpoint, Download = errors.CheckpointError, errors.DownloadError
FILES = {"model.safetensors": {"size": 1, "sha256": SHA}}
HUB = {"kind": "hub", "repository": REPOSITORY}

BAD = {
    # safetensors
    "an empty file": (weights(b""), Checkpoint, "header length"),
    "a header longer than its file": (weights((1 << 40).to_bytes(8, "little") + b"{}"), Checkpoint, "header length"),
    "a header that is no JSON": (weights(header(b"{")), Checkpoint, "no JSON"),
    "a header nested too deeply": (weights(header(b"[" * 100_000)), Checkpoint, "no JSON"),
    "a tensor beyond its file": (weights(header({"a": tensor(shape=[9], offsets=[0, 9])})), Checkpoint, "end at byte"),
    "tensors that overlap": (
        weights(header({"a": tensor(), "b": tensor(shape=[1], offsets=[3, 4])})),
        Checkpoint,
        "does not begin where",
    ),
    "a negative shape": (weights(header({"a": tensor(shape=[-2, -2])})), Checkpoint, "no natural number"),
    "an unknown type": (weights(header({"a": tensor("PICKLE")})), Checkpoint, "unknown dtype 'PICKLE'"),
    # models
    "a model without a tensor": (
        model(lambda place: place.rewrite(lambda tensors: tensors.pop(LINEAR))),
        Checkpoint,
        f"lacks the tensor {LINEAR}",
    ),
    "a matrix of another shape": (
        model(lambda place: place.rewrite(reshaped(LINEAR, (96, 64)))),
        Checkpoint,
        r"has the shape \[96, 64\], but .* has \[64, 96\]",
    ),
    "a tensor in two files": (model(second_shard), Checkpoint, "holds tensor .* again"),
    "weights that are not numbers": (
        model(lambda place: place.rewrite(not_a_number(LINEAR))),
        Checkpoint,
        f"{LINEAR}: a weight matrix holds NaN",
    ),
    "a norm that is not a number": (
        model(lambda place: place.rewrite(not_a_number(NORM))),
        Checkpoint,
        f"{NORM}: it holds NaN",
    ),
    "pickled weights": (
        model(lambda place: place.weights.rename(place.model / "pytorch_model.bin")),
        Checkpoint,
        "only pickled weights, which are never loaded",
    ),
    "a shard that climbs": (
        model(lambda place: (place.model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}')),
        Checkpoint,
        "outside the model's directory",
    ),
    # checkpoints
    "K' of another pattern": (
        lambda place: place.own_checkpoint(reshaped(LINEAR, (64, 128))),
        Checkpoint,
        r"holds I8 \[64, 128\] as .*, but INT8 2:8 of 96 inputs needs I8 \[64, 256\]",
    ),
    "a scale that is not a number": (
        lambda place: place.own_checkpoint(not_a_number(f"{LINEAR}_scale")),
        Checkpoint,
        "a scale is not a positive number",
    ),
    "a checkpoint without a scale": (
        lambda place: place.own_checkpoint(lambda tensors: tensors.pop(f"{LINEAR}_scale")),
        Checkpoint,
        f"holds nothing as {LINEAR}_scale",
    ),
    "a pattern that cannot be": (
        lambda place: checkpoints.convert(models.fetch("tiny", GENERATED, place.root), "INT8", "2_7", place.root),
        Checkpoint,
        "'2_7' is not one of",
    ),
    # manifests
    "a manifest that is no manifest": (lambda place: models.ensure([], place.root), Checkpoint, "lacks its model"),
    "a manifest's model that climbs": (lambda place: place.manifest(model="../../up"), Checkpoint, "which cannot be"),
    "a manifest's file that climbs": (
        lambda place: place.manifest(files={"../../up": FILES["model.safetensors"]}),
        Checkpoint,
        "no plain file name",
    ),
    "a manifest of no known source": (lambda place: place.manifest(source={"kind": "pip"}), Checkpoint, "lacks its"),
    "a manifest of half a source": (lambda place: place.manifest(source=HUB), Checkpoint, "which cannot be"),
    "a checkpoint's model that climbs": (
        lambda place: place.checkpoint(model="../../up"),
        Checkpoint,
        "names model '../../up'",
    ),
    "a checkpoint's type that climbs": (lambda place: place.checkpoint(dtype="../.."), Checkpoint, "do not fit"),
    "a checkpoint's pattern that climbs": (lambda place: place.checkpoint(sparsity="../.."), Checkpoint, "not one of"),
    "a checkpoint's file that climbs": (
        lambda place: place.checkpoint(files={"../up": FILES["model.safetensors"]}),
        Checkpoint,
        "no plain file name",
    ),
    "a checkpoint's manifest without layers": (lambda place: place.checkpoint(layers=None), Checkpoint, "lacks a key"),
    # a hub's answers
    "a hub without the model": (lambda place: place.hub(lambda *_: None), Download, "no such repository"),
    "a hub that fails": (
        lambda place: place.hub(published(status={"config.json": 500})),
        Download,
        "HTTP status 500: what has arrived is kept",
    ),
    "a hub that sends other bytes": (
        lambda place: place.hub(tampering),
        Download,
        "not what the hub says; it was deleted",
    ),
    "a hub that sends less than it says": (
        lambda place: place.hub(published(served={"tokenizer.json": b"{}"})),
        Download,
        "sent a file of another size than it announced",
    ),
    "a hub that never gets on": (
        lambda place: place.hub(published(pace={"tokenizer.json": 3.0})),
        Download,
        "what has arrived is kept, and the next run resumes",
    ),
    "a hub behind a portal": (lambda place: place.hub(published(portal=True)), Download, "does not answer like"),
    "a hub with pickles": (
        lambda place: place.hub(without("model.safetensors")),
        Checkpoint,
        "only pickled weights, which are never loaded",
    ),
    "a hub with another model": (
        lambda place: place.hub(published(), shape=SHAPE | {"vocab_size": 301}),
        Checkpoint,
        "vocab_size 300, but the registry says 301",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_names_what_is_wrong(place, case):
    refused(place, *BAD[case])


def filled(value):
    """A change of a model's tensors: one linear has this value, in BF16, everywhere but in every third place."""

    def change(tensors):
        dtype, shape, data = tensors[LINEAR]
        values = np.full(len(data) // 2, value, np.float32)
        values[::3] = 0
        tensors[LINEAR] = [dtype, shape, (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()]

    return change


def test_a_matrix_of_zeros_is_refused_by_its_name(place):
    place.rewrite(filled(0.0))
    refused(place, Resources.local, errors.CheckpointError, f"tensor {LINEAR}: {ALL_ZERO}")


def test_weights_that_are_ternary_already_are_converted_and_warned_of(place, capfd):
    place.rewrite(filled(0.5))
    place.local()
    said = capfd.readouterr().err
    assert f"{LINEAR}: {TERNARY}: pruning goes by their positions alone" in said
    assert said.count("warning") == 1


def test_few_or_many_zeros_are_warned_of(place, capfd):
    def sparse(tensors):
        dtype, shape, data = tensors[LINEAR]
        values = np.zeros(len(data) // 2, np.float32)
        values[::50] = np.linspace(1, 2, len(values[::50]))
        tensors[LINEAR] = [dtype, shape, (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()]

    place.rewrite(sparse)
    place.local()
    assert f"{LINEAR}: 98 % of its ternary weights are zero, usual is 20 to 70" in capfd.readouterr().err
