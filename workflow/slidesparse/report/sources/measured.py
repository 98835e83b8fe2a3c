"""Our layout, `{root}/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/{model}-{dtype}_{stage}.csv` -> rows."""

import os
import re
from dataclasses import replace
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.plan import prompts, stock
from slidesparse.plan.key import Configuration
from slidesparse.points import records
from slidesparse.points.answers import csv_of_table, has_text
from slidesparse.points.plan import read_plan
from slidesparse.points.request import check_table, expected_digests
from slidesparse.points.strict import read_csv, read_json, refuse_duplicates, refuse_zeros
from slidesparse.report.sources.agree import longer_on_gpu, refuse_contradiction
from slidesparse.report.sources.names import instant, refuse_copy, refuse_other_head, refuse_unable
from slidesparse.report.sources.rows import OURS, Provenance, Row
from slidesparse.report.sources.shapes import wrong_length
from slidesparse.report.tables.columns import COLUMNS, M_COLUMN, POSITIVE, PUBLISHED, TASKS, cell
from slidesparse.report.tables.gather import configuration_directories, is_usable, point_files

REQUIRED = {
    "prefill": ("tokens_per_s", "step_ms"),
    "decode": ("tokens_per_s", "step_ms"),
    "kernel": ("latency_us",),
    "quality": ("bits_per_byte",),
}
"""Columns by stage; a row with status ok has a value in at least one of them."""


TUNING = {
    "linear": str,
    "N": int,
    "K": int,
    "K_slid": int,
    "M": int,
    "output": str,
    "algorithms": int,
    "rank": int,
    "algorithm": str,
    "name": str,
    "latency_us": float,
    "default_us": float,
    "library_us": float,
    "workspace": int,
    "kernels": str,
}
"""Columns of the CSV beside a tuning table."""

STEP = ("step_ms", "step_ms_p5", "step_ms_p95", "step_ms_ci_low", "step_ms_ci_high", "samples", "steady_tokens_per_s")
LATENCY = ("latency_us", "latency_us_p5", "latency_us_p95", "latency_us_ci_low", "latency_us_ci_high", "latency_hot_us")
RUN = ("status", "reason", "utc", "seconds", "git_commit", "git_dirty", "request_digest", "protocol")
MACHINE = ("gpu_name", "driver", "torch", "vllm")
FIRST = {
    "prefill": (*PUBLISHED["prefill"], *STEP, *RUN, *MACHINE),
    "decode": (*PUBLISHED["decode"], *STEP, *RUN, *MACHINE),
    "kernel": (
        *("M", "N", "K", "linear", "K_slid", "alg_count", "alg_id", *LATENCY, "effective_tops", "output", "exact"),
        *("error_max_abs", "samples", *RUN, *MACHINE),
    ),
    "quality": tuple(COLUMNS["quality"]),
}
"""Columns that our CSVs have always had. An old CSV may lack later ones."""


SIGNED = {f"extra_bits_per_byte{end}" for end in ("", "_ci_low", "_ci_high")}
"""Columns whose figures may be below zero."""

RELATIVE = 1e-6
"""How far a figure may lie outside its interval, relatively: cells have ten digits."""


