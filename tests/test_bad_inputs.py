"""Whatever is wrong with an input, a user reads one sentence that names it: a table of what can be wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import synthetic
from local_hub import Hub, serving
from slidesparse import checkpoints, configuration, errors, hardware, models, points, program, records, safetensors_io
from slidesparse.files import sha256_file
from slidesparse.report.strict import read_csv
from slidesparse.report.validate import read_point
from slidesparse.tuning import Table

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 300,
}
GENERATED = {"source": "generated", "seed": 1, "shape": SHAPE}
LINEAR, NORM = "model.layers.0.mlp.down_proj.weight", "model.norm.weight"
REPOSITORY = "owner/bitnet"
SHA = "0" * 64
PATH = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a generated model, its manifest, and a dense and a slid checkpoint. Not to be changed."""
    root = tmp_path_factory.mktemp("made")
    manifest = models.fetch("tiny", GENERATED, root)
    for sparsity in ("dense", "2_8"):
        checkpoints.convert(manifest, "INT8", sparsity, root, progress=False)
    return root


class Place:
    """A folder in which something is damaged and then used."""

    def __init__(self, directory, made):
        self.directory, self.root = directory, directory / "resources"
        shutil.copytree(made, self.root)
        self.model = self.root / "models" / "tiny"
        self.weights = self.model / "model.safetensors"

    def write(self, name, content):
        """Path of a new file with `content`: bytes, text or something to write as JSON."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        return path

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

    def point(self, change):
        """Read a point whose text was changed."""
        (file,) = synthetic.write(self.directory, "prefill", [512])
        file.write_text(change(file.read_text()))
        read_point(file, SHA)

    def table(self, content):
        Table.read(self.write("table.json", content), "onednn 3.4")

    def csv(self, content):
        read_csv(self.write("some.csv", content), {"M": int, "latency_us": float, "exact": bool})

    def measure(self, **files):
        """Measure a kernel point of this machine from files that are there."""
        base = self.directory / "results" / hardware.key()
        table = self.write("table.json", "{}")
        shape = self.write("shape.json", files.get("shape", models.describe("tiny", GENERATED)))
        output = base / "kernel" / "tiny" / "INT8" / "onednn" / "dense" / "M16.json"
        worker = program.Worker(False, None, {})
        points.measure(output, shape, table, {}, peers={}, resources=self.root, log=None, worker=worker)

    def plan(self, content):
        class Arguments:
            plan, no_resident, owner = str(self.write("plan.json", content)), True, None

        program.worker(Arguments)

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
            models.fetch("ours", entry, self.directory / "hub", self.directory / "models.lock.json")


def configured(**change):
    return lambda place: configuration.validated(change)


def registered(name="Mine", **change):
    return configured(registry={name: GENERATED | change})


def cut(text):
    return text[:-40]


def replaced(old, new):
    return lambda text: text.replace(old, new)


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


Configuration, Checkpoint = errors.ConfigurationError, errors.CheckpointError
Record, Hardware, Download = errors.RecordError, errors.HardwareError, errors.DownloadError
FILES = {"model.safetensors": {"size": 1, "sha256": SHA}}
HUB = {"kind": "hub", "repository": REPOSITORY}
ROW = "M,latency_us,exact\n"

BAD = {
    # configuration
    "a command as a model's name": (registered("A; touch x"), Configuration, "is not a usable name for a model"),
    "a model's name that climbs": (registered("../up"), Configuration, "is not a usable name for a model"),
    "a line break in a model's name": (registered("A\n"), Configuration, "a line break"),
    "a line break in a hardware key": (configured(hardware=synthetic.HARDWARE + "\n"), Configuration, "a line break"),
    "an escape sequence in a path": (registered(source="local", path="\x1b[2J"), Configuration, "cannot be printed"),
    "a command as a repository": (
        registered(source="hub", repository="a/$(touch x)", revision="main"),
        Configuration,
        "must be the name of a repository",
    ),
    "an option as a revision": (
        registered(source="hub", repository="a/b", revision="--help"),
        Configuration,
        "must be a branch",
    ),
    "a command as a source": (configured(report={"sources": ["$(touch x)"]}), Configuration, "the path of a directory"),
    "an option as a source": (configured(report={"sources": ["--output"]}), Configuration, "the path of a directory"),
    "a model that is not there": (configured(models=["../../etc"]), Configuration, "but the registry has"),
    "an unknown key": (configured(kernal=1), Configuration, "did you mean kernel"),
    "a pattern that YAML reads as a number": (
        configured(kernel={"M": [64], "sparsity": [28]}),
        Configuration,
        'so quote it: "2_8"',
    ),
    "no rows": (configured(kernel={"M": [0]}), Configuration, "must be a positive whole number"),
    "an entry without a shape": (lambda place: models.describe("A", {}), Configuration, r"registry\.A\.shape lacks"),
    # paths
    "no point's path": (lambda place: records.key_of("results/point.json"), Record, "is not the path of a point"),
    "a negative M": (lambda place: records.key_of(f"{synthetic.path(Path('r'), 'decode', -1)}"), Record, "M-1.json"),
    "another file beside the points": (
        lambda place: records.key_of(synthetic.path(Path("r"), "decode", 1).with_suffix(".log")),
        Record,
        "is not the path of a point",
    ),
    "a pattern that cannot be": (
        lambda place: checkpoints.convert(models.fetch("tiny", GENERATED, place.root), "INT8", "2_7", place.root),
        Checkpoint,
        "'2_7' is not one of",
    ),
    # hardware keys
    "half a hardware key": (lambda place: hardware.parse("RTX4090"), Hardware, "is not a hardware key"),
    "a hardware key that climbs": (lambda place: hardware.parse("../../etc"), Hardware, "is not a hardware key"),
    "a CPU that computes": (lambda place: hardware.parse("cpu-x_cc80_py311_cu0_x86_64"), Hardware, "is not a hardware"),
    "another machine's key": (lambda place: hardware.check(synthetic.HARDWARE), Hardware, "measure them there"),
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
    "a shape without linears": (lambda place: place.measure(shape={}), Record, "does not describe the linears"),
    "a plan that is a list": (lambda place: place.plan([]), Record, "is no plan"),
    "a plan that was cut": (lambda place: place.plan('{"points": '), Record, "is not JSON"),
    # points
    "a point that was cut": (lambda place: place.point(cut), Record, "is damaged"),
    "a point that took no time": (
        lambda place: place.point(replaced('"elapsed_s": 1.28', '"elapsed_s": 0')),
        Record,
        "elapsed_s",
    ),
    "a point that is not a number": (
        lambda place: place.point(replaced('"seconds": 2.5', '"seconds": NaN')),
        Record,
        "NaN is no number",
    ),
    "a point of another M": (lambda place: place.point(replaced('"M": 512', '"M": 7')), Record, "its key says M 7"),
    "a point of a later schema": (lambda place: place.point(replaced('"schema": 1', '"schema": 2')), Record, "schema"),
    "a point that answers another request": (
        lambda place: place.point(replaced(SHA, "1" * 64)),
        Record,
        "answers another request",
    ),
    # CSV files
    "a CSV that was cut": (lambda place: place.csv(ROW + "16,1.5,true"), Record, "is truncated"),
    "a CSV that lacks a column": (lambda place: place.csv("M,exact\n16,true\n"), Record, "missing column latency_us"),
    "a CSV with a word for a number": (
        lambda place: place.csv(ROW + "16,fast,true\n"),
        Record,
        "row 1, column latency",
    ),
    "a CSV that is no text": (lambda place: place.csv(b"\xff\xfe"), Record, "not UTF-8"),
    # tuning tables
    "a table that is no JSON": (lambda place: place.table("{"), Record, "is not a tuning table"),
    "a table without entries": (lambda place: place.table({"library": "onednn 3.4"}), Record, "is not a tuning table"),
    "a table that is a list": (lambda place: place.table([1]), Record, "is not a tuning table"),
    "a table of another version": (
        lambda place: place.table({"library": "onednn 3.3", "quantize_lift": [], "entries": []}),
        Record,
        "was tuned with onednn 3.3 and this is onednn 3.4",
    ),
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


@pytest.fixture
def place(tmp_path, made):
    return Place(tmp_path, made)


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_names_what_is_wrong(place, case):
    use, kind, sentence = BAD[case]
    before = set(place.directory.parent.iterdir())
    with pytest.raises(kind, match=sentence) as error:
        use(place)
    message = str(error.value)
    assert type(error.value) is kind
    assert "\n" not in message and 20 < len(message) < 700
    assert set(place.directory.parent.iterdir()) == before, "something was written outside"
    assert not list(place.directory.rglob("up"))


def test_the_table_is_large_enough():
    assert len(BAD) >= 40
