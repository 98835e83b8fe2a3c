"""Tasks of the lm-evaluation-harness: what each checkpoint scores, behind the table of quality."""

from slidesparse.report.document.model import NONE, Bullets, Table, fixed, say, whole
from slidesparse.report.sources.rows import configuration_order, pattern_length

HEADERS = ("model", "type", "checkpoint", "task", "metric", "value", "standard error", "documents", "shots")


def harness_blocks(source):
    """The table of all tasks, and what is missing; nothing if none was asked for or scored."""
    rows = [row for row in source.scores if "reason" not in row]
    planned = {(name, task) for name, tasks in (source.plan.tasks if source.plan else {}).items() for task in tasks}
    there = {(row["configuration"], row["task"]) for row in rows}
    blocks = []
    if rows:
        shown = [shown_row(row) for row in sorted(rows, key=order)]
        blocks = [Table("harness", HEADERS, shown, "lllll"), Bullets([rule(rows)])]
    lacking = []
    if planned - there:
        n = {"n": len(planned), "there": len(planned & there)}
        lacking.append(say("Results of tasks that were asked for: {there} of {n}.", **n))
    lacking += [
        say("{task} of {checkpoint} failed: {reason}", task=row["task"], checkpoint=name_of(row), reason=row["reason"])
        for row in source.scores
        if "reason" in row
    ]
    return [*blocks, Bullets(lacking)] if lacking else blocks


def rule(rows):
    """What the table of `rows` says, as a sentence."""
    return say(
        "Tasks are those of EleutherAI's lm-evaluation-harness (lm-eval {versions}), which scores the engine that is"
        " timed. An arrow says where better is. Standard errors are the harness's own; it has none of some metrics.",
        versions=", ".join(sorted({row["lm_eval"] or NONE for row in rows})),
    )


def order(row):
    """Sort key: the patterns of one task and metric stand below each other."""
    name = row["configuration"]
    model, position, dtype, *_ = configuration_order(name)
    what = (row["task"], row["part"] != row["task"], row["part"], row["metric"], row["filter"])
    return (model, position, dtype, *what, pattern_length(name.sparsity), name.backend)


def name_of(row):
    """Model, type, backend and pattern of a row, as text."""
    return "/".join(row["configuration"])


def shown_row(row):
    """Cells of a row of the table."""
    name, arrow = row["configuration"], {True: " ↑", False: " ↓"}.get(row["higher_is_better"], "")
    filtered = f", {row['filter']}" if row["filter"] not in (None, "none") else ""
    return [
        *(name.model, name.dtype, name.column),
        row["part"],
        f"{row['metric']}{filtered}{arrow}",
        *(fixed(row[value], 4) for value in ("value", "standard_error")),
        *(whole(row[count]) for count in ("documents", "shots")),
    ]
