"""Hubs and files that do not end, or are larger or slower than they say: each ends at a bound, in one sentence."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bad_inputs import SHAPE
from local_hub import Hub, serving
from slidesparse import models
from slidesparse.errors import CheckpointError, DownloadError
from slidesparse.models import generate, hub, safetensors_io

REPOSITORY = "owner/bitnet"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return {name: (folder / name).read_bytes() for name in generate.generate(folder, 1, SHAPE)}


class Place:
    def __init__(self, directory, server, patch):
        self.root, self.server, self.patch = directory / "resources", server, patch

    def fetch(self):
        from huggingface_hub import constants

        entry = {"source": "hub", "repository": REPOSITORY, "revision": "main", "shape": SHAPE}
        with serving(self.server) as address:
            self.patch.setattr(constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            self.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            return models.fetch("ours", entry, self.root, self.root / "models.lock.json")

    def refuse(self, cause, kind=DownloadError):
        """Fetching ends in one sentence that says why; no more than a model's worth of bytes is on the disk."""
        with pytest.raises(kind, match=cause) as error:
            self.fetch()
        assert "\n" not in str(error.value)
        assert not (self.root / "models" / "ours").exists()
        held = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
        assert held < 2_000_000


@pytest.fixture
def place(tmp_path, published, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "PACE_S", 0.5)
    monkeypatch.setattr(hub, "PAUSE_S", 0.0)
    server = Hub()
    server.add(REPOSITORY, published)
    return Place(tmp_path, server, monkeypatch)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_file_ends_at_its_announced_size(place, name):
    place.server.endless[name] = 0
    place.refuse("sent more than the .* bytes that were to come")


def test_a_file_longer_than_announced_is_refused(place, published):
    place.server.served[WEIGHTS] = published[WEIGHTS] + b"x" * 1_000_000
    place.refuse("sent more than|another size")


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "api"])
def test_what_comes_byte_by_byte_is_given_up(place, name):
    place.server.endless[name] = 0.02
    place.refuse("sent fewer than .* bytes a second|sent nothing")


def test_a_head_that_never_ends_is_given_up(place):
    place.server.dripping = 0.02
    place.refuse("sent nothing for")


def test_a_hub_that_says_nothing_is_given_up(place):
    place.server.dripping = 60
    place.refuse("sent nothing for|cannot be reached")


def test_an_answer_that_is_no_file_has_a_limit(place, monkeypatch):
    monkeypatch.setattr(hub, "ANSWER_LIMIT", 3_000_000)
    place.server.endless["api"] = 0
    place.refuse("sent more than the 3000000 bytes")


def test_an_endless_refusal_has_a_limit_too(place, monkeypatch):
    monkeypatch.setattr(hub, "ANSWER_LIMIT", 3_000_000)
    place.server.endless[WEIGHTS] = 0
    place.server.status[WEIGHTS] = 403
    place.refuse("sent more than the 3000000 bytes")


@pytest.mark.parametrize("name", ["api", WEIGHTS])
def test_a_redirection_is_not_read_and_does_not_go_on(place, name):
    """Its body never ends, and it leads to itself."""
    place.server.endless[name] = 0
    place.server.status[name] = 302
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    place.refuse("redirected more than 10 times")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("size", [-1, 10**30, None, "12", 1.5, True])
def test_a_hub_announces_sizes(place, size):
    place.server.announced["config.json"] = size
    place.refuse("does not answer like a Hugging Face hub")


def test_a_connection_that_breaks_again_and_again_is_tried_a_few_times_and_resumed(place, published):
    place.server.break_at[WEIGHTS] = 1000
    place.server.status = Forgetful(place.server)
    manifest = place.fetch()
    assert manifest["files"][WEIGHTS]["size"] == len(published[WEIGHTS])
    assert [headers["Range"] for headers in place.server.seen(WEIGHTS)] == [None, "bytes=1000-"]


class Forgetful(dict):
    """Statuses of files, but those that a hub sets after it broke off."""

    def __init__(self, server):
        super().__init__()

    def __setitem__(self, name, value):
        pass


# Safetensors.


def raw(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def one(name="a", dtype="I8", shape=(1,), offsets=(0, 1)):
    return {name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


HEADERS = {
    "2 million dimensions": raw(one(shape=[3] * 2_000_000), b"x"),
    "nine dimensions": raw(one(shape=[1] * 9), b"x"),
    "huge dimensions": raw(one(shape=[1 << 61] * 8), b"x"),
    "a number of 4000 digits": raw(b'{"a":{"dtype":"I8","shape":[%s],"data_offsets":[0,1]}}' % (b"1" * 4000), b"x"),
    "a number of 5000 digits": raw(b'{"a":{"dtype":"I8","shape":[%s],"data_offsets":[0,1]}}' % (b"1" * 5000), b"x"),
    "a long name": raw(one(name="a" * 100_000), b"x"),
    "a long header": raw(b" " * (safetensors_io.HEADER_LIMIT + 1)),
    "many small objects": raw(b'{"a":[' + b"{}," * 2_700_000 + b"{}]}"),
    "many names twice": raw(b"{" + b'"a":1,' * 1_000_000 + b'"b":1}'),
    "a shape that is text": raw(one() | {"b": {"dtype": "I8", "shape": "11", "data_offsets": [1, 2]}}, b"xy"),
    "a shape that is an object": raw({"a": {"dtype": "I8", "shape": {"1": 1}, "data_offsets": [0, 1]}}, b"x"),
    "a dtype that is a list": raw({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 1]}}, b"x"),
    "a boolean for a number": raw({"a": {"dtype": "I8", "shape": [True], "data_offsets": [0, 1]}}, b"x"),
    "a negative offset": raw(one(offsets=(-1, 0)), b"x"),
    "nothing but depth": raw(b"[" * 1_000_000),
}

CODE = """
import resource, sys
from slidesparse.models import safetensors_io
from slidesparse.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    safetensors_io.read_header(sys.argv[1])
except CheckpointError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_refused_within_bounds_of_memory_and_time(case, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HEADERS[case])
    environment = os.environ | {"PYTHONPATH": str(Path(safetensors_io.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", CODE, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    megabytes, _, sentence = done.stdout.partition(" ")
    assert "is not a valid safetensors file" in sentence and len(sentence) < 700
    assert int(megabytes) < 600


def test_a_pipe_is_no_safetensors_file(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no regular file"):
        safetensors_io.read_header(tmp_path / "x.safetensors")


HUGE = {"hidden_size": 1 << 24, "num_attention_heads": 1 << 17, "num_key_value_heads": 1 << 17}


def test_a_generated_model_of_a_manifest_fits_the_disk(tmp_path, monkeypatch):
    entry = {"source": "generated", "seed": 1, "shape": SHAPE | {"vocab_size": 1 << 24, "num_hidden_layers": 4000}}
    with pytest.raises(CheckpointError, match="GB are free"):
        models.fetch("big", entry | {"shape": entry["shape"] | HUGE}, tmp_path)
    for field in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
        for number in (0, -1, 1 << 40, "1", 1.0, True, None):
            manifest = models.fetch("tiny", entry | {"shape": SHAPE}, tmp_path)
            manifest["source"][field] = number
            with pytest.raises(CheckpointError, match=f"has no usable {field}"):
                models.ensure(manifest, tmp_path)
