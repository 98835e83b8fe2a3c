"""Models from a hub: pinned, verified, resumed; every failure one sentence; nothing visible before it is whole."""

import importlib.util
import json
import os
import resource
import shutil
import socket
import subprocess
import sys

import pytest

from local_hub import Hub, serving
from places import LIBRARY
from slidesparse import models
from slidesparse.errors import DownloadError
from slidesparse.files import OWN, sha256_file
from slidesparse.models import environment, generate, safetensors_io

WORKFLOW = LIBRARY.parent
NAME, REPOSITORY, WEIGHTS, TOKEN = "BitNet", "owner/bitnet", "model.safetensors", "hf_never_to_be_seen"
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 200_000,  # 26 MB, so that a download takes several of the library's pieces of 10 MB
}
SMALL = SHAPE | {"vocab_size": 300}
MB = 1_000_000


def repository_of(directory, shape):
    generate.generate(directory, 1, shape)
    files = {item.name: item.read_bytes() for item in directory.iterdir()}
    return files | {"README.md": b"# not needed", "original/consolidated.safetensors": b"nor this"}


def damaged(content):
    """`content` with one bit turned."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Files of a small model."""
    return repository_of(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """Files of a model whose weights come in several pieces."""
    return repository_of(tmp_path_factory.mktemp("large"), SHAPE)


class User:
    """A machine with a checkout under `path`, who runs the fetching program against a hub."""

    def __init__(self, path, endpoint):
        self.path, self.endpoint = path, endpoint
        self.root, self.lock = path / "resources", path / "resources" / "models.lock.json"
        self.directory, self.output = self.root / "models" / NAME, path / "manifest.json"

    def command(self, shape=SMALL, **entry):
        entry = {"source": "hub", "repository": REPOSITORY, "revision": "main", "shape": shape} | entry
        program = [sys.executable, WORKFLOW / "scripts" / "fetch_model.py", "--model", NAME]
        return [*program, "--entry", json.dumps(entry), "--output", self.output, "--resources", self.root]

    def environment(self, **environment):
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
        }
        settings = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.path / "home"), "HF_TOKEN": TOKEN}
        return clean | settings | {"PYTHONPATH": str(WORKFLOW)} | environment

    def run(self, command, environment, **options):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **options)
        assert TOKEN not in done.stdout + done.stderr + "".join(
            file.read_text() for file in (self.lock, self.output) if file.exists()
        )
        return done

    def fetch(self, environment=None, shape=SMALL, **entry):
        """The manifest that a successful run writes."""
        done = self.run(self.command(shape, **entry), self.environment(**environment or {}))
        assert done.returncode == 0, done.stderr
        return json.loads(self.output.read_text())

    def fail(self, environment=None, shape=SMALL, options=None, **entry):
        """The one sentence that a failing run ends with; nothing is visible afterwards."""
        done = self.run(self.command(shape, **entry), self.environment(**environment or {}), **options or {})
        assert done.returncode == 1, done.stderr
        assert not self.output.exists()
        assert "Traceback" not in done.stderr
        return done.stderr.strip().rpartition("\n")[2].removeprefix("fetch_model.py: ")

    def ensure(self, environment=None):
        """Have another process make sure that the written manifest's weights are there."""
        code = (
            "import sys, json; from slidesparse import models; models.ensure(json.load(open(sys.argv[1])), sys.argv[2])"
        )
        command = [sys.executable, "-c", code, self.output, self.root]
        return self.run(command, self.environment(**environment or {}))


@pytest.fixture
def hub():
    return Hub()


@pytest.fixture
def user(hub, tmp_path):
    with serving(hub) as endpoint:
        yield User(tmp_path, endpoint)


def assert_whole(user, manifest, files):
    needed = {name: data for name, data in files.items() if "/" not in name and name != "README.md"}
    held = {item.name: item.read_bytes() for item in user.directory.iterdir()}
    assert held.pop(OWN)
    assert held == needed
    assert manifest["files"] == {
        name: {"size": len(data), "sha256": sha256_file(user.directory / name)} for name, data in sorted(needed.items())
    }
    assert all(item.is_file() and not item.is_symlink() for item in user.directory.iterdir())


def test_the_first_run_pins_commit_and_hashes_and_later_runs_are_held_to_them(hub, user, published):
    commit = hub.add(REPOSITORY, published)
    manifest = user.fetch()
    assert manifest["source"] == {"kind": "hub", "repository": REPOSITORY, "revision": commit}
    assert_whole(user, manifest, published)
    pinned = {"repository": REPOSITORY, "revision": "main", "commit": commit, "files": manifest["files"]}
    assert json.loads(user.lock.read_text()) == {NAME: pinned}

    hub.add(REPOSITORY, published | {"generation_config.json": b'{"changed": true}'})
    shutil.rmtree(user.root / "models")
    seen = len(hub.requests)
    assert user.fetch() == manifest
    assert_whole(user, manifest, published)
    asked = [path for path, _ in hub.requests[seen:] if REPOSITORY in path]
    assert asked
    assert all(path.startswith(f"/{REPOSITORY}/resolve/{commit}/") for path in asked)

    seen = len(hub.requests)
    assert user.fetch() == manifest
    assert len(hub.requests) == seen


