"""The request of a point: all that decides its value. A point is measured again only if its request changed.

A request has the point's key, the protocol's version, the parameters, the checkpoint's manifest (prefill, decode,
quality) or the model's shape (kernel), and the tuning table. Some requests have more:

- A kernel point has the tables of the dense backends that are measured in turn with it. A quality point of a pattern
  has the table of the dense backend that it is compared with.
- A dense kernel point on a GPU has what it asks of its process.
- A point of stock vLLM has the digests of its variants' requests.
"""

import os
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import digest, is_plain, parse_json, read_json, read_text, sha256_json
from slidesparse.machine import naming
from slidesparse.plan import backends, prompts
from slidesparse.plan.key import Key, root_of, tuning_key
from slidesparse.points.plan import Plan, read_plan
from slidesparse.tuning.table import check_seal

CHANNELS = 1 << 24
"""Most channels of a linear. The largest known models have some hundred thousand."""

PROTOCOL = {"tune": 3, "kernel": 5, "prefill": 10, "decode": 8, "quality": 1, "task": 1}
"""Version of each stage's protocol. It is raised when the measuring code changes so that figures mean something else. A
test compares the hash of that code (tests/points/protocol.json)."""


def variant_paths(path):
    """{variant: path of its point} from which the point at `path` is chosen; empty unless it is stock vLLM's."""
    key, root = Key.of(path), root_of(path)
    return {name: Path(key._replace(backend=name).path(root)) for name in key.variants}


def process_asked(processor, stage, sparsity):
    """What a point asks of its process, or None: a dense kernel point on a GPU asks for one without sparse products.

    `worker.handlers` provides such a process. This is part of the request and not a new version of the protocol. A new
    version would forbid to divide these points by sparse points, which have not changed.
    """
    dense_kernel = (processor, stage, sparsity) == ("gpu", "kernel", "dense")
    return "no sparse products" if dense_kernel else None


def rerun_when(hardware_key, stage, sparsity):
    """A param of Snakemake, whose change measures again: the protocol's version, and what points ask of a process."""
    asks = process_asked(naming.parse(hardware_key).processor, stage, sparsity)
    return [PROTOCOL[stage], asks] if asks else PROTOCOL[stage]


def request(key, parameters, basis, tuning=None, peers=None):
    """The request of the point of a Key, with its digest.

    parameters: measuring parameters of the stage; the prompt of prefill is that of the key.
    basis: path of the model's shape (kernel) or of the checkpoint's manifest (all others).
    tuning: path of the tuning table; stock vLLM has none.
    peers: {dense backend measured in turn with a kernel point, or that a quality point is compared with: path of its
    tuning table, or None}.
    """
    theirs = {name: request(key._replace(backend=name), parameters, basis)["digest"] for name in key.variants}
    best = {"candidates": theirs} if theirs else {}
    process = process_asked(key.processor, key.stage, key.sparsity)
    apart = {"process": process} if process else {}
    asked = {
        "key": key.stored,
        "protocol": PROTOCOL[key.stage],
        "parameters": prompts.measuring(key.stage, backends.deciding(key.stage, parameters), key.prompt),
        "basis": _basis(basis),
        "tuning": _sha256(tuning) if tuning else None,
        **best,
        **apart,
    }
    if peers:
        asked["peers"] = {name: path and _sha256(path) for name, path in peers.items()}
    return {
        "digest": digest(asked),
        "protocol": asked["protocol"],
        "parameters": asked["parameters"],
        "checkpoint": asked["basis"] if key.stage != "kernel" else None,
        "tuning": asked["tuning"],
        "peers": asked.get("peers", {}),
        **best,
        **apart,
    }


def is_its_own(point, path):
    """Whether the digest of a stored point is that of the request beside it, as far as the files of its tree tell.

    path: where the point lies. A kernel point does not keep the digest of its shape, which lies in the tree.
    """
    said = point["request"]
    basis = said.get("checkpoint")
    if point["key"]["stage"] == "kernel":
        shape = Key.of(path).basis(root_of(path))
        if not os.path.isfile(shape):
            return True
        basis = _basis(shape)
    asked = {"key": point["key"], "protocol": said["protocol"], "parameters": said["parameters"], "basis": basis}
    asked["tuning"] = said.get("tuning")
    asked |= {name: said[name] for name in ("candidates", "process") if name in said}
    asked |= {"peers": said["peers"]} if said.get("peers") else {}
    return digest(asked) == said["digest"]


def _basis(path):
    """The digest of the JSON in a file. Planning asks for the same file thousands of times."""
    return _of_content("basis", str(path), *_state(path))


