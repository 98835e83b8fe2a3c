"""What all programs under workflow/scripts share: the owner with which they end, the run's lock, and their errors."""

import argparse
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from slidesparse.errors import RecordError, SlideSparseError
from slidesparse.files import open_lock, printable, read_json

SHELL = "set -euo pipefail; trap '' INT; owner={owner}; "
"""What the shells of all jobs begin with. `owner` is the process whose jobs they are (see `end_left_over`). They tell
it to their programs, because $PPID may be another process by then. A program that is still starting ignores SIGINT, for
which Python would print a traceback; `run` changes that."""

BOUND = (
    'if [[ ! -v BOUND ]]; then set -- "$0"; [[ ! -v BASH_EXECUTION_STRING ]] || set -- -c "$BASH_EXECUTION_STRING";'
    ' BOUND=1 exec setpriv --pdeathsig KILL bash "$@"; fi; unset BOUND;'
    ' python3() ( exec setpriv --pdeathsig KILL python3 "$@" ); '
)
"""What comes before SHELL where setpriv can do it: the kernel kills a shell whose Snakemake ends, and its program with
it, also if they are stopped. The shell starts itself again under setpriv(1), with its command, or with the script that
Snakemake makes of a long one."""

STOPPED_S = 5.0
"""Seconds between two looks at stopped processes."""

END_OF_PIPE = 963
"""Number of the file descriptor with which a process tells its end (`tell_end`)."""

LOOK_S = 1.0
"""Seconds between two looks at the file of a lock."""


def shell_prefix(owner):
    """What the shells of the jobs of process `owner` begin with."""
    try:  # util-linux before 2.33 has no such option
        able = subprocess.run(["setpriv", "--pdeathsig", "KILL", "true"], capture_output=True).returncode == 0
    except OSError:
        able = False
    return (BOUND if able else "") + SHELL.format(owner=owner)


def start_time(pid):
    """Start time of a process in clock ticks since boot (proc(5), field 22), or None if there is no such process."""
    return _stat(pid, 19)


def state_of(pid):
    """State of a process (proc(5), field 3), such as T for a stopped one; None if there is no such process."""
    return _stat(pid, 0)


def _stat(pid, place):
    """A field of proc(5), counted from the state of a process."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[place]
    except (OSError, IndexError):
        return None


def wait_for_end(pid):
    """Return when process `pid` has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # no pidfd: poll; the start time detects a reused pid
        started = start_time(pid)
        while started is not None and start_time(pid) == started:
            time.sleep(0.5)
        return
    with os.fdopen(descriptor):
        select.select([descriptor], [], [])


def tell_end():
    """Let the kernel tell others of the end of this process, whatever ends it (`resume_at_end_of`).

    This process alone holds the writing end of a pipe. Others find it under /proc by its number.
    """
    reading, writing = os.pipe()
    with suppress(OSError):  # fewer open files are allowed
        os.dup2(writing, END_OF_PIPE, inheritable=False)
    os.close(writing)
    os.close(reading)


