"""NVIDIA's management library: which GPUs there are and what they report, without torch or CUDA."""

import ctypes
from contextlib import contextmanager, suppress

from slidesparse.errors import HardwareError


@contextmanager
def library():
    """NVIDIA's management library, initialised; None where there is no driver or no GPU."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:  # no driver: spare the import
        yield None
        return
    try:
        import pynvml
    except ImportError:
        raise HardwareError(
            "this machine has an NVIDIA driver, but the package nvidia-ml-py is not installed"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
            raise HardwareError(
                f"the NVIDIA driver of this machine does not answer ({error}): repair it first"
            ) from None
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def devices(library):
    """[(UUID, handle of the GPU, handle of its slice or None)] of all GPUs in PCI order. Slices stand for their GPU."""
    listed = []
    for i in range(library.nvmlDeviceGetCount()):
        gpu = ask(library, "nvmlDeviceGetHandleByIndex", i)
        if gpu is None:  # not given to this process, and not counted by CUDA
            continue
        slices = []
        with suppress(library.NVMLError):
            if library.nvmlDeviceGetMigMode(gpu)[0]:
                for j in range(library.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                    with suppress(library.NVMLError):
                        slices.append(library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, j))
        listed += [(library.nvmlDeviceGetUUID(part or gpu), gpu, part) for part in slices or [None]]
    return listed


def holders(library, uuid):
    """{pid: bytes that it holds, or None} of the processes on one GPU or slice, as far as NVML tells."""
    processes = [
        process
        for known, gpu, part in devices(library)
        if known == uuid
        for kind in ("Compute", "Graphics")
        for process in ask(library, f"nvmlDeviceGet{kind}RunningProcesses", part or gpu) or []
    ]
    return {process.pid: process.usedGpuMemory for process in processes}


def ask(library, function, *arguments):
    """What NVML's `function` answers, or None where this GPU or driver does not know."""
    with suppress(library.NVMLError):
        return getattr(library, function)(*arguments)
    return None
