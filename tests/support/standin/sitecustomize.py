"""GPUs that are not there and measurements that need none, for tests of scheduling, wherever PYTHONPATH leads here.

The directory that XDG_STANDIN names says what there is and keeps a journal: gpus.json ({node of Slurm, or "": [[name,
[major, minor], UUID], …]}), journal (a line when a point begins and when it ends: what, and CUDA_VISIBLE_DEVICES), fail
(points that fail, one a line), large (those that are out of memory), fast (those that take half as long as others),
hold (points that begin and then wait until they are no longer in this file).
"""

import contextlib
import json
import os
import select
import sys
from pathlib import Path

from slidesparse.errors import MeasurementError, OutOfMemoryError
from slidesparse.machine import hardware, nvml
from slidesparse.worker import handlers

PLACE = Path(os.environ.get("XDG_STANDIN", "/nowhere"))


class Nvml:
    """As much of NVML as is asked; what it does not know, no GPU knows."""

    NVML_CLOCK_SM = NVML_CLOCK_MEM = NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, gpus):
        self.nvmlDeviceGetCount = lambda: len(gpus)
        self.nvmlDeviceGetHandleByIndex = lambda i: gpus[i]
        self.nvmlDeviceGetName = lambda gpu: gpu[0]
        self.nvmlDeviceGetCudaComputeCapability = lambda gpu: gpu[1]
        self.nvmlDeviceGetUUID = lambda gpu: gpu[2]

    def __getattr__(self, name):
        def unknown(*_):
            raise self.NVMLError("not supported")

        return unknown


@contextlib.contextmanager
def library():
    gpus = json.loads((PLACE / "gpus.json").read_text()).get(os.environ.get("SLURMD_NODENAME", ""))
    yield Nvml(gpus) if gpus else None


def listed(name, what):
    """Whether `what` stands in the file `name`."""
    with contextlib.suppress(FileNotFoundError):
        return what in (PLACE / name).read_text().splitlines()
    return False


def measure(request):
    if request["stage"] == "tune":
        return {"schema": 3, "backend": request["backend"], "library": "none", "entries": [], "capacity": {}}
    import synthetic

    what = "/".join(str(request[name]) for name in ("hardware", "stage", "dtype", "backend", "sparsity", "M"))
    with open(PLACE / "journal", "a", encoding="utf-8") as journal:
        journal.write(f"begin {what} {os.environ['CUDA_VISIBLE_DEVICES']}\n")
        journal.flush()
        while listed("hold", what):
            select.select([], [], [], 0.05)
        if listed("fail", what):
            raise MeasurementError(f"{what} fails on purpose")
        if listed("large", what):
            raise OutOfMemoryError(f"{what} is too large on purpose")
        journal.write(f"end {what} {os.environ['CUDA_VISIBLE_DEVICES']}\n")
    linears = {each["name"]: (each["N"], each["K"]) for each in request.get("linears", ())}
    step_s = 0.005 if listed("fast", what) else 0.01
    return synthetic.results(
        request["stage"], request["M"], step_s, synthetic.slid(request), linears, request.get("prompt")
    )


if PLACE.is_dir():
    sys.path.append(str(Path(__file__).parents[1]))
    nvml.library = library
    hardware.torch_cuda = lambda: (True, "13.0")
    handlers.kernel = handlers.engine = measure
