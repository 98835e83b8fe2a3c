"""A measured point as it is stored, and the record of one that failed or is being measured."""

import sys
import time
from pathlib import Path

from slidesparse.files import write_json
from slidesparse.machine.provenance import git_state, host, machine, software
from slidesparse.machine.settings import SETTINGS
from slidesparse.plan.key import Key
from slidesparse.program import start_time

SCHEMA = 1


def write_point(path, asked, results, *, seconds, resident, reason=None):
    """Write the point at `path` atomically, with its provenance, and remove an earlier failure's record.

    `results` None means out of memory, for the `reason` given. results["capacity"], if there, is of the hardware block.
    """
    made = provenance(seconds, resident, (results or {}).pop("capacity", {}))
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
    failure = {"schema": SCHEMA, "key": Key.of(path)._asdict(), "reason": reason, "log": log, "utc": utc}
    if unless:
        failure["unless"] = {"host": host(), "pid": unless, "started": start_time(unless)}
    write_json(failure_of(path), failure)


def in_flight(failure):
    """Whether the point of a failure's record is still being measured; on another host it is taken to be."""
    process = failure.get("unless")
    if not isinstance(process, dict) or type(process.get("pid")) is not int:
        return False
    return process.get("host") != host() or process.get("started") == start_time(process.get("pid"))
