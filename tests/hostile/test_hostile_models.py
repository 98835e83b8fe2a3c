"""Manifests, lock files, hubs and folders of models: nothing outside is touched, nothing of the user deleted."""

import json
import os
import shutil

import pytest

from bad_inputs import GENERATED, SHA, SHAPE
from hostile import CLIMBING, content
from local_hub import Hub, serving
from slidesparse import files, models
from slidesparse.errors import CheckpointError, DownloadError, SlideSparseError
from slidesparse.models import checkpoints, generate

REPOSITORY = "owner/bitnet"


def hub_entry(**change):
    return {"source": "hub", "repository": REPOSITORY, "revision": "main", "shape": SHAPE} | change


class HubOf:
    """A folder of resources and a hub with a small model."""

    def __init__(self, directory, patch):
        self.root, self.hub, self.patch = directory / "resources", Hub(), patch
        generate.generate(files.Path(directory), 1, SHAPE)
        names = (
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        )
        self.files = {name: (directory / name).read_bytes() for name in names}
        self.commit = self.hub.add(REPOSITORY, self.files)

    def fetch(self, **change):
        from huggingface_hub import constants

        with serving(self.hub) as address:
            self.patch.setattr(constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            self.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            return models.fetch("ours", hub_entry(**change), self.root, self.root / "models.lock.json")


@pytest.fixture
def at_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    (tmp_path / "made").mkdir()
    return HubOf(tmp_path / "made", monkeypatch)


NO_COMMITS = ("../../../../home/victim", "main", "A" * 40, "0" * 39, "0" * 40 + "\n", "", None, 7, ["0" * 40])


@pytest.mark.parametrize("commit", NO_COMMITS)
def test_a_manifest_names_a_commit_or_nothing_is_done(at_hub, victim, commit):
    manifest = at_hub.fetch()
    manifest["source"]["revision"] = commit
    before = content(at_hub.root)
    with pytest.raises(CheckpointError, match="no 40 hexadecimal digits"):
        models.ensure(manifest, at_hub.root)
    assert content(at_hub.root) == before


@pytest.mark.parametrize("commit", NO_COMMITS)
def test_a_hub_names_a_commit_or_nothing_is_fetched(at_hub, victim, commit):
    at_hub.hub.repositories[REPOSITORY]["main"] = (commit, at_hub.files)
    with pytest.raises(DownloadError, match="no 40 hexadecimal digits"):
        at_hub.fetch()
    assert not list(at_hub.root.rglob("*.safetensors"))


@pytest.mark.parametrize("commit", NO_COMMITS)
def test_a_lock_file_names_a_commit_or_nothing_is_fetched(at_hub, victim, commit):
    at_hub.fetch()
    lock = at_hub.root / "models.lock.json"
    table = json.loads(lock.read_text())
    table["ours"]["commit"] = commit
    lock.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="no 40 hexadecimal digits"):
        at_hub.fetch()


def test_a_cache_names_a_commit_or_nothing_is_taken(at_hub, victim, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hf" / "hub" / "models--owner--bitnet"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("snapshot-of-mine")
    shutil.copytree(tmp_path / "made", folder / "snapshots" / "snapshot-of-mine")
    with pytest.raises(SlideSparseError, match="no 40 hexadecimal digits|no snapshot"):
        at_hub.fetch()


def forged(root, **change):
    """The manifest of a small generated model under `root` after `change`."""
    return models.fetch("tiny", GENERATED, root) | change


@pytest.mark.parametrize("name", CLIMBING)
def test_no_name_of_a_manifest_becomes_a_path_outside(tmp_path, victim, name):
    manifest = forged(tmp_path / "resources")
    for bad in (manifest | {"model": name}, manifest | {"files": {name: {"size": 1, "sha256": SHA}}}):
        with pytest.raises(CheckpointError):
            models.ensure(bad, tmp_path / "resources")
    made = checkpoints.convert(manifest, "INT8", "2_8", tmp_path / "resources", progress=False)
    for key in ("model", "dtype", "sparsity"):
        with pytest.raises(CheckpointError):
            checkpoints.ensure(made | {key: name}, tmp_path / "resources")


def test_a_forged_manifest_deletes_no_model_that_is_as_it_was_made(tmp_path):
    root = tmp_path / "resources"
    manifest = forged(root)
    before = content(root)
    manifest["files"]["model.safetensors"]["sha256"] = SHA
    with pytest.raises(CheckpointError, match="is not what the manifest of model tiny says"):
        models.ensure(manifest, root)
    assert content(root) == before


def test_a_model_of_the_users_is_not_replaced(tmp_path, at_hub):
    mine = at_hub.root / "models" / "ours"
    shutil.copytree(tmp_path / "made", mine)
    (mine / "config.json").write_text("{}")
    (mine / "thesis.txt").write_text("mine")
    before = content(mine)
    with pytest.raises(CheckpointError, match="did not make it|is not what"):
        at_hub.fetch()
    assert content(mine) == before


def test_a_checkpoint_that_this_program_did_not_make_is_not_replaced(tmp_path, victim):
    root = tmp_path / "resources"
    manifest = forged(root)
    mine = root / "checkpoints" / "tiny" / "INT8" / "2_8"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="was not made by this program"):
        checkpoints.convert(manifest, "INT8", "2_8", root, progress=False)
    assert (mine / "thesis.txt").read_text() == "mine"
    shutil.rmtree(mine)
    mine.symlink_to(victim)
    with pytest.raises(CheckpointError, match="was not made by this program"):
        checkpoints.convert(manifest, "INT8", "2_8", root, progress=False)


