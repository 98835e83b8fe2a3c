"""What all programs under workflow/scripts share: the owner with which they end, the run's lock, and their errors."""

import argparse
import atexit
import errno
import fcntl
import getpass
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from slidesparse.errors import RecordError, SlideSparseError
from slidesparse.files import open_lock, printable, read_json, read_text

SHELL = "set -euo pipefail; trap '' INT; owner={owner}; programs={programs}; "
"""What the shells of all jobs begin with. `owner` is the process whose jobs they are (see `end_left_over`). They tell
it to their programs, which lie in `programs`, because $PPID may be another process by then. A program that is still
starting ignores SIGINT, for which Python would print a traceback; `run` changes that."""

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
    """What the shells of the jobs of process `owner` begin with; SlideSparseError if there are no programs."""
    try:  # util-linux before 2.33 has no such option
        able = subprocess.run(["setpriv", "--pdeathsig", "KILL", "true"], capture_output=True).returncode == 0
    except OSError:
        able = False
    programs = shlex.quote(scripts()).replace("{", "{{").replace("}", "}}")  # Snakemake formats it
    return (BOUND if able else "") + SHELL.format(owner=owner, programs=programs)


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
    with suppress(OSError):
        resume_by(end_of(pid), os.getpid())


def end_of(pid):
    """A new descriptor of the pipe by which process `pid` tells its end. OSError if it tells none, or has ended."""
    return os.open(f"/proc/{int(pid)}/fd/{END_OF_PIPE}", os.O_RDONLY | os.O_NONBLOCK)


def resume_by(pipe, process):
    """Let the kernel resume `process` at the end that `pipe` tells, while any process holds that descriptor of it."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, process)
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


OURS = re.compile(rb"trap '' INT; owner=|\0(?:[^\0]*/)?workflow/scripts/|\0slidesparse\.worker\.")


def owner_of(command):
    """The pid of the owner that a command line (proc(5): cmdline) names; None if it names none."""
    found = OWNER.search(command)
    return int(found[1] or found[2]) if found else None


def is_ours(command):
    """Whether a command line is that of a shell, program or worker of this project."""
    return OURS.search(command) is not None


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
    """Let a first SIGINT interrupt this process as usual, and a second one end it at once, without a traceback.

    Before the lock is held no job runs. Then the first one ends this process, because Snakemake, which reads its files
    and plans, would print a traceback.
    """

    def first(number, frame):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not _locks:
            sys.exit("interrupted before the first job")
        stops.append("SIGINT")
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, first)


def remember_stops():
    """Remember a SIGTERM in `stops`, beside what this process does at one."""
    known = signal.getsignal(signal.SIGTERM)

    def remembered(number, frame):
        stops.append("SIGTERM")
        known(number, frame)

    if callable(known) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, remembered)


stops = []
"""Names of the signals that have told this process to end while it held a lock."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""How flock fails on file systems without it: Lustre without its mount option `flock`, and some NFS."""

ASK_S = 0.1
"""Seconds between two attempts to get a lock that is a name."""


@contextmanager
def locked(path, shared=False, wait=True):
    """Hold the lock of the regular file `path`, which is made if missing; yields its stream. See `hold`."""
    with open_lock(path) as stream, hold(stream, path, shared, wait):
        yield stream


@contextmanager
def hold(stream, path, shared=False, wait=True):
    """Hold the lock of the open file `stream` at `path` until the block ends, alone or together with others.

    The kernel frees it, even after kill -9. Where the file system has no flock, a file beside it is the lock, which
    names its holder: one at a time, and one whose process has ended on this host is taken over.

    Raises BlockingIOError if another process holds it and this one is not to wait. With a name for a lock, its filename
    and strerror say which one. OSError if the disk fails.
    """
    named = None
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        named = f"{path}.held"
        _hold_by_name(named, wait)
    try:
        yield
    finally:
        if named and _holder(named)[0] == str(os.getpid()):
            os.unlink(named)


def _hold_by_name(place, wait):
    """Make the file `place`, which only one process can do, with the name of this one in it."""
    told = False
    while True:
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            pid, started, where = holder = _holder(place)
            if where == _here() and pid.isdecimal() and _has_ended(pid, started):
                _take_away(place, holder)
                continue
            said = f"process {pid} on {where.partition(' ')[0]}, whose lock is {place}; if it has ended, remove that"
            if not wait:
                raise BlockingIOError(errno.EAGAIN, said, place) from None
            if not told:
                print(f"waiting for {said}", file=sys.stderr, flush=True)
                told = True
            time.sleep(ASK_S)
        else:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(f"{os.getpid()} {start_time(os.getpid())} {_here()}")
            return


