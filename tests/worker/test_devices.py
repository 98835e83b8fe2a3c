"""Who measures where: a GPU has one measurement at a time, and a host one, or several that share it. No GPU needed."""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from slidesparse.errors import HardwareError
from slidesparse.machine import hardware
from slidesparse.worker import devices
from workflow_clone import Clone, wait_until

H100 = "H100_cc90_py312_cu130_x86_64"
RTX4090 = "RTX4090_cc89_py312_cu130_x86_64"


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDESPARSE_LOCKS", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def gpus(monkeypatch):
    """Makes this a machine with the GPUs of the given keys."""

    def make(*keys):
        found = [
            SimpleNamespace(key=key, gpu=True, uuid=str(i), device=f"GPU-{i}", note=None) for i, key in enumerate(keys)
        ]
        monkeypatch.setattr(hardware, "detected", lambda: found)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return make


def take(seat="0", owner=1, key=H100, share_host=True):
    """Take and leave a device; returns which one it was."""
    with devices.taken(hardware.check(key), owner, seat, share_host):
        return os.environ["CUDA_VISIBLE_DEVICES"]


def test_two_take_two_gpus_and_a_third_waits(gpus):
    gpus(H100, H100)
    with devices.taken(hardware.check(H100), 1, "0", share_host=True):
        first = os.environ["CUDA_VISIBLE_DEVICES"]
        with devices.taken(hardware.check(H100), 1, "1", share_host=True):
            assert {first, os.environ["CUDA_VISIBLE_DEVICES"]} == {"GPU-0", "GPU-1"}
            third = threading.Thread(target=take)
            third.start()
            third.join(5 * devices.PAUSE_S)
            assert third.is_alive()
    third.join()


def test_a_seat_returns_to_its_gpu_and_leaves_others_theirs(gpus):
    gpus(H100, H100, H100)
    places = {seat: take(seat) for seat in "012"}
    assert len(set(places.values())) == 3
    assert {seat: take(seat) for seat in "210012"} == places
    assert take("0", owner=2) in places.values()


def test_only_gpus_of_the_key_are_taken(gpus):
    gpus(RTX4090, H100)
    assert take() == "GPU-1"
    assert take(key=RTX4090) == "GPU-0"
    with pytest.raises(HardwareError, match=f"this machine is {RTX4090} and {H100} and the results .* belong to A100_"):
        take(key="A100_cc80_py312_cu130_x86_64")


@pytest.mark.parametrize(
    ("shares", "together"), [((True, True), True), ((True, False), False), ((False, False), False)]
)
def test_the_host_is_shared_by_those_that_share_it(gpus, shares, together):
    gpus(H100, H100)
    with devices.taken(hardware.check(H100), 1, "0", shares[0]):
        second = threading.Thread(target=take, args=("1",), kwargs={"share_host": shares[1]})
        second.start()
        second.join(5) if together else second.join(0.2)
        assert second.is_alive() != together
    second.join()


@pytest.mark.skipif(hardware.detect().gpu, reason="for hosts without a GPU")
def test_points_on_a_cpu_never_share_it():
    own = hardware.detect()
    with devices.taken(hardware.check(own.key), share_host=True):
        second = threading.Thread(target=lambda: devices.taken(hardware.check(own.key), share_host=True).__enter__())
        second.start()
        second.join(0.2)
        assert second.is_alive()
    second.join()


def hold(ready):
    with devices.host(shared=False):
        ready.set()
        signal.pause()


def test_a_killed_process_leaves_no_lock():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(ready,))
    holder.start()
    assert ready.wait(60)
    os.kill(holder.pid, signal.SIGKILL)
    with devices.host(shared=False):
        holder.join()
    assert holder.exitcode == -signal.SIGKILL


KERNELS = """
hardware: {key}
models: [BitNet-tiny]
dtypes: [INT8]
kernel: {{M: [16, 32, 48], sparsity: ["2_4", "2_6", "2_8"]}}
tune: {{M: [64]}}
"""


@pytest.mark.workflow
def test_four_gpus_measure_four_configurations_side_by_side(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    clone.pretend({"": [["NVIDIA H100 PCIe", [9, 0], f"GPU-{i}{i}"] for i in range(4)]})
    key = f"H100_cc90_py{sys.version_info.major}{sys.version_info.minor}_cu130_{os.uname().machine}"
    configurations = [("cublaslt", "dense"), *(("cusparselt", pattern) for pattern in ("2_4", "2_6", "2_8"))]
    points = {f"{key}/kernel/INT8/{'/'.join(names)}/{M}" for names in configurations for M in (16, 32, 48)}
    clone.say("hold", points)
    try:
        call = clone.start("kernel", "--cores", "4", "--resources", "gpu=4", config=KERNELS.format(key=key))
        wait_until(lambda: len(clone.journal) >= 4 or not call.running(), 300)
        first = clone.journal
        assert len({point.rpartition("/")[0] for _, point, _ in first}) == 4, call.output[-8000:]
        assert {device for _, _, device in first} == {f"GPU-{i}{i}" for i in range(4)}
        clone.say("hold")
        call.wait()
    finally:
        clone.stop()
    begun = [(point, device) for what, point, device in clone.journal if what == "begin"]
    assert sorted(point for point, _ in begun) == sorted(points)
    assert len({(point.rpartition("/")[0], device) for point, device in begun}) == 4
    assert len(clone.points("kernel")) == 12
    shutil.rmtree(clone.directory)
