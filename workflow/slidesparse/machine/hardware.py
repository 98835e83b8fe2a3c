"""Which machine this is, what its results are called, and what it can run.

Imports neither torch nor any GPU library. It asks NVIDIA's management library for the GPU, and reads files for the
rest.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from slidesparse.errors import HardwareError
from slidesparse.machine import nvml

KEY_PATTERN = (
    r"(?:cpu-[A-Za-z0-9-]{1,80}_cc0_py[0-9]{2,4}_cu0"
    r"|(?!cpu-)[A-Za-z0-9-]{1,80}_cc[1-9][0-9]{1,2}_py[0-9]{2,4}_cu[1-9][0-9]{1,3})"
    r"_[a-z0-9]{1,16}(?:_[a-z0-9]{1,16}){0,3}"
)
"""Regular expression of a hardware key, without groups or anchors, for wildcard constraints."""

CAPABILITY = {"INT8": (80, "structured sparsity begins"), "FP8": (89, "FP8 (E4M3) tensor cores begin")}
"""dtype: the compute capability that it needs on an NVIDIA GPU, and why. CPUs run both."""

ARCHITECTURES = {
    **dict.fromkeys((80, 86, 87), "Ampere"),
    89: "Ada Lovelace",
    90: "Hopper",
    **dict.fromkeys((100, 101, 103, 110, 120, 121), "Blackwell"),
    70: "Volta",
    72: "Volta",
    75: "Turing",
}
"""Compute capability times ten -> NVIDIA's name of the architecture."""

GPUS = {
    **dict.fromkeys(("V100",), (70,)),
    **dict.fromkeys(("T4",), (75,)),
    **dict.fromkeys(("A100", "A800", "A30"), (80,)),
    **dict.fromkeys(("A2", "A10", "A10G", "A16", "A40"), (86,)),
    **dict.fromkeys(("A2000", "A4000", "A4500", "A5000", "A5500", "A6000"), (86,)),
    **dict.fromkeys(("3060", "3070", "3080", "3090", "3060TI", "3070TI", "3080TI", "3090TI"), (86,)),
    "ORIN": (87,),
    **dict.fromkeys(("L4", "L20", "L40", "L40S"), (89,)),
    **dict.fromkeys(("4060", "4070", "4080", "4090", "4090D", "4060TI", "4070TI", "4070SUPER", "4080SUPER"), (89,)),
    **dict.fromkeys(("6000",), (75, 89, 120)),
    **dict.fromkeys(("H20", "H100", "H200", "H800", "GH200"), (90,)),
    **dict.fromkeys(("B200", "GB200"), (100,)),
    **dict.fromkeys(("B300", "GB300"), (103,)),
    **dict.fromkeys(("5060", "5070", "5080", "5090", "5090D", "5060TI", "5070TI", "PRO6000"), (120,)),
    "GB10": (121,),
}
"""gpu_model -> the compute capabilities times ten that GPUs of this name have, by NVIDIA's table of CUDA GPUs."""

MODEL = re.compile(r"(?i:RTX|PRO|Ti|SUPER|D|Laptop)|(?!.*-\d+[ABCQV]$).*\d.*")
"""Words behind RTX, GTX or TITAN that belong to a GPU's model."""

FORM = re.compile(r"SXM\d?|PCIE|NVL|FHHL|DGXS|HBM\d?e?|PG\d+|\d{3}|\d+GB", re.IGNORECASE)
"""Parts of a name behind a hyphen that are a form factor, a board or memory."""

PROFILE = re.compile(r"-\d+[ABCQV]$")
"""The end of the name of a share of a GPU that a host gives to a virtual machine."""

