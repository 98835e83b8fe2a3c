"""Verifies files by their sha256. A file is hashed once, and again only if its size, mtime or inode changed.

The result is stored in a small file beside the directory. It is a cache: without it, all files are hashed again.
"""

import os
from contextlib import suppress
from pathlib import Path

from slidesparse.errors import CheckpointError
from slidesparse.files import inside, read_json, sha256_file, write_json


def verify(directory, files):
    """Raise CheckpointError for the first of `files` {name: {"size", "sha256"}} that differs in `directory`."""
    record = record_of(directory)
    held = measured(directory, {name: facts["size"] for name, facts in files.items()}, record)
    for name, facts in files.items():
        if held.get(name) != facts:
            state = "is damaged, its size or sha256 is not its manifest's" if name in held else "is missing"
            raise CheckpointError(f"{Path(directory) / name} {state}; delete {directory} to have it made again")
    remember(directory, held, record)


def record_of(directory):
    """Path of the record of what was verified in `directory`."""
    directory = Path(directory)
    return directory.with_name(f".{directory.name}.verified.json")


def measure(path):
    """{"size", "sha256"} of a file."""
    return {"size": os.path.getsize(path), "sha256": sha256_file(path)}


def measured(directory, sizes, record):
    """{name: {"size", "sha256"}} of the files in `directory` among `sizes` {name: bytes that it should have, or None}.

    Files are hashed if not in `record`. One of another size is wrong, so it is not hashed: its sha256 is empty.
    """
    _, known = recall(record)
    files = {}
    for name, size in sizes.items():
        path = inside(directory, name, error=CheckpointError)
        with suppress(FileNotFoundError):
            facts = known.get(name, {})
            if size not in (None, os.path.getsize(path)):
                facts = {"size": os.path.getsize(path), "sha256": ""}
            elif facts.get("state") != state(path):
                facts = measure(path)
            files[name] = {"size": facts["size"], "sha256": facts["sha256"]}
    return files


def recall(record):
    """(source, {name: {"size", "sha256", "state"}}) as last stored; (None, {}) if nothing is stored."""
    try:
        content = read_json(record)
        files = {
            name: facts | {"size": facts["size"], "sha256": facts["sha256"]} for name, facts in content["files"].items()
        }
        return content["source"], files
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return None, {}


def remember(directory, files, record, source=None):
    """Store that `files` {name: {"size", "sha256"}} of `source` are verified, with their present state on disk."""
    entries = {name: {**facts, "state": state(Path(directory) / name)} for name, facts in files.items()}
    if recall(record) != (source, entries):
        with suppress(OSError):  # on a full or read-only disk they are only hashed again
            write_json(record, {"source": source, "files": entries})


def state(path):
    """The values that change when a file changes: size, mtime in ns, inode."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]
