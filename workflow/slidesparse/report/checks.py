"""Sections that say what passed, and what is missing, failed, out of memory or left out, and why."""

from slidesparse.records import STAGES
from slidesparse.report.markdown import bullets, table
from slidesparse.report.rows import configuration_order, configurations

WORDS = {"ok": "ok", "failed": "failed", "out_of_memory": "out of memory"}


def linears_of(source, model):
    """Number of linears of a model: from its shape, else from what was measured, else 1."""
    if model in source.linears:
        return source.linears[model]
    rows = [row for row in source.stage("kernel") if row.configuration.model == model and row.linear]
    return len({row.linear for row in rows}) or 1


def names_of(source, stage):
    """Configurations of a stage that were measured or planned, sorted."""
    return sorted({*configurations(source.stage(stage)), *source.planned(stage)}, key=configuration_order)


def passed(source, stage, configuration):
    """(points that passed, points asked for) of one configuration; a kernel point counts once per linear.

    What is not in the plan counts as asked for if it is there.
    """
    rows = [row for row in source.stage(stage) if row.configuration == configuration]
    Ms = source.planned(stage).get(configuration) or {row.M for row in rows}
    each = linears_of(source, configuration.model) if stage == "kernel" else 1
    return len({(row.M, row.linear) for row in rows if row.status == "ok" and row.M in Ms}), len(Ms) * each


def check_section(source):
    """n/n passed for every dtype, backend and sparsity of every stage."""
    lines = []
    for stage in ("prefill", "decode", "kernel"):
        names = names_of(source, stage)
        if not names:
            lines += [f"{stage}: nothing measured.", ""]
            continue
        counts = {name: passed(source, stage, name) for name in names}
        groups = list(dict.fromkeys((name.model, name.dtype) for name in names))
        totals = [(group, add(counts[n] for n in names if (n.model, n.dtype) == group)) for group in groups]
        summary = ", ".join(f"{' '.join(group)} {ratio(total)}" for group, total in totals)
        lines += [f"{stage}: {summary}; total {ratio(add(counts.values()))}", ""]
        columns = list(dict.fromkeys(name.column for name in names))
        rows = []
        for group, total in totals:
            cells = {name.column: ratio(counts[name]) for name in names if (name.model, name.dtype) == group}
            rows.append((" ".join(group), *(cells.get(column) for column in columns), ratio(total)))
        lines += table((stage, *columns, "total"), rows, "l")
    return lines


def add(pairs):
    """Sum of (passed, asked for) pairs."""
    pairs = list(pairs)
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def ratio(pair):
    """passed/asked for."""
    return f"{pair[0]}/{pair[1]}"


def problem_section(source):
    """What is missing, failed (with its log), out of memory, unsupported, refused, or not gathered."""
    lines = []
    for status, title in (("failed", "Failed"), ("out_of_memory", "Out of memory")):
        rows = [row for row in source.rows if row.status == status]
        if rows:
            cells = [
                (row.stage, "/".join(row.configuration), str(row.M), row.linear, row.reason, row.log)
                for row in sorted(
                    rows, key=lambda row: (STAGES.index(row.stage), configuration_order(row.configuration), row.M)
                )
            ]
            headers = ("stage", "configuration", "M", "linear", "reason", "log")
            lines += [f"{title}:", "", *table(headers, cells, "llrlll")]
    missing = missing_points(source)
    if missing:
        lines += ["Not measured:", ""]
        cells = [(stage, "/".join(name), ", ".join(map(str, Ms))) for stage, name, Ms in missing]
        lines += table(("stage", "configuration", "M"), cells, "lll")
    if source.plan and source.plan.left_out:
        lines += ["Left out, because this hardware cannot run it:", ""]
        lines += bullets([f"{item['dtype']}: {item['reason']}" for item in source.plan.left_out])
    if source.refused:
        lines += ["Refused, nothing of it is in this report:", "", *bullets(source.refused)]
    if source.ungathered:
        lines += ["Points that are in no CSV yet:", "", *bullets(source.ungathered)]
    if not lines:
        lines = ["Nothing failed, ran out of memory, or was refused.", ""]
    if source.plan is None:
        lines += ["What was asked for is not recorded in this source; only what is there is counted.", ""]
    return lines


def missing_points(source):
    """(stage, configuration, [M]) of what was asked for and is not there in any form."""
    found = []
    for stage in STAGES:
        there = {(row.configuration, row.M) for row in source.stage(stage)}
        for name, asked in sorted(source.planned(stage).items(), key=lambda item: configuration_order(item[0])):
            Ms = [M for M in sorted(asked) if (name, M) not in there]
            if Ms:
                found.append((stage, name, Ms))
    return found
