"""Sections about the run: tasks, models and checkpoints, result files, provenance."""

import re
from collections import Counter
from pathlib import Path

from slidesparse.errors import HardwareError
from slidesparse.machine import families, naming
from slidesparse.plan.backends import STAGES
from slidesparse.report.document.model import NONE, Bullets, Table, fixed, say, whole
from slidesparse.report.sources.rows import Provenance, configuration_order
from slidesparse.report.tables.tasks import NAMES

ISO = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")

STATUS = ("success", "failed", "skipped", "missing")


def provenance_labels(sources):
    """(root, provenance) -> P1, P2, … for all that was measured, in a fixed order."""
    provenances = {(source.root, row.provenance) for source in sources for row in source.rows if row.measured}
    order = [source.root for source in sources]
    ranked = sorted(provenances, key=lambda item: (order.index(item[0]), item[1]))
    return {item: f"P{number}" for number, item in enumerate(ranked, start=1)}


def dates(source):
    """First and last ISO time in a source, or None."""
    known = sorted(time for time in {row.utc for row in source.rows} | set(source.dates) if ISO.match(time))
    return (known[0], known[-1]) if known else None


def span_of_times(sources):
    """A sentence with the first and last time in sources, and of which stages no time is recorded; None without times.

    A task table with a time covers all stages of its source.
    """
    spans = [span for source in sources if (span := dates(source))]
    if not spans:
        return None
    ends = {"first": min(span[0] for span in spans), "last": max(span[1] for span in spans)}
    rows = [row for source in sources if not source.dates for row in source.rows if row.measured]
    untimed = []
    for stage in STAGES:
        times = [bool(row.utc) for row in rows if row.stage == stage]
        if not all(times):
            untimed.append(say("some of {stage}", stage=stage) if any(times) else stage)
    if untimed:
        return say(
            "Measured: {first} to {last}, without {stages}, whose times are not recorded", stages=untimed, **ends
        )
    return say("Measured: {first} to {last}", **ends)


def architecture_name(key):
    """NVIDIA's name of the architecture of a hardware key, or None for a CPU and an unknown one."""
    try:
        known = families.family(naming.parse(key).cc)
    except HardwareError:
        return None
    return known and known.architecture


def architecture(key):
    """A sentence on the architecture and compute capability of a hardware key, or None if they have no name."""
    name = architecture_name(key)
    if name is None:
        return None
    capability = fixed(naming.parse(key).cc / 10, 1)
    return say("Architecture: {name}, compute capability {cc}", name=name, cc=capability)


def task_blocks(source):
    """A table of tasks with status and duration, and their totals."""
    if not source.tasks:
        return [say("No task table: durations of tasks are not recorded in this source.")]
    rows = [
        (f"Task {row['task']}", row["status"], fixed(row["seconds"], 1), items(row), row["note"])
        for row in source.tasks
    ]
    count = Counter(row["status"] for row in source.tasks)
    known = [row["seconds"] for row in source.tasks if row["seconds"] is not None]
    unknown = sum(row["seconds"] is None and row["status"] in ("success", "failed") for row in source.tasks)
    words = [say("{n} " + word, n=count[word]) for word in STATUS if count[word] or word in ("success", "failed")]
    values = {"words": words, "seconds": fixed(sum(known), 1), "hours": fixed(sum(known) / 3600, 2)}
    total = say("{words}; total {seconds} s ({hours} h).", **values)
    if unknown:
        total = say(
            "{words}; total {seconds} s ({hours} h), without {n} tasks of unknown duration.", **values, n=unknown
        )
    log = [say("Log of the run, by its status file: {log}", log=f"`{source.log}`")] if source.log else []
    return [Table("tasks", ("task", "status", "duration (s)", "items", "note"), rows, "llrrl"), total, *log]


def items(row):
    """`ok/expected` of a task, and the number that failed."""
    if row["items_expected"] is None:
        return NONE
    passed = f"{row['items_ok']}/{row['items_expected']}"
    return say("{passed} ({n} failed)", passed=passed, n=row["items_failed"]) if row["items_failed"] else passed


def model_blocks(source):
    """Tables of base models, and of what quantising, pruning and sliding changed."""
    blocks = counts_of_models(source)
    if not source.models and not source.checkpoints:
        return [*blocks, say("This source holds no manifests of models or checkpoints.")]
    if source.models:
        rows = [
            (item["model"], origin(item.get("source")), whole(len(files(item))), whole(total_bytes(item)))
            for item in source.models
        ]
        blocks.append(Table("models", ("base model", "source", "files", "bytes"), rows, "ll"))
    if source.checkpoints:
        order = sorted(
            source.checkpoints, key=lambda c: configuration_order((c["model"], c["dtype"], "", c["sparsity"]))
        )
        headers = ("checkpoint", "weights", "zeros before", "changed by pruning", "changed (%)", "bytes")
        blocks.append(Table("checkpoints", headers, [checkpoint_row(item) for item in order], "l"))
        blocks += pruned_by_position(source)
    return blocks


