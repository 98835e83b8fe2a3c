"""Locks for measurements: one measurement on a GPU at a time, and the host alone or shared.

They are flocks on files, which the kernel frees whatever ends the process.
"""

import fcntl
import os
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from slidesparse.files import open_lock

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
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with _open("host") as stream:
        try:
            fcntl.flock(stream, how | fcntl.LOCK_NB)
        except BlockingIOError:
            print(WAITING, file=sys.stderr, flush=True)
            fcntl.flock(stream, how)
        yield


def _free(devices, name, stack):
    """A free GPU, locked: the first one in the order of `_order`. Waits until one is free."""
    locks = [(stack.enter_context(_open(f"gpu-{device.uuid}")), device) for device in devices]
    told = False
    while True:
        for lock, device in sorted(locks, key=lambda pair: _order(pair[0], name)):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _open(name):
    """A stream of a lock that every user of this host may lock; anything but a regular file is refused."""
    path = lock_directory() / f"slidesparse-{name}.lock"
    stream = open_lock(path)
    with suppress(PermissionError):  # it is another user's
        os.fchmod(stream.fileno(), 0o666)
    return stream
