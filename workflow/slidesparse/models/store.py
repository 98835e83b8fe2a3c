"""Puts a model's weights into their place, complete and verified or not at all.

resources/models/{model}/                  weights of a hub or generated model; a local model stays where it is
resources/models/.{model}.verified.json    hashes of verified files, so that they are not hashed at every call
resources/models/.fetch/{model}/           files that are not complete yet, and a lock
resources/models.lock.json                 the commit and hashes that hub models must have
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from slidesparse.errors import CheckpointError
from slidesparse.files import (
    OWN,
    inside,
    is_own,
    mark_own,
    own_folders,
    read_json,
    remove_own,
    sync_directory,
    write_json,
)
from slidesparse.models import bitnet, generate, hub, verified
from slidesparse.models.contents import (
    CONFIG,
    INDEX,
    WEIGHTS,
    check_commit,
    check_files,
    check_index,
    check_name,
    check_weights,
    wanted,
)
from slidesparse.models.hub import Expected
from slidesparse.models.shape import FIELDS, check_config, check_heads, shape_of
from slidesparse.plan.prompts import POSITIONS
from slidesparse.program import locked

SOURCES = {"hub": {"repository", "revision"}, "local": {"path"}, "generated": {"seed", *FIELDS}}
"""kind of a source: its keys in a manifest. A generated one also has its positions, if they are not the usual ones."""

BOUNDS = {"seed": (0, 1 << 63), "num_hidden_layers": (1, 4000)}
"""Smallest and largest value of a number in a source, if not 1 and 2^24."""


def fetch(name, entry, root="resources", lock="resources/models.lock.json"):
    """Fetch or make the weights of registry entry `entry` under `root`, and verify them; returns the model's manifest.

    hub: if `lock` has this repository and revision, the weights must have its commit and hashes. Otherwise the revision
    is resolved, and then locked.
    generated: the weights are made from the seed.
    local: they are checked where they are.

    The manifest holds no time and no path of ours. DownloadError or CheckpointError says in one sentence what is wrong.
    A second call resumes.
    """
    shape = shape_of(name, entry)
    check_heads(name, shape)
    authority, resolved = str(lock), False
    if entry["source"] == "hub":
        known = pinned(lock, name, entry)
        if known is None:
            known = hub.resolve(_repository(name, entry["repository"]), entry["revision"])
            authority, resolved = "the hub", not hub.is_offline()
        commit, expected = known
        source = {"kind": "hub", "repository": entry["repository"], "revision": commit}
    elif entry["source"] == "local":
        source = {"kind": "local", "path": entry["path"]}
    else:
        source = {"kind": "generated", "generator": generate.GENERATOR, "seed": entry["seed"], **shape}
        if (positions := entry.get("positions", POSITIONS)) != POSITIONS:
            source["positions"] = positions
    _check_source(name, source)
    place = _Place(name, source, root)
    with place.alone():
        if source["kind"] == "local":
            expected = dict.fromkeys(_own_files(place, shape), Expected())
        elif source["kind"] == "generated":
            expected = place.last_verified()
        files = _hold(place, expected, authority, shape)
        _check(place, place.directory, files, shape)
        if resolved:
            pin(lock, name, {**entry, "commit": commit, "files": files}, root)
    return {"schema": 1, "model": name, "source": source, "files": dict(sorted(files.items()))}


def ensure(manifest, root="resources"):
    """The directory with exactly the files of a model's `manifest`, fetched or generated again if they are missing.

    Sizes and sha256 are verified. A verified file is trusted while its size, mtime and inode stay the same.
    CheckpointError names a file that differs from the manifest. If this program made the file under `root` and it has
    changed since, the file is deleted, so that the next call makes it again.
    """
    check(manifest)
    name, files = manifest["model"], manifest["files"]
    place, authority = _Place(name, manifest["source"], root), f"the manifest of model {name}"
    with place.alone():
        _hold(place, {file: Expected(**facts) for file, facts in files.items()}, authority)
    return place.directory


def check(manifest):
    """Raise CheckpointError unless `manifest` is plausible and no name in it leads out of its directory."""
    try:
        name, source, files = manifest["model"], manifest["source"], manifest["files"]
        known = not SOURCES[source["kind"]] - source.keys()
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError("a model manifest lacks its model, source or files: fetch the model again") from None
    check_name(name, "a model manifest")
    if not known:
        raise CheckpointError(f"the manifest of model {name} is of a source which cannot be: fetch the model again")
    _check_source(name, source)
    check_files(files, f"the manifest of model {name}")


def _check_source(name, source):
    """Raise CheckpointError unless the values of a manifest's source are plausible."""
    texts = {field: source[field] for field in ("repository", "path") if field in source}
    wrong = [field for field, text in texts.items() if not isinstance(text, str) or not text.isprintable()]
    numbers = {field: source[field] for field in ("seed", "positions", *FIELDS) if field in source}
    for field, number in numbers.items():
        least, most = BOUNDS.get(field, (1, 1 << 24))
        if type(number) is not int or not least <= number <= most:
            wrong.append(field)
    if wrong:
        raise CheckpointError(f"model {name} has no usable {wrong[0]}: correct its entry, or fetch the model again")
    if source["kind"] == "hub":
        check_commit(source["revision"], f"the manifest of model {name}")


