"""A screen of which points of a plan are done, missing, in flight or failed, and how long they took; from files alone.

The files are plan.json, the points and records of failures beside it, and TSV files of how long other jobs took.
What points need and could not be made is named as well: a download, a conversion, a search, a library.
"""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median

from slidesparse.errors import RecordError, SlideSparseError
from slidesparse.files import everything_below, inside, is_sealed, printable, read_json
from slidesparse.plan import prompts
from slidesparse.plan.backends import deciding
from slidesparse.plan.key import Configuration
from slidesparse.points import records
from slidesparse.points.plan import what
from slidesparse.points.request import expected_digests, variant_paths
from slidesparse.program import sentence

SHOWN = 8
"""Most failures, and most configurations with missing points, that a screen names."""

WIDTH = 20
"""Characters of a progress bar."""

BUILDS = "resources/build"
"""The folder of compiled libraries (workflow/rules/build.smk)."""

PLAN_LIMIT, POINTS_LIMIT = 8 << 20, 200_000
"""Bytes and points of the largest plan that is read."""


@dataclass
class Stage:
    """The planned points of one stage, by their state; paths are in the order of the plan."""

    planned: list = field(default_factory=list)
    done: dict = field(default_factory=dict)
    """path: seconds that the point took."""
    no_memory: int = 0
    failed: dict = field(default_factory=dict)
    """path: the record of its failure."""
    flying: dict = field(default_factory=dict)
    """path: the record of failure that is valid once the measuring program has ended."""

    @property
    def missing(self):
        """Paths of the points that have not been begun."""
        begun = self.done | self.failed | self.flying
        return [path for path in self.planned if path not in begun]

    @property
    def left_s(self):
        """Estimated seconds for the points that are left, at the median of those done; None if none is done."""
        left = len(self.planned) - len(self.done)
        return left * median(self.done.values()) if self.done else None if left else 0.0


def plans(results, hardware=None):
    """{hardware key: the content of its plan.json, or the RecordError that says why it cannot be read}.

    Raises RecordError if no plan can be read.
    """
    contents = {}
    for path in sorted(Path(results).glob(f"{hardware or '*'}/plan.json")):
        try:
            contents[path.parent.name] = _plan(path)
        except RecordError as error:
            contents[path.parent.name] = error
    if not contents:
        raise RecordError(f"{Path(results, hardware or '*', 'plan.json')} is not there: nothing has been run yet")
    if all(isinstance(plan, RecordError) for plan in contents.values()):
        raise next(iter(contents.values()))
    return contents


def _plan(path):
    plan = read_json(path, RecordError, PLAN_LIMIT)
    try:
        valid = all(isinstance(M, int) for names in plan["points"].values() for Ms in names.values() for M in Ms)
        valid &= sum(len(Ms) for names in plan["points"].values() for Ms in names.values()) <= POINTS_LIMIT
        valid &= all(isinstance(each, dict) for each in plan.get("parameters", {}).values())
        [Configuration.of(name) for names in plan["points"].values() for name in names]
        [(what(item), item["reason"]) for item in plan.get("left_out", [])]
    except (KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise RecordError(f"{path} is no plan of points by stage and configuration: the next run writes it anew")
    return plan


def read(results, key, plan, exact=True):
    """{stage: Stage} of one hardware key.

    exact: whether a point must also answer today's table and checkpoint. `follow`, which looks often, leaves this out.
    """
    stages = {}
    for stage, configurations in plan["points"].items():
        state = stages[stage] = Stage()
        parameters = plan.get("parameters", {}).get(stage)
        parameters = parameters and deciding(stage, parameters)
        for name, Ms in configurations.items():
            keys = [Configuration.of(name).key(key, stage, M) for M in Ms]
            paths = {inside(results, *each[:6], each.file): each for each in keys}
            digests = _digests(paths, parameters) if exact and parameters else {}
            for path, each in paths.items():
                state.planned.append(path)
                asked = parameters and prompts.measuring(stage, parameters, each.prompt)
                _look(path, state, asked, digests.get(path))
    return stages


@dataclass
class Tasks:
    """What points need and is being made or could not be made; {name: its record}."""

    flying: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)


def tasks(results, key, plan):
    """The Tasks of a plan. A record that is older than what it is about counts for nothing."""
    made, names = Tasks(), _needed(plan)
    for path in sorted(_task_records(results, key)):
        words = _task(path)
        if names is not None and words[1:2] and words[1].split("/")[0] not in names:
            continue
        with suppress(OSError):
            if any(other.stat().st_mtime_ns > path.stat().st_mtime_ns for other in _outputs(path)):
                continue
            try:
                failure = read_json(path, RecordError)
                flying = records.in_flight(failure)
            except (RecordError, AttributeError, TypeError):
                failure, flying = {"reason": f"{path} is damaged"}, False
            (made.flying if flying else made.failed)[printable(" ".join(words))] = failure
    return made


