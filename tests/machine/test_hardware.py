"""Which machine this is, and which GPU is taken. GPUs are stand-ins where there is none."""

import json
import os
import re
import sys
from contextlib import contextmanager

import pytest

from slidesparse.errors import HardwareError
from slidesparse.machine import hardware, naming, nvml, provenance, visible

RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
A100 = "A100_cc80_py312_cu129_x86_64"


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
    monkeypatch.setattr(visible, "_vendors", lambda: ["AMD"])
    assert hardware.detect().note == "there is a GPU of AMD: only NVIDIA's can be measured"


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
    parts = naming.parse(found.key)
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
