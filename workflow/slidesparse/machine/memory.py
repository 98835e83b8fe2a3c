"""Whether a point does not fit into the GPU's memory at all, or only because other processes hold some of it."""

import os
import re
from contextlib import contextmanager

from slidesparse.errors import MeasurementError, OutOfMemoryError
from slidesparse.machine import hardware, nvml

TOLERATED = 1 << 30
"""Bytes that other processes may hold: a desktop, a monitor."""

CONTEXT = 1 << 30
"""Bytes that this process may hold outside torch: the CUDA context, kernels, workspaces of libraries."""

FULL = re.compile(
    r"out of memory|OUT_OF_MEMORY|ErrorMemoryAllocation|ALLOC_FAILED|No available memory for the cache blocks"
)
"""What CUDA, its libraries, torch, Triton and vLLM say where a GPU has no memory left."""


def is_full(error):
    """Whether an error, or one behind it, says that the GPU's memory is full."""
    return _of_memory(error) is not None


def told(error):
    """The first sentence of what says that the memory is full, of an error for which `is_full` is true."""
    return str(_of_memory(error)).partition("\n")[0].partition(". ")[0]


def _of_memory(error):
    """The error itself or the first one behind it that is about full memory; else None."""
    seen = []
    while error is not None and error not in seen:
        if type(error).__name__ == "OutOfMemoryError" or FULL.search(str(error)):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def cannot_share():
    """Why processes here cannot share memory, which takes a writable /dev/shm with some room; None if they can."""
    from multiprocessing import get_context

    try:
        get_context("spawn").Lock()
    except (OSError, ImportError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


@contextmanager
def ours():
    """Pass an OutOfMemoryError on if the GPU was ours alone. Otherwise raise a MeasurementError that names the others.

    The point is then measured again, instead of being stored as one that does not fit.
    """
    try:
        yield
    except OutOfMemoryError as error:
        held, pids = held_by_others(*_now())
        if held <= TOLERATED:
            raise
        named = f" ({'pid' if len(pids) == 1 else 'pids'} {', '.join(map(str, pids))})" if pids else ""
        raise MeasurementError(
            f"other processes{named} hold {held / 2**30:.1f} GiB of the GPU's memory, and the point does not fit beside"
            f" them ({error}): wait for them or end them, then run again"
        ) from None


def held_by_others(pid, holders, total, free, reserved):
    """(bytes of a GPU that processes other than `pid` hold, their pids as far as they are known).

    holders: {pid: bytes or None} as NVML tells them. In a container these may be pids of the host, or none. Then others
    hold all memory that is not free, not `reserved` by torch in this process, and not CONTEXT. All in bytes.
    """
    others = {other: held for other, held in holders.items() if other != pid} if pid in holders else {}
    if pid in holders and None not in others.values():
        return sum(others.values()), sorted(others)
    return max(0, total - free - reserved - CONTEXT), sorted(others)


def _now():
    """The arguments of `held_by_others` for this process and its GPU."""
    import torch

    if not torch.cuda.is_available():
        return os.getpid(), {}, 0, 0, 0
    free, total = torch.cuda.mem_get_info()
    with nvml.library() as library:
        holders = nvml.holders(library, hardware.detect().device) if library else {}
    return os.getpid(), holders, total, free, torch.cuda.memory_reserved()
