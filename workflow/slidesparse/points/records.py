"""Writes a measured point, or the record of what failed or is being made: a point, or a file that points need."""

import os
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from slidesparse.errors import SlideSparseError
from slidesparse.files import read_text, sealed, sha256_file, write_atomic, write_json
from slidesparse.machine.provenance import git_state, host, machine, software
from slidesparse.machine.settings import SETTINGS
from slidesparse.plan.key import Key
from slidesparse.program import run, sentence, start_time

SCHEMA = 1

UNFINISHED = "its program ended before it was done: it was killed, or the log says why"
"""Recorded as a failure before something is made, because a program that is killed can record nothing."""


def write_point(path, asked, results, *, seconds, resident, git, reason=None):
    """Write the point at `path` atomically, with its provenance, and remove the record of an earlier failure.

    `results` None means out of memory, for the `reason` given. results["capacity"], if present, is moved into the
    block `hardware`.
    """
    made = provenance(seconds, resident, git, (results or {}).pop("capacity", {}))
    failure = failure_of(path)
    point = {
        "schema": SCHEMA,
        "key": Key.of(path).stored,
        "status": "ok" if results is not None else "out_of_memory",
        "reason": reason,
        "request": asked,
        "results": results or {},
        **made,
    }
    write_json(path, sealed(point))
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
    write_json(failure_of(path), {"key": Key.of(path).stored, **_failure(reason, log, unless)})


def _failure(reason, log, unless=None):
    utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    failure = {"schema": SCHEMA, "reason": reason, "log": log, "utc": utc}
    if unless:
        failure["unless"] = {"host": host(), "pid": unless, "started": start_time(unless)}
    return failure


def failed_task_of(output):
    """Path of the record of failure that belongs to a manifest, a tuning table, choices or a library.

    Its name does not end in .json, because in these folders such a file would be taken for a manifest or a table.
    """
    return Path(output).with_suffix(".failed")


@contextmanager
def making(output, log=None):
    """Record, beside the place of `output`, that it is being made, and then why it could not be, with its `log`.

    A success leaves no record. Where there is no room for one, there is none.
    """
    record = failed_task_of(output)
    _record(record, UNFINISHED, log, os.getpid())
    try:
        yield
    except (SlideSparseError, OSError) as error:
        _record(record, sentence(error), log)
        raise
    with suppress(OSError):
        record.unlink(missing_ok=True)


def run_making(main, parser):
    """`program.run` of a program that makes the file of its option --output, as `making` does, and says how long."""

    def recorded(arguments):
        start = time.monotonic()
        with making(arguments.output, arguments.log):
            main(arguments)
        if arguments.took:
            keep_duration(arguments.took, arguments.output, time.monotonic() - start)

    parser.add_argument("--log", help="where standard error goes, for the record of a failure")
    parser.add_argument("--took", metavar="TSV", help="where to write how long it took")
    run(recorded, parser)


def keep_duration(record, output, seconds):
    """Write into the TSV file `record` that making `output` took so many seconds.

    An earlier record of a file with the same bytes stays: a job that finds its work done is no measure of it. Where
    there is no room for a record, there is none.
    """
    with suppress(OSError):
        made = sha256_file(output)
        if duration_of(record) is None or made not in read_text(record):
            write_atomic(record, f"s\tsha256 of what was made\n{seconds:.4f}\t{made}\n")


def duration_of(record):
    """Seconds in a TSV file, the sum of its column `s`; None if it is missing or damaged: only a duration is lost."""
    try:
        header, *rows = [line.split("\t") for line in read_text(record).splitlines()]
        column = header.index("s")
        return sum(plausible(row[column]) for row in rows) if rows else None
    except (OSError, ValueError, IndexError):
        return None


def plausible(value):
    """A duration in seconds as a number; ValueError if it is none that a run can take."""
    seconds = float(value)
    if not 0 <= seconds < 1e9:
        raise ValueError(value)
    return seconds


def _record(record, *failure):
    with suppress(OSError):
        write_json(record, _failure(*failure))


def in_flight(failure):
    """Whether what this record is about is still being made. Assumed true if another host is making it."""
    process = failure.get("unless")
    if not isinstance(process, dict) or type(process.get("pid")) is not int:
        return False
    return process.get("host") != host() or process.get("started") == start_time(process.get("pid"))