def _needed(plan):
    """Names of the models that a plan needs, with those whose shapes they have."""
    named = [*plan["points"].values(), plan.get("tasks") or {}]
    models = {prompts.apart(name.split("/")[0])[0] for stage in named for name in stage}
    shapes = plan.get("shapes", {})
    return models | ({shapes[model] for model in models & shapes.keys()} if isinstance(shapes, dict) else set())


def _task_records(results, key):
    for folder, pattern in (
        (Path(results, "models"), "*/*.failed"),
        (Path(results, "texts"), "*.failed"),
        (Path(results, "checkpoints"), "*/*/*.failed"),
        (Path(results, key, "tuning"), "*/*/*/*.failed"),
        (Path(results, key, "quality"), "*/*/*/*/tasks/*.failed"),
        (Path(BUILDS), "*/*.failed"),
    ):
        yield from folder.glob(pattern)


def _task(path):
    """What the record at `path` is about: [kind, its name]."""
    *folders, last = path.with_suffix("").parts
    if folders[-1] == "tasks":
        return ["task", "/".join([*folders[-5:-1], last])]
    if "checkpoints" in folders[-3:]:
        return ["conversion", "/".join([*folders[-2:], last])]
    if "models" in folders[-2:]:
        return ["weights", folders[-1]]
    if "tuning" in folders[-4:]:
        return ["choice of kernels" if folders[-1] == "auto" else "search", "/".join([*folders[-3:], last])]
    return [f"library {folders[-1]}/{last}"]


def _outputs(record):
    """The files that the record of a failure is about, as far as they are there."""
    return [path for path in map(record.with_suffix, (".json", ".so")) if os.path.exists(path)]


def _digests(paths, parameters):
    """{path: digest that a point must have today, or None if it is not known}.

    None has it if a file that points are made from is damaged or was changed: a plan makes them again, too.
    """
    there = [path for path in paths if os.path.exists(path)]
    try:
        return expected_digests(there, parameters)
    except SlideSparseError:
        return dict.fromkeys(there, "")


def _look(path, state, parameters, digest):
    """Note in `state` whether the point at `path` is done, failed or in flight; a damaged point counts as failed.

    A point of other `parameters` or another `digest` (None is not checked) counts as missing, unless its replacement is
    in flight or has failed. A point of stock vLLM takes the state of its first variant that is in flight or has failed.
    """
    variants = variant_paths(path)
    for place in (path, *variants.values()):
        with suppress(OSError):
            if _of_point(place, place.stat().st_mtime_ns)[0] is None:
                state.failed[path] = {"reason": f"{place} is damaged; delete it and it is measured again"}
                return
    with suppress(OSError):
        seconds, status, request = _of_point(path, path.stat().st_mtime_ns)
        if parameters in (None, request.get("parameters")) and digest in (None, request.get("digest")):
            state.done[path] = seconds
            state.no_memory += status == "out_of_memory"
            return
    for name, place in {"": path, **variants}.items():
        try:
            if not os.path.exists(records.failure_of(place)):
                continue
            failure = read_json(records.failure_of(place), RecordError)
            flying = records.in_flight(failure)
        except (RecordError, AttributeError, TypeError):
            failure, flying = {"reason": f"{records.failure_of(place)} is damaged"}, False
        said = failure | {"reason": f"{name}: {failure.get('reason')}"} if name else failure
        (state.flying if flying else state.failed)[path] = said
        return


@cache
def _of_point(path, changed):
    """(seconds, status, request) of the point at `path`, None for each if it is damaged.

    Cached until `changed`, its mtime.
    """
    try:
        point = read_json(path, RecordError)
        if not is_sealed(point):
            raise ValueError
        return records.plausible(point["run"]["seconds"]), str(point["status"]), dict(point["request"])
    except (RecordError, KeyError, TypeError, ValueError):
        return None, None, None


