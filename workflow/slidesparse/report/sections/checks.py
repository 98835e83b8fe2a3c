"""Sections on which points passed, and which are missing, failed, in flight, out of memory or left out, and why."""

from slidesparse.plan.backends import STAGES
from slidesparse.report.document.model import Bullets, Table, say
from slidesparse.report.sections.quantities import linears_of
from slidesparse.report.sources.rows import configuration_order, configurations

BY_LINEAR = say("A kernel point counts once for each of its linears.")

STAGES_CHECKED = ("prefill", "decode", "kernel", "quality")
"""All stages, in the order in which tables count their points. Quality is counted where it was asked for."""

WORDS = {"ok": "ok", "failed": "failed", "in_flight": "being measured", "out_of_memory": "out of memory"}


def names_of(source, stage):
    """Configurations of a stage that were measured or planned, sorted."""
    return sorted({*configurations(source.stage(stage)), *source.planned(stage)}, key=configuration_order)


def passed(source, stage):
    """Configuration -> (points that passed, points asked for) of a stage. A kernel point counts once for each linear.

    A point that is not planned counts only if nothing of its configuration is.
    """
    there, good = {}, {}
    for row in source.stage(stage):
        there.setdefault(row.configuration, set()).add(row.M)
        if row.status == "ok":
            good.setdefault(row.configuration, set()).add((row.M, row.linear))
    counts = {}
    planned, names = source.planned(stage), names_of(source, stage)
    each = {model: linears_of(source, model) if stage == "kernel" else 1 for model in {name.model for name in names}}
    for name in names:
        Ms = planned.get(name) or there.get(name, set())
        counts[name] = sum(M in Ms for M, _ in good.get(name, ())), len(Ms) * each[name.model]
    return counts


def check_blocks(source):
    """A table of passed/asked for, for every dtype, backend and sparsity of every stage."""
    blocks = []
    for stage in STAGES_CHECKED:
        counts = passed(source, stage)
        if not counts and stage == "quality":
            continue
        if not counts:
            blocks.append(say("{stage}: nothing measured.", stage=stage))
            continue
        groups = {}
        for name in counts:
            groups.setdefault(name[:2], []).append(name)
        totals = [(group, add(counts[name] for name in names)) for group, names in groups.items()]
        summary = [f"{' '.join(group)} {ratio(total)}" for group, total in totals]
        total = ratio(add(counts.values()))
        blocks.append(say("{stage}: {summary}; total {total}", stage=stage, summary=summary, total=total))
        blocks += grid(source, stage, counts) or [BY_LINEAR] * (stage == "kernel")
        columns = list(dict.fromkeys(name.column for name in counts))
        rows = []
        for group, total in totals:
            cells = {name.column: ratio(counts[name]) for name in groups[group]}
            rows.append((" ".join(group), *(cells.get(column) for column in columns), ratio(total)))
        blocks.append(Table(f"passed_{stage}", (stage, *columns, "total"), rows, "l"))
    return blocks


def grid(source, stage, counts):
    """A sentence with the factors of a stage's points, if they are all M of all configurations of all types."""
    there = {}
    for row in source.stage(stage):
        there.setdefault(row.configuration, set()).add(row.M)
    planned = source.planned(stage)
    asked = {name: planned.get(name) or there.get(name, set()) for name in counts}
    Ms = set().union(*asked.values())
    types = {name[:2] for name in counts}
    columns = {name.column for name in counts}
    if any(mine != Ms for mine in asked.values()) or len(counts) != len(types) * len(columns):
        return []
    factors = {"M": len(Ms), "columns": len(columns), "types": len(types), "n": len(Ms) * len(counts)}
    linears = {linears_of(source, model) for model in {name.model for name in counts}}
    if stage == "kernel" and len(linears) == 1 and linears != {1}:
        each = linears.pop()
        return [
            say(
                "{M} M × {columns} backends and patterns × {types} models and types = {n} points, "
                "× {each} linears = {all}.",
                each=each,
                all=each * factors["n"],
                **factors,
            )
        ]
    return [say("{M} M × {columns} backends and patterns × {types} models and types = {n} points.", **factors)]


def by_type(source):
    """(type, stage) -> (passed, asked for), see `passed`."""
    counts = {}
    for stage in STAGES_CHECKED:
        for name, pair in passed(source, stage).items():
            counts[name.dtype, stage] = add([counts.get((name.dtype, stage), (0, 0)), pair])
    return counts


def add(pairs):
    """Sum of (passed, asked for) pairs."""
    pairs = list(pairs)
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def ratio(pair):
    """passed/asked for."""
    return f"{pair[0]}/{pair[1]}"


def problem_blocks(source):
    """Tables of what is missing, failed (with log), in flight, out of memory, unsupported, refused or not gathered."""
    blocks = []
    titles = {
        "failed": say("Failed:"),
        "in_flight": say("Being measured:"),
        "out_of_memory": say("Out of memory:"),
    }
    for status, title in titles.items():
        rows = [row for row in source.rows if row.status == status]
        if rows:
            cells = [
                (row.stage, "/".join(row.configuration), str(row.M), row.linear, reason_of(row), row.log)
                for row in sorted(
                    rows, key=lambda row: (STAGES.index(row.stage), configuration_order(row.configuration), row.M)
                )
            ]
            headers = ("stage", "configuration", "M", "linear", "reason", "log")
            blocks += [title, Table(status, headers, cells, "llrlll")]
    missing = missing_points(source)
    if missing:
        cells = [(stage, "/".join(name), ", ".join(map(str, Ms))) for stage, name, Ms in missing]
        blocks += [say("Not measured:"), Table("missing", ("stage", "configuration", "M"), cells, "lll")]
    if source.plan and source.plan.left_out:
        sentences = [f"{item['what']}: {item['reason']}" for item in source.plan.left_out]
        blocks += [say("Left out, because this hardware cannot run it:"), Bullets(sentences)]
    if source.refused:
        blocks += [
            say("Refused: of a file nothing is in this report, of a row or point its figures are not:"),
            Bullets(source.refused),
        ]
    if source.ungathered:
        blocks += [say("Points that are in no CSV yet:"), Bullets(source.ungathered)]
    if not blocks:
        blocks = [say("Nothing failed, ran out of memory, or was refused.")]
    if source.plan is None and any(source.announced.values()):
        blocks.append(
            say(
                "What was asked for is not recorded: it is taken to be what kernel files announce, and each M of a "
                "stage for all configurations of a model."
            )
        )
    elif source.plan is None:
        blocks.append(say("What was asked for is not recorded in this source; only what is there is counted."))
    return blocks


def reason_of(row):
    """Why a point has no figures, or since when it has been measured."""
    return say("since {utc}", utc=row.utc) if row.status == "in_flight" else row.reason


def missing_points(source):
    """(stage, configuration, [M]) of points that were asked for and have neither a result nor a failure."""
    missing = []
    for stage in STAGES:
        there = {(row.configuration, row.M) for row in source.stage(stage)}
        for name, asked in sorted(source.planned(stage).items(), key=lambda item: configuration_order(item[0])):
            Ms = [M for M in sorted(asked) if (name, M) not in there]
            if Ms:
                missing.append((stage, name, Ms))
    return missing
