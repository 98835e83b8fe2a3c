"""Names of machines, what they can run, and which GPU is taken. GPUs are stand-ins where there is none."""

import json
import os
import re
import sys
from contextlib import contextmanager

import pytest

from slidesparse.errors import HardwareError
from slidesparse.machine import hardware, nvml, provenance

RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
A100 = "A100_cc80_py312_cu129_x86_64"
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
    assert hardware.gpu_token(name) == token
    assert hardware.parse(f"{token}_cc90_py312_cu129_x86_64").gpu == token


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
    assert hardware.cpu_token(hardware.cpu_name(cpuinfo, machine)) == token
    assert hardware.parse(f"{token}_cc0_py311_cu0_{machine}").arch == machine


def test_parse():
    assert hardware.parse(RTX4090) == ("RTX4090", 89, 312, 129, "x86_64")
    assert hardware.parse("GB10_cc121_py312_cu130_aarch64") == ("GB10", 121, 312, 130, "aarch64")
    assert hardware.parse(CPU) == ("cpu-AMD-EPYC", 0, 311, 0, "x86_64")


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
        hardware.parse(key)


def test_pattern_fits_into_a_path():
    path = re.compile(f"results/({hardware.KEY_PATTERN})/(kernel|prefill)/(.+)")
    assert path.fullmatch(f"results/{RTX4090}/kernel/x")[1] == RTX4090
    assert path.fullmatch(f"results/{CPU}/prefill/x")[1] == CPU


@pytest.mark.parametrize("key", [RTX4090, CPU, "B200_cc100_py312_cu130_x86_64", "GB10_cc121_py312_cu130_aarch64"])
@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_supported(key, dtype):
    assert hardware.supports(key, dtype) is None


@pytest.mark.parametrize(
    ("key", "dtype", "reason"),
    [
        (
            A100,
            "FP8",
            "FP8 cannot run on A100: FP8 (E4M3) tensor cores begin with compute capability 8.9, and it has 8.0",
        ),
        (
            "T4_cc75_py312_cu129_x86_64",
            "INT8",
            "INT8 cannot run on T4: structured sparsity begins with compute capability 8.0, and it has 7.5",
        ),
    ],
)
def test_not_supported(key, dtype, reason):
    assert hardware.supports(key, dtype) == reason


@pytest.mark.parametrize(
    ("setting", "positions"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2", [2]),
        ("2,0", [2, 0]),
        (" 1 , 2", [1, 2]),
        ("1,7,0", [1]),
        ("GPU-bb", [1]),
        ("GPU-bb11,GPU-aa00", [1, 0]),
        ("GPU-", []),
        ("GPU-zz,0", []),
        ("MIG-cc", [2]),
        ("all", []),
        ("gpu-aa00", []),
        ("MIG-GPU-aa00/1/0", []),
        ("3", []),
    ],
)
def test_cuda_visible_devices(setting, positions):
    assert hardware.visible(setting, ["GPU-aa00", "GPU-bb11", "MIG-cc22"]) == positions


@pytest.mark.parametrize(("setting", "positions"), [(None, [2, 0, 1]), ("0", [2]), ("1,0", [0, 2]), ("GPU-aa", [0])])
def test_numbers_are_those_of_cuda_where_it_counts_the_fastest_first(setting, positions):
    assert hardware.visible(setting, ["GPU-aa00", "GPU-bb11", "GPU-cc22"], [2, 0, 1]) == positions


@pytest.fixture
def torch_built_for(tmp_path, monkeypatch):
    """Puts a torch with a given version file first on the path."""

    def install(version_file):
        package = tmp_path / "torch"
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError('torch must not be imported')\n")
        if version_file is not None:
            (package / "version.py").write_text(version_file)
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.syspath_prepend(tmp_path)

    return install


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0"),
        ("cuda = '12.9'\n", "12.9"),
        ("cuda: Optional[str] = None\ngit_version = '12.9'\n", None),
        ("", None),
        (None, None),
    ],
)
def test_cuda_of_torch_is_read_not_imported(torch_built_for, text, cuda):
    torch_built_for(text)
    assert hardware.torch_cuda() == (True, cuda)


