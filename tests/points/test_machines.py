"""Results of a hardware key that another GPU has measured. GPUs are stand-ins where there is none."""

from dataclasses import replace

import pytest

import synthetic
from slidesparse.files import read_json, write_json
from slidesparse.machine import hardware
from slidesparse.points import machines
from synthetic import HARDWARE

HERE = hardware.Hardware(
    HARDWARE, "NVIDIA GeForce RTX 4090", 89, "a CPU", 8, memory_bytes=24 << 30, power_limit_w=450.0
)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder with a point, and a function that gives its GPU other properties."""
    (path,) = synthetic.write(tmp_path, "prefill", [512])

    def measured_on(**properties):
        point = read_json(path)
        write_json(path, point | {"hardware": point["hardware"] | properties})
        return machines.others(tmp_path, [HARDWARE])

    monkeypatch.setattr(hardware, "detected", lambda: [HERE])
    return measured_on


def test_the_same_gpu_needs_no_word(results):
    same = {"name": HERE.name, "memory_bytes": 24 << 30, "power_limit_w": 450.0}
    assert results(**same) == []
    assert results(power_limit_w=None, memory_bytes=int((24 << 30) * 1.005)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "NVIDIA RTX 4090 PCIe"}, "NVIDIA RTX 4090 PCIe (24 GiB, 450 W)"),
        ({"memory_bytes": 48 << 30}, "NVIDIA GeForce RTX 4090 (48 GiB, 450 W)"),
        ({"power_limit_w": 300.0}, "NVIDIA GeForce RTX 4090 (24 GiB, 300 W)"),
    ],
)
def test_another_gpu_of_the_same_key_is_named_beside_this_one(results, change, words):
    (sentence,) = results(**{"name": HERE.name, "memory_bytes": 24 << 30, "power_limit_w": 450.0} | change)
    assert sentence.startswith(f"{HARDWARE} has results of {words}, and this machine has {HERE.name} (24 GiB, 450 W)")
    assert sentence.endswith("set hardware_suffix")


def test_a_suffix_keeps_results_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "detected", lambda: [HERE])
    (path,) = synthetic.write(tmp_path, "prefill", [512])
    point = read_json(path)
    write_json(path, point | {"hardware": point["hardware"] | {"name": "NVIDIA RTX 4090 PCIe"}})
    assert machines.others(tmp_path, [f"{HARDWARE}_lab2"]) == []
    assert hardware.check(f"{HARDWARE}_lab2") == [HERE]
    with pytest.raises(hardware.HardwareError):
        hardware.check(f"{HARDWARE}lab2")
    monkeypatch.setattr(hardware, "detected", lambda: [replace(HERE, key="cpu-x_cc0_py312_cu0_x86_64", cc=0)])
    assert machines.others(tmp_path, [HARDWARE]) == []
