"""What GPUs and CPUs are called in hardware keys, and what a key says."""

import re

import pytest

from slidesparse.errors import HardwareError
from slidesparse.machine import naming

RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
CPU = "cpu-AMD-EPYC_cc0_py311_cu0_x86_64"


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB10", "GB10"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090 D", "RTX4090D"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX4090Laptop"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX4070TiSUPER"),
        ("NVIDIA GeForce RTX 5080", "RTX5080"),
        ("NVIDIA RTX A6000", "RTXA6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"),
        ("NVIDIA TITAN RTX", "TITANRTX"),
        ("NVIDIA H200 MIG 1g.18gb", "H200-MIG-1g-18gb"),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "A100-MIG-3g-20gb"),
        ("NVIDIA RTX 5000 Ada Generation", "RTX5000"),
        ("NVIDIA RTX 5000 Ada Generation Laptop GPU", "RTX5000Laptop"),
        ("NVIDIA RTX 4000 SFF Ada Generation", "RTX4000SFF"),
        ("NVIDIA RTX PRO 5000 Blackwell Generation Laptop GPU", "RTXPRO5000Laptop"),
        ("NVIDIA RTX PRO 4000 Blackwell SFF Edition", "RTXPRO4000SFF"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTXPRO6000"),
        ("NVIDIA RTX Pro 6000 Blackwell DC-4-24Q", "RTXPro6000-DC-4-24Q"),
        ("NVIDIA RTX6000-Ada-48Q", "RTX6000-Ada-48Q"),
        ("NVIDIA A40-24Q", "A40-24Q"),
        ("GRID A10-24Q", "GRID-A10-24Q"),
        ("GRID A100D-80C", "GRID-A100D-80C"),
        ("NVIDIA CMP 90HX", "CMP90HX"),
        ("NVIDIA H20-3e", "H20-3e"),
        ("NVIDIA A100-PG509-200", "A100"),
        ("NVIDIA TITAN V", "TITANV"),
        ("NVIDIA", "GPU"),
    ],
)
def test_gpu_token(name, token):
    assert naming.gpu_token(name) == token
    assert naming.parse(f"{token}_cc90_py312_cu129_x86_64").gpu == token


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "token"),
    [
        ("model name\t: AMD EPYC\n", "x86_64", "cpu-AMD-EPYC"),
        ("model name\t: AMD EPYC 9654 96-Core Processor\n", "x86_64", "cpu-AMD-EPYC-9654"),
        ("model name\t: Intel(R) Xeon(R) Platinum 8480+\n", "x86_64", "cpu-Intel-Xeon-Platinum-8480"),
        ("model name\t: Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz\n", "x86_64", "cpu-Intel-Core-i7-8700K"),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "aarch64", "cpu-aarch64-0x41-0xd0c"),
        ("", "aarch64", "cpu-aarch64"),
        ("model name\t: \u9f8d_\u82af\n", "x86_64", "cpu-unknown"),
    ],
)
def test_cpu_token(cpuinfo, machine, token):
    assert naming.cpu_token(naming.cpu_name(cpuinfo, machine)) == token
    assert naming.parse(f"{token}_cc0_py311_cu0_{machine}").arch == machine


def test_parse():
    assert naming.parse(RTX4090) == ("RTX4090", 89, 312, 129, "x86_64")
    assert naming.parse("GB10_cc121_py312_cu130_aarch64") == ("GB10", 121, 312, 130, "aarch64")
    assert naming.parse(CPU) == ("cpu-AMD-EPYC", 0, 311, 0, "x86_64")


@pytest.mark.parametrize(
    "key",
    [
        "H200",
        "RTX4090_cc8.9_py312_cu129_x86_64",
        "RTX4090_cc89_py312_cu129_x86-64",
        "RTX4090_cc89_py312_cu129_",
        "RTX4090_cc89_py312_cu129_x86_64\n",
        "RTX4090_cc0_py312_cu129_x86_64",
        "cpu-AMD_cc89_py312_cu129_x86_64",
        "../RTX4090_cc89_py312_cu129_x86_64",
        "a_b_cc89_py312_cu129_x86_64",
    ],
)
def test_what_is_no_key(key):
    with pytest.raises(HardwareError, match="is not a hardware key, which reads"):
        naming.parse(key)


def test_pattern_fits_into_a_path():
    path = re.compile(f"results/({naming.KEY_PATTERN})/(kernel|prefill)/(.+)")
    assert path.fullmatch(f"results/{RTX4090}/kernel/x")[1] == RTX4090
    assert path.fullmatch(f"results/{CPU}/prefill/x")[1] == CPU