def read(source, hardware):
    """Add all of one hardware key in our layout, but its task table, to `source`, also sentences on refused files."""
    root = Path(source.root)
    try:
        source.plan = read_plan(root, hardware)
        source.shapes = source.plan.shapes if source.plan else {}
    except RecordError as error:
        source.refused.append(str(error))
    for directory in configuration_directories(root, hardware):
        stage, model, dtype, backend, sparsity = directory.parts[-5:]
        configuration = Configuration(model, dtype, backend, sparsity)
        if not is_usable(directory):
            continue  # gathering has named it already
        expected, there = directory / f"{model}-{dtype}_{stage}.csv", None
        for path in sorted(directory.glob("*.csv")):
            try:
                refuse_copy(path)
                if path != expected:
                    raise RecordError(f"{path} does not belong there: the CSV of this folder is {expected.name}")
                rows = read_configuration(path, hardware, stage, configuration)
                rows = [row for row in of_plan(source, root, rows) if not is_lost(path_of(root, row))]
                source.refused += longer_on_gpu(path, [row.values for row in rows if row.status == "ok"])
            except RecordError as error:
                source.refused.append(str(error))
                continue
            source.add(OURS, rows, path)
            there = {row.point for row in rows}
        if not os.path.isfile(expected) and point_files(directory):
            source.ungathered.append(str(directory))
        source.add(OURS, failures(directory, hardware, stage, configuration, there))
    source.add(OURS, failures_of_variants(root, hardware, source.rows))
    for path in sorted((root / hardware / "tuning").glob("*/*/*/*.csv")):
        try:
            refuse_changed_table(path)
        except RecordError as error:
            source.refused.append(str(error))
            continue
        name = Configuration(*path.with_suffix("").parts[-4:])
        collect(
            source, "tuning", path, lambda path, name=name: [row | {"configuration": name} for row in read_tuning(path)]
        )


def read_task_table(source, hardware):
    """Add the rows of tasks.csv of one hardware key to `source`."""
    tasks = Path(source.root, hardware, "tasks.csv")
    if os.path.isfile(tasks):
        collect(source, "tasks", tasks, read_tasks)


def read_configuration(path, hardware, stage, configuration):
    """Rows of one gathered CSV. Raises RecordError if the file is damaged or incomplete."""
    later = [column for column in COLUMNS[stage] if column not in FIRST[stage]]
    table, header = read_csv(path, COLUMNS[stage], optional=later)
    refuse_other_head(path, header, hardware, [configuration.dtype], [configuration.model])
    for name in {cell(row["gpu_name"]) for row in table if row["gpu_name"]}:
        refuse_other_head(path, {"GPU": name}, hardware)
    try:
        refuse_unable(hardware, [configuration.dtype])
    except RecordError as error:
        raise RecordError(f"{path} does not belong there: {error}") from None
    if not table:
        raise RecordError(f"{path} is truncated: it holds no rows")
    M = M_COLUMN[stage]
    for number, row in enumerate(table, start=1):
        if row[M] is None or row["status"] not in ("ok", "out_of_memory"):
            raise RecordError(f"{path} is damaged: row {number} has no M or an unknown status")
        if row["status"] == "ok" and all(row[column] is None for column in REQUIRED[stage]):
            raise RecordError(f"{path} is damaged: row {number} is ok but has no {' or '.join(REQUIRED[stage])}")
        if stage == "kernel" and row["status"] == "ok" and not (row["linear"] and row["N"] and row["K"]):
            raise RecordError(f"{path} is damaged: row {number} does not name its linear, N and K")
    for row in table if stage == "prefill" else ():
        row["prompt"] = prompts.USUAL if row["prompt"] is None else row["prompt"]
    refuse_duplicates(path, table, (M, *{"kernel": ["linear"], "prefill": ["prompt"]}.get(stage, ())))
    refuse_zeros(path, table, POSITIVE[stage])
    refuse_impossible(path, table, COLUMNS[stage])
    if stage == "kernel":
        refuse_partial(path, table)
        refuse_lengths(path, table, configuration)
    elif stage != "quality":
        refuse_contradiction(path, stage, table, foreign=False)
    return [to_row(hardware, stage, configuration, row) for row in table]


def refuse_impossible(path, table, columns):
    """Raise RecordError if a figure is below zero, or outside its interval."""
    numeric = [(name, f"{name}_ci_low", f"{name}_ci_high") for name, kind in columns.items() if kind in (int, float)]
    for number, row in enumerate(table, start=1):
        for column, lower, upper in numeric:
            value = row.get(column)
            if value is None:
                continue
            if value < 0 and column not in SIGNED:
                raise RecordError(f"{path} is damaged: row {number} has {column} = {value:g}")
            low, high = row.get(lower), row.get(upper)
            if None not in (low, high) and not low - RELATIVE * abs(low) <= value <= high + RELATIVE * abs(high):
                raise RecordError(
                    f"{path} is damaged: row {number} has {column} = {value:g}, outside {low:g} to {high:g}"
                )


