"""Measure a point, or search a backend's algorithms, and store the result; with or without the resident worker.

This module imports nothing heavy. The handler imports torch or vLLM, in the worker.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from slidesparse.errors import MeasurementError, OutOfMemoryError, RecordError, SlideSparseError
from slidesparse.files import inside, read_json, sealed, write_atomic, write_json
from slidesparse.machine import hardware, memory, naming
from slidesparse.plan import prompts
from slidesparse.plan.dataset import Dataset
from slidesparse.plan.key import Key, tuning_key
from slidesparse.points import answers, records, request
from slidesparse.program import sentence
from slidesparse.tuning import table as tables
from slidesparse.worker import devices, resident

LOGS = ".snakemake/slidesparse"
"""Where the workers' logs lie, below the working directory."""

IDLE_S = 600
"""Seconds after which an idle worker ends, unless a plan says otherwise."""

LIMIT_S = 600
"""Time limit of a point in seconds, if neither the plan nor the parameters have one."""

SHARE_HOST = ("kernel", "tune", "quality")
"""Stages that several GPUs of one host may measure at the same time, unless a plan says otherwise."""

MARGIN_S = 900
"""Seconds that a worker may take beyond a measurement's own time limit: loading, converting, compiling."""

UNFINISHED = "its program ended before the measurement did: it was killed, or the log says why"
"""Recorded as a failure before a measurement begins, because a program that is killed can record nothing."""


def measure(output, basis, table, parameters, *, peers, resources, log, worker):
    """Measure the point that belongs at `output` and write it there. A failure is recorded beside it and raised.

    On hardware that is not the path's, nothing is written.

    basis: path of shape.json (kernel) or of the checkpoint's manifest (all others).
    table: path of the tuning table, or None.
    peers: {dense backend to measure in turn with a kernel point, or that a quality point is compared with: path of its
    tuning table, or None}.
    worker: program.Worker; its plan decides the size of an engine that is started for this point.
    """
    key = Key.of(output)
    machine = hardware.check(key.hardware)
    try:
        asked = request.request(key, parameters, basis, table, peers)
    except SlideSparseError as error:
        records.write_failure(output, str(error), log)
        raise
    if answers.is_point(output, asked):
        records.failure_of(output).unlink(missing_ok=True)  # of another request
        return
    with _device(machine, key.stage, worker):
        asked = request.request(key, parameters, basis, table, peers)  # a table may have changed while this waited
        if not answers.is_point(output, asked):  # another run may have measured it meanwhile
            _measure(output, key, asked, basis, table, parameters, peers, resources, log, worker)


def _measure(output, key, asked, basis, table, parameters, peers, resources, log, worker):
    begun = parameters
    start, git = time.monotonic(), records.code()
    records.write_failure(output, UNFINISHED, log, unless=os.getpid())
    try:
        limit = worker.plan.get("parameters", {}).get(key.stage, {}).get("time_limit_s", LIMIT_S)
        parameters = {"time_limit_s": limit} | prompts.measuring(key.stage, parameters, key.prompt)
        message = key.stored | {"parameters": parameters, "tuning": str(table) if table else None}
        if key.stage == "kernel":
            kind = "kernel"
            message |= {"linears": request.linears(basis), "peers": peers}
        else:
            kind = "engine"
            check_manifest(basis)
            if cause := memory.cannot_share():
                raise MeasurementError(
                    f"vLLM needs shared memory, but /dev/shm has none ({cause}): mount it with room, such as a"
                    " container's --shm-size=1g"
                )
            make_weights(basis, resources)
            make_text(parameters.get("text"), resources)
            if peers:
                make_weights(Path(basis).with_name("dense.json"), resources)
            message |= {"manifest": str(basis), "root": str(resources), "others": _others(worker.plan, key)}
            message |= {"peers": peers}
        reason = None
        try:
            results = _ask(kind, message, parameters["time_limit_s"], worker, key.processor)
            resident.refuse_changed_code()
        except OutOfMemoryError as error:
            results, reason = None, str(error)
        if request.request(key, begun, basis, table, peers) != asked:
            raise MeasurementError("a file of the request was changed during the measurement: run again")
    except (SlideSparseError, OSError) as error:
        with suppress(OSError):
            records.write_failure(output, sentence(error), log)
        raise
    seconds = time.monotonic() - start
    records.write_point(output, asked, results, seconds=seconds, resident=worker.resident, git=git, reason=reason)


