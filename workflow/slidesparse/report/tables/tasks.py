"""How long each of the eight tasks of a run took, and how it ended: results/{hardware}/tasks.csv.

Durations come from the points and the tuning tables (`run.seconds`) and, for all other rules, from TSV files of their
programs (points.records.keep_duration). Until 2026-11-30 Snakemake's `benchmark:` wrote these. A duration that was not
recorded stays empty.
"""

import csv
import io
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.plan import stock
from slidesparse.plan.backends import STAGES
from slidesparse.points.records import duration_of, plausible
from slidesparse.points.strict import read_json
from slidesparse.report.sources import measured
from slidesparse.report.sources.rows import Source, pattern_length
from slidesparse.report.tables.columns import TASKS, cell
from slidesparse.report.tables.gather import write_if_changed

NAMES = (
    "1 base model preparation",
    "2 SlideSparse conversion",
    "3 offline tuning",
    "4 prefill",
    "5 decode",
    "6 kernel, dense",
    "7 kernel, sparse 2_4 to 2_10",
    "8 kernel, sparse 2_12 to 2_inf",
)
HIGH_SPARSITY = 10
"""Largest L of task 7."""

STATUS = ("ok", "out_of_memory", "in_flight", "failed")
"""The states of a point, from good to bad."""


def task_of(stage, configuration):
    """Index into NAMES of the task that measures a configuration; None for quality, which none of the eight is."""
    if stage == "quality":
        return None
    if stage != "kernel":
        return {"prefill": 3, "decode": 4}[stage]
    if not configuration.sparse_kernel:
        return 5
    return 6 if pattern_length(configuration.sparsity) <= HIGH_SPARSITY else 7


def tasks_table(results_dir, hardware, ours=None):
    """The rows of tasks.csv of one hardware key, from the gathered CSVs, manifests and benchmark files below a root.

    The items of a task come from plan.json, or without a plan from what exists. Returns eight dictionaries with the
    columns of tasks.csv. status is success, failed, skipped (not asked for) or missing.

    ours: what `measured.read` has made of this root already, which stays as it is.
    """
    source = Source(str(results_dir))
    if ours is None:
        measured.read(source, hardware)
    else:
        source.rows, source.plan, source.shapes = ours.rows, ours.plan, dict(ours.shapes)
    measured.read_manifests(source)
    return [prepare(source), convert(source), tune(source, hardware), *(measure(source, i) for i in range(3, 8))]


