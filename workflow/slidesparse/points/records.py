"""A measured point: what was asked, what came out, on what; and where it lies.

A point is measured again only for a reason that changes its value. Those reasons are its `request`: the protocol's
version, the parameters, the checkpoint's bytes (prefill, decode), the shapes (kernel) and the tuning table.
"""

import re
import sys
import time
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import digest, read_json, sha256_file, write_json
from slidesparse.machine import hardware
from slidesparse.machine.provenance import git_state, host, machine, software
from slidesparse.plan import stock
from slidesparse.program import start_time
from slidesparse.worker.handlers import SETTINGS

SCHEMA = 1

PROTOCOL = {"tune": 3, "kernel": 5, "prefill": 9, "decode": 7}
"""Version of how each stage measures. Raised when timing, gemm, kernels, engine or csrc change what a figure means;
a test compares the hash of those files (tests/protocol.json)."""


PATH = re.compile(
    r"(?P<hardware>[^/]+)/(?P<stage>kernel|prefill|decode)/(?P<model>[^/]+)/(?P<dtype>[^/]+)/(?P<backend>[^/]+)"
    r"/(?P<sparsity>[^/]+)/M(?P<M>[0-9]{1,12})\.json"
)


def key_of(path):
    """Key of the point that belongs at `path` (`…/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.json`).

    Raises RecordError if the path is not that of a point.
    """
    match = PATH.search(Path(path).as_posix())
    if not match or match.end() != len(Path(path).as_posix()):
        raise RecordError(f"{path} is not the path of a point, …/hardware/stage/model/dtype/backend/sparsity/M64.json")
    return match.groupdict() | {"M": int(match["M"])}


def candidates(path):
    """{variant: path of its point} of those of which the one at `path` is the best, if it is one of stock vLLM."""
    path = Path(path)
    return {name: path.parents[2] / name / path.parts[-2] / path.name for name in _variants(key_of(path))}


def _variants(key):
    """Names of the variants of stock vLLM that the point of a key is the best of, if it is one of stock vLLM."""
    if key["backend"] != stock.BACKEND:
        return []
    return stock.candidates(key["stage"], key["M"], hardware.parse(key["hardware"]).processor)


def process(hardware_key, stage, sparsity):
    """What a point asks of the process that measures it, or None: dense kernels on a GPU, one without sparse products.

    `handlers` sees to it. It is part of the request and no version of the protocol, for sparse points are what they
    were, and only figures of one protocol are divided by one another.
    """
    gpu = hardware.parse(hardware_key).processor == "gpu"
    return "no sparse products" if gpu and (stage, sparsity) == ("kernel", "dense") else None


def version(hardware_key, stage, sparsity):
    """What a change of measures a stage's points again: the version of its protocol, and what they ask of a process."""
    asks = process(hardware_key, stage, sparsity)
    return [PROTOCOL[stage], asks] if asks else PROTOCOL[stage]


def deciding(stage, parameters):
    """The measuring parameters that decide a point's value; an engine's time limit only ends what takes too long."""
    ends = {"time_limit_s"} if stage in ("prefill", "decode") else set()
    return {name: value for name, value in parameters.items() if name not in ends}


def request(key, parameters, basis, tuning=None, peers=None):
    """The request of a point and its digest; of the best point of stock vLLM also the digests of its candidates'.

    basis: path of the model's shape (kernel) or of the checkpoint's manifest (prefill, decode). tuning: path of the
    tuning table; stock vLLM has none. parameters: the stage's measuring parameters. peers: {dense backend measured
    beside a kernel point: path of its tuning table, or None}.
    """
    parameters = deciding(key["stage"], parameters)
    asked = {
        "key": key,
        "protocol": PROTOCOL[key["stage"]],
        "parameters": parameters,
        "basis": digest(read_json(basis, RecordError)),
        "tuning": sha256_file(tuning) if tuning else None,
    }
    apart = process(key["hardware"], key["stage"], key["sparsity"])
    apart = {"process": apart} if apart else {}
    if peers:
        asked["peers"] = {name: path and sha256_file(path) for name, path in peers.items()}
    theirs = {name: request(key | {"backend": name}, parameters, basis)["digest"] for name in _variants(key)}
    best = {"candidates": theirs} if theirs else {}
    asked |= best | apart
    return {
        "digest": digest(asked),
        "protocol": asked["protocol"],
        "parameters": parameters,
        "checkpoint": asked["basis"] if key["stage"] != "kernel" else None,
        "tuning": asked["tuning"],
        "peers": asked.get("peers", {}),
        **best,
        **apart,
    }


def write_point(path, asked, results, *, seconds, resident, reason=None):
    """Write the point at `path` atomically, with its provenance, and remove an earlier failure's record.

    `results` None means out of memory, for the `reason` given. results["capacity"], if there, is of the hardware block.
    """
    made = provenance(seconds, resident, (results or {}).pop("capacity", {}))
    write_json(
        path,
        {
            "schema": SCHEMA,
            "key": key_of(path),
            "status": "ok" if results is not None else "out_of_memory",
            "reason": reason,
            "request": asked,
            "results": results or {},
            **made,
        },
    )
    failure_of(path).unlink(missing_ok=True)


def provenance(seconds, resident, capacity=None):
    """The blocks `hardware`, `software` and `run` of what was measured just now; capacity: of the GPU, if known."""
    return {
        "hardware": machine() | (capacity or {}),
        "software": software() | {"settings": SETTINGS},
        "run": {
            "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "git": git_state(Path(__file__).parent),
            "resident": resident,
        },
    }


def failure_of(path):
    """Where the record of a failed measurement of the point at `path` lies."""
    return Path(path).with_suffix(".failed.json")


def write_failure(path, reason, log, *, unless=None):
    """Record beside the place of a point why it could not be measured and where its log lies.

    unless: pid of the process that is measuring it now; the record holds once that has ended (`in_flight`).
    """
    utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    failure = {"schema": SCHEMA, "key": key_of(path), "reason": reason, "log": log, "utc": utc}
    if unless:
        failure["unless"] = {"host": host(), "pid": unless, "started": start_time(unless)}
    write_json(failure_of(path), failure)


def in_flight(failure):
    """Whether the point of a failure's record is still being measured; on another host it is taken to be."""
    process = failure.get("unless")
    if not isinstance(process, dict):
        return False
    return process.get("host") != host() or process.get("started") == start_time(process.get("pid"))