def check_manifest(path):
    """Raise RecordError unless there is the manifest of a checkpoint at `path`, with the facts of its files."""
    manifest = read_json(path, RecordError)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(facts, dict) for facts in files.values()):
        raise RecordError(f"{path} is no manifest of a checkpoint: delete it to make it again")


def make_weights(path, resources):
    """Make the weights of the checkpoint's manifest at `path` if their folder is gone; a worker has no network for it.

    It is the rare case, so what imports torch is imported only then.
    """
    manifest = read_json(path, RecordError)
    names = [manifest.get(name) for name in ("model", "dtype", "sparsity")]
    if not inside(Path(resources, "checkpoints"), *names).exists():
        from slidesparse.models import checkpoints

        checkpoints.ensure(manifest, resources)


def make_text(text, resources):
    """Fetch the text of a quality point if it is a hub's and is gone; a worker has no network for it."""
    if text and Dataset.of(text):
        from slidesparse.models import texts

        texts.fetch(text, resources, Path(resources, "models.lock.json"))


def _others(plan, key):
    """[[stage, M, parameters]] of all planned points that the engine of the point `key` can measure."""
    return [
        [stage, M, prompts.measuring(stage, plan["parameters"][stage], key.prompt)]
        for stage in ("prefill", "decode", "quality")
        for planned in ("points", "variants")
        for M in plan.get(planned, {}).get(stage, {}).get(key.configuration.name, ())
    ]


def tune(output, basis, Ms, parameters, *, worker):
    """Search the algorithms of a backend, and write the tuning table at `output` and its CSV beside it.

    The path names the backend: …/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json.
    """
    path, start, git = Path(output), time.monotonic(), records.code()
    hardware_key, _, dtype, backend, sparsity = tuning_key(path)
    machine, linears = hardware.check(hardware_key), request.linears(basis)
    asked = request.of_table(path, linears, Ms, parameters)
    if _is_found(path, asked):
        return
    message = {
        "stage": "tune",
        "hardware": hardware_key,
        "dtype": dtype,
        "backend": backend,
        "sparsity": sparsity,
        "M": Ms,
        "linears": linears,
        "parameters": parameters,
    }
    with _device(machine, "tune", worker):
        if _is_found(path, asked):  # another run may have searched meanwhile
            return
        table = {"request": asked} | _ask("kernel", message, None, worker, naming.parse(hardware_key).processor)
    table |= {"searched": request.searched(path), "protocol": request.PROTOCOL["tune"], "parameters": parameters}
    table |= records.provenance(time.monotonic() - start, worker.resident, git, table.pop("capacity"))
    resident.refuse_changed_code()
    write_json(path, sealed(table))
    write_atomic(path.with_suffix(".csv"), tables.to_csv(table))


def _is_found(path, asked):
    """Whether the table at `path` answers; then the CSV beside it is written again if it is not the table's.

    RecordError for a damaged or changed table: another search may choose otherwise, and then all points are measured
    again. So a user decides that. The same for a table without a digest of itself whose CSV says something else.
    """
    if not answers.is_table(path, asked):
        return False
    beside, csv = path.with_suffix(".csv"), answers.csv_of_table(path)
    if not answers.has_text(beside, csv):
        if beside.is_file() and "sha256" not in read_json(path, RecordError):
            raise RecordError(f"{beside} does not say what {path.name} says: put it back, or delete both to tune again")
        write_atomic(beside, csv)
    return True


def _device(machine, stage, worker):
    """Hold one device of a machine for a measurement, and the host, alone or shared as the plan says."""
    return devices.taken(machine, worker.owner, worker.seat, stage in worker.plan.get("share_host", SHARE_HOST))


def _ask(kind, job, limit, worker, processor):
    """Results of a job, from the resident worker or from this process."""
    # A GPU has one worker, so that no idle engine holds memory that a point needs. On a CPU, workers of both kinds fit.
    name = job["hardware"] if processor == "gpu" else f"{job['hardware']}/{kind}"
    job = job | {"worker": name}
    if not worker.resident:
        return resident.here(f"slidesparse.worker.handlers:{kind}", job)
    Path(LOGS).mkdir(parents=True, exist_ok=True)
    return resident.ask(
        f"slidesparse.worker.handlers:{kind}",
        job,
        worker.owner,
        idle=worker.plan.get("idle_s", IDLE_S),
        log=f"{LOGS}/{kind}.log",
        timeout=None if limit is None else limit + MARGIN_S,
    )
