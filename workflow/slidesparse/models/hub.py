"""Downloads files of a Hugging Face hub, of models and data sets: pinned to a commit, checked, and resumed.

Settings of huggingface_hub decide all else: HF_ENDPOINT (mirrors), HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, proxies.

An answer of a hub ends at its announced size or at a limit, and must keep a minimum rate. The functions of
huggingface_hub bound neither size nor rate, so its HTTP session is used directly.
"""

import errno
import hashlib
import os
import queue
import shutil
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from slidesparse.errors import DownloadError
from slidesparse.files import open_own, open_regular, parse_json
from slidesparse.models import environment
from slidesparse.models.contents import INDEX, check_commit, is_size, plain_weights, wanted
from slidesparse.models.verified import measure

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

ANSWER_LIMIT = 8 << 20
"""Bytes of the largest answer that is not a file."""

PACE_BYTES, PACE_S = 300_000, 30.0
"""The minimum rate of an answer: so many bytes in so many seconds."""

TRIES, PAUSE_S = 5, 1.0
"""Attempts without a byte of progress, and seconds of pause, which doubles with each failed attempt."""

BUSY = (408, 429)
"""HTTP statuses after which the same request may succeed."""


class _Unbounded(Exception):
    """A hub sends too much or too slowly; the text is the predicate of a sentence about the hub."""


@dataclass(frozen=True)
class Expected:
    """What is known about a file in advance; None if unknown. `git_blob`: git's sha1 of a file outside LFS."""

    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    def agrees(self, path, facts):
        """Whether the file `path`, measured as `facts` {"size", "sha256"}, is the expected one."""
        return (
            self.size in (None, facts["size"])
            and self.sha256 in (None, facts["sha256"])
            and (self.git_blob is None or self.git_blob == git_blob(path))
        )


class Repository(NamedTuple):
    """A repository of a hub.

    what: is fetched from it, for sentences. keys: of the configuration, which have its name and its revision. kind:
    model or dataset.
    """

    name: str
    what: str
    keys: tuple
    kind: str = "model"

    def __str__(self):
        return self.name


def git_blob(path):
    """The sha1 (hex) under which git stores the content of `path`."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(b"blob %d\0" % os.path.getsize(path))).hexdigest()


def resolve(repository, revision, choose=None):
    """The commit that `revision` of a Repository names now, and {file: Expected} of files; or DownloadError.

    choose: gives the wanted names of those that are there; without it they are those that a model may need. Offline
    (HF_HUB_OFFLINE), both come from the snapshot of that revision in huggingface_hub's cache.
    """
    environment.check()
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, validate_repo_id

    with _explained(repository, revision):
        if is_offline():
            commit, expected = _cached_snapshot(repository, revision, choose)
            check_commit(commit, f"the cache of {repository}", DownloadError)
            return commit, expected
        validate_repo_id(repository.name)
        where = f"api/{repository.kind}s/{repository}/revision/{quote(revision, safe='')}"
        url = f"{constants.ENDPOINT}/{where}?blobs=true"
        pieces = _received(url, build_hf_headers(), constants.HF_HUB_ETAG_TIMEOUT, ANSWER_LIMIT, _Pace())
        next(pieces)
        try:
            info = parse_json(b"".join(pieces).decode())
            siblings = {sibling["rfilename"]: sibling for sibling in info["siblings"]}
            names = choose(siblings) if choose else _candidates(siblings, f"{repository.what}: repository {repository}")
            commit, expected = info["sha"], {name: _announced(siblings[name]) for name in names}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DownloadError(
                f"{repository.what}: {_host()} does not answer like a Hugging Face hub: check the network and"
                " HF_ENDPOINT"
            ) from None
    check_commit(commit, f"{repository.what}: the answer of {_host()}", DownloadError)
    return commit, expected


def _candidates(names, where):
    """The files of a repository that may be wanted. If it has an index, this decides about the weights later."""
    found = wanted(names, where)
    return found + [name for name in plain_weights(names) if INDEX in names and name not in found]


def is_offline():
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network."""
    environment.check()
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _host():
    """Host name of the hub or mirror in use, without the rest of its address."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).hostname or "the hub"


def _announced(sibling):
    """A file's size and hash as the hub states them: sha256 if LFS holds it, else git's sha1. ValueError if missing."""
    lfs = sibling.get("lfs")
    size, kind, known = (
        (lfs["size"], "sha256", lfs["sha256"]) if lfs else (sibling["size"], "git_blob", sibling["blobId"])
    )
    if not is_size(size) or not isinstance(known, str) or not known:
        raise ValueError(size)
    return Expected(size, **{kind: known})


def _cached_snapshot(repository, revision, choose):
    """`resolve` from the cache, where the name of a file is its sha256 if LFS held it, else git's sha1."""
    from huggingface_hub import snapshot_download

    only = {"local_files_only": True, "allow_patterns": "*.json", "repo_type": repository.kind}
    snapshot = Path(snapshot_download(repository.name, revision=revision, **only))
    expected, there = {}, [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*")]
    for name in choose(there) if choose else _candidates(there, f"the cached snapshot {snapshot}"):
        blob = os.path.basename(os.readlink(snapshot / name)) if (snapshot / name).is_symlink() else ""
        expected[name] = Expected(None, blob if len(blob) == 64 else None, blob if len(blob) == 40 else None)
    return snapshot.name, expected


def obtain(repository, commit, name, expected, staging, nearby, authority):
    """Put file `name` of `commit` into the directory `staging` and check it; returns its {"size", "sha256"}.

    It is downloaded unless `staging`, the path `nearby` or huggingface_hub's cache has it with the right hash.
    `authority`: the source of `expected`, named in the DownloadError for a wrong file.
    """
    environment.check()
    from huggingface_hub import try_to_load_from_cache

    target, partial = staging / name, staging / f"{name}.part"
    with _explained(repository, commit, name):
        cached = try_to_load_from_cache(repository.name, name, revision=commit, repo_type=repository.kind)
        for candidate in (target, nearby, Path(cached) if isinstance(cached, str) else None):
            if candidate is None or not candidate.exists():
                continue
            if expected.size not in (None, os.path.getsize(candidate)):
                continue
            if expected.agrees(candidate, facts := measure(candidate)):
                if candidate != target:
                    _link(candidate, partial)
                    os.replace(partial, target)
                return facts
        _download(repository, commit, name, expected.size, partial)
        facts = measure(partial)
        if not expected.agrees(partial, facts):
            partial.unlink()
            raise DownloadError(
                f"{repository.what}: {name} of {repository} at {commit} arrived with size {facts['size']} and sha256 "
                f"{facts['sha256']}, which is not what {authority} says; it was deleted, run again to fetch it anew"
            )
        os.replace(partial, target)
    return facts


def _link(source, partial):
    """Make `partial` a hard link to the file `source`, or a copy if the file system cannot link."""
    source = os.path.realpath(source)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)


