"""Atomic writes, bounded reads of files that others may have made, and paths that stay inside a folder.

Names and contents that come from data are not trusted. Only `inside` makes a path from a name in data. Only
`read_bytes` reads a file that others may have made. `OWN` marks the folders that this program may delete.
"""

import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from slidesparse.errors import CheckpointError, RecordError

SEALED_SINCE = "2026-11-30"
"""From this day on, points, choices of `auto` and tuning tables have a digest of themselves."""

READ_LIMIT = 32 << 20
"""Bytes of the largest file that is read whole, such as a point, a table or an index."""

FOLDERS_LIMIT = 32
"""Deepest nesting of folders below results."""

NESTING_LIMIT = 64
"""Deepest nesting of a JSON file."""

OWN = ".slidesparse"
"""Name of the file that marks a folder as made by this program. Folders without it are never deleted or emptied."""

OWN_TEXT = "The SlideSparse BitNet benchmark made this folder and may delete what is in it.\n"


def is_plain(name):
    """Whether `name` is the name of one file: printable text without a folder, not hidden, at most 255 bytes."""
    if not isinstance(name, str) or not name.isprintable() or name.startswith("."):
        return False
    return bool(name) and not {"/", "\\"} & set(name) and len(name.encode()) <= 255


def printable(text):
    """A value as one line of text without line breaks or control characters, safe for terminals and pages."""
    line = " ".join(str(text).split())
    return line if line.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in line)


def inside(root, *names, error=RecordError):
    """The path root/names…, which lies below `root`: each name must be plain, without folders or a leading dot.

    Every path that is made from data (manifests, plans, tables, answers of a hub) comes from here. Raises `error`,
    which names the part that is not plain.
    """
    for name in names:
        if not is_plain(name):
            raise error(f"{_cut(repr(name))} is no plain name of a file, so no path below {root} is made of it")
    return Path(root, *names)


def within(root, path, error=RecordError):
    """`path`, if it lies below the folder `root` as written; for paths from data that may have folders and dots.

    Raises `error` if it leads out of `root`.
    """
    top, place = os.path.abspath(root), os.path.abspath(path)
    if os.path.commonpath([top, place]) != top or place == top:
        raise error(f"{_cut(repr(str(path)))} leads out of {root}")
    return Path(path)


def found(path):
    """`path`, as text; a relative one that the working directory lacks may lie in the repository of this library."""
    own = Path(__file__).resolve().parents[2] / path
    return str(own if own.exists() and not os.path.exists(path) else path)


def leads_out(root, path):
    """Whether links in `path`, which begins at the folder `root`, lead to a place outside `root`."""
    top = os.path.realpath(root)
    return os.path.commonpath([top, os.path.realpath(path)]) != top


def refuse_no_folder(*roots):
    """Raise RecordError if anything but a folder, or a link to one, lies at one of `roots`. They need not exist."""
    for root in roots:
        if os.path.lexists(root) and not os.path.isdir(root):
            raise RecordError(f"{root} is no folder, nor a link to one: remove it, or put the folder back")


def refuse_links_out(*roots):
    """Raise RecordError if anything below `roots` is a link that leads out of its root, or is no file, folder or link.

    After this check, writing below the roots touches nothing outside, and nothing hangs. A root itself may be a link,
    or not exist.
    """
    for root in roots:
        top = os.path.realpath(root)
        for path in everything_below(top):
            with suppress(FileNotFoundError):  # deleted in the meantime
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode) and leads_out(top, path):
                    raise RecordError(f"{path} is a link that leads out of {root}: remove it, or link all of {root}")
                if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise RecordError(f"{path} is neither a file nor a folder: remove it")


def refuse_linked_folders(root):
    """Raise RecordError if a folder two levels or more below `root` is a link.

    Two names would be one folder, and a job for the one would replace what is finished under the other. A hardware's
    own folder may be a link.
    """
    top = os.path.realpath(root)
    for path in everything_below(top):
        if os.path.dirname(path) != top and os.path.islink(path) and os.path.isdir(path):
            raise RecordError(f"{path} is a link to a folder, whose points would have two names: remove it")


def remove_linked_logs(root):
    """Delete the logs below `root` that are links, symbolic or hard.

    A job empties its log, and what is linked with it: a finished point, or a log of a copy that was made of links.
    """
    for path in everything_below(os.path.realpath(root)):
        if path.endswith(".log"):
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
                    os.unlink(path)


