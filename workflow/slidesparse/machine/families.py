"""What families of NVIDIA GPUs can do: one row for GPUs that are alike to this workflow.

Sources: [CUDA] the CUDA programming guide, "Compute Capabilities", table of technical specifications (shared memory of
a block); cuda_occupancy.h of CUDA 13.0 agrees, which has 1 KiB of each block for the driver. [PTX] the PTX ISA:
`mma.sp` (sparse tensor cores) begins with sm_80, `.e4m3` of `mma` and `cvt` with sm_89. [vLLM] vLLM 0.33,
vllm/v1/attention/backends/fa_utils.py, get_flash_attn_version. [GPUs] developer.nvidia.com/cuda-gpus.
"""

from typing import NamedTuple

from slidesparse.machine.naming import gpu_model, parse

BEGINS = {"INT8": "structured sparsity begins", "FP8": "FP8 (E4M3) tensor cores begin"}
"""dtype: what it needs of an NVIDIA GPU. CPUs run both."""


class Family(NamedTuple):
    """GPUs of one architecture and one size of shared memory."""

    architecture: str
    """NVIDIA's name of it."""
    capabilities: tuple
    """Compute capabilities times ten."""
    shared_kib: int
    """Most shared memory of a block, in KiB. [CUDA]"""
    dtypes: tuple
    """Types that run here. Both need sparse tensor cores, FP8 also E4M3. [PTX]"""
    attention: int | None
    """Version of FlashAttention that vLLM takes, if the installed one has it; None where it has none. [vLLM]

    With 2 it makes no full CUDA graphs of prefill (flash_attn.py, _cudagraph_support). Where it would be 4, vLLM takes
    FlashInfer first, if that is installed (platforms/cuda.py, _get_backend_priorities).
    """


FAMILIES = (
    Family("Volta", (70, 72), 96, (), None),
    Family("Turing", (75,), 64, (), None),
    Family("Ampere", (80, 87), 163, ("INT8",), 2),
    Family("Ampere", (86,), 99, ("INT8",), 2),
    Family("Ada Lovelace", (89,), 99, ("INT8", "FP8"), 2),
    Family("Hopper", (90,), 227, ("INT8", "FP8"), 3),
    Family("Blackwell", (100, 101, 103), 227, ("INT8", "FP8"), 4),  # of data centres, 10.1 of the Jetson Thor
    Family("Blackwell", (110,), 227, ("INT8", "FP8"), 2),
    Family("Blackwell", (120, 121), 99, ("INT8", "FP8"), 2),
)

FIRST = {dtype: min(min(family.capabilities) for family in FAMILIES if dtype in family.dtypes) for dtype in BEGINS}
"""dtype: the first compute capability times ten that runs it."""

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
"""gpu_model -> the compute capabilities times ten that GPUs of this name have. [GPUs]"""


def family(cc):
    """The Family of a compute capability times ten; None for a CPU (0) and for a GPU that is not in the table."""
    return next((each for each in FAMILIES if cc in each.capabilities), None)


def attention(cc):
    """The version of FlashAttention that vLLM takes on compute capability `cc` (times ten); None on a CPU.

    On a GPU that is not in the table it is 2.
    """
    known = family(cc)
    return known.attention if known else 2 if cc else None


def wrong_capability(key):
    """A sentence on a hardware key whose GPU is known to have another compute capability; else None."""
    parts = parse(key)
    known = GPUS.get(gpu_model(parts.gpu), ()) if parts.cc else ()
    if not known or parts.cc in known:
        return None
    has = " or ".join(f"{cc / 10}" for cc in known)
    return f"{parts.gpu} has compute capability {has}, and its key says {parts.cc / 10}"


def supports(key, dtype):
    """None if hardware `key` runs `dtype`, else the reason why not, as a sentence without a full stop."""
    parts = parse(key)
    if not parts.cc or parts.cc >= FIRST[dtype]:
        return None
    begins = f"{BEGINS[dtype]} with compute capability {FIRST[dtype] / 10}"
    return f"{dtype} cannot run on {parts.gpu}: {begins}, and it has {parts.cc / 10}"