def _hold(place, expected, authority, shape=None):
    """Make sure that the files `expected` {name: Expected} are in place; returns their {name: {"size", "sha256"}}.

    Files of another source (commit, seed, shape) are replaced. A wrong file of this source is an error. `expected` may
    be empty for a generated model about which nothing is known yet.
    """
    sizes = {file: facts.size for file, facts in expected.items()}
    held = verified.measured(place.directory, sizes, place.record)
    if not place.is_stale():
        for file, facts in held.items():
            if not expected[file].agrees(place.directory / file, facts):
                raise place.reject(file, facts, authority)
        if expected and len(held) == len(expected):
            verified.remember(place.directory, held, place.record, place.source)
            return held
    if place.kind == "hub":
        return _download(place, expected, authority, shape)
    if place.kind == "generated":
        return _generate(place, expected, authority)
    file = next(file for file in expected if file not in held)
    raise CheckpointError(f"model {place.name}: {place.directory / file} is missing: restore it and run again")


def _repository(name, repository):
    """The hub.Repository of a model."""
    return hub.Repository(repository, f"model {name}", (f"registry.{name}.repository", f"registry.{name}.revision"))


def _download(place, expected, authority, shape):
    """Stage every file of a hub model and make them visible.

    Small files come first, so a wrong model ends early. With a `shape` the index decides which weights follow.
    """
    repository, commit = _repository(place.name, place.source["repository"]), place.source["revision"]
    staging = place.staging(commit)
    files, needed, listed = {}, {}, None
    for file in sorted(expected, key=lambda file: (file.endswith(WEIGHTS), file not in (CONFIG, INDEX), file)):
        if listed is not None and file.endswith(WEIGHTS) and file not in listed:
            continue
        nearby = place.directory / file
        files[file] = hub.obtain(repository, commit, file, expected[file], staging, nearby, authority)
        if file == CONFIG and shape:
            needed = _needed(check_config(place.name, staging / file, shape), shape)
        if file == INDEX:
            listed = check_index(staging, expected, needed) if shape else None
    _check(place, staging, files, shape)
    place.publish(staging, files)
    return files


def _generate(place, expected, authority):
    """Stage a generated model and make it visible; CheckpointError if a file differs from `expected`."""
    staging = place.staging("generated")
    shape = {field: place.source[field] for field in FIELDS}
    needed, free = generate.size(shape), shutil.disk_usage(staging).free
    if needed > free:
        raise CheckpointError(
            f"model {place.name}: it has {needed / 1e9:.3f} GB, but only {free / 1e9:.3f} GB are free under {staging};"
            f" make room and run again"
        )
    files = generate.generate(staging, place.source["seed"], shape, place.source.get("positions", POSITIONS))
    for file, facts in expected.items():
        if file not in files or not facts.agrees(staging / file, files[file]):
            raise CheckpointError(
                f"model {place.name}: {file}, generated again, is not what {authority} says: it comes from another"
                f" version of the generator; delete results/models/{place.name} to fetch it anew"
            )
    place.publish(staging, files)
    return files


def _own_files(place, shape):
    """Names of the files of a local model. CheckpointError if it cannot be read or run."""
    names, where = place.listing(), f"model {place.name}: {place.directory}"
    found = wanted(names, where)
    config = check_config(place.name, place.directory / CONFIG, shape)
    listed = check_index(place.directory, names, _needed(config, shape))
    return found if listed is None else wanted(names, where, listed)


def _needed(config, shape):
    """{name: shape} of the tensors that a model of this `shape` has by its config.json (a dict)."""
    return {tensor: size for tensor, size, _ in bitnet.tensors(shape, bitnet.is_tied(config))}


def _check(place, directory, files, shape):
    """Raise CheckpointError unless the files in `directory` are readable and, if given, a BitNet of this `shape`."""
    config = check_config(place.name, directory / CONFIG, shape) if shape else {}
    needed = _needed(config, shape) if shape else {}
    check_index(directory, files, needed)
    check_weights(directory, files, needed, bitnet.scale_of(config))