def _holder(place):
    """(pid, start time, place of the process) that a lock names; unknown parts if it does not tell."""
    parts = ()
    for pause in (ASK_S, 0):  # it may not have been written yet
        with suppress(OSError, ValueError):
            parts = printable(read_text(place, 500)).split(" ", 2)
        if len(parts) == 3:
            return tuple(parts)
        time.sleep(pause)
    return "unknown", "unknown", "unknown"


def _has_ended(pid, started):
    """Whether the process `pid` of this host that began at `started` has ended, even if nobody has noticed yet."""
    return start_time(pid) != started or state_of(pid) in (None, "Z", "X")


def _here():
    """Where pids have the meaning that they have for this process: a host, and a name space on it."""
    return f"{os.uname().nodename} {os.readlink('/proc/self/ns/pid')}"


def _take_away(place, holder):
    """Remove the lock of a `holder` that has ended; if another process has it meanwhile, this one keeps it."""
    aside = f"{place}.{os.getpid()}"
    with suppress(OSError):
        os.rename(place, aside)
        if _holder(aside) != holder:
            os.link(aside, place)
    with suppress(OSError):
        os.unlink(aside)


def refuse_no_room_for_temporary_files():
    """Raise SlideSparseError if no temporary file can be written: Snakemake and vLLM do so, and say it less clearly."""
    folder = os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(1 << 14))
            stream.flush()
    except OSError as error:
        raise SlideSparseError(
            f"no temporary file can be written in {folder} ({error.strerror}): make room there, or set TMPDIR"
        ) from None


def hold_lock(path):
    """Hold an exclusive lock on `path` until this process ends (`hold`).

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
    held = ExitStack()
    try:
        held.enter_context(hold(stream, path, wait=False))
    except BlockingIOError as error:
        stream.seek(0)
        holder = error.strerror if error.filename else f"process {stream.read().strip() or 'unknown'}"
        raise SlideSparseError(
            f"another run ({holder}) is working in this directory: wait for it, or stop it"
        ) from None
    stream.seek(0)
    stream.truncate()
    stream.write(str(os.getpid()))
    stream.flush()
    _locks.append((stream, held))
    atexit.register(held.close)
    threading.Thread(target=_guard, args=(path, stream), name="lock", daemon=True).start()


def _guard(path, stream):
    """End this process when the file of its lock is gone."""
    own, place = os.fstat(stream.fileno()), os.path.abspath(path)  # Snakemake leaves its --directory at the end
    while True:
        time.sleep(LOOK_S)
        try:
            there = os.path.samestat(os.stat(place), own)
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


def find_user():
    """Give this process, and what it starts, the name of a user and a home, where it has none that it can use.

    Libraries ask for both: a user of a container may have no entry in passwd, and for a home that of somebody else.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        there = next(place for place in (Path(home), *Path(home).parents) if place.exists())
        with suppress(OSError), tempfile.TemporaryFile(dir=there):
            return
    own = Path(tempfile.gettempdir(), f"slidesparse-{os.getuid()}")
    with suppress(FileExistsError):
        own.mkdir(mode=0o700)
    status = own.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o170077 != 0o040000:
        raise SlideSparseError(f"HOME is {home}, where this user cannot write, and {own} is not theirs alone: set HOME")
    kept = Path(home, ".cache", "huggingface")
    if "HF_HOME" not in os.environ and kept.is_dir():
        os.environ["HF_HOME"] = str(kept)
    os.environ["HOME"] = str(own / "home")
    (own / "home").mkdir(exist_ok=True)
    print(f"HOME is {home}, where this user cannot write: caches are kept in {own / 'home'}", file=sys.stderr)


SCRIPTS = "workflow/scripts"
"""The folder of the programs, in the repository."""


def scripts():
    """The folder of the programs as commands name it: by its whole path, unless the run works in the repository.

    SlideSparseError if it is not there.
    """
    own = Path(__file__).resolve().parents[1] / "scripts"
    if not own.is_dir():
        raise SlideSparseError(
            f"{own} is not there, because slidesparse was installed without its programs: install it with"
            " `bash envs/install.sh` from a clone of its repository"
        )
    return SCRIPTS if os.path.isdir(SCRIPTS) and os.path.samefile(own, SCRIPTS) else str(own)


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
    with suppress(AttributeError):  # a locale that is not UTF-8 has not every character
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, metavar="PID", help="end as soon as this process is gone")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends this process at once, without a traceback
    if arguments.owner:
        end_with(arguments.owner)
    try:
        find_user()
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
