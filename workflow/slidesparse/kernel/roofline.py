"""The least time that a product can take on a GPU: by its multiplications, and by the bytes that it has to move."""

OPERATIONS = {
    80: {"INT8": 4096},  # NVIDIA A100 Tensor Core GPU Architecture, table 1: 624 TOPS, 108 SMs, 1.41 GHz
    86: {"INT8": 2048},  # NVIDIA Ampere GA102 GPU Architecture, table 9: 284 TOPS, 82 SMs, 1.695 GHz
    89: {"INT8": 2048, "FP8": 1024},  # NVIDIA Ada GPU Architecture, appendix A: 660.6 and 330.3 T, 128 SMs, 2.52 GHz
    90: {"INT8": 8192, "FP8": 8192},  # NVIDIA H100 Tensor Core GPU Architecture, table 2: 1979 T, 132 SMs, 1.83 GHz
    100: {"INT8": 16384, "FP8": 16384},  # NVIDIA Blackwell Architecture Technical Brief: 4.5 P, 148 SMs, 1.85 GHz
    120: {"INT8": 2048, "FP8": 1024},  # NVIDIA RTX Blackwell GPU Architecture, appendix A: 838 and 419 T, 170 SMs
}
"""Operations of dense tensor cores per cycle and multiprocessor, by compute capability. A multiplication and its
addition are two operations. FP8 adds in FP32. Structured sparsity doubles all of them."""


def least(machine, dtype, sparse, operations, moved, clock_mhz):
    """{"seconds", "limit": "compute" or "memory"} of a product on a hardware.Hardware, or None if it is not known.

    operations: two for each multiplication of the stored operands, zeros included.
    moved: bytes.
    clock_mhz: of the multiprocessors while the product ran.
    """
    rate = OPERATIONS.get(machine.cc, {}).get(dtype)
    if not (rate and clock_mhz and machine.sm_count and machine.memory_bandwidth):
        return None
    compute = operations / (rate * (2 if sparse else 1) * machine.sm_count * clock_mhz * 1e6)
    memory = moved / machine.memory_bandwidth
    return {"seconds": max(compute, memory), "limit": "compute" if compute >= memory else "memory"}
