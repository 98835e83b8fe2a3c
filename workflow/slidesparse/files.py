"""Files that are complete or absent: atomic writes, digests, and directories that appear at once."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from slidesparse.errors import CheckpointError


def sync_directory(path):
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path, content):
    """Write `content` (str or bytes) so that `path` is the old file or the whole new one, whatever is killed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    sync_directory(path.parent)


def canonical_json(value):
    """The one spelling of `value` that digests are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value):
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def read_json(path, error=CheckpointError):
    """The JSON in a file. Raises `error` naming the file if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror})") from None
    except ValueError as problem:
        raise error(f"{path} is not JSON ({problem}); delete it to make it again") from None


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def none_from_the_future(root):
    """Give files below `root` that are newer than now, because the clock went back, the time that it is.

    Snakemake refuses an output that is older than its inputs.
    """
    now = time.time_ns()
    for path in Path(root).rglob("*"):
        with suppress(OSError):  # it went, or the disk is read-only
            if path.is_file() and path.stat().st_mtime_ns > now:
                os.utime(path, ns=(now, now))


def sha256_file(path, chunk=1 << 22):
    """sha256 (hex) of a file, read in pieces of `chunk` bytes."""
    state = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(chunk):
            state.update(piece)
    return state.hexdigest()


@contextmanager
def directory_at_once(target):
    """Yield a temporary directory beside `target` that becomes `target` when the block ends well.

    Until then `target` is untouched; when the block fails the temporary directory is removed. What a killed
    process left behind is removed by the next one (the caller serialises writers of one target).
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    for left_over in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield temporary
        for item in temporary.iterdir():
            with open(item, "rb") as stream:
                os.fsync(stream.fileno())
        sync_directory(temporary)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            os.rename(target, old / target.name)
        os.chmod(temporary, 0o755)
        os.rename(temporary, target)
        sync_directory(target.parent)
    finally:
        for left_over in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(left_over, ignore_errors=True)
