"""Results of tasks of the lm-evaluation-harness -> the CSV of their configuration, a row for each metric."""

import csv
import io
import math
import os
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import is_plain, leads_out
from slidesparse.plan.key import is_pattern
from slidesparse.plan.tasks import TaskKey, root_of
from slidesparse.points.plan import Plan, read_plan
from slidesparse.points.request import of_task
from slidesparse.points.tasks import read_result
from slidesparse.report.tables.columns import SCORES, cell
from slidesparse.report.tables.gather import write_if_changed


def to_csv(results):
    """CSV text of results of one configuration, in their order."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(SCORES)
    for row in (row for result in results for row in rows_of(result)):
        writer.writerow(cell(row[column]) for column in SCORES)
    return stream.getvalue()


def rows_of(result):
    """Rows of a result: of each task or group in the harness's JSON, each metric with its standard error, if known.

    Raises RecordError if the JSON is none of the harness.
    """
    found, run = result["results"]["harness"], result["run"]
    try:
        return [
            {
                "task": result["key"]["task"],
                "part": part,
                "metric": metric,
                "filter": filtered,
                "value": number(value),
                "standard_error": number(scores.get(f"{metric}_stderr,{filtered}")),
                "higher_is_better": (found.get("higher_is_better", {}).get(part) or {}).get(metric),
                "documents": (found.get("n-samples", {}).get(part) or {}).get("effective"),
                "shots": found.get("n-shot", {}).get(part),
                "version": found.get("versions", {}).get(part),
                "lm_eval": result["software"].get("lm_eval"),
                "utc": run["utc"],
                "seconds": float(run["seconds"]),
                "git_commit": run["git"]["commit"],
                "git_dirty": run["git"]["dirty"],
                "request_digest": result["request"]["digest"],
                "protocol": result["request"]["protocol"],
                "gpu_name": result["hardware"]["name"],
                "driver": result["hardware"].get("driver"),
                "torch": result["software"].get("torch"),
                "vllm": result["software"].get("vllm"),
            }
            for part, scores in (found.get("groups", {}) | found["results"]).items()
            for name, value in scores.items()
            for metric, comma, filtered in [name.partition(",")]
            if comma and not metric.endswith("_stderr")
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"no row can be made of the result of {result['key']['task']} ({error!r:.80})") from None


def number(value):
    """A figure of the harness, or None: it writes N/A where it has none."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def gather(paths, output):
    """Write the CSV of the results at `paths`, which are of one configuration. RecordError for one that is damaged."""
    write_if_changed(output, to_csv([read_result(path) for path in sorted(paths)]))


def gather_all(results, hardware):
    """Gather all results of one hardware key, as `gather.gather_all` does points. Returns a sentence for each refused.

    A result is refused if it is damaged, or if it is planned and answers another request than the plan's.
    """
    refused = []
    try:
        plan = read_plan(results, hardware) or Plan()
    except RecordError:  # `gather.gather_all` says so
        plan = Plan()
    for directory in directories(results, hardware):
        held = []
        if leads_out(results, directory):
            refused.append(f"{directory} leads out of {results} by a link, so nothing is gathered there")
            continue
        for path in sorted(directory.glob("*.json")):
            try:
                result = read_result(path)
                refuse_other_request(path, result, plan)
                rows_of(result)
                held.append(result)
            except RecordError as error:
                refused.append(str(error))
        if held:
            key = TaskKey(**held[0]["key"])
            write_if_changed(key.csv(results), to_csv(held))
    return refused


def refuse_other_request(path, result, plan):
    """Raise RecordError if the plan has the task of a result, and it answers another request than the plan's."""
    key, root = TaskKey.of(path), root_of(path)
    planned = plan.tasks.get(key.configuration, {})
    shape = plan.shapes.get(key.model, key.model)
    basis, tuning = key.point.basis(root), key.point.tuning(root, shape)
    if key.task not in planned or not (os.path.isfile(basis) and os.path.isfile(tuning)):
        return
    if of_task(key, planned[key.task], basis, tuning)["digest"] != result["request"]["digest"]:
        raise RecordError(f"{path} answers another request than the plan's: the next run scores it again")


def directories(root, hardware):
    """Sorted folders of results of tasks of one hardware key, whose names can be those of a configuration."""
    found = sorted(Path(root, hardware, "quality").glob("*/*/*/*/tasks"))
    return [path for path in found if is_pattern(path.parent.name) and all(map(is_plain, path.parts[-5:-1]))]