def refuse_partial(path, table):
    """Raise RecordError unless every M that was measured has every linear."""
    linears = {row["linear"] for row in table if row["status"] == "ok"}
    there = {}
    for row in table:
        there.setdefault(row["M"], set()).add(row["linear"])
    for M in sorted({row["M"] for row in table if row["status"] == "ok"}):
        missing = linears - there[M]
        if missing:
            raise RecordError(f"{path} is truncated: M={M} lacks {', '.join(sorted(missing))}")


def refuse_lengths(path, table, configuration):
    """Raise RecordError if K' of a row is none of its pattern. `auto` may have run a dense kernel."""
    for row in table:
        dense = configuration.backend == "auto" and row["K_slid"] == row["K"]
        wrong = None if dense else wrong_length(configuration.sparsity, row["K"], row["K_slid"])
        if wrong:
            raise RecordError(f"{path} contradicts itself: M={row['M']} {row['linear']} has {wrong}")


def to_row(hardware, stage, configuration, row):
    """One CSV row in the tidy form. Its configuration has its prompt."""
    model = prompts.at(configuration.model, row.get("prompt", prompts.USUAL))
    names = ("gpu_name", "driver", "torch", "vllm", "protocol", "git_commit", "git_dirty", "gpu_uuid")
    return Row(
        hardware,
        stage,
        configuration._replace(model=model),
        row[M_COLUMN[stage]],
        row["status"],
        row,
        Provenance(*(cell(row[name]) for name in names)),
        row.get("linear"),
        row["reason"] or "",
        utc=instant(row["utc"]) or "",
        seconds=row["seconds"],
    )


def of_plan(source, root, rows):
    """The rows without those whose points are there, are planned, and answer another request than the plan's.

    If a file that points were made from was changed, nothing can be checked: the source says so, and all rows stay.
    """
    plan = source.plan
    if not plan or not rows or rows[0].stage not in plan.parameters:
        return rows
    asked = plan.of_stage(rows[0].stage)
    paths = [path_of(root, row) for row in rows]
    planned = {path for row, path in zip(rows, paths, strict=True) if row.M in asked.get(row.configuration, ())}
    try:
        digests = expected_digests(filter(os.path.isfile, planned), plan.parameters[rows[0].stage])
    except RecordError as error:
        source.refused.append(str(error))
        return rows
    pairs = zip(rows, paths, strict=True)
    return [row for row, path in pairs if digests.get(path) in (None, row.values.get("request_digest"))]


def path_of(root, row):
    """Path of the point of a row."""
    return row.configuration.key(row.hardware, row.stage, row.M).path(root)


def is_lost(path):
    """Whether the point of a CSV's row is gone, and a record says that it failed or is being measured."""
    return not os.path.exists(path) and os.path.exists(records.failure_of(path))


def failures(directory, hardware, stage, configuration, there=None):
    """A row for every `M{m}.failed.json` whose point has failed or is being measured.

    there: points that the folder's CSV has, whose records count for nothing. None if there is no CSV; then those count
    for nothing that have a point beside them.
    """
    rows = []
    for path in directory.glob("M*.failed.json"):
        name = re.fullmatch(rf"M({prompts.NAME})\.failed\.json", path.name)
        if not name:
            continue
        M, prompt = prompts.read(name[1])
        own = configuration._replace(model=prompts.at(configuration.model, prompt))
        if (stage, own, M) in there if there is not None else os.path.exists(directory / f"M{name[1]}.json"):
            continue
        try:
            record = read_json(path)
        except RecordError as error:
            record = {"reason": str(error)}
        flying = records.in_flight(record)
        reason = "" if flying else str(record.get("reason") or "no reason was recorded")
        rows.append(
            Row(
                hardware,
                stage,
                own,
                M,
                "in_flight" if flying else "failed",
                {},
                reason=" ".join(reason.split()),
                log=str(record.get("log") or ""),
                utc=instant(record.get("utc")) or "",
            )
        )
    return sorted(rows, key=lambda row: row.M)