PLAIN = re.compile(
    r"NVIDIA|GEFORCE|TESLA|QUADRO|RTX|GTX|GENERATION|BLACKWELL|ADA|WORKSTATION|SERVER|EDITION|MAX-?Q|NVGPU|GPU"
    r"|SXM\d?|PCIE|NVL(?!\d)|HBM\d?E?|(?:6|8|10|11|12|16|20|24|32|40|48|64|80|94|96|120|141|144|180|192|288|480)GB|\bAC\b"
)
"""What says neither the number nor the kind of a GPU: brands, form factors, editions and memory."""

SAME = {"DGXSPARK": "GB10", "SPARK": "GB10", "6000PRO": "PRO6000"}
"""Other names of a GPU."""

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

CACHE_BYTES = 256 << 20
"""Cache size that is assumed if the machine does not tell it; more than any GPU of 2026 has."""


class Parts(NamedTuple):
    """What a hardware key says: `cc` 89 is compute capability 8.9, `python` 312 is 3.12, `cuda` 129 is 12.9."""

    gpu: str
    cc: int
    python: int
    cuda: int
    arch: str

    @property
    def processor(self):
        """What is measured: gpu or cpu."""
        return "gpu" if self.cc else "cpu"


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


def gpu_token(name):
    """The GPU's part of the key, from its full name: the first word after NVIDIA, without its form factor.

    For RTX, GTX, TITAN, GRID and CMP cards the words of the model are joined. `NVIDIA GeForce RTX 4070 Ti SUPER` is
    RTX4070TiSUPER, `NVIDIA RTX PRO 6000 Blackwell Server Edition` RTXPRO6000. Cards for laptops and small cases say so:
    `NVIDIA RTX 4000 SFF Ada Generation` is RTX4000SFF. A slice of a GPU keeps its profile: `NVIDIA H200 MIG 1g.18gb` is
    H200-MIG-1g-18gb, `NVIDIA A40-24Q` A40-24Q. Form factor and edition (SXM or PCIe, server or workstation, Max-Q) are
    provenance inside the point.
    """
    words = [word for word in name.split() if word not in ("NVIDIA", "GeForce", "Tesla", "Quadro")] or ["GPU"]
    if words[0] in ("RTX", "GTX", "TITAN"):
        known = [words[0] == "TITAN" and i == 1 or bool(MODEL.fullmatch(word)) for i, word in enumerate(words)]
        token = "".join(words[: (*known[1:], False).index(False) + 1])
    elif words[0] in ("GRID", "CMP"):
        token = "".join(words[:2]) if words[0] == "CMP" else "-".join(words[:2])
    else:
        first, *more = words[0].split("-")
        token = "-".join([first, *(part for part in more if not FORM.fullmatch(part))])
    token += "".join(word for word in ("SFF", "Laptop", "Embedded") if word in words and word not in token)
    token += "".join(f"-{word}" for word in words[1:] if PROFILE.search(word) and word not in token)
    if "MIG" in words:
        token += "-" + "-".join(words[words.index("MIG") :])
    return re.sub(r"[^A-Za-z0-9]+", "-", token).strip("-")[:80] or "GPU"


def gpu_model(name):
    """The number and kind of a GPU from any of its names, without brand, form factor, edition and memory.

    `NVIDIA RTX 6000 Ada Generation` and `RTX6000Ada` are 6000, `NVIDIA H100 80GB HBM3` and `H100SXM` H100.
    """
    model = re.sub(r"[^A-Z0-9]", "", PLAIN.sub("", name.upper()))
    return SAME.get(model, model)


def wrong_capability(key):
    """A sentence on a hardware key whose GPU is known to have another compute capability; else None."""
    parts = parse(key)
    known = GPUS.get(gpu_model(parts.gpu), ()) if parts.cc else ()
    if not known or parts.cc in known:
        return None
    has = " or ".join(f"{cc / 10}" for cc in known)
    return f"{parts.gpu} has compute capability {has}, and its key says {parts.cc / 10}"


