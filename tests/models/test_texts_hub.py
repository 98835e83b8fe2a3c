"""Texts of a hub's data sets: named by their commit, verified, held by the lock file; every failure one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from local_hub import Hub, serving
from places import LIBRARY
from slidesparse.errors import ConfigurationError
from slidesparse.files import sha256_file
from slidesparse.models import texts
from slidesparse.plan.dataset import Dataset

SET, FILE, TEXT = "owner/some-text", "raw/held_out.txt", b"In the beginning\n" * 1000


@pytest.fixture
def hub():
    return Hub()


@pytest.fixture
def user(hub, tmp_path):
    """Calls the fetching program for the file of the data set at a commit; gives what it ended with."""
    with serving(hub) as endpoint:

        def fetch(commit, file=FILE, **environment):
            named = f"hf://datasets/{SET}@{commit}/{file}"
            command = [sys.executable, LIBRARY.parent / "scripts" / "fetch_text.py", "--text", named]
            command += ["--output", tmp_path / "text.json", "--resources", tmp_path / "resources"]
            settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(LIBRARY.parent)}
            return subprocess.run(command, env=settings | environment, capture_output=True, text=True, timeout=120)

        fetch.place = lambda commit: texts.place(f"hf://datasets/{SET}@{commit}/{FILE}", tmp_path / "resources")
        fetch.lock, fetch.output = tmp_path / "resources" / "models.lock.json", tmp_path / "text.json"
        yield fetch


def requests(hub):
    return [path for path, _ in hub.requests]


@pytest.mark.parametrize("lfs", [(), (".txt",)])
def test_a_text_is_fetched_once_and_held_to_its_hash(hub, user, lfs):
    hub.lfs = lfs
    commit = hub.add(f"datasets/{SET}", {FILE: TEXT, "README.md": b"not needed"})
    assert user(commit).returncode == 0
    place, facts = user.place(commit), {"size": len(TEXT), "sha256": sha256_file(user.place(commit))}
    assert place.read_bytes() == TEXT and place.parent.parent.name == commit
    assert json.loads(user.output.read_text()).items() >= facts.items()
    entry = {"repository": SET, "revision": commit, "commit": commit, "files": {"held_out.txt": facts}}
    assert json.loads(user.lock.read_text()) == {f"{SET}/{FILE}": entry}
    seen = len(hub.requests)
    assert user(commit).returncode == 0 and len(hub.requests) == seen

    place.write_bytes(b"damaged")
    hub.served[FILE] = TEXT[:-1] + b"?"
    done = user(commit)
    assert done.returncode == 1 and f"not what {user.lock} says; it was deleted" in done.stderr
    hub.served.clear()
    assert user(commit).returncode == 0 and place.read_bytes() == TEXT
    assert not any("README" in path for path in requests(hub))


def test_a_later_commit_is_another_text_and_both_stay(hub, user):
    commits = [hub.add(f"datasets/{SET}", {FILE: TEXT + more}) for more in (b"", b"more")]
    for commit in commits:
        assert user(commit).returncode == 0
    assert [user.place(commit).read_bytes() for commit in commits] == [TEXT, TEXT + b"more"]


def test_what_the_hub_refuses_is_one_sentence(hub, user):
    def fails(commit, file=FILE, **environment):
        done = user(commit, file, **environment)
        assert done.returncode == 1 and "Traceback" not in done.stderr and not user.output.exists()
        return done.stderr.strip().rpartition("\n")[2]

    assert "check quality.text, or set HF_TOKEN" in fails("0" * 40)
    commit = hub.add(f"datasets/{SET}", {FILE: TEXT})
    assert "no revision" in fails("0" * 40)
    assert f"{SET} has no file 'other.txt' at {commit}" in fails(commit, "other.txt")
    hub.announced[FILE] = texts.LIMIT + 1
    assert f"may have at most {texts.LIMIT}" in fails(commit)
    hub.announced.clear()
    assert "HF_HUB_OFFLINE is set" in fails(commit, HF_HUB_OFFLINE="1")
    assert not user.place(commit).exists() and not user.lock.exists()


@pytest.mark.parametrize("text", ["resources/text/held_out.txt", "hf.txt", "/tmp/hf:/x"])
def test_a_path_is_no_data_set(text):
    assert Dataset.of(text) is None and texts.place(text).name == Path(text).name


@pytest.mark.parametrize(
    "text",
    [
        f"hf://datasets/{SET}@main/{FILE}",
        f"hf://{SET}@{40 * '0'}/{FILE}",
        f"hf://datasets/{SET}@{40 * '0'}/../{FILE}",
        f"hf://datasets/{SET}@{40 * '0'}/.hidden",
        f"hf://datasets/{SET}/{FILE}",
    ],
)
def test_a_name_that_says_no_commit_or_leads_elsewhere_is_refused(text):
    with pytest.raises(ConfigurationError, match="hf://datasets/OWNER/NAME@COMMIT/FILE"):
        Dataset.of(text)