PLACES = ["", "ours", "ours/partial", "ours/partial/{commit}", "ours/replaced", "ours/lock", ".lock"]
PLACES += [f"ours/partial/{{commit}}/{name}" for name in ("config.json.part", "model.safetensors.part", "config.json")]


@pytest.mark.parametrize("place", PLACES)
def test_links_where_a_download_lies_lead_nowhere(at_hub, victim, place):
    link = at_hub.root / "models" / ".fetch" / place.format(commit=at_hub.commit)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / "thesis.txt" if "." in place or "lock" in place else victim)
    if place.endswith("lock"):
        with pytest.raises(CheckpointError, match="cannot be read or written"):
            at_hub.fetch()
    else:
        at_hub.fetch()
        assert models.ensure(at_hub.fetch(), at_hub.root) == at_hub.root / "models" / "ours"


def test_a_hard_link_where_a_download_lies_is_not_written_through(at_hub, victim):
    place = at_hub.root / "models" / ".fetch" / "ours" / "partial" / at_hub.commit / "config.json.part"
    place.parent.mkdir(parents=True)
    os.link(victim / "thesis.txt", place)
    at_hub.fetch()


@pytest.mark.parametrize("place", ["tiny", "tiny/INT8"])
def test_checkpoints_are_not_written_through_links(tmp_path, victim, place):
    root = tmp_path / "resources"
    manifest = forged(root)
    link = root / "checkpoints" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(CheckpointError, match="is a link out of"):
        checkpoints.convert(manifest, "INT8", "2_8", root, progress=False)


def test_a_pipe_where_a_download_lies_is_taken_away(at_hub):
    pipe = at_hub.root / "models" / ".fetch" / "ours" / "partial" / at_hub.commit / "config.json.part"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    at_hub.fetch()


def endless(path):
    """A file that says it has 15 TB, of which nothing is on the disk."""
    path.unlink()
    with open(path, "wb") as stream:
        stream.truncate(15 << 40)


def test_a_file_of_another_size_is_not_hashed(tmp_path, at_hub):
    manifest = at_hub.fetch()
    endless(at_hub.root / "models" / "ours" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors (is not what|was damaged)"):
        models.ensure(manifest, at_hub.root)
    checkpoint = checkpoints.convert(forged(tmp_path / "other"), "INT8", "2_8", tmp_path / "other", progress=False)
    endless(checkpoints.directory(checkpoint, tmp_path / "other") / "model.safetensors")
    checkpoints.ensure(checkpoint, tmp_path / "other")


@pytest.mark.skipif(not os.access("/proc/self/pagemap", os.R_OK), reason="there is no file here that is longer")
@pytest.mark.parametrize("size", [0, 5])
def test_a_file_that_is_longer_than_it_says_is_not_read_on(tmp_path, size):
    files_of = {"pagemap": {"size": size, "sha256": SHA}}
    source = {"kind": "local", "path": "/proc/self"}
    with pytest.raises(CheckpointError):
        models.ensure({"schema": 1, "model": "mine", "source": source, "files": files_of}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"sparsity": "2_1000000"},
        {"sparsity": "2_999999998"},
        {"sparsity": ["2_8"]},
        {"dtype": ["INT8"]},
        {"layers": [{"name": "a", "N": 1, "K": "128"}]},
        {"layers": [{"name": "a", "N": 1, "K": 10**30}]},
        {"layers": [{"name": "a", "N": True, "K": 128}]},
    ],
    ids=str,
)
def test_a_checkpoint_that_cannot_be_is_refused_at_once(tmp_path, change):
    made = checkpoints.convert(forged(tmp_path), "INT8", "dense", tmp_path, progress=False)
    with pytest.raises(CheckpointError):
        checkpoints.ensure(made | change, tmp_path)


def test_only_files_of_the_manifest_become_a_checkpoint(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    generate.generate(folder, 1, SHAPE)
    manifest = models.fetch("mine", {"source": "local", "path": str(folder), "shape": SHAPE}, tmp_path / "resources")
    del manifest["files"]["tokenizer.json"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    made = checkpoints.convert(manifest, "INT8", "dense", tmp_path / "resources", progress=False)
    assert "tokenizer.json" not in made["files"]