def failures_of_variants(root, hardware, rows):
    """Rows for points of stock vLLM that `rows` lack, because a variant failed (with its reason) or is in flight."""
    there = {row.point for row in rows}
    rows_by_key = {}
    for directory in configuration_directories(root, hardware, variants=True):
        stage, model, dtype, variant, sparsity = directory.parts[-5:]
        configuration = Configuration(model, dtype, stock.BACKEND, sparsity)
        for row in failures(directory, hardware, stage, configuration):
            if row.point not in there:
                row = replace(row, reason=row.reason and f"{variant}: {row.reason}")
                rows_by_key.setdefault(row.point, row)
    return list(rows_by_key.values())


def refuse_changed_table(path):
    """Raise RecordError if the CSV at `path`, or the tuning table beside it, is not as it was written."""
    table = path.with_suffix(".json")
    if not os.path.isfile(table) or path.parent.name == "auto":
        return
    check_table(table, read_json(table))
    if not has_text(path, csv_of_table(table)):
        raise RecordError(f"{path} does not say what {table.name} says: put it back, or delete both to tune again")


def read_tuning(path):
    """Rows of the CSV beside a tuning table."""
    table, _ = read_csv(path, TUNING)
    refuse_duplicates(path, table, ("linear", "M", "output", "rank"))
    refuse_zeros(path, table, ("latency_us",))
    return table


def read_tasks(path):
    """Rows of a tasks.csv."""
    table, _ = read_csv(path, TASKS)
    refuse_duplicates(path, table, ("task",))
    return table


def read_manifests(source):
    """Add the shapes and the manifests (models, checkpoints) of all models that were measured or planned.

    If there are none, add those of all models below the source's root.
    """
    root, models = Path(source.root), source.model_names()

    def named(pattern):
        paths = sorted(root.glob(pattern))
        return [path for path in paths if not models or path.relative_to(root).parts[1] in models]

    for path in named("models/*/shape.json"):
        collect(source, None, path, lambda path: read_shape(source, path))
    for path in named("models/*/manifest.json"):
        collect(source, "models", path, lambda path: [read_manifest(path) | {"model": path.parent.name}])
    for path in named("checkpoints/*/*/*.json"):
        model, dtype, sparsity = path.parts[-3], path.parts[-2], path.stem
        key = {"model": model, "dtype": dtype, "sparsity": sparsity}
        collect(source, "checkpoints", path, lambda path, key=key: [read_manifest(path) | key])


def read_manifest(path):
    """The manifest of a model or checkpoint. Parts may be missing, but existing ones have the right types."""
    manifest = read_json(path)
    files, origin = manifest.get("files") or {}, manifest.get("source") or {}
    counts = [manifest.get(name) for name in ("weights", "zeros_before", "changed")]
    if isinstance(files, dict):
        counts += [file.get("size") if isinstance(file, dict) else "" for file in files.values()]
    numbers = all(count is None or type(count) is int and 0 <= count < 1 << 62 for count in counts)
    if not (numbers and isinstance(files, dict) and isinstance(origin, dict)):
        raise RecordError(f"{path} is damaged: it is no manifest with files, source and counts")
    return manifest


def read_shape(source, path):
    """Note the number of a model's layers, and of the linears in a layer."""
    shape = read_json(path)
    linears = shape.get("linears")
    if not isinstance(linears, list) or not linears:
        raise RecordError(f"{path} is damaged: it lists no linears")
    source.linears[path.parent.name] = len(linears)
    if isinstance(shape.get("num_hidden_layers"), int):
        source.layers[path.parent.name] = shape["num_hidden_layers"]


def collect(source, name, path, read):
    """Add the result of `read(path)` to the list `name` of the source, or note that the file was refused."""
    try:
        rows = read(path)
    except RecordError as error:
        source.refused.append(str(error))
        return
    if name:
        getattr(source, name).extend(rows)
        source.files.append((str(path), len(rows)))
