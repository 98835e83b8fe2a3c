"""The least time that a product can take on a GPU: by its multiplications, and by the bytes that it has to move.

It is computed from what a point stores, when points are gathered.
"""

from slidesparse.machine.naming import gpu_token
from slidesparse.plan.backends import BACKENDS

ADA = "NVIDIA Ada GPU Architecture 2.02"
BLACKWELL = "CUTLASS, media/docs/cpp/blackwell_functionality.md: tcgen05.mma 2x Hopper"

OPERATIONS = {
    # gpu_token: (INT8, FP8, source of their product with multiprocessors and boost clock)
    "A100": (4096, None, "NVIDIA A100 Tensor Core GPU Architecture, table 1: 624 T, 108 at 1.41 GHz"),
    "A30": (4096, None, "A30 datasheet: 330 T, 56 at 1.44 GHz; the multiprocessor of the A100"),
    "A10": (2048, None, "A10 datasheet: 250 T, 72 at 1.695 GHz"),
    "A40": (2048, None, "A40 datasheet: 299.3 T, 84 at 1.74 GHz"),
    "Orin": (4096, None, "Jetson AGX Orin Series Technical Brief 1.2: 170 T sparse, 16 at 1.3 GHz"),
    "L4": (2048, 2048, "L4 datasheet: 485 and 485 T sparse, 58 at 2.04 GHz"),
    "L40S": (2048, 2048, "L40S datasheet: 733 and 733 T, 142 at 2.52 GHz"),
    "RTX6000": (2048, 2048, "RTX 6000 Ada datasheet: 1457 T sparse, 142 at 2.505 GHz"),
    "RTX4090": (2048, 1024, f"{ADA}, appendix A: 660.6 and 330.3 T, 128 at 2.52 GHz"),
    "RTX4080": (2048, 1024, f"{ADA}, appendix A: 389.9 and 194.9 T, 76 at 2.505 GHz"),
    "H100": (8192, 8192, "NVIDIA H100 Tensor Core GPU Architecture, table 2: 1979 and 1979 T, 132 at 1.83 GHz (SXM)"),
    "H200": (8192, 8192, "H200 datasheet: 3958 and 3958 T sparse, 132 at 1.83 GHz; the multiprocessor of the H100"),
    "GH200": (8192, 8192, "GH200 datasheet: 3958 and 3958 T sparse, 132 at 1.83 GHz; the multiprocessor of the H100"),
    "B200": (16384, 16384, f"{BLACKWELL}; HGX B200: 4.5 and 4.5 P each, 148 at 1.85 GHz"),
    "GB200": (16384, 16384, f"{BLACKWELL}; the multiprocessor of the B200"),
    "B300": (None, 16384, "HGX B300: FP8 as the B200; INT8 is much reduced, and by how much a cycle is not published"),
    "GB300": (None, 16384, "the multiprocessor of the B300"),
    "RTX5090": (2048, 1024, "NVIDIA RTX Blackwell GPU Architecture, appendix A: 838 and 419 T, 170 at 2.407 GHz"),
    "RTX5080": (2048, 1024, "NVIDIA RTX Blackwell GPU Architecture, appendix A: 450.2 and 225.1 T, 84 at 2.617 GHz"),
    "RTXPRO6000": (2048, 2048, "NVIDIA RTX Blackwell PRO GPU Architecture: 1007.6 and 1007.6 T, 188 at 2.617 GHz"),
}
"""Operations of dense tensor cores per cycle and multiprocessor. A multiplication and its addition are two operations.
FP8 adds in FP32, which GeForce cards do at half the rate of others with the same compute capability. Structured
sparsity doubles all of them. What is not here is not known: L40 (its datasheet has half of what an L40S does per cycle
in INT8 as well), Thor and GB10 (their accumulators are not named)."""

OUTPUT_BYTES = {"INT32": 4, "FP32": 4, "BF16": 2, "FP16": 2, "INT8": 1, "FP8": 1}
"""Bytes of one number of a product."""


def weight_bits(backend):
    """Bits of a dense weight as a backend reads it, 8 if the backend is unknown."""
    return BACKENDS[backend].weight_bits if backend in BACKENDS else 8


def moved(M, N, K, output, sparse, bits=8):
    """Least bytes that a product of 8-bit activations reads and writes.

    M, N, K: rows, output channels and K' (K of a dense product). A 2:4 weight has K/2 values and 2 bits of index for
    each, which is 0.625 K in all, as cuSPARSELt's compressed size is. A dense weight has K times `bits`. Unknown
    outputs count as BF16.
    """
    weight = 0.625 * K if sparse else K * bits / 8
    return N * weight + M * K + M * N * OUTPUT_BYTES.get(output, 2)


def least(hardware, dtype, sparse, gemm, M, bits=8):
    """(seconds, "compute" or "memory") of a product, or None if it is not known.

    hardware: block of a point with name, sm_count and memory_bandwidth (bytes/s).
    gemm: block with N, K_slid, output and clock_mhz, the clock of the multiprocessors while the product ran.
    bits: of a dense weight.
    """
    quadro = "Quadro" in hardware["name"].split()  # older than all of these, of which some have the same number
    rates = () if quadro else OPERATIONS.get(gpu_token(hardware["name"]), ())
    rate = dict(zip(("INT8", "FP8"), rates, strict=False)).get(dtype)
    multiprocessors, bandwidth = hardware.get("sm_count"), hardware.get("memory_bandwidth")
    if not (rate and gemm.get("clock_mhz") and multiprocessors and bandwidth):
        return None
    N, K = gemm["N"], gemm["K_slid"]
    compute = 2 * M * N * K / (rate * (2 if sparse else 1) * multiprocessors * gemm["clock_mhz"] * 1e6)
    memory = moved(M, N, K, gemm["output"], sparse, bits) / bandwidth
    return max(compute, memory), "compute" if compute >= memory else "memory"
