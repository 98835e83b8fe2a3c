"""Measuring a point and tuning a backend from start to stored file, with or without the resident worker.

Light: what is heavy is imported by the handler, in the worker.
"""

import os
import time
from pathlib import Path

from slidesparse.errors import OutOfMemoryError, RecordError, SlideSparseError
from slidesparse.files import read_json, write_atomic, write_json
from slidesparse.machine import hardware
from slidesparse.plan.key import Key, tuning_key
from slidesparse.points import records, request
from slidesparse.tuning import table as tables
from slidesparse.worker import devices, resident

LOGS = ".snakemake/slidesparse"
"""Where the workers' logs lie, below the working directory."""

IDLE_S = 600
"""Seconds after which an idle worker ends where no plan says otherwise."""

LIMIT_S = 600
"""Time limit of a point where neither plan nor parameters name one."""

SHARE_HOST = ("kernel", "tune")
"""Stages of GPUs that may be measured beside others on one host where no plan says which."""

MARGIN_S = 900
"""Seconds that a worker may take beyond a measurement's own time limit: loading, converting, compiling."""

UNFINISHED = "its program ended before the measurement did: it was killed, or the log says why"
"""What is recorded of a point while it is measured, since a program that is killed records nothing."""


def measure(output, basis, table, parameters, *, peers, resources, log, worker):
    """Measure the point that belongs at `output` and write it there; a failure is recorded beside it and raised.

    On other hardware than the path's nothing is written.

    basis: path of shape.json (kernel) or of the checkpoint's manifest. table: path of the tuning table, or None.
    peers: {dense backend to measure in turn with a kernel point: path of its tuning table, or None}.
    worker: program.Worker; its plan sizes an engine that is started for this point.
    """
    key = Key.of(output)
    with _device(key.hardware, key.stage, worker):
        _measure(output, key, basis, table, parameters, peers, resources, log, worker)


def _measure(output, key, basis, table, parameters, peers, resources, log, worker):
    start = time.monotonic()
    records.write_failure(output, UNFINISHED, log, unless=os.getpid())
    try:
        asked = request.request(key, parameters, basis, table, peers)
        limit = worker.plan.get("parameters", {}).get(key.stage, {}).get("time_limit_s", LIMIT_S)
        parameters = {"time_limit_s": limit} | parameters
        message = key._asdict() | {"parameters": parameters, "tuning": str(table) if table else None}
        if key.stage == "kernel":
            kind = "kernel"
            message |= {"linears": _linears(basis), "peers": peers}
        else:
            kind = "engine"
            message |= {"manifest": str(basis), "root": str(resources), "others": _others(worker.plan, key)}
        reason = None
        try:
            results = _ask(kind, message, parameters["time_limit_s"], worker)
        except OutOfMemoryError as error:
            results, reason = None, str(error)
    except SlideSparseError as error:
        records.write_failure(output, str(error), log)
        raise
    seconds = time.monotonic() - start
    records.write_point(output, asked, results, seconds=seconds, resident=worker.resident, reason=reason)


def _linears(shape):
    """The linears of the file shape.json of a model."""
    described = read_json(shape, RecordError)
    try:
        return [{"name": str(each["name"]), "N": int(each["N"]), "K": int(each["K"])} for each in described["linears"]]
    except (KeyError, TypeError, ValueError):
        raise RecordError(f"{shape} does not describe the linears of a model: delete it to make it again") from None


def _others(plan, key):
    """[[stage, M, parameters]] of all points of a plan that the engine of a point can measure."""
    return [
        [stage, M, plan["parameters"][stage]]
        for stage in ("prefill", "decode")
        for planned in ("points", "variants")
        for M in plan.get(planned, {}).get(stage, {}).get(key.configuration.name, ())
    ]


