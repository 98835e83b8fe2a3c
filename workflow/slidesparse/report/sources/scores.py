"""CSVs of tasks of the lm-evaluation-harness, and records of tasks that failed -> the list `scores` of a source."""

import os

from slidesparse.errors import RecordError
from slidesparse.plan.key import Configuration
from slidesparse.points import records
from slidesparse.points.strict import read_csv, read_json, refuse_duplicates
from slidesparse.report.sources.measured import collect
from slidesparse.report.tables.columns import SCORES
from slidesparse.report.tables.task_scores import directories


def read(source, hardware):
    """Add the rows of all CSVs of tasks of one hardware key, and the failures, to `source`.

    A row also has its configuration. Of a failed task there is a row with its name and a reason.
    """
    for directory in directories(source.root, hardware):
        name = Configuration(*directory.parts[-5:-1])
        path = directory / f"{name.model}-{name.dtype}_tasks.csv"
        if os.path.isfile(path):
            collect(
                source, "scores", path, lambda path, name=name: [row | {"configuration": name} for row in rows(path)]
            )
        for failure in sorted(directory.glob("*.failed")):
            source.scores += failed(failure, name)


def rows(path):
    """Rows of a CSV of tasks."""
    table, _ = read_csv(path, SCORES)
    refuse_duplicates(path, table, ("task", "part", "metric", "filter"))
    for number, row in enumerate(table, start=1):
        if not (row["task"] and row["part"] and row["metric"]) or (row["standard_error"] or 0) < 0:
            raise RecordError(f"{path} is damaged: row {number} names no metric, or has an error below zero")
    return table


def failed(path, name):
    """[a row] of a task that failed, from its record; none if it is being scored."""
    try:
        record = read_json(path)
    except RecordError as error:
        record = {"reason": str(error)}
    if records.in_flight(record):
        return []
    reason = " ".join(str(record.get("reason") or "no reason was recorded").split())
    return [{"task": path.stem, "configuration": name, "reason": reason}]