def resume_at_end_of(pid):
    """Let the kernel resume this process (SIGCONT) when process `pid` ends, if that one has called `tell_end`.

    A process that is stopped (SIGSTOP) could not see the end of its owner and would stay.
    """
    with suppress(OSError):  # it has no such pipe, or has ended
        pipe = os.open(f"/proc/{int(pid)}/fd/{END_OF_PIPE}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGCONT)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def end_with(pid):
    """When process `pid` ends, even by kill -9, kill what it has left (`end_left_over`) and end this process."""
    resume_at_end_of(pid)

    def watch():
        wait_for_end(pid)
        end_left_over(pid)
        os._exit(1)

    threading.Thread(target=watch, name="owner", daemon=True).start()


def end_left_over(owner):
    """Kill what an owner that has ended has left: the shells of its jobs, and what has `--owner` with its pid.

    All of these end by themselves unless they are stopped (SIGSTOP), and the kernel kills or resumes them. A stop
    may take effect late, so they are killed in any state. A resident worker and its guard have a socket to remove, so
    they are killed only if they are stopped.
    """
    for pid, state, command in _own_processes():
        if owner_of(command) == owner and (state == "T" or not is_worker(command)):
            _kill(pid)


def end_of_ended_runs():
    """Kill stopped processes whose owner has ended: nobody was left to see them when a run was killed."""
    for pid, state, command in _own_processes():
        owner = owner_of(command) if is_ours(command) else None
        if owner and state == "T" and start_time(owner) is None:
            _kill(pid)


def watch_stopped():
    """From now on, end what this process has started and what stays stopped (`end_stopped`), in a thread."""

    def watch():
        seen = set()
        while True:
            seen = end_stopped(os.getpid(), seen)
            time.sleep(STOPPED_S)

    threading.Thread(target=watch, name="stopped", daemon=True).start()


def end_stopped(owner, seen):
    """Kill shells and programs of an owner that stay stopped, for which it would wait for ever.

    Workers are watched by those who wait for them. seen: pids that were stopped at the last look. Returns those that
    are stopped now. While the owner itself is stopped, as with Ctrl-Z, nothing is killed.
    """
    processes = list(_own_processes())
    if start_time(owner) is None or state_of(owner) == "T":
        return set()
    mine = {pid: state for pid, state, command in processes if owner_of(command) == owner and not is_worker(command)}
    stopped = {pid for pid, state in mine.items() if state == "T"}
    for pid in stopped & seen:
        _kill(pid)
    return stopped


def is_worker(command):
    """Whether a command line is that of a resident worker or its guard."""
    return b"\0--socket=" in command


OWNER = re.compile(rb"\0--owner[=\0]([0-9]+)\0|trap '' INT; owner=([0-9]+); ")


def owner_of(command):
    """The pid of the owner that a command line (proc(5): cmdline) names; None if it names none."""
    found = OWNER.search(command)
    return int(found[1] or found[2]) if found else None


def is_ours(command):
    """Whether a command line is that of a shell, program or worker of this project."""
    return any(word in command for word in (b"trap '' INT; owner=", b"\0workflow/scripts/", b"\0slidesparse.worker."))


def _own_processes():
    """(pid, state, command line) of all processes but this one."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or belongs to somebody else
            command, pid = (entry / "cmdline").read_bytes(), int(entry.name)
            if command and pid != os.getpid():
                yield pid, state_of(pid), command


def _kill(pid):
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def interrupt_once():
    """Let a first SIGINT interrupt this process as usual, and a second one end it at once, without a traceback."""

    def first(number, frame):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, first)


def hold_lock(path):
    """Hold an exclusive lock on `path` until this process ends. The kernel frees it, even after kill -9.

    If the file is deleted, another run could begin beside this one, so this process ends.
    Raises SlideSparseError if another process holds it, or if something else lies there; OSError if it cannot be
    written.
    """
    try:
        stream = open_lock(path)
    except OSError as error:
        if os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
            raise SlideSparseError(f"{path} cannot be locked ({error.strerror}): remove it") from None
        raise
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        raise SlideSparseError(
            f"another run (process {holder}) is working in this directory: wait for it, or stop it"
        ) from None
    stream.seek(0)
    stream.truncate()
    stream.write(str(os.getpid()))
    stream.flush()
    _locks.append(stream)
    threading.Thread(target=_guard, args=(path, stream), name="lock", daemon=True).start()


def _guard(path, stream):
    """End this process when the file of its lock is gone."""
    own = os.fstat(stream.fileno()).st_ino
    while True:
        time.sleep(LOOK_S)
        try:
            there = os.stat(path).st_ino == own
        except OSError:
            there = False
        if not there:
            print(f"{path}, the lock of this run, is gone: the run ends; call it again", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return


_locks = []


def json_object(text):
    """The value of an option that takes a JSON object; for argparse."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def add_worker_options(parser):
    """Add the options of a program that measures through the resident worker."""
    parser.add_argument("--plan", help="plan.json of the hardware: what else the worker will be asked for")
    parser.add_argument(
        "--seat", help="keeps to one of several GPUs what the same --owner measures under the same name"
    )
    parser.add_argument("--no-resident", action="store_true", help="measure in this process, without a worker")


class Worker(NamedTuple):
    """Whether and how a program uses the resident worker; `plan` is the content of plan.json, or empty."""

    resident: bool
    owner: int | None
    plan: dict
    seat: str | None = None


def worker(arguments):
    """The Worker that the parsed options describe."""
    plan = read_json(arguments.plan, RecordError) if arguments.plan and Path(arguments.plan).exists() else {}
    if not _is_plan(plan):
        raise RecordError(f"{arguments.plan} is no plan: the next run writes it anew")
    return Worker(not arguments.no_resident, arguments.owner, plan, arguments.seat)


def _is_plan(plan):
    """Whether the parts of a plan that a worker needs have the right types."""
    if not isinstance(plan, dict):
        return False
    parts = [plan.get(name, {}) for name in ("parameters", "points", "variants")]
    if not all(isinstance(part, dict) and all(isinstance(each, dict) for each in part.values()) for part in parts):
        return False
    hosts, idle = plan.get("share_host", []), plan.get("idle_s", 1)
    return isinstance(hosts, list) and isinstance(idle, int | float) and not isinstance(idle, bool)


def find_own_programs():
    """Let commands that this process starts find its interpreter, even if not activated, and this library."""
    for name, own in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", Path(__file__).parents[1])):
        paths = os.environ.get(name, "").split(os.pathsep)
        if str(own) not in paths:
            os.environ[name] = os.pathsep.join([str(own), *filter(None, paths)])


def run(main, parser=None, argv=None):
    """Parse the arguments and run `main(arguments)`; a SlideSparseError or OSError becomes one sentence and exit 1.

    Adds the option `--owner PID`: when that process ends, so does this one.
    """
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, metavar="PID", help="end as soon as this process is gone")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends this process at once, without a traceback
    if arguments.owner:
        end_with(arguments.owner)
    try:
        main(arguments)
    except (SlideSparseError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {sentence(error)}")


def sentence(error):
    """What a SlideSparseError or an OSError says to a user, in one line of printable text."""
    if not isinstance(error, OSError):
        return printable(error)
    # the disk is full, read-only or broken, or a file belongs to somebody else
    what = printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error)
    return f"{what}; make room or correct the permissions, then run again: what is finished is kept"
