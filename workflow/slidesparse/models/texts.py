"""Puts the text that checkpoints are scored on into its place, if it is a file of a hub's data set.

resources/texts/{owner}/{name}/{commit}/{file}
resources/models.lock.json                       its hash, under "{owner}/{name}/{file}"

plan.dataset says how such a text is named.
"""

import os
from pathlib import Path

from slidesparse.errors import CheckpointError, DownloadError
from slidesparse.files import found, inside, own_folders
from slidesparse.models import hub, store
from slidesparse.models.verified import measure
from slidesparse.plan.dataset import Dataset
from slidesparse.program import locked

LIMIT = 64 << 20
"""Bytes of the largest text."""


def place(text, root="resources"):
    """Where `quality.text` of the configuration lies: a path as it is, or below `root` that of a hub's file."""
    asked = Dataset.of(text)
    if not asked:
        return Path(found(text))
    parts = (*asked.repository.split("/"), asked.commit, *asked.file.split("/"))
    return inside(Path(root, "texts"), *parts, error=CheckpointError)


def fetch(text, root="resources", lock="resources/models.lock.json"):
    """Make sure that a hub's text is in its place; returns its {"size", "sha256"}.

    It must have the hash of `lock`, or else the one that the hub says, which is then locked. DownloadError or
    CheckpointError says in one sentence what is wrong.
    """
    asked, target = Dataset.of(text), place(text, root)
    repository = hub.Repository(asked.repository, "the text", ("quality.text", "quality.text"), "dataset")
    entry, name = {"repository": asked.repository, "revision": asked.commit}, f"{asked.repository}/{asked.file}"
    try:
        with locked(own_folders(root, "texts", ".fetch") / "lock"):
            known = store.pinned(lock, name, entry)
            expected = known[1][target.name] if known else _announced(repository, asked)
            if (expected.size or 0) > LIMIT:
                raise DownloadError(f"the text {name} has {expected.size} bytes, but may have at most {LIMIT}")
            facts = measure(target) if target.is_file() else None
            if facts is None or not expected.agrees(target, facts):
                facts = _obtain(repository, asked, expected, target, root, str(lock) if known else "the hub")
            if not known:
                store.pin(lock, name, {**entry, "commit": asked.commit, "files": {target.name: facts}}, root)
    except OSError as error:
        raise CheckpointError(f"the text {name} cannot be read or written below {root} ({error})") from None
    return facts


def _announced(repository, asked):
    """The Expected of a text by the hub."""

    def only(names):
        if asked.file not in names:
            raise DownloadError(f"the text: {asked.repository} has no file {asked.file!r:.200} at {asked.commit}")
        return [asked.file]

    commit, expected = hub.resolve(repository, asked.commit, only)
    if commit != asked.commit:
        raise DownloadError(f"the text: for {asked.commit} of {asked.repository} the hub has {commit}: name that one")
    return expected[asked.file]


def _obtain(repository, asked, expected, target, root, authority):
    """Fetch a text into its place; returns its {"size", "sha256"}."""
    staging = own_folders(root, "texts", ".fetch", asked.commit)
    (staging / asked.file).parent.mkdir(parents=True, exist_ok=True)
    facts = hub.obtain(repository, asked.commit, asked.file, expected, staging, target, authority)
    own_folders(root, *target.relative_to(root).parts[:-1])
    os.replace(staging / asked.file, target)
    return facts
