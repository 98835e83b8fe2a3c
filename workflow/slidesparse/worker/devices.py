"""Locks for measurements: one measurement on a GPU at a time, and the host alone or shared.

They are locks of files (`program.hold`), which are free whatever ends the process.
"""

import os
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from slidesparse.files import open_lock
from slidesparse.program import hold

WAITING = "another program of this user is measuring on this device: waiting until it has finished its point"

TMP = Path("/tmp")
LOCKS = ("/run/lock", TMP)
"""Folders in which every user of a host may make files; the first that is there has the locks."""

PAUSE_S = 0.1
"""Seconds between two attempts while all GPUs are taken."""


@contextmanager
def taken(devices, owner=None, seat=None, share_host=False):
    """Hold one of the `devices` of this machine alone, until the block ends. Waits for it.

    A GPU is then the only one in CUDA_VISIBLE_DEVICES. So this process and what it starts see no other.
    devices: [Hardware] of one hardware key, see `hardware.check`.
    owner, seat: who takes the device. They get the GPU that they had before, where a resident worker may still be
    useful.
    share_host: whether others may measure, or convert, on this host meanwhile. On a CPU they never may.
    """
    with ExitStack() as stack:
        if devices[0].gpu:
            device = _free(devices, f"{owner} {seat}", stack)
            os.environ["CUDA_VISIBLE_DEVICES"] = device.device
        stack.enter_context(host(shared=share_host and devices[0].gpu))
        yield


@contextmanager
def host(shared):
    """Hold this host until the block ends, alone or together with others that share it."""
    path = _path("host")
    with _open(path) as stream, ExitStack() as stack:
        try:
            stack.enter_context(hold(stream, path, shared, wait=False))
        except BlockingIOError:
            print(WAITING, file=sys.stderr, flush=True)
            stack.enter_context(hold(stream, path, shared))
        yield


def _free(devices, name, stack):
    """A free GPU, locked: the first one in the order of `_order`. Waits until one is free."""
    places = [(_path(f"gpu-{device.uuid}"), device) for device in devices]
    locks = [(stack.enter_context(_open(path)), path, device) for path, device in places]
    told = False
    while True:
        for lock, path, device in sorted(locks, key=lambda each: _order(each[0], name)):
            with suppress(BlockingIOError):
                stack.enter_context(hold(lock, path, wait=False))
                _sign(lock, name)
                return device
        if not told:
            print(WAITING, file=sys.stderr, flush=True)
            told = True
        time.sleep(PAUSE_S)


def _order(stream, name):
    """0 if `name` had the GPU last, 2 if another seat of the same owner had it, 1 if another owner or nobody had it."""
    stream.seek(0)
    last = stream.read()
    return 0 if last == name else 2 if last.partition(" ")[0] == name.partition(" ")[0] else 1


def _sign(stream, name):
    stream.seek(0)
    stream.truncate()
    stream.write(name)
    stream.flush()


def lock_directory():
    """The folder of the devices' locks. It is the same for all programs of a host, whatever their environment says.

    Programs in containers have their own. SLIDESPARSE_LOCKS names another one, for tests.
    """
    own = os.environ.get("SLIDESPARSE_LOCKS")
    return Path(own) if own else next(path for path in map(Path, LOCKS) if os.access(path, os.W_OK) or path == TMP)


def _path(name):
    return lock_directory() / f"slidesparse-{name}.lock"


def _open(path):
    """A stream of a lock that every user of this host may lock; anything but a regular file is refused."""
    stream = open_lock(path)
    with suppress(PermissionError):  # it is another user's
        os.fchmod(stream.fileno(), 0o666)
    return stream