def write_tasks(results_dir, hardware, ours=None):
    """Write results/{hardware}/tasks.csv if its content changes; returns its path. ours: as for `tasks_table`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(TASKS)
    for row in tasks_table(results_dir, hardware, ours):
        writer.writerow(cell(row[column]) for column in TASKS)
    path = Path(results_dir, hardware, "tasks.csv")
    write_if_changed(path, stream.getvalue())
    return path


def entry(index, status, seconds=None, note="", ok=None, failed=None, expected=None):
    """One row of the table."""
    return {
        "task": NAMES[index],
        "status": status,
        "seconds": seconds,
        "note": note,
        "items_ok": ok,
        "items_failed": failed,
        "items_expected": expected,
    }


def engine_checkpoints(source):
    """(model, dtype, sparsity) of every checkpoint that prefill and decode points, measured or planned, need."""
    stages = ("prefill", "decode")
    names = {row.configuration for stage in stages for row in source.stage(stage)}
    names |= {name for stage in stages for name in source.planned(stage)}
    return {(name.weights, name.dtype, name.sparsity) for name in names}


def prepare(source):
    """Task 1: the base models and their dense checkpoints."""
    asked = engine_checkpoints(source)
    models, dense = {item["model"] for item in source.models}, held(source, dense=True)
    needed = {(model,) for model, _, _ in asked} | {key for key in asked if key[2] == "dense"}
    there = {(model,) for model in models} | dense
    files = [Path(source.root, "tasks", model, "fetch_model.tsv") for model in sorted(models)]
    return made(0, there, needed, [*map(duration_of, files), *conversions(source, dense)])


def convert(source):
    """Task 2: the slid and pruned checkpoints."""
    there = held(source, dense=False)
    needed = {key for key in engine_checkpoints(source) if key[2] != "dense"}
    return made(1, there, needed, conversions(source, there))


def conversions(source, keys):
    """Durations of the conversions of checkpoints (model, dtype, sparsity)."""
    return [duration_of(Path(source.root, "tasks", *key, "convert_checkpoint.tsv")) for key in sorted(keys)]


def held(source, dense):
    """(model, dtype, sparsity) of the existing checkpoint manifests."""
    keys = {(item["model"], item["dtype"], item["sparsity"]) for item in source.checkpoints}
    return {key for key in keys if (key[2] == "dense") == dense}


def tune(source, hardware):
    """Task 3: the tuning tables of this hardware. Models of one shape share a table; stock vLLM has none."""
    folder = Path(source.root, hardware, "tuning")
    tables = sorted(folder.glob("*/*/*/*.json"))
    there = {path.relative_to(folder).with_suffix("").parts for path in tables}
    names = {name for stage in STAGES for name in source.planned(stage) if name.backend != stock.BACKEND}
    needed = {(source.shape_of(model), *rest) for model, *rest in names}
    return made(2, there, needed, [table_seconds(path) for path in tables])


def table_seconds(path):
    """Seconds of the search that made a tuning table."""
    try:
        return plausible(read_json(path)["run"]["seconds"])
    except (KeyError, TypeError, ValueError, RecordError):
        return duration_of(path.with_suffix(".tsv"))


def made(index, there, asked, durations):
    """The row of a task that makes things. there, asked: what is made and asked for. durations: seconds or None."""
    needed = asked | there
    if not needed:
        return entry(index, "skipped", note="nothing asked for it")
    known = [seconds for seconds in durations if seconds is not None]
    missing = len(needed - there)
    notes = [f"{missing} of {len(needed)} missing"] if missing else []
    if len(known) < len(durations):
        notes.append(f"duration of {len(durations) - len(known)} of {len(durations)} not recorded")
    seconds = sum(known) if known else None
    return entry(index, "missing" if missing else "success", seconds, "; ".join(notes), len(there), 0, len(needed))


def measure(source, index):
    """Tasks 4 to 8: the points of one stage; kernel points are divided into dense, sparse, and high sparsity."""
    stage = {3: "prefill", 4: "decode"}.get(index, "kernel")
    rows = [row for row in source.stage(stage) if task_of(stage, row.configuration) == index]
    points = point_status(rows)
    seconds = {}
    for row in rows:
        if row.seconds is not None:
            seconds[row.configuration, row.M] = row.seconds
    planned = source.planned(stage).items()
    asked = {(name, M) for name, Ms in planned if task_of(stage, name) == index for M in Ms}
    total = asked or set(points)
    if not total and source.plan:
        return entry(index, "skipped", note="nothing asked for it")
    count = {word: sum(points.get(key) == word for key in total) for word in STATUS}
    missing = len(total) - sum(count.values())
    notes = [
        f"{number} {what}"
        for number, what in (
            (count["out_of_memory"], "out of memory"),
            (count["in_flight"], "being measured"),
            (missing, "not measured"),
        )
        if number
    ]
    unfinished = missing or count["in_flight"] or not total
    status = "failed" if count["failed"] else "missing" if unfinished else "success"
    duration = sum(seconds.values()) if seconds else None
    return entry(index, status, duration, "; ".join(notes), count["ok"], count["failed"], len(total))


def point_status(rows):
    """(configuration, M) -> the worst status among its rows."""
    points = {}
    for row in rows:
        key = row.configuration, row.M
        points[key] = max(points.get(key, "ok"), row.status, key=STATUS.index)
    return points