def everything_below(root):
    """Paths of all that lies below a folder, without following links. RecordError for folders nested too deeply."""
    folders = [(str(root), 0)]
    while folders:
        folder, depth = folders.pop()
        if depth > FOLDERS_LIMIT:
            raise RecordError(f"{folder:.200} nests deeper than {FOLDERS_LIMIT} folders: remove it")
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                yield entry.path
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, depth + 1))


def open_own(path, mode="ab"):
    """A stream that appends to the regular file `path`, which is made if missing; anything else there is removed.

    A symbolic or hard link could be somebody else's file. A pipe would hang.
    """
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.unlink(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o644), mode)


def own_folders(root, *names):
    """The folder root/names…, made if missing; a link among the names is removed, but `root` may be a link.

    So nothing that is written below it lies elsewhere.
    """
    folder = Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder = folder / name
        if folder.is_symlink():
            folder.unlink()
        folder.mkdir(exist_ok=True)
    return folder


def open_regular(path):
    """A binary stream of a regular file. OSError for anything else: a pipe would hang, a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may be a pipe by now
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path, limit=READ_LIMIT):
    """The content of a regular file of at most `limit` bytes. OSError for anything else."""
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return data


def read_text(path, limit=READ_LIMIT):
    """The text of a regular UTF-8 file of at most `limit` bytes. OSError for another file, ValueError if not UTF-8."""
    return read_bytes(path, limit).decode()


def parse_json(text, **how):
    """The value of a JSON text; `how`: keyword arguments of json.loads.

    ValueError if the text is damaged or nests too deeply, or if an object has a name twice. Likewise for a number that
    is not finite or exceeds 64 bits, and for half a character (a lone surrogate).
    """
    if len(text) > READ_LIMIT:
        raise ValueError(f"it is longer than {READ_LIMIT} characters")
    depth = itertools.accumulate(1 if mark in "[{" else -1 for mark in re.findall(r"[\[\]{}]", text))
    if max(depth, default=0) > NESTING_LIMIT:
        raise ValueError(f"it nests deeper than {NESTING_LIMIT} levels")
    hooks = {"object_pairs_hook": _no_duplicates, "parse_constant": _no_number}
    if HUGE.search(text):  # only then, because checking every number takes twice as long
        hooks |= {"parse_int": _integer, "parse_float": _finite}
    value = json.loads(text, **hooks | how)
    if HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a character (a lone surrogate)") from None
    return value


HUGE = re.compile(r"(?<![0-9A-Za-z.])[0-9]{19}|[eE]\+?[0-9]{3}")
"""Matches text that may be a number of more than 64 bits, or larger than any float."""

HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def _integer(text):
    if len(text) > 19:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_cut(text)} is beyond all numbers")
    return number


def _no_number(text):
    raise ValueError(f"{text} is no number")


def _no_duplicates(pairs):
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("it has a name twice in one object")
    return table


def _cut(text):
    return text if len(text) <= 80 else text[:80] + "…"


def sync_directory(path):
    """Make renames inside the folder `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path, content, durable=True):
    """Write `content` (str or bytes) so that, even after a kill, `path` is the old file or the whole new one.

    durable: also after a power failure, which costs milliseconds. What can be drawn or noted again does without.
    """
    path, temporary = Path(path), None
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    if durable:
        sync_directory(path.parent)


def canonical_json(value):
    """The JSON of `value` that digests are computed from: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value):
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sealed(record):
    """A record with the digest of all its other fields at its end, in place of an earlier one.

    It serves where no other figure depends on a field, too.
    """
    record = {name: value for name, value in record.items() if name != "sha256"}
    return record | {"sha256": digest(json.loads(json.dumps(record)))}  # of what a reader of the file finds


def is_sealed(record):
    """Whether a record is as it was written. Records of before SEALED_SINCE have no digest."""
    if "sha256" in record:
        return sealed(record)["sha256"] == record["sha256"]
    run = record.get("run")
    return not isinstance(run, dict) or str(run.get("utc")) < SEALED_SINCE


def read_json(path, error=CheckpointError, limit=READ_LIMIT):
    """The JSON in a file. Raises `error` naming the file if it is missing or damaged."""
    try:
        return parse_json(read_text(path, limit))
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror})") from None
    except ValueError as problem:
        raise error(f"{path} is not JSON ({problem}); delete it to make it again") from None


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, _as_written(value))


def _as_written(value):
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def none_from_the_future(root):
    """Set files below `root` whose time lies in the future, because the clock went back, to the present time.

    Otherwise Snakemake refuses outputs that are older than their inputs.
    """
    now = time.time_ns()
    for path in map(Path, everything_below(root)):
        with suppress(OSError):  # deleted meanwhile, or the disk is read-only
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mtime_ns > now:
                os.utime(path, ns=(now, now), follow_symlinks=False)


def sha256_file(path, chunk=1 << 22):
    """sha256 (hex) of a file, read in pieces of `chunk` bytes. OSError for one that is longer than it says."""
    state = hashlib.sha256()
    with open_regular(path) as stream:
        left = os.fstat(stream.fileno()).st_size
        while piece := stream.read(chunk):
            left -= len(piece)
            if left < 0:
                raise OSError(errno.EFBIG, "it is longer than it says", str(path))
            state.update(piece)
    return state.hexdigest()


def sha256_json(path):
    """sha256 (hex) of a JSON file as `write_json` writes it: other spaces and ends of lines count for nothing.

    Anything but JSON has the sha256 of its bytes. OSError as of `read_bytes`.
    """
    data = read_bytes(path)
    if not (data.startswith(b'{\n "') and data.endswith(b"\n}\n")) or b"\r" in data:  # another program wrote it again
        with suppress(ValueError):
            data = _as_written(parse_json(data.decode("utf-8-sig"))).encode()
    return hashlib.sha256(data).hexdigest()


def cache_directory():
    """The folder of files that can be made again; only this user writes there. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "slidesparse")


def note(kind, name, content=""):
    """Note in the user's cache that this user made something, as `content` under `name`; without room nothing is noted.

    A folder of results or resources may be somebody else's, so what lies beside a file proves nothing of its origin.
    """
    with suppress(OSError):
        write_atomic(cache_directory() / kind / name, content, durable=False)


def noted(kind, name):
    """The content of a note, or None if there is none."""
    try:
        return read_text(cache_directory() / kind / name)
    except (OSError, ValueError):
        return None


def open_lock(path):
    """A stream, for a lock, of the regular file `path`, which is made if missing.

    OSError if `path` is a link, which leads elsewhere, or no regular file.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "it is a link", str(path))
    how = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:  # in a folder that all users share, O_CREAT is refused for a file of another user
        descriptor = os.open(path, how)
    except FileNotFoundError:
        descriptor = os.open(path, how | os.O_CREAT, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(descriptor, "r+")


def mark_own(folder):
    """Mark a folder as made by this program, which may then delete it."""
    with suppress(FileExistsError):
        descriptor = os.open(Path(folder, OWN), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(OWN_TEXT)


def is_own(folder):
    """Whether this program made `folder`: it holds the mark, and neither the folder nor the mark is a link."""
    folder = Path(folder)
    mark = folder / OWN
    return not folder.is_symlink() and mark.is_file() and not mark.is_symlink()


def remove_own(folder):
    """Delete a folder that this program made. If it is a link, only the link is deleted.

    Raises CheckpointError for a folder without the mark.
    """
    folder = Path(folder)
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        if not is_own(folder):
            raise CheckpointError(f"{folder} was not made by this program, which does not delete it: move it away")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def directory_at_once(target):
    """Yield a temporary directory beside `target` that becomes `target`, marked as ours, when the block succeeds.

    Until then `target` is untouched. If the block fails, the temporary directory is removed. The next process removes
    what a killed one left; the caller allows only one writer of a target at a time. Raises CheckpointError if `target`
    exists and this program did not make it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    if (target.exists() or target.is_symlink()) and not is_own(target):
        raise CheckpointError(f"{target} was not made by this program, which does not replace it: move it away")
    _remove_left_over(target, prefix)
    temporary = _own_temporary(prefix, target.parent)
    try:
        yield temporary
        for item in temporary.iterdir():
            with open(item, "rb") as stream:
                os.fsync(stream.fileno())
        sync_directory(temporary)
        if target.exists():
            os.rename(target, _own_temporary(prefix, target.parent) / target.name)
        os.chmod(temporary, 0o755)
        os.rename(temporary, target)
        sync_directory(target.parent)
    finally:
        _remove_left_over(target, prefix)


def _own_temporary(prefix, parent):
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    mark_own(temporary)
    return temporary


def _remove_left_over(target, prefix):
    for left_over in target.parent.glob(f"{prefix}*"):
        if is_own(left_over):
            shutil.rmtree(left_over, ignore_errors=True)