def screen(results="results", hardware=None):
    """The text of the screen, for one hardware key or for all that have a plan."""
    parts, planned = [], plans(results, hardware)
    for key, plan in planned.items():
        try:
            if isinstance(plan, RecordError):
                raise plan
            parts.append(_of_one(results, key, plan))
        except (RecordError, OSError) as error:
            if len(planned) == 1:
                raise
            parts.append([f"{printable(key)}: {sentence(error)}"])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _of_one(results, key, plan):
    stages, made = read(results, key, plan), tasks(results, key, plan)
    lines = [f"{printable(key)}: {_sum(stages)}"]
    for name, stage in stages.items():
        took = f"{duration(sum(stage.done.values()))} measured" if stage.done else "nothing measured"
        lines.append(f"  {printable(name):8}{_bar(stage)}  {took}{_to_go(stage)}")
    lines += _of_tasks(results, key, plan)
    lines += ["  " + printable(f"{what(item)} is left out: {item['reason']}") for item in plan.get("left_out", [])]
    missing = _grouped(path for stage in stages.values() for path in stage.missing)
    if missing:
        lines.append("missing:")
        lines += [f"  {name}: M={', '.join(Ms)}" for name, Ms in missing[:SHOWN]] + _more(missing)
    took = durations(results, key)
    if took:
        lines.append("tasks: " + ", ".join(f"{rule} {n} in {duration(s)}" for rule, (n, s) in took.items()))
    flying = made.flying | {
        point_name(path): failure for stage in stages.values() for path, failure in stage.flying.items()
    }
    failed = failures(stages, made)
    lines += [f"in flight: {name}, since {printable(failure.get('utc'))}" for name, failure in flying.items()]
    if failed:
        lines.append("failed:")
        lines += [f"  {name}: {_why(failure)}" for name, failure in [*failed.items()][:SHOWN]] + _more(failed)
    return lines


def _of_tasks(results, key, plan):
    """A line on the planned tasks of the harness, if there are any."""
    held = plan.get("tasks") or {}
    paths = [
        inside(results, key, "quality", *name.split("/"), "tasks", f"{task}.json")
        for name in held
        for task in held[name]
    ]
    there = sum(map(os.path.exists, paths))
    return [f"  tasks   {there}/{len(paths)} of the lm-evaluation-harness"] if paths else []


def failures(stages, made):
    """{name: record} of all that failed: first what points need, then points."""
    return made.failed | {
        point_name(path): failure for stage in stages.values() for path, failure in stage.failed.items()
    }


def _sum(stages):
    count = Counter()
    for stage in stages.values():
        count.update(
            planned=len(stage.planned), done=len(stage.done), failed=len(stage.failed), flying=len(stage.flying)
        )
        count.update({"without memory": stage.no_memory})
    missing = count["planned"] - count["done"] - count["failed"] - count["flying"]
    text = f"{count['done']} of {count['planned']} points are there"
    for number, kind in (
        (count["without memory"], "of them out of memory"),
        (count["flying"], "in flight"),
        (count["failed"], "failed"),
        (missing, "missing"),
    ):
        if number:
            text += f", {number} {kind}"
    return text


def _bar(stage):
    share = len(stage.done) * WIDTH // len(stage.planned) if stage.planned else WIDTH
    return f"[{'#' * share:.<{WIDTH}}] {len(stage.done)}/{len(stage.planned)}"


def _to_go(stage):
    return f", about {duration(stage.left_s)} to go" if stage.left_s else ""


def _more(items):
    return [f"  and {len(items) - SHOWN} more"] if len(items) > SHOWN else []


def point_name(path):
    """A point as text: its stage, configuration and M."""
    stage, *names = path.parts[-6:-1]
    return f"{stage} {'/'.join(names)} M={path.stem[1:]}"


def _why(failure):
    log = f" ({failure['log']})" if failure.get("log") else ""
    return printable(f"{failure.get('reason') or 'no reason was recorded'}{log}")


def _grouped(paths):
    """[(stage and configuration, [M, …])] of the points at these paths."""
    groups = {}
    for path in paths:
        name, _, M = point_name(path).partition(" M=")
        groups.setdefault(name, []).append(M)
    return list(groups.items())


def durations(results, key):
    """{rule: (number of its jobs, their seconds)} for one hardware key, without the rules that measure points."""
    sums = {}
    tables = _below(Path(results, key, "tuning"))
    files = [("choose_kernels" if path.parent.name == "auto" else "tune_backend", path) for path in tables]
    files += [(path.stem, path) for path in _below(Path(results, "tasks"))]
    for rule, path in files:
        seconds = records.duration_of(path)
        if seconds is not None:
            n, total = sums.get(rule, (0, 0.0))
            sums[rule] = (n + 1, total + seconds)
    return dict(sorted(sums.items()))


def _below(folder):
    """The TSV files below a folder; none where folders nest too deeply."""
    try:
        return [Path(path) for path in sorted(everything_below(folder)) if path.endswith(".tsv")]
    except (RecordError, OSError):
        return []


def duration(seconds):
    """Seconds as text: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
