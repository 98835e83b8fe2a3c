"""What a GPU or a CPU is called in a hardware key, and what a key says."""

import re
from functools import lru_cache
from typing import NamedTuple

from slidesparse.errors import HardwareError

KEY_PATTERN = (
    r"(?:cpu-[A-Za-z0-9-]{1,80}_cc0_py[0-9]{2,4}_cu0"
    r"|(?!cpu-)[A-Za-z0-9-]{1,80}_cc[1-9][0-9]{1,2}_py[0-9]{2,4}_cu[1-9][0-9]{1,3})"
    r"_[a-z0-9]{1,16}(?:_[a-z0-9]{1,16}){0,3}"
)
"""Regular expression of a hardware key, without groups or anchors, for wildcard constraints."""

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


def is_of(key, own):
    """Whether `key` is the key `own` of a machine, or that with the suffix of a configuration."""
    return key == own or key.startswith(f"{own}_")