def _sha256(path):
    """sha256 of a tuning table or of choices, likewise. RecordError as of `check_table`."""
    return _of_content("sha256", str(path), *_state(path))


def _state(path):
    try:
        status = os.stat(path)
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror})") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=4096)
def _of_content(what, path, *state):
    if what == "basis":
        return digest(_placeless(_read_basis(path)))
    try:
        with suppress(ValueError):  # of a damaged one, which is named by who looks something up in it
            check_table(path, parse_json(read_text(path)))
        return sha256_json(path)
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror})") from None


def _read_basis(path):
    """A model's shape, or the manifest of a checkpoint. RecordError for anything else."""
    basis = read_json(path, RecordError)
    if not isinstance(basis, dict):
        raise RecordError(f"{path} is neither a model's shape nor a manifest: delete it to make it again")
    return basis


def _placeless(basis):
    """A basis without the folder in which a local model lies: its files are known by their sha256."""
    try:
        source = basis["model_manifest"]["source"]
        if source["kind"] != "local":
            return basis
        bare = {name: value for name, value in source.items() if name != "path"}
        return basis | {"model_manifest": basis["model_manifest"] | {"source": bare}}
    except (KeyError, TypeError):
        return basis


def linears(shape):
    """[{"name", "N", "K"}] of the linears in a model's shape.json. RecordError if it does not describe any."""
    described = read_json(shape, RecordError)
    try:
        found = [{"name": each["name"], "N": each["N"], "K": each["K"]} for each in described["linears"]]
        sizes = [each[name] for each in found for name in ("N", "K")]
        names = {each["name"] for each in found if is_plain(each["name"])}
        if found and len(names) == len(found) and all(type(size) is int and 0 < size <= CHANNELS for size in sizes):
            return found
    except (KeyError, TypeError):
        pass
    raise RecordError(f"{shape} does not describe the linears of a model: delete it to make it again")


def of_table(path, linears, Ms, parameters, protocol=PROTOCOL["tune"]):
    """The request of the tuning table that belongs at `path`, with its digest: what was searched, and how."""
    asked = {
        "searched": searched(path),
        "shapes": sorted({(each["N"], each["K"]) for each in linears}),
        "M": sorted(set(Ms)),
        "parameters": parameters,
        "protocol": protocol,
    }
    return {"digest": digest(asked)}


def of_task(key, content, basis, tuning):
    """The request of the result of a plan.tasks.TaskKey, with its digest.

    content: that of its plan.tasks.Task. basis: path of the checkpoint's manifest. tuning: path of the tuning table.
    """
    asked = {
        "key": key._asdict(),
        "protocol": PROTOCOL["task"],
        "content": content,
        "basis": _basis(basis),
        "tuning": _sha256(tuning),
    }
    return {"digest": digest(asked)} | {name: value for name, value in asked.items() if name != "key"}


def searched(path):
    """What a search is for whose table belongs at `path`: hardware, type, backend, sparsity."""
    hardware_key, _, *names = tuning_key(path)
    return [hardware_key, *names]


def check_table(path, table):
    """Raise RecordError if a tuning table is not as it was written, or is that of another search than its path's.

    Tables from before 2026-12 do not say what they are for, and are known by their backend alone.
    """
    check_seal(path, table)
    if not isinstance(table, dict):
        return  # it is damaged, which is named by who looks something up in it
    own = searched(path)
    if table.get("searched", own) != own or table.get("backend", own[2]) != own[2]:
        raise RecordError(f"{path} is the table of another search: put its own back, or delete it to tune again")


def expected_digests(point_paths, parameters):
    """{path: digest of the request that the point must answer now} of the points at these paths.

    parameters: measuring parameters of their stage. The other parts of a request are files in the tree of the points:
    the shape or the checkpoint's manifest, and the tuning table. Stock vLLM has no table. If plan.json says so, the
    table is another model's. If one of these files is missing, the digest is None, and nobody checks it.
    """
    digests, plan_of = {}, cache(read_plan)
    for path in point_paths:
        key, root = Key.of(path), root_of(path)
        plan = plan_of(root, key.hardware) or Plan()
        shape = plan.shapes.get(key.model, key.model)
        if not is_plain(shape):
            raise RecordError(f"the plan of {key.hardware} names the model {shape!r:.80}, which cannot be")
        basis, tuning = key.basis(root), None if key.untuned else key.tuning(root, shape)
        where = (root, key.hardware, shape, key.dtype, key.backend)
        peers = backends.peers(*where) if key.stage == "kernel" else backends.compared_with(root, key, shape)
        known = all(os.path.isfile(file) for file in filter(None, (basis, tuning, *peers.values())))
        digests[path] = request(key, parameters, basis, tuning, peers)["digest"] if known else None
    return digests