def test_a_changed_revision_is_resolved_anew_and_other_entries_stay(hub, user, published):
    user.root.mkdir()
    other = {"repository": "a/b", "revision": "main", "commit": "0" * 40, "files": {}}
    user.lock.write_text(json.dumps({"Other": other}))
    first = hub.add(REPOSITORY, published, "v1")
    changed = published | {"generation_config.json": b'{"changed": true}'}
    second = hub.add(REPOSITORY, changed, "v2")
    old = user.fetch(revision="v1")
    assert old["source"]["revision"] == first
    manifest = user.fetch(revision="v2")
    assert manifest["source"]["revision"] == second
    assert_whole(user, manifest, changed)
    assert len(hub.seen(WEIGHTS)) == 1  # the same bytes are not fetched twice
    lock = json.loads(user.lock.read_text())
    assert lock["Other"] == other
    assert (lock[NAME]["revision"], lock[NAME]["commit"]) == ("v2", second)

    user.output.write_text(json.dumps(old))
    assert user.ensure().returncode == 0
    assert (user.directory / "generation_config.json").read_bytes() == published["generation_config.json"]


def test_an_interrupted_download_resumes_where_it_broke_off(hub, user, large):
    hub.add(REPOSITORY, large)
    hub.break_at[WEIGHTS] = 13 * MB
    assert "what has arrived is kept, and the next run resumes" in user.fail(shape=SHAPE)
    assert not user.directory.exists()
    assert not user.lock.exists()
    hub.status.clear()
    seen = len(hub.seen(WEIGHTS))
    assert_whole(user, user.fetch(shape=SHAPE), large)
    (headers,) = hub.seen(WEIGHTS)[seen:]
    assert int(headers["Range"].removeprefix("bytes=").rstrip("-")) >= 10 * MB
    assert not any((user.root / "models" / ".fetch" / NAME).glob("partial/*"))


def test_a_disk_that_fills_up_keeps_what_arrived(hub, user, large):
    hub.add(REPOSITORY, large)
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (13 * MB, 13 * MB))}
    assert "no room on the disk" in user.fail(shape=SHAPE, options=limit)
    assert not user.directory.exists()
    assert_whole(user, user.fetch(shape=SHAPE), large)
    assert "Range" in hub.seen(WEIGHTS)[-1]


def test_a_disk_too_small_is_refused_before_it_is_filled(hub, user, published):
    hub.add(REPOSITORY, published)
    hub.announced[WEIGHTS] = 10**18
    assert "needs 1000000000.000 GB" in user.fail()
    assert hub.seen(WEIGHTS) == []


def test_a_file_with_a_wrong_hash_is_deleted_and_fetched_anew(hub, user, published):
    hub.add(REPOSITORY, published)
    for name, authority in [("tokenizer.json", "the hub"), (WEIGHTS, "the hub")]:
        hub.served[name] = damaged(published[name])
        sentence = user.fail()
        assert f"{name} of {REPOSITORY}" in sentence
        assert f"not what {authority} says; it was deleted" in sentence
        assert not user.directory.exists()
        hub.served.clear()
    manifest = user.fetch()
    assert_whole(user, manifest, published)

    shutil.rmtree(user.root / "models")
    user.output.unlink()
    hub.served["tokenizer.json"] = damaged(published["tokenizer.json"])
    assert f"not what {user.lock} says" in user.fail()
    hub.served.clear()
    assert user.fetch() == manifest