def _download(repository, commit, name, size, partial):
    """Append the missing rest of the file to `partial`, up to `size` bytes; broken connections are tried again.

    huggingface_hub's own download is not used, for two reasons. Its temporary file has another name at each call, so it
    never resumes in a later run. It stops neither at the announced size nor if hardly anything arrives.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers
    from tqdm import tqdm

    if size is None:
        raise DownloadError(f"{repository.what}: nobody says how large {name} of {repository} is: fetch it again")
    if partial.is_symlink() or partial.exists() and (not partial.is_file() or partial.stat().st_size > size):
        partial.unlink()
    done = partial.stat().st_size if partial.exists() else 0
    free = shutil.disk_usage(partial.parent).free
    if free < size - done:
        raise DownloadError(
            f"{repository.what}: {name} needs {(size - done) / 1e9:.3f} GB under {partial.parent}, but only "
            f"{free / 1e9:.3f} GB are free; make room and run again, what has arrived is kept"
        )
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a compressed answer cannot be resumed
    url = hf_hub_url(repository.name, name, revision=commit, repo_type=repository.kind)
    pace, failed = _Pace(), 0
    with open_own(partial) as stream, tqdm(total=size, initial=done, unit="B", unit_scale=True, desc=name) as bar:
        while True:
            before = stream.tell()
            try:
                _append(stream, url, headers, constants.HF_HUB_DOWNLOAD_TIMEOUT, size, pace, bar)
                break
            except _http_error() as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                failed = failed + 1 if stream.tell() == before else 0
                if failed >= TRIES or status not in (None, *BUSY):
                    raise
                time.sleep(PAUSE_S * 2**failed)
                pace.add(0)
        if stream.tell() != size:
            raise OSError(f"{stream.tell()} bytes instead of {size}")


def _append(stream, url, headers, timeout, size, pace, bar):
    """Append one answer to the file. If the server sends the file from its beginning, the file is overwritten."""
    done = stream.tell()
    if done == size:
        return
    asked = headers | ({"Range": f"bytes={done}-"} if done else {})
    with closing(_received(url, asked, timeout, size - done, pace, size)) as pieces:
        if next(pieces).status_code != 206:
            stream.truncate(0)
            stream.seek(0)
            bar.reset()
        for piece in pieces:
            stream.write(piece)
            bar.update(len(piece))
    stream.flush()


def _http_error():
    """The base class of errors in the HTTP library that this version of huggingface_hub uses."""
    from huggingface_hub import errors

    return errors.HfHubHTTPError.__bases__[0]


HOPS = 10
"""Most redirections of one request."""


class _Pace:
    """Counts bytes received over time; raises _Unbounded if there are too few."""

    def __init__(self):
        self.bytes, self.since = 0, time.monotonic()

    def add(self, count):
        """Note that `count` bytes have arrived now."""
        self.bytes += count
        now = time.monotonic()
        if now - self.since >= PACE_S:
            if self.bytes < PACE_BYTES * (now - self.since) / PACE_S:
                raise _Unbounded(f"sent fewer than {PACE_BYTES / PACE_S:.0f} bytes a second")
            self.bytes, self.since = 0, now


def _received(url, headers, timeout, limit, pace, whole=None):
    """Yield the hub's answer to a GET, then the pieces of its body as they arrive, not decoded.

    timeout: seconds without a byte.
    limit: most bytes of the body.
    whole: the limit if the answer is the whole file although a part was requested.

    Raises _Unbounded, and the errors of huggingface_hub for a status of failure.

    A thread of its own reads the connection. Otherwise a server that sends the head of its answer byte by byte would
    never reach a time limit of the HTTP library.
    """
    from huggingface_hub.utils import hf_raise_for_status

    items, left = queue.Queue(16), threading.Event()

    def hand_over(item):
        while not left.is_set():
            try:
                return items.put(item, timeout=0.5)
            except queue.Full:
                continue
        raise InterruptedError

    def read():
        try:
            with closing(_final(url, headers, timeout)) as response:
                hand_over(response)
                for piece in response.iter_raw():
                    hand_over(piece)
            hand_over(None)
        except InterruptedError:
            return
        except Exception as error:
            items.put(error)

    def take():
        try:
            item = items.get(timeout=PACE_S)
        except queue.Empty:
            raise _Unbounded(f"sent nothing for {PACE_S:.0f} s") from None
        if isinstance(item, Exception):
            raise item
        return item

    def body(limit):
        count = 0
        while (piece := take()) is not None:
            count += len(piece)
            if count > limit:
                raise _Unbounded(f"sent more than the {limit} bytes that were to come")
            pace.add(len(piece))
            yield piece

    threading.Thread(target=read, daemon=True).start()
    try:
        response = take()
        if response.is_error:
            content = b"".join(body(ANSWER_LIMIT))
            said = {name: value for name, value in response.headers.items() if name.lower().startswith("x-")}
            hf_raise_for_status(
                type(response)(response.status_code, headers=said, content=content, request=response.request)
            )
        yield response
        yield from body(limit if response.status_code == 206 or whole is None else whole)
    finally:
        left.set()


def _final(url, headers, timeout):
    """The answer to a GET after at most HOPS redirections, whose bodies are not read, and which lose the token.

    The HTTP library would read the body of a redirection whole, and unpack it.
    """
    from huggingface_hub.utils import get_session

    session = get_session()
    request = session.build_request("GET", url, headers=headers, timeout=timeout)
    for _ in range(HOPS + 1):
        response = session.send(request, stream=True, follow_redirects=False)
        request = response.next_request
        if request is None:
            return response
        response.close()
    raise _Unbounded(f"redirected more than {HOPS} times")


@contextmanager
def _explained(repository, revision, name=None):
    """Turn errors of huggingface_hub into one sentence without addresses and headers, which may hold secrets."""
    from huggingface_hub import constants, errors

    host, off = _host(), environment.offline_by()
    what = f"{name} of {repository}" if name else repository
    again = "what has arrived is kept, and the next run resumes"
    try:
        yield
        return
    except errors.GatedRepoError:
        cause = f"access to it is gated: accept its terms on {host}, then set HF_TOKEN or run `hf auth login`"
    except errors.RepositoryNotFoundError:
        cause = f"{host} has no such repository, or it is private: check {repository.keys[0]}, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        cause = f"{host} has no revision {revision!r} of it: check {repository.keys[1]} and the lock file"
    except errors.LocalEntryNotFoundError:
        cause = f"{off} is set, and {constants.HF_HUB_CACHE} holds no snapshot of revision {revision!r}"
    except errors.EntryNotFoundError:
        cause = f"{host} has no such file at {revision}"
    except errors.OfflineModeIsEnabled:
        cause = (
            f"{off} is set, and neither resources nor {constants.HF_HUB_CACHE} holds it at {revision} with "
            f"the right hash; unset {off} or fill the cache"
        )
    except errors.HFValidationError:
        cause = f"this is no repository name: {repository.keys[0]} must be owner/name"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        forbidden = "it does not exist, or HF_TOKEN does not allow to read it"
        cause = f"{host} answered with HTTP status {status}: {forbidden if status in (401, 403) else again}"
    except _http_error() as error:
        kind = type(error).__name__
        cause = f"{host} cannot be reached or broke off ({kind}): check the network or HF_ENDPOINT; {again}"
    except _Unbounded as error:
        cause = f"{host} {error}: {again}, or try another network or mirror (HF_ENDPOINT)"
    except OSError as error:
        if error.errno in DISK_FULL:
            cause = f"no room on the disk or in the quota ({error.strerror}): make some; {again}"
        elif error.errno is None:
            cause = f"{host} sent a file of another size than it announced; {again}"
        else:
            cause = f"{error.strerror} ({error.filename})"
    raise DownloadError(f"{repository.what}: cannot fetch {what}: {cause}")
