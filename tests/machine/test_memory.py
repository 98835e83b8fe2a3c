"""Out of memory is a result where the GPU was ours alone, and a failure where others held a part of it."""

import pytest

from slidesparse.errors import MeasurementError, OutOfMemoryError
from slidesparse.machine import memory, nvml
from slidesparse.worker import handlers

GIB = 1 << 30
ME = 7


@pytest.mark.parametrize(
    ("holders", "free", "reserved", "held"),
    [
        ({ME: 130 * GIB}, 10 * GIB, 120 * GIB, (0, [])),
        ({ME: 90 * GIB, 30: 30 * GIB, 20: 10 * GIB}, 10 * GIB, 88 * GIB, (40 * GIB, [20, 30])),
        ({ME: None, 30: None}, 10 * GIB, 89 * GIB, (40 * GIB, [30])),  # a driver that names pids only
        ({ME: None}, 10 * GIB, 129 * GIB, (0, [])),
        ({30: 90 * GIB, 20: 40 * GIB}, 10 * GIB, 89 * GIB, (40 * GIB, [])),  # pids of the host, seen from a container
        ({}, 10 * GIB, 89 * GIB, (40 * GIB, [])),
        ({}, 10 * GIB, 130 * GIB, (0, [])),
    ],
)
def test_what_others_hold(holders, free, reserved, held):
    assert memory.held_by_others(ME, holders, 140 * GIB, free, reserved) == held


def full(*_):
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_beside_others_a_point_that_does_not_fit_has_failed(monkeypatch):
    monkeypatch.setattr(memory, "_now", lambda: (ME, {ME: 90 * GIB, 30: 40 * GIB}, 140 * GIB, 10 * GIB, 89 * GIB))
    with (
        pytest.raises(MeasurementError, match=r"pid 30\) hold 40.0 GiB .*Tried to allocate 20.00 GiB") as caught,
        memory.ours(),
    ):
        full()
    assert not isinstance(caught.value, OutOfMemoryError)


def test_beside_a_little_of_others_it_is_a_result(monkeypatch):
    monkeypatch.setattr(memory, "_now", lambda: (ME, {ME: 129 * GIB, 30: GIB}, 140 * GIB, 10 * GIB, 128 * GIB))
    with pytest.raises(OutOfMemoryError), memory.ours():
        full()


def test_a_request_that_does_not_fit_into_a_machine_without_a_gpu_is_told_as_it_is(monkeypatch):
    from slidesparse.kernel import point

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(point, "measure", full)
    with pytest.raises(OutOfMemoryError, match="Tried to allocate"):
        handlers.kernel({"stage": "kernel", "backend": "reference"})


def test_holders_are_asked_of_nvml(monkeypatch):
    class Process:
        def __init__(self, pid, size):
            self.pid, self.usedGpuMemory = pid, size

    class Nvml:
        NVMLError = RuntimeError
        nvmlDeviceGetCount = staticmethod(lambda: 1)
        nvmlDeviceGetHandleByIndex = staticmethod(lambda i: "gpu")
        nvmlDeviceGetUUID = staticmethod(lambda gpu: "GPU-aa")
        nvmlDeviceGetComputeRunningProcesses = staticmethod(lambda gpu: [Process(7, 100), Process(8, None)])

        def __getattr__(self, name):
            def unknown(*_):
                raise self.NVMLError("not supported")

            return unknown

    assert nvml.holders(Nvml(), "GPU-aa") == {7: 100, 8: None}
    assert nvml.holders(Nvml(), "GPU-bb") == {}
