"""The resident worker: a process that keeps, for one owner and device, what is slow to load between points.

    client (ask) ──unix socket──> worker     imports torch or vLLM, runs the handler, one request at a time
                                  guard      its parent: when worker or owner ends, no process and no socket is left

It is only a cache. It writes no file but its log, and `here` gives the same result without it.

A *handler*, named `module:function`, takes the request (a dict) and returns a result that JSON can carry. Importing its
module must be cheap, so the function itself imports torch and the like. Before that, the module's optional
`prepare_environment()` sets the environment variables that libraries read. Its optional `close()` is called when the
process ends in good order. A handler that needs a new process raises `Replace`.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import fcntl
import functools
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from pathlib import Path

from slidesparse import errors
from slidesparse.errors import MeasurementError, SlideSparseError
from slidesparse.files import digest, open_lock
from slidesparse.program import end_left_over, end_of, hold, resume_at_end_of, resume_by, start_time, wait_for_end

# Variables that a worker keeps of the caller's environment, with XDG_* and HF_*: devices, paths, caches, proxies.
KEPT = {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR"}
KEPT |= {"HOME", "USER", "LOGNAME", "LANG", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE"}
KEPT |= {"TRITON_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "VLLM_CACHE_ROOT"}
KEPT |= {"VLLM_CONFIG_ROOT", "FLASHINFER_WORKSPACE_BASE", "NUMBA_CACHE_DIR", "CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE"}
KEPT |= {"CUDA_HOME", "CUDA_PATH", "CC"}

GRACE_SECONDS = 2  # after a time limit, in which the worker logs where it was stuck
LOOK_SECONDS = 5  # between two looks at a worker that measures
PATIENCE_SECONDS = 60  # for the rest of a message, and for a worker to close
CLOSING = contextlib.ExitStack()  # the close() of the handlers in use


class Replace(SlideSparseError):
    """Raised by a handler: this request needs a new process (say, another engine on the same GPU)."""


def ask(kind, request, owner, *, idle, log, timeout=None):
    """Return what handler `kind` of the resident worker answers to `request`, a dict. Starts a worker if there is none.

    There is one worker for each owner, request["worker"] (which names the device) and CUDA_VISIBLE_DEVICES. A request
    with another kind, interpreter, working directory, environment or code replaces it.
    owner: pid of a process. When it ends, the worker and this call end, too (exit status 1). None: this process.
    idle: seconds without a request after which a worker ends.
    log: the log file of a worker that this call starts.
    timeout: seconds that the handler may take, without the wait for earlier requests. None: no limit.
    Errors: the handler's SlideSparseError keeps its class. All other failures are a MeasurementError: the handler
    failed, took too long, or was lost with its worker after it had accepted the request.
    """
    refuse_changed_code()
    owner, environment, log = owner or os.getpid(), _environment(), os.path.abspath(log)
    started, devices = start_time(owner), environment.get("CUDA_VISIBLE_DEVICES")
    name = digest([os.uname().nodename, owner, started, request["worker"], devices])[:32] + ".sock"
    identity = digest([kind, sys.executable, os.getcwd(), environment, CODE])
    message = _encode({"identity": identity, "timeout": timeout, "request": request})
    options = {"kind": kind, "owner": owner, "idle": idle, "log": log, "identity": identity}
    while not _ended(owner, started):
        connection, fresh = _connect(name, options, environment)
        with connection:
            accepted = threading.Event()
            threading.Thread(target=_watch_waiting, args=(name, accepted), daemon=True).start()
            try:
                connection.sendall(message)
                reply = _receive(connection)
            except OSError:  # the worker ended before it accepted the request, as if there were none
                if not fresh:
                    continue
                reply = _failure(f"the resident worker for {request['worker']} does not start; see its log {log}")
            finally:
                accepted.set()
            if "accepted" in reply:
                reply = _outcome(connection, timeout, name, **reply)
        if "replace" not in reply:
            break
    if _ended(owner, started):
        sys.exit(1)
    return _result(reply)


def here(kind, request):
    """Return what handler `kind` answers to `request`, computed in this process as if it were a new worker.

    It leaves the worker's environment in os.environ. So call it once, before the imports that read the environment.
    """
    environment = _environment()
    os.environ.clear()
    os.environ.update(environment)
    with CLOSING:
        return _result(_answer(kind, json.loads(json.dumps(request)), "standard error")[0])


def _environment():
    """The environment of every worker. It finds the client's package, and no module of the working directory."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(("XDG_", "HF_"))}
    path = [str(Path(__file__).resolve().parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def code_state():
    """What changes with this library's code: the sizes and times of its files. A worker runs the code of its start."""
    root = Path(__file__).resolve().parents[1]
    files = ((path, path.stat()) for path in sorted(root.rglob("*.py")))
    return [[str(path.relative_to(root)), status.st_size, status.st_mtime_ns] for path, status in files]


CODE = code_state()
"""The code that this process runs: what it was when the process began."""


def refuse_changed_code():
    """Raise MeasurementError if this library was changed since this process began.

    A worker imports its modules late, so nobody knows which code has measured.
    """
    if code_state() != CODE:
        library = Path(__file__).resolve().parents[1]
        raise MeasurementError(f"{library} was changed during the measurement, which counts for nothing: run again")


def user_directory():
    """The directory for sockets and locks on this host, which belongs to this user alone."""
    directory = Path(tempfile.gettempdir(), f"slidesparse-{os.getuid()}")
    with contextlib.suppress(KeyError, OSError):  # on cluster nodes it is often set, without a directory to write to
        if os.stat(os.environ["XDG_RUNTIME_DIR"]).st_uid == os.getuid():
            directory = _made(Path(os.environ["XDG_RUNTIME_DIR"], "slidesparse"))
    _made(directory)
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o170077 != 0o040000:  # a directory without rights for others
        raise MeasurementError(f"{directory} must be a directory of user {os.getuid()} with mode 0700; remove it")
    return directory


def _made(directory):
    """The directory, which is made if nothing lies there. OSError if it cannot be made."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    return directory


@contextlib.contextmanager
def _locked(directory):
    """Hold the lock of the directory of sockets. MeasurementError if what lies in its place is no file of its own."""
    path = directory / "lock"
    try:
        stream = open_lock(path)
    except OSError as error:
        raise MeasurementError(f"{path} cannot be locked ({error.strerror}): remove it") from None
    with stream, hold(stream, path):
        yield


def _connect(name, options, environment):
    """Return a connection to the worker behind socket `name`, and whether the worker was started for it.

    A lock makes sure that clients which come at the same time start one worker. The client listens on the socket and
    hands it to its new worker as standard input. So a socket refuses only when its worker is dead. A client that comes
    while a worker is ending waits until it has given back the device (see `end`).
    """
    directory, connection, fresh = user_directory(), socket.socket(socket.AF_UNIX), False
    with contextlib.ExitStack() as stack:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        address = f"/proc/self/fd/{folder}/{name}"  # at most 107 characters, which the directory's path may exceed
        stack.enter_context(_locked(directory))
        try:
            connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            fresh = True
            (directory / name).unlink(missing_ok=True)
            _remove_unused(directory, folder)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen(128)
            connection.connect(address)  # before the start, so that no worker is idle before it is asked
            _start(listener, options | {"socket": directory / name}, environment)
    _check_peer(connection)
    return connection, fresh


def _remove_dead(name):
    """Remove the socket `name` of a guard that was killed, once its processes have ended, which may take a moment."""
    directory, deadline = user_directory(), time.monotonic() + GRACE_SECONDS
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while (directory / name).exists() and time.monotonic() < deadline:
            with _locked(directory):
                _remove_unused(directory, folder)
            time.sleep(0.02)
    finally:
        os.close(folder)


def _remove_unused(directory, folder):
    """Remove the sockets in `directory`, which is open as `folder`, that refuse; the caller holds the lock."""
    for path in directory.glob("*.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:  # it is gone, or its queue is full
            probe.setblocking(False)
            try:
                probe.connect(f"/proc/self/fd/{folder}/{path.name}")
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)


def _start(listener, options, environment):
    """Start a worker on `listener`, in its own session and without our open files."""
    command = [sys.executable, "-m", __name__, *(f"--{option}={value}" for option, value in options.items())]
    Path(options["log"]).parent.mkdir(parents=True, exist_ok=True)
    with open(options["log"], "ab") as log, contextlib.ExitStack() as stack:
        ends = []  # the guard may be stopped before it can ask to be resumed itself
        with contextlib.suppress(OSError):
            ends.append(end_of(options["owner"]))
            stack.callback(os.close, ends[0])
        streams = {"stdin": listener, "stdout": log, "stderr": log}
        worker = subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=ends, **streams)
        for end in ends:
            resume_by(end, worker.pid)
    threading.Thread(target=worker.wait, daemon=True).start()  # no zombie while this process lives


def _ended(pid, started):
    """Whether the process `pid` that began at `started` has ended. Without pidfd, a zombie counts as running."""
    with contextlib.suppress(AttributeError, OSError), os.fdopen(os.pidfd_open(pid)) as end:
        if select.select([end], [], [], 0)[0]:
            return True
    return started is None or start_time(pid) != started


def _outcome(connection, timeout, name, accepted, begun, log):
    """Return the reply to the request that process group `accepted` has accepted, or an error if none comes."""
    ended, stopped = threading.Event(), threading.Event()
    threading.Thread(target=_watch, args=(accepted, ended, stopped), daemon=True).start()
    connection.settimeout(timeout and timeout + GRACE_SECONDS)
    with contextlib.suppress(ConnectionError, ProcessLookupError):
        try:
            return _receive(connection)
        except TimeoutError:
            os.killpg(accepted, signal.SIGKILL)
        finally:
            ended.set()
    with contextlib.suppress(ProcessLookupError):  # a child of the worker, on a host without terminals
        os.killpg(accepted, signal.SIGKILL)
    _remove_dead(name)
    if stopped.is_set():
        return _failure(f"the resident worker was stopped (SIGSTOP) during the measurement; see {log} and run again")
    if timeout and time.monotonic() - begun >= timeout:
        return _failure(f"the measurement was stopped at its time limit of {timeout:g} s; see {log}")
    return _failure(f"the resident worker was lost during the measurement; see its log {log} and run again")


def _watch(group, ended, stopped):
    """Kill a process group of which a process stays stopped: it would answer nothing, and end with nobody."""

    def belongs(entry):
        return int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[2]) == group

    if _stay_stopped(belongs, ended):
        stopped.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _watch_waiting(name, accepted):
    """Kill the guard and the worker of socket `name` if one of them stays stopped: it would accept no request."""
    option = f"\0--socket={user_directory() / name}\0".encode()

    for pid in _stay_stopped(lambda entry: option in (entry / "cmdline").read_bytes(), accepted):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _stay_stopped(belongs, done):
    """Wait until one of some processes is stopped (proc(5): state T) in two looks; return the pids of all of them.

    belongs: whether a folder of /proc is one of theirs; it may raise OSError. An empty list is returned once `done`.
    """
    looks = 0
    while not done.wait(LOOK_SECONDS):
        states = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                if belongs(entry):
                    states[int(entry.name)] = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        looks = looks + 1 if "T" in states.values() else 0
        if looks == 2:
            return list(states)
    return []


def _failure(sentence):
    return {"error": "MeasurementError", "sentence": sentence}


def _result(reply):
    if "error" in reply:
        raise getattr(errors, reply["error"])(reply["sentence"])
    return reply["result"]


def _encode(message):
    """A message on the wire: its length, then its JSON."""
    data = json.dumps(message).encode()
    return struct.pack(">Q", len(data)) + data


def _receive(connection):
    data, size = bytearray(), 8
    while len(data) < size:
        if not (piece := connection.recv(size - len(data))):
            raise ConnectionError("closed by the other side")
        data += piece
        if len(data) == 8:
            size += int.from_bytes(data, "big")
    return json.loads(data[8:])


def _check_peer(connection):
    user = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    if user != os.getuid():
        raise MeasurementError(f"the other side of a resident worker's socket is user {user}, not {os.getuid()}")


@functools.cache
def _load(kind):
    """Prepare the environment of handler `kind` and return its function."""
    name, _, function = kind.partition(":")
    module = importlib.import_module(name)
    getattr(module, "prepare_environment", lambda: None)()
    CLOSING.callback(getattr(module, "close", lambda: None))
    return getattr(module, function)


def _answer(kind, request, log):
    """Return the reply to `request`, and whether this process may serve another one."""
    new = not _load.cache_info().currsize
    try:
        return {"result": json.loads(json.dumps(_load(kind)(request), allow_nan=False))}, True
    except SlideSparseError as error:
        if isinstance(error, Replace) and not new:
            return {"replace": True}, False
        known = next(base for base in type(error).__mro__ if getattr(errors, base.__name__, None) is base)
        return {"error": known.__name__, "sentence": str(error)}, True
    except Exception as error:  # the state of this process is unknown now
        traceback.print_exc()
        last = traceback.format_exception_only(error)[-1].splitlines()[0]
        return _failure(f"the measurement ({kind}) failed with {last}; the traceback is in {log}"), False


def _serve(listener, arguments):
    """Answer one request after the other, until idle, replaced or in an unknown state."""
    listener.settimeout(float(arguments.idle))
    usable = True
    with contextlib.suppress(TimeoutError, BlockingIOError):  # the latter with `idle` 0
        while usable:
            connection = listener.accept()[0]
            with connection, contextlib.suppress(OSError, MeasurementError):  # a client that is gone, or not ours
                connection.settimeout(PATIENCE_SECONDS)
                _check_peer(connection)
                message = _receive(connection)
                if message["identity"] != arguments.identity:
                    usable, reply = False, {"replace": True}
                else:
                    accepted = {"accepted": os.getpgrp(), "begun": time.monotonic(), "log": arguments.log}
                    connection.sendall(_encode(accepted))
                    if message["timeout"]:
                        faulthandler.dump_traceback_later(message["timeout"], exit=True)
                    reply, usable = _answer(arguments.kind, message["request"], arguments.log)
                    faulthandler.cancel_dump_traceback_later()
                connection.sendall(_encode(reply))


def _take_terminal():
    """Give the session of this process a terminal; returns whether there is one, which needs /dev/pts."""
    try:
        fcntl.ioctl(os.openpty()[1], termios.TIOCSCTTY, 0)
        return True
    except OSError:
        return False


def _end_with(parent):
    """Let the kernel kill this process when its parent ends (prctl(2): PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main():
    """Guard a worker whose listening socket is standard input.

    The guard forks the worker and waits. If the worker is killed or stuck in foreign code, the guard ends it and its
    children and removes its socket. If the guard is killed, the kernel ends them: the session has a terminal, and the
    end of its leader hangs up its group. A death signal would not reach the worker's children, so it serves only where
    no terminal is to be had, and the client ends those. A child that moves to a process group or session of its own
    must look after itself.
    """
    parser = argparse.ArgumentParser(description="Serve requests on standard input, a listening socket (see ask).")
    for option in ("kind", "owner", "idle", "socket", "log", "identity"):
        parser.add_argument(f"--{option}", required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    terminal = _take_terminal()
    listener = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what the worker starts must not hold the socket
    guard, worker = os.getpid(), os.fork()
    resume_at_end_of(arguments.owner)  # in both: neither sees the end of its owner while it is stopped

    def end(*_):
        Path(arguments.socket).unlink(missing_ok=True)  # the guard listens, too, so no client has replaced it yet
        os.killpg(0, signal.SIGKILL)

    def follow(grace):
        wait_for_end(int(arguments.owner))
        time.sleep(grace)
        Path(arguments.socket).unlink(missing_ok=True)
        end_left_over(int(arguments.owner))
        end()

    if not worker:
        if not terminal:
            _end_with(guard)
        # The guard ends all. It may have been stopped, though, and then the worker does.
        threading.Thread(target=follow, args=(GRACE_SECONDS,), daemon=True).start()
        try:
            _serve(listener, arguments)
        finally:
            faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
            CLOSING.close()
        return

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=follow, args=(0,), daemon=True).start()
    os.waitpid(worker, 0)
    end()


if __name__ == "__main__":
    from slidesparse.worker import resident  # under its own name, so that handlers raise the Replace that is caught

    resident.main()
