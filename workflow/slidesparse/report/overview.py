"""Sections about the run: tasks, models and checkpoints, result files, provenance."""

from collections import Counter
from pathlib import Path

from slidesparse.records import STAGES
from slidesparse.report.markdown import NONE, bullets, fixed, table, whole
from slidesparse.report.rows import Provenance, configuration_order

STATUS = ("success", "failed", "skipped", "missing")


def provenance_labels(sources):
    """(root, provenance) -> P1, P2, … of everything that was measured, in a fixed order."""
    found = {(source.root, row.provenance) for source in sources for row in source.rows if row.status != "failed"}
    order = [source.root for source in sources]
    ranked = sorted(found, key=lambda item: (order.index(item[0]), item[1]))
    return {item: f"P{number}" for number, item in enumerate(ranked, start=1)}


def dates(source):
    """First and last ISO time in a source, or None."""
    known = sorted({row.utc for row in source.rows if row.utc} | set(source.dates))
    return (known[0], known[-1]) if known else None


def task_section(source):
    """Overview of tasks with status and duration, and their totals."""
    if not source.tasks:
        return ["No task table: durations of tasks are not recorded in this source.", ""]
    rows = [
        (f"Task {row['task']}", row["status"], fixed(row["seconds"], 1), items(row), row["note"])
        for row in source.tasks
    ]
    count = Counter(row["status"] for row in source.tasks)
    known = [row["seconds"] for row in source.tasks if row["seconds"] is not None]
    unknown = sum(row["seconds"] is None and row["status"] in ("success", "failed") for row in source.tasks)
    words = [f"{count[word]} {word}" for word in STATUS if count[word] or word in ("success", "failed")]
    total = f"total {fixed(sum(known), 1)} s ({fixed(sum(known) / 3600, 2)} h)"
    if unknown:
        total += f", without {unknown} task{'s' * (unknown > 1)} of unknown duration"
    lines = table(("task", "status", "duration (s)", "items", "note"), rows, "llrrl")
    return [*lines, f"{', '.join(words)}; {total}.", ""]


def items(row):
    """`ok/expected` of a task, with what failed."""
    if row["items_expected"] is None:
        return NONE
    failed = f" ({row['items_failed']} failed)" if row["items_failed"] else ""
    return f"{row['items_ok']}/{row['items_expected']}{failed}"


def model_section(source):
    """Base models, and what quantising, pruning and sliding changed."""
    if not source.models and not source.checkpoints:
        return ["This source holds no manifests of models or checkpoints.", ""]
    lines = []
    if source.models:
        rows = [
            (item["model"], origin(item.get("source")), whole(len(files(item))), whole(total_bytes(item)))
            for item in source.models
        ]
        lines += table(("base model", "source", "files", "bytes"), rows, "ll")
    if source.checkpoints:
        order = sorted(
            source.checkpoints, key=lambda c: configuration_order((c["model"], c["dtype"], "", c["sparsity"]))
        )
        headers = ("checkpoint", "weights", "zeros before", "changed by pruning", "changed (%)", "bytes")
        lines += table(headers, [checkpoint_row(item) for item in order], "l")
    return lines


def checkpoint_row(item):
    """One checkpoint: weights, zeros that were there, weights that pruning changed."""
    weights, changed = item.get("weights"), item.get("changed")
    share = fixed(100 * changed / weights, 3) if weights and changed is not None else NONE
    name = f"{item['model']}/{item['dtype']}/{item['sparsity']}"
    return name, whole(weights), whole(item.get("zeros_before")), whole(changed), share, whole(total_bytes(item))


def origin(source):
    """Where a base model came from, in words."""
    source = source or {}
    if source.get("kind") == "hub":
        return f"{source.get('repository')} at {source.get('revision')}"
    if source.get("kind") == "generated":
        return f"generated from seed {source.get('seed')}"
    return f"local directory {source.get('path')}" if source.get("kind") == "local" else NONE


def files(manifest):
    """Files of a manifest: name -> {size, sha256}."""
    return manifest.get("files") or {}


def total_bytes(manifest):
    """Size of all files of a manifest."""
    return sum(file.get("size", 0) for file in files(manifest).values())


def file_section(source):
    """Every file that the figures come from."""
    root = Path(source.root)
    rows = [(f"`{Path(path).relative_to(root).as_posix()}`", str(count)) for path, count in sorted(source.files)]
    return table((f"file below `{source.root}`", "rows"), rows, "l") if rows else ["None.", ""]


def provenance_section(sources, labels):
    """One line for every distinct provenance, with what was measured under it."""
    rows = []
    for (root, provenance), label in labels.items():
        under = [
            row
            for source in sources
            if source.root == root
            for row in source.rows
            if row.status != "failed" and row.provenance == provenance
        ]
        stages = [stage for stage in STAGES if any(row.stage == stage for row in under)]
        points = {(row.stage, row.configuration, row.M) for row in under}
        times = sorted(row.utc for row in under if row.utc)
        known = [value or "not recorded" for value in provenance]
        first, last = (times[0], times[-1]) if times else ("not recorded", "not recorded")
        rows.append((label, root, ", ".join(stages), *known, first, last, str(len(points))))
    headers = ("label", "source", "stages", "hardware", "driver", "torch", "vLLM", "protocol", "commit", "uncommitted")
    lines = table((*headers, "first point", "last point", "points"), rows, "l" * 12)
    return lines + bullets(differences(labels))


def differences(labels):
    """A sentence for every recorded property that differs within one source."""
    sentences = []
    for root in dict.fromkeys(root for root, _ in labels):
        for name in Provenance._fields:
            values = sorted({getattr(provenance, name) for place, provenance in labels if place == root} - {""})
            if len(values) > 1:
                sentences.append(f"`{root}` holds points of different {name}: {', '.join(values)}.")
    return sentences