def cpu_name(cpuinfo, machine):
    """Model name of a CPU from the text of /proc/cpuinfo. Arm cores have none there and are named by their numbers."""
    fields = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", cpuinfo, re.MULTILINE))
    if fields.get("model name"):
        return fields["model name"].strip()
    if "CPU part" in fields:
        return f"{machine} {fields.get('CPU implementer', '')} {fields['CPU part']}"
    return machine


def cpu_token(name):
    """The CPU's part of the key: cpu- and its model name without marks, clock and core count."""
    name = re.sub(r"\((?:R|TM|tm|r)\)|@.*|\b\d+-Core\b|\bCPU\b|\bProcessor\b", " ", name)
    return "cpu-" + (re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "unknown")


@lru_cache(maxsize=256)
def parse(key):
    """Parts of a hardware key. Raises HardwareError if it is not one."""
    if not re.fullmatch(KEY_PATTERN, key):
        raise HardwareError(
            f"{key!r} is not a hardware key, which reads {{GPU}}_cc{{cc}}_py{{xy}}_cu{{xyz}}_{{arch}},"
            " such as RTX4090_cc89_py312_cu129_x86_64"
        )
    gpu, cc, python, cuda, arch = key.split("_", 4)
    return Parts(gpu, int(cc[2:]), int(python[2:]), int(cuda[2:]), arch)


def supports(key, dtype):
    """None if hardware `key` runs `dtype`, else the reason why not, as a sentence without a full stop."""
    parts = parse(key)
    needed, what = CAPABILITY[dtype]
    if not parts.cc or parts.cc >= needed:
        return None
    return (
        f"{dtype} cannot run on {parts.gpu}: {what} with compute capability {needed / 10}, and it has {parts.cc / 10}"
    )


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


def detected():
    """[Hardware] of this machine: one for each visible GPU, or the CPU where no GPU can be used.

    CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are understood as CUDA does. A GPU is not used when the installed torch
    was built without CUDA. Raises HardwareError for a driver that does not answer, and if CUDA_VISIBLE_DEVICES names no
    GPU that is there; empty or -1 it means the CPU.
    """
    with nvml.library() as library:
        devices = nvml.devices(library) if library else []
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        if not devices or setting in NO_GPU:
            return [_hardware(note=None if devices else _missing(setting))]
        chosen = visible(setting, [uuid for uuid, _, _ in devices], _order(library, devices))
        if not chosen:
            names = [(uuid, library.nvmlDeviceGetName(part or gpu)) for uuid, gpu, part in devices]
            there = ", ".join(f"{i} or {uuid} ({name})" for i, (uuid, name) in enumerate(names))
            raise HardwareError(
                f"CUDA_VISIBLE_DEVICES={setting} names no GPU of this machine: name one of {there}, or set it to"
                " nothing to measure the CPU"
            )
        installed, cuda = torch_cuda()
        if installed and not cuda:
            name = library.nvmlDeviceGetName(devices[chosen[0]][1])
            return [_hardware(note=f"{name} is not used, because the installed torch was built without CUDA")]
        return [_hardware(**_gpu(library, *devices[i])) for i in chosen]


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


def _missing(setting):
    """What was looked for where there is no NVIDIA GPU, if something speaks for one; else None."""
    if setting not in (None, *NO_GPU):
        looked = "no NVIDIA GPU was found: libnvidia-ml.so.1 is not there, or lists none"
        return f"CUDA_VISIBLE_DEVICES is {setting}, but {looked}"
    named = " and ".join(_vendors())
    return f"there is a GPU of {named}: only NVIDIA's can be measured" if named else None


def _vendors(root="/sys/class/drm"):
    """Vendors of the graphics cards that the kernel knows, sorted; without those that are none of VENDORS."""
    return sorted({VENDORS.get(_text(path).strip()) for path in Path(root).glob("card*/device/vendor")} - {None})


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


def is_of(key, own):
    """Whether `key` is the key `own` of a machine, or that with the suffix of a configuration."""
    return key == own or key.startswith(f"{own}_")


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
