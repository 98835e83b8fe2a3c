"""The least time of a product by multiplications and by bytes, for each GPU by its name."""

import pytest

import synthetic
from places import ROOT
from slidesparse.report.tables.point_rows import kernel_rows
from slidesparse.report.tables.roofline import OPERATIONS, least, moved, weight_bits

H200 = {"name": "NVIDIA H200", "sm_count": 132, "memory_bandwidth": 4_917_000_000_000}
PUBLISHED = {
    "NVIDIA A100-SXM4-80GB": (108, 1410, 624, None),
    "NVIDIA A100 80GB PCIe": (108, 1410, 624, None),
    "NVIDIA A30": (56, 1440, 330, None),
    "NVIDIA A10": (72, 1695, 250, None),
    "NVIDIA A40": (84, 1740, 299.3, None),
    "Orin (nvgpu)": (16, 1300, 85, None),
    "NVIDIA L4": (58, 2040, 242.5, 242.5),
    "NVIDIA L40S": (142, 2520, 733, 733),
    "NVIDIA RTX 6000 Ada Generation": (142, 2505, 728.5, 728.5),
    "NVIDIA GeForce RTX 4090": (128, 2520, 660.6, 330.3),
    "NVIDIA GeForce RTX 4080": (76, 2505, 389.9, 194.9),
    "NVIDIA H100 80GB HBM3": (132, 1830, 1979, 1979),
    "NVIDIA H200": (132, 1830, 1979, 1979),
    "NVIDIA GH200 480GB": (132, 1830, 1979, 1979),
    "NVIDIA B200": (148, 1850, 4500, 4500),
    "NVIDIA B300": (148, 1850, None, 4500),
    "NVIDIA GeForce RTX 5090": (170, 2407, 838, 419),
    "NVIDIA GeForce RTX 5080": (84, 2617, 450.2, 225.1),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": (188, 2617, 1007.6, 1007.6),
}
"""name of a GPU: multiprocessors, boost clock in MHz, dense INT8 and FP8 in T operations/s as its vendor states."""


def gemm(N=2560, K=2560, output="BF16", clock_mhz=1980):
    return {"N": N, "K_slid": K, "output": output, "clock_mhz": clock_mhz}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_peaks_follow_from_the_table(name):
    """A large product, whose time is that of its multiplications."""
    sm_count, clock, *peaks = PUBLISHED[name]
    hardware = {"name": name, "sm_count": sm_count, "memory_bandwidth": 10**18}
    for dtype, peak in zip(("INT8", "FP8"), peaks, strict=True):
        for sparse in (False, True):
            found = least(hardware, dtype, sparse, gemm(8192, 8192, clock_mhz=clock), 8192)
            if peak is None:
                assert found is None
                continue
            operations = 2 * 8192**3
            assert found == (pytest.approx(operations / (peak * 1e12 * (1 + sparse)), rel=0.006), "compute")


def test_cards_of_one_compute_capability_differ():
    """FP8 with FP32 accumulation: GeForce cards have half the rate."""
    rates = {name: fp8 for name, (_, fp8, _) in OPERATIONS.items()}
    assert rates["L40S"] == rates["RTX6000"] == 2 * rates["RTX4090"] == 2 * rates["RTX4080"]
    assert rates["RTXPRO6000"] == 2 * rates["RTX5090"] == 2 * rates["RTX5080"]


def test_a_sparse_weight_is_five_eighths_of_a_dense_one():
    """K/2 values of 8 bits, and 2 bits of index for each."""
    assert moved(0, 1, 2560, "BF16", False) == 2560
    assert moved(0, 1, 2560, "BF16", True) == 2560 // 2 + 2560 // 2 * 2 // 8
    assert moved(16, 100, 64, "INT32", True) == 100 * 40 + 16 * 64 + 16 * 100 * 4
    assert moved(0, 1, 2560, "BF16", False, weight_bits("ternary")) == 2560 // 4
    assert moved(16, 100, 64, "BF16", False) == 100 * 64 + 16 * 64 + 16 * 100 * 2


def test_few_rows_are_bound_by_bytes():
    seconds = moved(16, 2560, 2560, "BF16", False) / H200["memory_bandwidth"]
    assert least(H200, "INT8", False, gemm(), 16) == (pytest.approx(seconds), "memory")


@pytest.mark.parametrize(
    ("hardware", "dtype", "given"),
    [
        (H200 | {"name": "AMD EPYC"}, "INT8", {}),
        (H200 | {"name": "NVIDIA GeForce RTX 4090 Laptop GPU"}, "INT8", {}),
        (H200 | {"name": "NVIDIA L40"}, "INT8", {}),
        (H200 | {"name": "NVIDIA H20"}, "FP8", {}),
        (H200 | {"name": "NVIDIA B300"}, "INT8", {}),
        (H200 | {"name": "NVIDIA A100-SXM4-80GB"}, "FP8", {}),
        (H200 | {"sm_count": None}, "INT8", {}),
        ({"name": "NVIDIA H200"}, "INT8", {}),
        (H200, "INT8", {"clock_mhz": None}),
        (H200, "FP4", {}),
    ],
)
def test_what_is_not_known_is_not_guessed(hardware, dtype, given):
    assert least(hardware, dtype, False, gemm() | given, 64) is None


def test_gathering_computes_it_from_a_point():
    """The synthetic point: an RTX 4090, INT8, N=3840, K=2560 slid to 3840, M=64."""
    point = synthetic.point(synthetic.path(ROOT, "kernel", 64, "cusparselt", "2_8"))
    point["hardware"] |= {"sm_count": 128, "memory_bandwidth": 1_008_000_000_000}
    for each in point["results"]["gemms"]:
        each["clock_mhz"] = 2520.0
    row = kernel_rows(point)[0]
    seconds = moved(64, 3840, 3840, "INT32", True) / 1.008e12
    assert row["roofline_us"] == pytest.approx(seconds * 1e6) and row["roofline_limit"] == "memory"
    assert row["roofline_pct"] == pytest.approx(100 * seconds / 0.01)
    stored = {"seconds": 1.0, "limit": "compute"}  # as earlier points have it, by compute capability
    point["results"]["gemms"][0]["roofline"] = stored
    assert kernel_rows(point)[0] == row
    point["hardware"]["name"] = "NVIDIA GeForce RTX 4070"
    assert "roofline_us" not in kernel_rows(point)[0]