def pruned_by_position(source):
    """A list with a sentence on models without latent weights that were pruned; empty if there are none."""
    names = {item["model"] for item in source.checkpoints if by_position(item.get("layers"))}
    told = say(
        "{names}: the weights are stored as -1, 0 and 1, so pruning goes by position and not by magnitude.",
        names=", ".join(sorted(names)),
    )
    return [told] if names else []


def by_position(layers):
    """Whether a manifest's list of layers says that one was pruned by position."""
    found = layers if isinstance(layers, list) else []
    return any(isinstance(layer, dict) and layer.get("pruned_by") == "position" for layer in found)


def counts_of_models(source):
    """A sentence with the number of base models and of models in a pattern: those with manifests or in an engine.

    A base model is one that was fetched or generated, or a dense checkpoint. The published run kept no manifests. Its
    first task fetched the BF16 model and made the dense checkpoints from it.
    """
    made = {(item["model"], item["dtype"], item["sparsity"]) for item in source.checkpoints}
    run = {row.configuration for stage in ("prefill", "decode") for row in source.stage(stage)}
    made |= {(name.weights, name.dtype, name.sparsity) for name in run}
    base = sorted({item["model"] for item in source.models} | {f"{m} {dtype}" for m, dtype, s in made if s == "dense"})
    if not source.models and any(task["task"] == NAMES[0] and task["status"] == "success" for task in source.tasks):
        base = sorted({*base, *(f"{m} BF16" for m, _, s in made if s == "dense")})
    slid = [name for name in made if name[2] != "dense"]
    if not made and not base:
        return []
    names = ", ".join(base) or NONE
    return [say("Base models: {n} ({names}). Models in a pattern: {m}.", n=len(base), names=names, m=len(slid))]


def checkpoint_row(item):
    """The row of one checkpoint: number of weights, of zeros before pruning, and of weights that pruning changed."""
    weights, changed = item.get("weights"), item.get("changed")
    share = fixed(100 * changed / weights, 3) if weights and changed is not None else NONE
    name = f"{item['model']}/{item['dtype']}/{item['sparsity']}"
    return name, whole(weights), whole(item.get("zeros_before")), whole(changed), share, whole(total_bytes(item))


def origin(source):
    """A text on where a base model came from."""
    source = source or {}
    if source.get("kind") == "hub":
        return say("{name} at {revision}", name=source.get("repository"), revision=source.get("revision"))
    if source.get("kind") == "generated":
        return say("generated from seed {seed}", seed=source.get("seed"))
    return say("local directory {path}", path=source.get("path")) if source.get("kind") == "local" else NONE


def files(manifest):
    """Files of a manifest: name -> {size, sha256}."""
    return manifest.get("files") or {}


def total_bytes(manifest):
    """Size of all files of a manifest."""
    return sum(file.get("size", 0) for file in files(manifest).values())


def file_blocks(source):
    """A table of all files that the figures come from."""
    root = Path(source.root)
    rows = [(f"`{Path(path).relative_to(root).as_posix()}`", whole(count)) for path, count in sorted(source.files)]
    if not rows:
        return [say("None.")]
    return [Table("files", (say("file below {root}", root=f"`{source.root}`"), "rows"), rows, "l")]


def provenance_blocks(sources, labels):
    """A line for each distinct provenance, with what was measured under it, and its kernels' clocks if recorded."""
    under = {}
    for source in sources:
        for row in source.rows:
            if row.measured:
                under.setdefault((source.root, row.provenance), []).append(row)
    rows = []
    for (root, provenance), label in labels.items():
        mine = under[root, provenance]
        stages = [stage for stage in STAGES if any(row.stage == stage for row in mine)]
        points = {(row.stage, row.configuration, row.M) for row in mine}
        times = sorted(row.utc for row in mine if row.utc)
        known = [value or say("not recorded") for value in provenance]
        first, last = (times[0], times[-1]) if times else (say("not recorded"), say("not recorded"))
        clocks = span_of([row for row in mine if row.stage == "kernel"], "clock_mhz", 0)  # engines: after the load
        power = span_of(mine, "power_limit_w", 0)
        rows.append((label, root, ", ".join(stages), *known, clocks, power, first, last, whole(len(points))))
    headers = ("label", "source", "stages", "hardware", "driver", "torch", "vLLM", "protocol", "commit", "uncommitted")
    headers += ("GPU, hashed", "clock of kernels (MHz)", "power limit (W)", "first point", "last point", "points")
    return [Table("provenance", headers, rows, "l" * 15), Bullets(differences(labels))]


def span_of(rows, column, digits):
    """A text with the smallest and largest value of a column."""
    values = sorted(row.values[column] for row in rows if row.values.get(column) is not None)
    if not values:
        return say("not recorded")
    low, high = fixed(values[0], digits), fixed(values[-1], digits)
    return low if low == high else say("{low} to {high}", low=low, high=high)


def differences(labels):
    """A sentence for every recorded property that differs within one source."""
    sentences = []
    for root in dict.fromkeys(root for root, _ in labels):
        for name in Provenance._fields:
            values = sorted({getattr(provenance, name) for place, provenance in labels if place == root} - {""})
            if len(values) > 1:
                sentences.append(
                    say(
                        "{root} holds points of different {name}: {values}.", root=f"`{root}`", name=name, values=values
                    )
                )
    return sentences
