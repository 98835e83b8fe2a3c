"""Which machine this is: the GPUs that can be measured here, or the CPU.

Imports neither torch nor any GPU library. It asks NVIDIA's management library for the GPU, and reads files for the
rest.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from slidesparse.errors import HardwareError
from slidesparse.machine import nvml, visible
from slidesparse.machine.naming import cpu_name, cpu_token, gpu_token, is_of, parse

CACHE_BYTES = 256 << 20
"""Cache size that is assumed if the machine does not tell it; more than any GPU of 2026 has."""


@dataclass(frozen=True)
class Hardware:
    """One machine as points are measured on it: a GPU, or the CPU if no GPU can be used."""

    key: str
    """Hardware key, e.g. RTX4090_cc89_py312_cu129_x86_64."""
    name: str
    """Full name of the GPU, e.g. NVIDIA H100 PCIe; of the CPU where that is measured."""
    cc: int
    """Compute capability times ten; 0 on a CPU."""
    cpu: str
    """Model name of the host's CPU."""
    cores: int
    """Logical CPUs that this process may use."""
    caches: dict = field(default_factory=dict)
    """Bytes of the caches that one CPU core reaches: L1d, L2, L3."""
    host_memory_bytes: int | None = None
    memory_bytes: int | None = None
    """Memory of the GPU."""
    driver: str | None = None
    driver_cuda: str | None = None
    """Newest CUDA that the driver serves."""
    power_limit_w: float | None = None
    uuid: str | None = None
    """Hash of the GPU's UUID."""
    device: str | None = None
    """What CUDA_VISIBLE_DEVICES must say to select this GPU and no other. Not for publication."""
    bus_id: str | None = None
    """PCI address of a whole GPU."""
    note: str | None = None
    """Why a GPU of this machine is not used."""

    @property
    def gpu(self):
        """True where a GPU is measured."""
        return self.cc > 0

    @cached_property
    def sm_count(self):
        """Streaming multiprocessors of the GPU; None where they cannot be had. Initialises the CUDA driver."""
        return _cuda_attribute(self.bus_id, 16)

    @cached_property
    def l2_bytes(self):
        """L2 cache of the GPU in bytes; None where it cannot be had. Initialises the CUDA driver."""
        return _cuda_attribute(self.bus_id, 38)

    @cached_property
    def memory_bandwidth(self):
        """Bytes a second between the GPU and its memory, from its clock and width; None if they cannot be had."""
        clock_khz, bits = _cuda_attribute(self.bus_id, 36), _cuda_attribute(self.bus_id, 37)
        return 2 * clock_khz * 1000 * bits // 8 if clock_khz and bits else None

    @property
    def cache_bytes(self):
        """Largest cache between the measured processor and its memory, in bytes."""
        return (self.l2_bytes if self.gpu else max(self.caches.values(), default=None)) or CACHE_BYTES


def torch_cuda():
    """(torch is installed, the CUDA it was built for such as "12.9" or None), from its files, without importing it."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        return False, None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return True, None
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return True, match and match[1]


def detected():
    """[Hardware] of this machine: one for each visible GPU, or the CPU where no GPU can be used.

    CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are understood as CUDA does. A GPU is not used when the installed torch
    was built without CUDA. Raises HardwareError for a driver that does not answer, and if CUDA_VISIBLE_DEVICES names no
    GPU that is there; empty or -1 it means the CPU.
    """
    with nvml.library() as library:
        devices = nvml.devices(library) if library else []
        chosen = visible.chosen(library, devices)
        if not chosen:
            return [_hardware(note=None if devices else visible.missing())]
        installed, cuda = torch_cuda()
        if installed and not cuda:
            name = library.nvmlDeviceGetName(devices[chosen[0]][1])
            return [_hardware(note=f"{name} is not used, because the installed torch was built without CUDA")]
        return [_hardware(**_gpu(library, *devices[i])) for i in chosen]


def detect(index=0):
    """Number `index` of `detected()`. Raises HardwareError if that GPU is not there."""
    devices = detected()
    if index >= len(devices):
        visible_gpus = sum(device.gpu for device in devices)
        raise HardwareError(f"GPU number {index} was asked for, but {visible_gpus} are visible here, counted from 0")
    return devices[index]


def key(index=0):
    """Hardware key of this machine, or of its visible GPU number `index`."""
    return detect(index).key


def check(key):
    """[Hardware] of this machine whose key is `key`, which may have a suffix.

    Raises HardwareError, which names both keys, if there is none.
    """
    parse(key)
    devices = detected()
    matching = [device for device in devices if is_of(key, device.key)]
    if not matching:
        own = " and ".join(dict.fromkeys(device.key for device in devices))
        note = f" ({devices[0].note})" if devices[0].note else ""
        raise HardwareError(
            f"this machine is {own}{note} and the results asked for belong to {key}: measure them there,"
            f" or set hardware: {devices[0].key}"
        )
    return matching


def _hardware(name=None, token=None, cc=0, cuda=0, **gpu):
    """Hardware of this host, with what is known of its GPU."""
    machine = os.uname().machine
    cpu = cpu_name(_text("/proc/cpuinfo"), machine)
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text("/proc/meminfo"))
    return Hardware(
        key=f"{token or cpu_token(cpu)}_cc{cc}_py{python}_cu{cuda}_{machine}",
        name=name or cpu,
        cc=cc,
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        caches=_caches(),
        host_memory_bytes=int(memory[1]) * 1024 if memory else None,
        **gpu,
    )


def _text(path):
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _caches(root="/sys/devices/system/cpu/cpu0/cache"):
    """Bytes of cpu0's data caches: {"L1d", "L2", "L3"}, as far as the kernel tells."""
    caches = {}
    for entry in sorted(Path(root).glob("index[0-9]*")):
        size = re.fullmatch(r"(\d+)K", _text(entry / "size").strip())
        kind = _text(entry / "type").strip()
        if size and kind != "Instruction":
            caches[f"L{_text(entry / 'level').strip()}{'d' if kind == 'Data' else ''}"] = int(size[1]) * 1024
    return caches


def _gpu(library, uuid, gpu, part):
    """Fields of Hardware for one GPU or slice."""
    name = library.nvmlDeviceGetName(part or gpu)
    major, minor = library.nvmlDeviceGetCudaComputeCapability(gpu)
    served = nvml.ask(library, "nvmlSystemGetCudaDriverVersion") or 0
    driver_cuda = f"{served // 1000}.{served % 1000 // 10}"
    memory = nvml.ask(library, "nvmlDeviceGetMemoryInfo", part or gpu)
    limit = nvml.ask(library, "nvmlDeviceGetEnforcedPowerLimit", gpu)
    pci = nvml.ask(library, "nvmlDeviceGetPciInfo", gpu)
    return {
        "name": name,
        "token": gpu_token(name),
        "cc": major * 10 + minor,
        "cuda": int((torch_cuda()[1] or driver_cuda).replace(".", "")),
        "memory_bytes": memory and memory.total,
        "driver": nvml.ask(library, "nvmlSystemGetDriverVersion"),
        "driver_cuda": driver_cuda,
        "power_limit_w": limit and limit / 1000,
        "uuid": hashed(uuid),
        "device": uuid,
        "bus_id": pci.busId if pci and not part else None,
    }


def hashed(text):
    """A hash in place of a name that is not for publication."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cuda_attribute(bus_id, attribute):
    """One CUdevice_attribute of the GPU at `bus_id`, or None."""
    if not bus_id:
        return None
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, value = ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGetByPCIBusId(ctypes.byref(device), bus_id.encode())
        or cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    )
    return None if failed else value.value