def test_the_token_is_for_the_hub_only(hub, user, published):
    hub.add(REPOSITORY, published)
    with serving(hub, "localhost") as hub.cdn:
        user.fetch()
    at_hub, at_cdn = hub.seen(WEIGHTS)
    assert at_hub["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in at_cdn


def test_what_the_hub_refuses_is_one_sentence(hub, user, published):
    assert "no such repository, or it is private" in user.fail()
    assert "no repository name" in user.fail(repository="a/b/c")
    hub.gated.add(REPOSITORY)
    assert "gated: accept its terms on 127.0.0.1" in user.fail()
    hub.gated.clear()
    hub.add(REPOSITORY, published)
    assert "no revision 'v3'" in user.fail(revision="v3")
    hub.status[WEIGHTS] = 401
    assert "HTTP status 401: it does not exist, or HF_TOKEN does not allow to read it" in user.fail()
    assert not user.directory.exists()


def test_what_is_no_such_model_ends_before_the_weights_are_fetched(hub, user, published):
    hub.add(REPOSITORY, published)
    assert "num_hidden_layers 1, but the registry says 2" in user.fail(shape=SMALL | {"num_hidden_layers": 2})
    config = {**json.loads(published["config.json"]), "model_type": "llama", "architectures": []}
    hub.add(REPOSITORY, published | {"config.json": json.dumps(config).encode()})
    assert "only BitNet" in user.fail()
    for change, cause in (
        ({"quantization_config": {"quant_method": "gptq"}}, "weights quantised by 'gptq', which cannot be read"),
        ({"hidden_act": "silu"}, "hidden_act 'silu'"),
    ):
        config = json.loads(published["config.json"]) | change
        hub.add(REPOSITORY, published | {"config.json": json.dumps(config).encode()})
        assert cause in user.fail()
    index = json.dumps({"weight_map": {"model.norm.weight": WEIGHTS}}).encode()
    hub.add(REPOSITORY, published | {"model.safetensors.index.json": index})
    assert "lacks the tensor" in user.fail()
    index = json.dumps({"weight_map": {"a": "../../escaped.safetensors"}}).encode()
    hub.add(REPOSITORY, published | {"model.safetensors.index.json": index, "../../escaped.safetensors": b"x"})
    assert "outside the model's directory" in user.fail()
    weights = {name: data for name, data in published.items() if not name.endswith(".safetensors")}
    hub.add(REPOSITORY, weights | {"pytorch_model.bin": b"x"})
    assert "only pickled weights" in user.fail()
    assert hub.seen(WEIGHTS) == []
    assert not list(user.path.rglob("*escaped*"))


def test_only_the_weights_of_the_index_are_fetched(hub, user, published, tmp_path):
    (tmp_path / WEIGHTS).write_bytes(published[WEIGHTS])
    names = safetensors_io.read_header(tmp_path / WEIGHTS).tensors
    index = json.dumps({"weight_map": dict.fromkeys(names, "part.safetensors")}).encode()
    shards = {f"model-0000{part}-of-00002.safetensors": b"of another form" for part in (1, 2)}
    needed = {name: data for name, data in published.items() if name != WEIGHTS}
    needed |= {"part.safetensors": published[WEIGHTS], "model.safetensors.index.json": index}
    hub.add(REPOSITORY, needed | shards | {WEIGHTS: b"of another form"})
    assert_whole(user, user.fetch(), needed)
    assert not any(hub.seen(name) for name in (*shards, WEIGHTS))
    assert_whole(user, user.fetch(), needed)


def test_no_network_and_no_hub(hub, user):
    hub.portal = True
    assert "does not answer like a Hugging Face hub" in user.fail()
    with serving(Hub()) as endpoint:
        pass
    assert "127.0.0.1 cannot be reached" in user.fail({"HF_ENDPOINT": endpoint})


def test_offline_serves_what_is_in_place_or_in_the_cache(hub, user, published):
    offline = {"HF_HUB_OFFLINE": "1"}
    commit = hub.add(REPOSITORY, published)
    assert "HF_HUB_OFFLINE is set" in user.fail(offline)
    code = "import sys, huggingface_hub as h; [h.hf_hub_download(sys.argv[1], name) for name in sys.argv[2:]]"
    filled = user.run([sys.executable, "-c", code, REPOSITORY, *published], user.environment())
    assert filled.returncode == 0, filled.stderr
    seen = len(hub.requests)
    manifest = user.fetch(offline)
    assert manifest["source"]["revision"] == commit
    assert_whole(user, manifest, published)
    assert not user.lock.exists()  # only the hub says what a revision is
    assert user.fetch(offline) == manifest
    shutil.rmtree(user.root)
    assert user.ensure(offline).returncode == 0
    assert_whole(user, manifest, published)
    assert len(hub.requests) == seen

    shutil.rmtree(user.root)
    shutil.rmtree(user.path / "home")
    done = user.ensure(offline)
    assert done.returncode == 1
    assert "neither" in done.stderr
    assert user.ensure().returncode == 0
    assert_whole(user, manifest, published)


def test_weights_that_are_all_gone_are_fetched_before_a_worker_without_network_needs_them(hub, user, published):
    hub.add(REPOSITORY, published)
    user.fetch()
    code = (
        "import json, shutil, sys\n"
        "from slidesparse.models import checkpoints\n"
        "from slidesparse.points import measure\n"
        "manifest, root, path = sys.argv[1:]\n"
        "made = checkpoints.convert(json.load(open(manifest)), 'INT8', 'dense', root, progress=False)\n"
        "json.dump(made, open(path, 'w'))\n"
        "shutil.rmtree(root)\n"
        "measure.make_weights(path, root)\n"
    )
    command = [sys.executable, "-c", code, user.output, user.root, user.path / "checkpoint.json"]
    done = user.run(command, user.environment())
    assert done.returncode == 0, done.stderr
    assert (user.root / "checkpoints" / NAME / "INT8" / "dense" / WEIGHTS).is_file()


def test_ensure_is_held_to_the_manifest(hub, user, published):
    hub.add(REPOSITORY, published)
    manifest = user.fetch()
    hub.served[WEIGHTS] = damaged(published[WEIGHTS])
    shutil.rmtree(user.directory)
    assert "not what the manifest of model BitNet says; it was deleted" in user.ensure().stderr
    assert not user.directory.exists()
    hub.served.clear()
    (user.root / "models" / f".{NAME}.verified.json").unlink()
    assert user.ensure().returncode == 0
    (user.directory / WEIGHTS).write_bytes(b"damaged")
    assert f"{WEIGHTS} was damaged" in user.ensure().stderr
    assert user.ensure().returncode == 0
    assert_whole(user, manifest, published)


def test_two_at_once_download_once(hub, user, published):
    hub.add(REPOSITORY, published)
    user.root.mkdir()
    both = [subprocess.Popen(user.command(), env=user.environment(), stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(hub.seen(WEIGHTS)) == 1
    assert_whole(user, json.loads(user.output.read_text()), published)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "cannot be read as JSON"),
        (json.dumps({NAME: {"repository": REPOSITORY}}), "is damaged"),
        (json.dumps({NAME: []}), "is damaged"),
        (
            json.dumps({NAME: {"repository": REPOSITORY, "revision": "main", "commit": "0" * 40, "files": {}}}),
            "lists no files",
        ),
    ],
)
def test_a_damaged_lock_is_named(user, content, cause):
    user.root.mkdir()
    user.lock.write_text(content)
    entry = {"source": "hub", "repository": REPOSITORY, "revision": "main", "shape": SMALL}
    with pytest.raises(models.store.CheckpointError, match=cause) as error:
        models.fetch(NAME, entry, user.root, user.lock)
    assert str(user.lock) in str(error.value)


