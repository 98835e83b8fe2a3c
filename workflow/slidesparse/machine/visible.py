"""Which GPUs CUDA shows to a process, and in which order. CUDA itself is asked only where GPUs differ."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from slidesparse.errors import HardwareError
from slidesparse.machine import nvml

NO_GPU = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that mean the CPU."""

VENDORS = {"0x1002": "AMD", "0x8086": "Intel", "0x10de": "NVIDIA whose driver does not run"}
"""PCI vendors of GPUs."""

COUNT = """
import ctypes
cuda, device, value = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
count = ctypes.c_int()
cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
for i in range(count.value):
    cuda.cuDeviceGet(ctypes.byref(device), i)
    place = []
    for attribute in (33, 34):  # bus and device of PCI
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        place.append(value.value)
    print(place[0] << 8 | place[1])
"""
"""Prints where CUDA's GPUs lie on PCI, in CUDA's order."""


def chosen(library, devices):
    """Positions in `devices`, those of `nvml.devices`, of the GPUs that CUDA shows, in its order; none means the CPU.

    Raises HardwareError if CUDA_VISIBLE_DEVICES names no GPU that is there.
    """
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not devices or setting in NO_GPU:
        return []
    found = visible(setting, [uuid for uuid, _, _ in devices], _order(library, devices))
    if not found:
        names = [(uuid, library.nvmlDeviceGetName(part or gpu)) for uuid, gpu, part in devices]
        there = ", ".join(f"{i} or {uuid} ({name})" for i, (uuid, name) in enumerate(names))
        raise HardwareError(
            f"CUDA_VISIBLE_DEVICES={setting} names no GPU of this machine: name one of {there}, or set it to nothing to"
            " measure the CPU"
        )
    return found


def visible(setting, uuids, order=None):
    """Positions in `uuids` that CUDA_VISIBLE_DEVICES=`setting` selects, in its order. None selects all.

    Like CUDA: an entry is a number or the beginning of a UUID, and the first unknown entry ends the list.
    order: positions by CUDA's numbers, if these are not the positions.
    """
    if setting is None:
        return list(order or range(len(uuids)))
    positions = []
    for entry in (entry.strip() for entry in setting.split(",")):
        matches = [i for i, uuid in enumerate(uuids) if entry.startswith(("GPU-", "MIG-")) and uuid.startswith(entry)]
        if re.fullmatch(r"[0-9]{1,4}", entry) and int(entry) < len(uuids):
            matches = [order[int(entry)] if order else int(entry)]
        if len(matches) != 1:
            break
        positions += matches
    return positions


def _order(library, devices):
    """Positions of the devices by CUDA's numbers, or None if these are the positions, which are in PCI order.

    CUDA counts the fastest first, unless CUDA_DEVICE_ORDER says otherwise. It is asked only where GPUs differ, in a
    process of its own, because it reads its variables once.
    """
    names = {library.nvmlDeviceGetName(gpu) for _, gpu, _ in devices}
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(names) < 2 or any(part for *_, part in devices):
        return None
    buses = [nvml.ask(library, "nvmlDeviceGetPciInfo", gpu) for _, gpu, _ in devices]
    places = {pci.bus << 8 | pci.device: i for i, pci in enumerate(buses) if pci}
    try:
        order = [places[int(line)] for line in _counted_by_cuda(os.environ.get("CUDA_DEVICE_ORDER"))]
    except (KeyError, ValueError):
        return None
    return order if sorted(order) == list(range(len(devices))) else None


@lru_cache
def _counted_by_cuda(order):
    """What COUNT prints, as words; order: CUDA_DEVICE_ORDER, which decides it."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [sys.executable, "-c", COUNT], env=environment, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout.split()


def missing():
    """What was looked for where there is no NVIDIA GPU, if something speaks for one; else None."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting not in (None, *NO_GPU):
        looked = "no NVIDIA GPU was found: libnvidia-ml.so.1 is not there, or lists none"
        return f"CUDA_VISIBLE_DEVICES is {setting}, but {looked}"
    named = " and ".join(_vendors())
    return f"there is a GPU of {named}: only NVIDIA's can be measured" if named else None


def _vendors(root="/sys/class/drm"):
    """Vendors of the graphics cards that the kernel knows, sorted; without those that are none of VENDORS."""
    found = set()
    for path in Path(root).glob("card*/device/vendor"):
        with suppress(OSError):
            found.add(VENDORS.get(path.read_text(encoding="utf-8", errors="replace").strip()))
    return sorted(found - {None})