def choose(output, basis, parameters, *, log=None):
    """Write the point of stock vLLM that belongs at `output`: of its candidates' the one with the smallest median step.

    It is out of memory if all of them are. results["variant"] names the chosen one, and results["variants"] has status,
    step_s (seconds, as in a point), gpu_step_ms and reason of each; hardware, software and run are the chosen one's,
    except that run["seconds"] is the sum of all.

    basis: path of the checkpoint's manifest. A failure is recorded beside `output` and raised: RecordError if a
    candidate's point is missing or damaged, or answers another request.
    """
    try:
        point = _best(output, basis, parameters)
    except SlideSparseError as error:
        records.write_failure(output, str(error), log)
        raise
    write_json(output, point)
    records.failure_of(output).unlink(missing_ok=True)


def _best(output, basis, parameters):
    """The content of the point that `choose` writes."""
    key = Key.of(output)
    asked = request.request(key, parameters, basis)
    found = {name: _variant(path, asked["candidates"][name]) for name, path in request.variant_paths(output).items()}
    variants = {
        name: {
            "status": point["status"],
            **{figure: point["results"].get(figure) for figure in ("step_s", "gpu_step_ms")},
            "reason": point["reason"],
        }
        for name, point in found.items()
    }
    good = [name for name in found if found[name]["status"] == "ok"]
    name = min(good, key=lambda name: variants[name]["step_s"]["median"]) if good else next(iter(found))
    best = found[name]
    seconds = sum(point["run"]["seconds"] for point in found.values())
    return best | {
        "key": key._asdict(),
        "request": asked,
        "results": best["results"] | ({"variant": name} if good else {}) | {"variants": variants},
        "run": best["run"] | {"seconds": round(seconds, 3)},
    }


def _variant(path, digest):
    """The point at `path`, which must answer the request with that digest (hex)."""
    point = read_json(path, RecordError)
    try:
        point["results"].get("step_s")
        if point["key"] != Key.of(path)._asdict() or point["request"]["digest"] != digest:
            raise RecordError(f"{path} answers another request; delete it and it is measured again")
        if point["status"] == "ok":
            float(point["results"]["step_s"]["median"])
        float(point["run"]["seconds"])
        str(point["reason"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise RecordError(f"{path} is damaged; delete it and it is measured again") from None
    return point


def tune(output, basis, Ms, parameters, *, worker):
    """Search the backend that `output` names (`…/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json`)."""
    path, start = Path(output), time.monotonic()
    hardware_key, _, dtype, backend, sparsity = tuning_key(path)
    message = {
        "stage": "tune",
        "hardware": hardware_key,
        "dtype": dtype,
        "backend": backend,
        "sparsity": sparsity,
        "M": Ms,
        "linears": _linears(basis),
        "parameters": parameters,
    }
    with _device(hardware_key, "tune", worker):
        found = _ask("kernel", message, None, worker)
    found |= {"protocol": request.PROTOCOL["tune"], "parameters": parameters}
    found |= records.provenance(time.monotonic() - start, worker.resident, found.pop("capacity"))
    write_atomic(path.with_suffix(".csv"), tables.to_csv(found))
    write_json(path, found)


def _device(hardware_key, stage, worker):
    """A device of the hardware for one measurement, and the host as far as the plan wants it."""
    return devices.taken(hardware_key, worker.owner, worker.seat, stage in worker.plan.get("share_host", SHARE_HOST))


def _ask(kind, request, limit, worker):
    """Results of a request, from the resident worker or from this process."""
    # One worker a GPU, so that no idle engine holds the memory of another point; on a CPU both kinds fit.
    gpu = hardware.parse(request["hardware"]).cc
    request = request | {"worker": request["hardware"] if gpu else f"{request['hardware']}/{kind}"}
    if not worker.resident:
        return resident.here(f"slidesparse.worker.handlers:{kind}", request)
    Path(LOGS).mkdir(parents=True, exist_ok=True)
    return resident.ask(
        f"slidesparse.worker.handlers:{kind}",
        request,
        worker.owner,
        idle=worker.plan.get("idle_s", IDLE_S),
        log=f"{LOGS}/{kind}.log",
        timeout=None if limit is None else limit + MARGIN_S,
    )