SURROUNDINGS = {
    "a certificate file that is gone": ({"SSL_CERT_FILE": "/no/such/file.pem"}, "SSL_CERT_FILE is '/no/such/file.pem'"),
    "a time that is a word": (
        {"HF_HUB_ETAG_TIMEOUT": "ten"},
        "HF_HUB_ETAG_TIMEOUT is 'ten', but must be a whole number",
    ),
    "a proxy of no kind": ({"ALL_PROXY": "socks4://u:hidden@h:1"}, "ALL_PROXY names a proxy that is not of a kind"),
    "offline by the name of another library": ({"TRANSFORMERS_OFFLINE": "1"}, "TRANSFORMERS_OFFLINE is set, and"),
}


@pytest.mark.parametrize("case", SURROUNDINGS)
def test_a_setting_of_the_environment_that_cannot_be_used_is_named(hub, user, published, case):
    settings, sentence = SURROUNDINGS[case]
    hub.add(REPOSITORY, published)
    said = user.fail(settings)
    assert sentence in said
    assert "hidden" not in said and not hub.requests


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("HF_HUB_DOWNLOAD_TIMEOUT", "1.5", "whole number of seconds"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-1", "whole number of seconds"),
        ("HF_HUB_ETAG_TIMEOUT", "", "whole number of seconds"),
        ("SSL_CERT_FILE", __file__, "holds no certificate"),
        ("HF_TOKEN", "hf_ä", "the token of HF_TOKEN has a character that no token has"),
        ("HF_TOKEN", "hf_a b", "the token of HF_TOKEN has a character that no token has"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(monkeypatch, name, value, cause):
    monkeypatch.setenv(name, value)
    with pytest.raises(DownloadError, match=cause) as error:
        environment.check.__wrapped__()
    assert "hf_" not in str(error.value)


def test_a_token_file_with_other_characters_is_named(hub, user, published):
    hub.add(REPOSITORY, published)
    (user.path / "token").write_text("hf_ä\n")
    assert "has a character" in (said := user.fail({"HF_TOKEN": "", "HF_TOKEN_PATH": str(user.path / "token")}))
    assert str(user.path / "token") in said


def test_a_socks_proxy_is_used_or_what_it_needs_is_named(hub, user, published):
    hub.add(REPOSITORY, published)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        said = user.fail({"ALL_PROXY": f"socks5://127.0.0.1:{nobody.getsockname()[1]}"})
    if importlib.util.find_spec("socksio"):
        assert "127.0.0.1 cannot be reached" in said
    else:
        assert "ALL_PROXY names a SOCKS proxy, which needs the package socksio" in said
    assert not hub.requests