class _Place:
    """The places of a model's files; adds, replaces and deletes them. source: as in the manifest."""

    def __init__(self, name, source, root):
        self.models = models = Path(root, "models")
        self.name, self.source, self.kind = name, source, source["kind"]
        own = inside(models, name, error=CheckpointError)
        self.directory = Path(os.path.expanduser(source["path"])) if self.kind == "local" else own
        self.record = verified.record_of(own)
        self.ways = inside(models / ".fetch", name, error=CheckpointError)

    @contextmanager
    def alone(self):
        """Hold the model's lock, which is free when the process ends; CheckpointError if the disk fails."""
        try:
            own_folders(self.models, ".fetch", self.name)
            with locked(self.ways / "lock"):
                yield
        except OSError as error:
            raise CheckpointError(
                f"model {self.name} cannot be read or written ({error}): make room or correct the permissions,"
                f" then run again; what is visible is complete"
            ) from None

    def listing(self):
        """Names of the files in the directory; CheckpointError if it cannot be read."""
        try:
            return sorted(item.name for item in self.directory.iterdir() if item.is_file())
        except OSError as error:
            raise CheckpointError(
                f"model {self.name}: {self.directory} cannot be read ({error.strerror}): correct its path"
            ) from None

    def is_stale(self):
        """Whether the directory is known to hold files of another source, which may be replaced."""
        source, _ = verified.recall(self.record)
        return self.kind != "local" and source not in (None, self.source)

    def last_verified(self):
        """{name: Expected} of the files last verified, if they are of this source; else empty."""
        source, files = verified.recall(self.record)
        known = files if source == self.source else {}
        return {name: Expected(facts["size"], facts["sha256"]) for name, facts in known.items()}

    def reject(self, file, facts, authority):
        """The error for a `file` in place whose `facts` (size, sha256) differ from what `authority` says.

        The file is deleted if this program made it and it has changed since. Then the file is damaged, and not the
        manifest.
        """
        path = inside(self.directory, file, error=CheckpointError)
        if self.kind == "local":
            return CheckpointError(
                f"model {self.name}: {path} has changed: restore it, or delete results/models/{self.name} to accept it"
            )
        known = verified.recall(self.record)[1].get(file)
        unchanged = known is None or known["sha256"] == facts["sha256"] or known.get("state") == verified.state(path)
        if not is_own(self.directory) or unchanged:
            return CheckpointError(
                f"model {self.name}: {path} is not what {authority} says; delete results/models/{self.name} to accept"
                f" the file, or move it away to have it made anew"
            )
        path.unlink()
        return CheckpointError(
            f"model {self.name}: {path} was damaged (its size or sha256 was not what {authority} says) and has been"
            f" deleted: run again to have it made anew"
        )

    def staging(self, key):
        """The directory that collects the files of `key`, such as a commit, until they are complete and visible."""
        inside(self.ways / "partial", key, error=CheckpointError)
        for names in ((), ("partial",), ("partial", key)):
            mark_own(own_folders(self.ways, *names))
        return self.ways / "partial" / key

    def publish(self, staging, files):
        """Replace the visible directory, at once, by the complete directory `staging` with exactly `files`."""
        for item in staging.iterdir():
            if item.name in files:
                with open(item, "rb") as stream:
                    os.fsync(stream.fileno())
            elif item.name != OWN:
                item.unlink()
        sync_directory(staging)
        replaced = self.ways / "replaced"
        remove_own(replaced)
        if self.directory.exists():
            if not is_own(self.directory):
                raise CheckpointError(
                    f"model {self.name}: {self.directory} holds other files, and this program did not make it: move it"
                    f" away, or name it as a local model"
                )
            os.rename(self.directory, replaced)
        os.rename(staging, self.directory)
        sync_directory(self.directory.parent)
        verified.remember(self.directory, files, self.record, self.source)
        remove_own(replaced)
        remove_own(self.ways / "partial")


def _read_lock(lock):
    """The table {model: entry} of the lock file; empty if there is no file yet."""
    if not Path(lock).exists():
        return {}
    try:
        table = read_json(lock)
    except CheckpointError:
        table = None
    if not isinstance(table, dict):
        raise CheckpointError(f"{lock} cannot be read as JSON: restore it, or delete it to resolve all models anew")
    return table


def pinned(lock, name, entry):
    """(commit, {file: Expected}) that a hub's model, or text, must have by `lock`; None if it lacks this revision."""
    table, where = _read_lock(lock), f"entry {name!r} of {lock}"
    if name not in table:
        return None
    try:
        pinned = table[name]
        if any(pinned[key] != entry[key] for key in ("repository", "revision")):
            return None
        commit, files = pinned["commit"], pinned["files"]
    except (KeyError, TypeError):
        raise CheckpointError(f"{where} is damaged: delete it to resolve the model anew") from None
    check_commit(commit, where)
    check_files(files, where)
    return commit, {file: Expected(**facts) for file, facts in files.items()}


def pin(lock, name, entry, root):
    """Add the model, or text, `name` to the lock file. Other entries stay, even if they are added at the same time."""
    pinned = {key: entry[key] for key in ("repository", "revision", "commit")}
    pinned["files"] = dict(sorted(entry["files"].items()))
    with locked(own_folders(Path(root, "models"), ".fetch") / ".lock"):
        write_json(lock, dict(sorted({**_read_lock(lock), name: pinned}.items())))
