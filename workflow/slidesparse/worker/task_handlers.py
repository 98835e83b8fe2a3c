"""What the worker of tasks serves: a task of the lm-evaluation-harness on one checkpoint.

It is a module of its own, because its worker has other packages than those of points, and may reach a hub. It is light
to import.
"""

import os

from slidesparse.machine import harness
from slidesparse.machine.settings import SETTINGS

ALONE = {"DISABLE_MULTIPROC": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
"""Environment variables of the harness and of its packages: no processes of their own, and nothing is counted."""

SETTINGS = {name: value for name, value in (SETTINGS | ALONE).items() if name != "HF_HUB_OFFLINE"}
"""Environment variables that this worker sets, and that every result stores. Data sets may come from the hub."""

_process = {"key": None, "model": None}
"""What this process has loaded, and the harness's model of it."""


def prepare_environment():
    """Set `SETTINGS` and find the harness; called once in a worker, before anything heavy is imported."""
    os.environ.update(SETTINGS)
    harness.use()


def task(request):
    """{"harness": the harness's own JSON of a task, "linears": what ran} of one checkpoint.

    request: source (plan.tasks.Task), manifest and tuning (paths; tuning may be None), backend, root.

    Raises resident.Replace if this process has loaded another checkpoint.
    """
    from slidesparse.engine.tasks import harness as engine
    from slidesparse.files import read_json, sha256_file
    from slidesparse.models import checkpoints
    from slidesparse.worker import resident

    manifest, tuning = read_json(request["manifest"]), request["tuning"]
    key = checkpoints.content_digest(manifest), request["backend"], tuning and sha256_file(tuning)
    if _process["key"] not in (None, key):
        raise resident.Replace("another checkpoint is loaded in this process")
    if _process["model"] is None:
        _process["key"] = key
        _process["model"] = engine.model(checkpoints.ensure(manifest, request["root"]), request["backend"], tuning)
    return {
        "harness": engine.scored(_process["model"], request["source"]),
        "linears": engine.linears(_process["model"]),
    }
