"""Writes a measured point, or the record of a point that failed or is being measured."""

import sys
import time
from pathlib import Path

from slidesparse.files import write_json
from slidesparse.machine.provenance import git_state, host, machine, software
from slidesparse.machine.settings import SETTINGS
from slidesparse.plan.key import Key
from slidesparse.program import start_time

SCHEMA = 1


def write_point(path, asked, results, *, seconds, resident, git, reason=None):
    """Write the point at `path` atomically, with its provenance, and remove the record of an earlier failure.

    `results` None means out of memory, for the `reason` given. results["capacity"], if present, is moved into the
    block `hardware`.
    """
    made = provenance(seconds, resident, git, (results or {}).pop("capacity", {}))
    failure = failure_of(path)
    write_json(
        path,
        {
            "schema": SCHEMA,
            "key": Key.of(path)._asdict(),
            "status": "ok" if results is not None else "out_of_memory",
            "reason": reason,
            "request": asked,
            "results": results or {},
            **made,
        },
    )
    failure.unlink(missing_ok=True)


def code():
    """State of the repository with this library; asked before a measurement, for a checkout may change meanwhile."""
    return git_state(Path(__file__).parent)


def provenance(seconds, resident, git, capacity=None):
    """The blocks `hardware`, `software` and `run` of a measurement made just now; capacity: the GPU's, if known."""
    return {
        "hardware": machine() | (capacity or {}),
        "software": software() | {"settings": SETTINGS},
        "run": {
            "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "git": git,
            "resident": resident,
        },
    }


def failure_of(path):
    """Path of the record of failure that belongs to the point at `path`."""
    return Path(path).with_suffix(".failed.json")


def write_failure(path, reason, log, *, unless=None):
    """Record, beside the place of a point, why it could not be measured and where its log lies.

    unless: pid of the process that is measuring the point now. The record is valid once that process has ended
    (`in_flight`).
    """
    utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    failure = {"schema": SCHEMA, "key": Key.of(path)._asdict(), "reason": reason, "log": log, "utc": utc}
    if unless:
        failure["unless"] = {"host": host(), "pid": unless, "started": start_time(unless)}
    write_json(failure_of(path), failure)


def in_flight(failure):
    """Whether the point of this record is still being measured. Assumed true if another host is measuring it."""
    process = failure.get("unless")
    if not isinstance(process, dict) or type(process.get("pid")) is not int:
        return False
    return process.get("host") != host() or process.get("started") == start_time(process.get("pid"))
