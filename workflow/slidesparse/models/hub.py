"""Which files are a model on the hub, and how each arrives whole: pinned to a commit, checked, resumed.

The library's own settings decide everything else: HF_ENDPOINT (mirrors), HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, proxies.
"""

import errno
import hashlib
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from slidesparse.errors import DownloadError
from slidesparse.models.contents import wanted
from slidesparse.models.verified import measure

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Expected:
    """What is known of a file beforehand; None where nothing is. `git_blob`: sha1 that git gives a file outside LFS."""

    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    def agrees(self, path, found):
        """Whether the file `path`, measured as `found` {"size", "sha256"}, is the expected one."""
        return (
            self.size in (None, found["size"])
            and self.sha256 in (None, found["sha256"])
            and (self.git_blob is None or self.git_blob == git_blob(path))
        )


def git_blob(path):
    """The sha1 (hex) under which git stores the content of `path`."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(b"blob %d\0" % os.path.getsize(path))).hexdigest()


def resolve(model, repository, revision):
    """The commit that `revision` is now, and {file: Expected} of the files wanted; DownloadError if there is none.

    Offline (HF_HUB_OFFLINE), both come from the snapshot of that revision in the library's cache.
    """
    from huggingface_hub import HfApi, constants, errors

    with _explained(model, repository, revision):
        if is_offline():
            return _cached_snapshot(repository, revision)
        try:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=timeout)
            siblings = {sibling.rfilename: sibling for sibling in info.siblings}
        except errors.HFValidationError:
            raise
        except (ValueError, TypeError, KeyError):  # the library builds its objects from whatever was answered
            raise DownloadError(
                f"model {model}: {_host()} does not answer like a Hugging Face hub: check the network and HF_ENDPOINT"
            ) from None
    names = wanted(siblings, f"model {model}: repository {repository}")
    return info.sha, {name: _announced(siblings[name]) for name in names}


def is_offline():
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _host():
    """Name of the hub or mirror in use, without what else its address may hold."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).hostname or "the hub"


def _announced(sibling):
    """What the hub says about a file: sha256 if LFS holds it, else git's sha1."""
    if sibling.lfs:
        return Expected(sibling.lfs.size, sibling.lfs.sha256)
    return Expected(sibling.size, None, sibling.blob_id)


def _cached_snapshot(repository, revision):
    """`resolve` from the cache; a cached file is named by its sha256 if LFS held it, else by git's sha1."""
    from huggingface_hub import snapshot_download

    snapshot = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns="*.json"))
    expected = {}
    for name in wanted(os.listdir(snapshot), f"the cached snapshot {snapshot}"):
        blob = os.path.basename(os.readlink(snapshot / name)) if (snapshot / name).is_symlink() else ""
        expected[name] = Expected(None, blob if len(blob) == 64 else None, blob if len(blob) == 40 else None)
    return snapshot.name, expected


def obtain(model, repository, commit, name, expected, staging, nearby, authority):
    """Put file `name` of `commit` into the directory `staging`, checked; returns its {"size", "sha256"}.

    Taken from `staging` itself, the path `nearby` or the library's cache if it is there and right, else downloaded.
    `authority`: who says what is `expected`, for the sentence of the DownloadError that a wrong file ends in.
    """
    from huggingface_hub import try_to_load_from_cache

    target, partial = staging / name, staging / f"{name}.part"
    with _explained(model, repository, commit, name):
        cached = try_to_load_from_cache(repository, name, revision=commit)
        for candidate in (target, nearby, Path(cached) if isinstance(cached, str) else None):
            if candidate and candidate.exists() and expected.agrees(candidate, found := measure(candidate)):
                if candidate != target:
                    _link(candidate, partial)
                    os.replace(partial, target)
                return found
        _download(model, repository, commit, name, expected.size, partial)
        found = measure(partial)
        if not expected.agrees(partial, found):
            partial.unlink()
            raise DownloadError(
                f"model {model}: {name} of {repository} at {commit} arrived with size {found['size']} and sha256 "
                f"{found['sha256']}, which is not what {authority} says; it was deleted, run again to fetch it anew"
            )
        os.replace(partial, target)
    return found


def _link(source, partial):
    """Make `partial` the file `source`: the same blocks on disk where the file system can, a copy where not."""
    source = os.path.realpath(source)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)


def _download(model, repository, commit, name, size, partial):
    """Append to `partial` what is missing of the file.

    hf_hub_download names its temporary file anew on each call and removes it on failure, so it never resumes over
    two runs; http_get below it does, given a file that we keep. It retries broken connections itself, too.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    done = partial.stat().st_size if partial.exists() else 0
    if size is not None:
        if done > size:
            partial.unlink()
            done = 0
        free = shutil.disk_usage(partial.parent).free
        if free < size - done:
            raise DownloadError(
                f"model {model}: {name} needs {(size - done) / 1e9:.3f} GB under {partial.parent}, but only "
                f"{free / 1e9:.3f} GB are free; make room and run again, what has arrived is kept"
            )
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # compressed answers cannot be resumed
    url = hf_hub_url(repository, name, revision=commit)
    with open(partial, "ab") as stream:
        http_get(url, stream, resume_size=done, headers=headers, expected_size=size, displayed_filename=name)


@contextmanager
def _explained(model, repository, revision, name=None):
    """Turn what the hub library raises into one sentence; addresses and headers, which may hold secrets, stay out."""
    from huggingface_hub import constants, errors

    host = _host()
    what = f"{name} of {repository}" if name else repository
    http_error = errors.HfHubHTTPError.__bases__[0]  # the base class of the HTTP library that this version uses
    again = "what has arrived is kept, and the next run resumes"
    try:
        yield
        return
    except errors.GatedRepoError:
        cause = f"access to it is gated: accept its terms on {host}, then set HF_TOKEN or run `hf auth login`"
    except errors.RepositoryNotFoundError:
        cause = f"{host} has no such repository, or it is private: check registry.{model}.repository, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        cause = f"{host} has no revision {revision!r} of it: check registry.{model}.revision and the lock file"
    except errors.LocalEntryNotFoundError:
        cause = f"HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} holds no snapshot of revision {revision!r}"
    except errors.EntryNotFoundError:
        cause = f"{host} has no such file at {revision}"
    except errors.OfflineModeIsEnabled:
        cause = (
            f"HF_HUB_OFFLINE is set, and neither resources nor {constants.HF_HUB_CACHE} holds it at {revision} with "
            f"the right hash; unset HF_HUB_OFFLINE or fill the cache"
        )
    except errors.HFValidationError:
        cause = f"this is no repository name: registry.{model}.repository must be owner/name"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        forbidden = "it does not exist, or HF_TOKEN does not allow to read it"
        cause = f"{host} answered with HTTP status {status}: {forbidden if status in (401, 403) else again}"
    except http_error as error:
        kind = type(error).__name__
        cause = f"{host} cannot be reached or broke off ({kind}): check the network or HF_ENDPOINT; {again}"
    except OSError as error:
        if error.errno in DISK_FULL:
            cause = f"no room on the disk or in the quota ({error.strerror}): make some; {again}"
        elif error.errno is None:
            cause = f"{host} sent a file of another size than it announced; {again}"
        else:
            cause = f"{error.strerror} ({error.filename})"
    raise DownloadError(f"model {model}: cannot fetch {what}: {cause}")