def test_no_torch(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert hardware.torch_cuda() == (False, None)


class StandIn:
    """As much of NVML as is asked: an H200, a GPU that was not given to us, a sliced H200 and an RTX 4090."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    GPUS = (
        ("NVIDIA H200", (9, 0), "GPU-aa"),
        None,
        ("NVIDIA H200", (9, 0), "GPU-bb"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "GPU-cc"),
    )

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.GPUS)

    def nvmlDeviceGetHandleByIndex(self, index):
        if self.GPUS[index] is None:
            raise self.NVMLError("no permission")
        return self.GPUS[index]

    def nvmlDeviceGetMigMode(self, gpu):
        if gpu[0] != "NVIDIA H200":
            raise self.NVMLError("not supported")
        return [int(gpu[2] == "GPU-bb")] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):
        return 2

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, index):
        if index:
            raise self.NVMLError("not found")
        return ("NVIDIA H200 MIG 1g.18gb", None, "MIG-bb")

    def nvmlDeviceGetName(self, gpu):
        return gpu[0]

    def nvmlDeviceGetUUID(self, gpu):
        return gpu[2]

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return gpu[1]

    def nvmlSystemGetCudaDriverVersion(self):
        return 13010

    def nvmlSystemGetDriverVersion(self):
        return "580.81"

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu):
        return 700_000

    def __getattr__(self, name):
        def unknown(*arguments):
            raise self.NVMLError("not supported")

        return unknown


@pytest.fixture
def gpus(monkeypatch):
    @contextmanager
    def library():
        yield StandIn()

    monkeypatch.setattr(nvml, "library", library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def own(token, cc, cuda):
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    return f"{token}_cc{cc}_py{python}_cu{cuda}_{os.uname().machine}"


def test_gpu_is_detected(gpus, torch_built_for):
    torch_built_for("cuda: Optional[str] = '12.9'\n")
    found = hardware.detect()
    assert (found.key, found.name, found.cc, found.gpu) == (own("H200", 90, 129), "NVIDIA H200", 90, True)
    assert (found.driver, found.driver_cuda, found.power_limit_w) == ("580.81", "13.1", 700.0)
    assert found.device == "GPU-aa"
    assert found.memory_bytes is None
    assert found.cache_bytes == hardware.CACHE_BYTES
    assert hardware.key(2) == own("RTX4090", 89, 129)


def test_visible_gpu_is_taken(gpus, torch_built_for, monkeypatch):
    torch_built_for("cuda = '13.0'\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-cc,GPU-aa")
    assert hardware.key() == own("RTX4090", 89, 130)
    assert hardware.key(1) == own("H200", 90, 130)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-bb")
    assert hardware.key() == own("H200-MIG-1g-18gb", 90, 130)
    with pytest.raises(HardwareError, match="GPU number 1 was asked for, but 1 are visible here"):
        hardware.detect(1)
    for nothing in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert hardware.key().startswith("cpu-")


@pytest.mark.parametrize("setting", ["3", "all", "gpu-aa", "GPU-dd", "MIG-GPU-bb/1/0", "0x0", "²"])
def test_a_gpu_that_is_not_there_is_an_error_that_names_those_that_are(gpus, monkeypatch, setting):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    sentence = f"CUDA_VISIBLE_DEVICES={setting} names no GPU of this machine: name one of 0 or GPU-aa (NVIDIA H200), 1"
    with pytest.raises(HardwareError, match=re.escape(sentence)):
        hardware.key()


def test_where_no_nvidia_gpu_is_it_is_said_what_was_looked_for(monkeypatch):
    @contextmanager
    def library():
        yield None

    monkeypatch.setattr(nvml, "library", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    sentence = "CUDA_VISIBLE_DEVICES is 0, but no NVIDIA GPU was found: libnvidia-ml.so.1 is not there, or lists none"
    assert hardware.detect().note == sentence
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(hardware, "_vendors", lambda: ["AMD"])
    assert hardware.detect().note == "there is a GPU of AMD: only NVIDIA's can be measured"


def test_vendors_of_graphics_cards(tmp_path):
    for card, vendor in (("card0", "0x1002"), ("card1", "0x8086"), ("card2", "0x1a03")):
        (tmp_path / card / "device").mkdir(parents=True)
        (tmp_path / card / "device" / "vendor").write_text(f"{vendor}\n")
    assert hardware._vendors(tmp_path) == ["AMD", "Intel"]


def test_cuda_of_the_driver_stands_in_for_torch(gpus, monkeypatch):
    monkeypatch.setattr(hardware, "torch_cuda", lambda: (False, None))
    assert hardware.key() == own("H200", 90, 131)


def test_torch_without_cuda_makes_a_machine_a_cpu(gpus, torch_built_for):
    torch_built_for("cuda: Optional[str] = None\n")
    found = hardware.detect()
    assert found.key.startswith("cpu-")
    assert not found.gpu
    assert found.note == "NVIDIA H200 is not used, because the installed torch was built without CUDA"
    with pytest.raises(HardwareError, match=f"NVIDIA H200 is not used.*belong to {RTX4090}"):
        hardware.check(RTX4090)


def test_points_of_another_machine_are_refused_by_both_names(gpus, torch_built_for):
    torch_built_for("cuda = '12.9'\n")
    with pytest.raises(
        HardwareError,
        match=f"this machine is {own('H200', 90, 129)} and {own('H200-MIG-1g-18gb', 90, 129)} and"
        f" {own('RTX4090', 89, 129)} and the results asked for belong to {A100}",
    ):
        hardware.check(A100)
    assert [gpu.name for gpu in hardware.check(own("H200", 90, 129))] == ["NVIDIA H200"]
    assert [gpu.device for gpu in hardware.check(own("RTX4090", 89, 129))] == ["GPU-cc"]
    with pytest.raises(HardwareError, match="'H200' is not a hardware key"):
        hardware.check("H200")


def test_provenance_of_a_gpu_names_no_serial_and_no_host(gpus, torch_built_for):
    torch_built_for("cuda = '12.9'\n")
    block = provenance.machine()
    text = json.dumps(block)
    assert block["name"] == "NVIDIA H200"
    assert {"driver", "power_limit_w", "clock_sm_mhz", "temperature_c", "power_w"} <= set(block)
    assert "GPU-aa" not in text
    assert os.uname().nodename not in block.values()


def test_this_machine():
    found = hardware.detect()
    parts = hardware.parse(found.key)
    assert hardware.check(found.key)[0] == found
    assert parts.cc == found.cc
    assert found.cores >= 1
    assert found.cache_bytes >= max(found.caches.values(), default=1) or found.gpu
    block = json.loads(json.dumps(provenance.machine(found)))
    assert block["key"] == found.key
    assert block["cpu"] == found.cpu
    assert block["host_memory_bytes"] > 0


def test_caches_are_read_from_the_kernel(tmp_path):
    for i, (level, kind, size) in enumerate([(1, "Data", "48K"), (1, "Instruction", "32K"), (3, "Unified", "32768K")]):
        entry = tmp_path / f"index{i}"
        entry.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (entry / name).write_text(f"{value}\n")
    assert hardware._caches(tmp_path) == {"L1d": 48 << 10, "L3": 32 << 20}
    assert hardware._caches(tmp_path / "none") == {}
