"""Score a task of the lm-evaluation-harness on one checkpoint, and store the harness's own JSON with its provenance.

This module imports nothing heavy. The handler imports vLLM and the harness, in a worker of its own.
"""

import time
from pathlib import Path

from slidesparse.errors import MeasurementError, RecordError
from slidesparse.files import is_sealed, sealed, write_json
from slidesparse.machine import hardware, harness, memory, naming
from slidesparse.plan.tasks import TaskKey
from slidesparse.points import measure, records, request
from slidesparse.worker import devices, resident, task_handlers

HANDLER = "slidesparse.worker.task_handlers:task"


def score(output, source, content, basis, tuning, *, resources, log, worker):
    """Score the task whose result belongs at `output`, and write it there. A failure is recorded beside it and raised.

    source, content: of a plan.tasks.Task. basis, tuning: paths of the checkpoint's manifest and of the tuning table.
    """
    key = TaskKey.of(output)
    machine = hardware.check(key.hardware)
    with records.making(output, log):
        asked = request.of_task(key, content, basis, tuning)
        if is_result(output, asked):
            return
        harness.refuse_missing([key.task])
        with devices.taken(machine, worker.owner, worker.seat, "quality" in worker.plan.get("share_host", ())):
            if not is_result(output, asked):  # another run may have scored it meanwhile
                _score(output, key, asked, source, basis, tuning, resources, worker)


def _score(output, key, asked, source, basis, tuning, resources, worker):
    start, git = time.monotonic(), records.code()
    measure.check_manifest(basis)
    if cause := memory.cannot_share():
        raise MeasurementError(f"vLLM needs shared memory, but /dev/shm has none ({cause}): mount it with room")
    measure.make_weights(basis, resources)
    message = {"source": source, "manifest": str(basis), "tuning": str(tuning), "backend": key.backend}
    message |= {"root": str(resources)}
    found = _ask(message, key.hardware, worker)
    resident.refuse_changed_code()
    made = records.provenance(time.monotonic() - start, worker.resident, git)
    made["software"] |= {"lm_eval": harness.version(), "settings": task_handlers.SETTINGS}
    write_json(
        output, sealed({"schema": records.SCHEMA, "request": asked, "key": key._asdict(), "results": found, **made})
    )


def _ask(message, hardware_key, worker):
    """What the handler answers, from a worker or from this process. On a GPU it takes the place of the engines'."""
    on_gpu = naming.parse(hardware_key).processor == "gpu"
    message = message | {"worker": hardware_key if on_gpu else f"{hardware_key}/tasks"}
    if not worker.resident:
        return resident.here(HANDLER, message)
    Path(measure.LOGS).mkdir(parents=True, exist_ok=True)
    idle, log = worker.plan.get("idle_s", measure.IDLE_S), f"{measure.LOGS}/tasks.log"
    return resident.ask(HANDLER, message, worker.owner, idle=idle, log=log)


def is_result(path, asked):
    """Whether a whole result that answers the request `asked` lies at `path`."""
    try:
        return read_result(path)["request"]["digest"] == asked["digest"]
    except RecordError:
        return False


def read_result(path):
    """The result at `path`. Raises RecordError if it is damaged, was changed, or is that of another path."""
    from slidesparse.points.strict import read_json as read_strictly

    result = read_strictly(path)
    try:
        sound = is_sealed(result) and "sha256" in result and isinstance(result["request"]["digest"], str)
        sound &= isinstance(result["results"]["harness"]["results"], dict)
        if sound and result["key"] == TaskKey.of(path)._asdict():
            return result
    except (KeyError, TypeError):
        pass
    raise RecordError(f"{path} is no result of this task as it was written: delete it and it is scored again")
