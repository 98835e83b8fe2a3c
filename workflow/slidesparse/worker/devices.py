"""Who measures where: one measurement a GPU, and the host shared or not. Locks are files that the kernel frees."""

import fcntl
import os
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

from slidesparse.worker import resident

WAITING = "another program of this user is measuring on this device: waiting until it has finished its point"

PAUSE_S = 0.1
"""Seconds between two looks at GPUs that are all taken."""


@contextmanager
def taken(devices, owner=None, seat=None, share_host=False):
    """Hold one of the `devices` of this machine, [Hardware], alone, until the block ends; wait for it if need be.

    A GPU is then the only one in CUDA_VISIBLE_DEVICES, so that this process and what it starts see no other.
    owner, seat: who has taken a GPU before returns to it, where a resident worker may still hold what is needed.
    share_host: whether others may measure, or convert, on this host meanwhile; on a CPU never.
    """
    with ExitStack() as stack:
        if devices[0].gpu:
            device = _free(devices, f"{owner} {seat}", stack)
            os.environ["CUDA_VISIBLE_DEVICES"] = device.device
        stack.enter_context(host(shared=share_host and devices[0].gpu))
        yield


@contextmanager
def host(shared):
    """Hold this host, alone or beside others that share it, until the block ends."""
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with _open("host") as stream:
        try:
            fcntl.flock(stream, how | fcntl.LOCK_NB)
        except BlockingIOError:
            print(WAITING, file=sys.stderr, flush=True)
            fcntl.flock(stream, how)
        yield


def _free(devices, name, stack):
    """The first of the GPUs that is free, locked: one that `name` had before, else one that nobody has had."""
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
    """0 for a GPU that `name` had last, 1 for one that another owner had, or nobody, 2 for another seat's."""
    stream.seek(0)
    last = stream.read()
    return 0 if last == name else 2 if last.partition(" ")[0] == name.partition(" ")[0] else 1


def _sign(stream, name):
    stream.seek(0)
    stream.truncate()
    stream.write(name)
    stream.flush()


def _open(name):
    return open(resident.user_directory() / f"{name}.lock", "a+")
