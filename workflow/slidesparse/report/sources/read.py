"""Reads all of one hardware key below one root: files in our layout, in the published one, and tidy tables."""

from collections import Counter
from pathlib import Path

from slidesparse.plan.backends import STAGES
from slidesparse.report.sources import measured, names, places, published, scores, shapes, tidy
from slidesparse.report.sources.rows import LINEARS, Source
from slidesparse.report.tables.gather import hardware_directories

APART = 1e-3
"""Largest relative difference of one figure in two layouts that is not named."""


def read_source(root, hardware, ours=None):
    """The Source of one root. It names the refused files and rows, of which nothing is used.

    ours: what `measured.read` has made of this root already.
    """
    source = ours or Source(str(root))
    if ours is None:
        measured.read(source, hardware)
    measured.read_task_table(source, hardware)
    scores.read(source, hardware)
    published.read(source, hardware)
    tidy.read(source, hardware)
    source.refused += apart_by_caches(source)
    shapes.leave_out(source)
    published.count_linears(source)
    published.fill_dense_K(source.rows)
    source.refused += published.outputs_apart(source)
    complete(source)
    source.refused += repeats(source, hardware)
    published.read_status(source, hardware)
    if source.model_names():
        measured.read_manifests(source)
    if source.rows or source.refused:
        source.refused += [*places.misplaced(root), *places.strays(source, hardware)]
    source.refused = list(map(names.printable, source.refused))
    return source


def complete(source):
    """Add to what others' files show as asked for: each M of a stage for all configurations of the model."""
    for asked in source.announced.values():
        swept = {}
        for name, Ms in asked.items():
            swept.setdefault(name.model, set()).update(Ms)
        for name, Ms in asked.items():
            Ms.update(swept[name.model])


def apart_by_caches(source):
    """Leave out kernels with hot caches of a model and type that also has cold ones; returns sentences on them.

    Latencies of the two kinds are never set side by side.
    """
    kinds = {}
    for row in source.stage("kernel"):
        if row.values.get("latency_us") is not None:
            kinds.setdefault(row.configuration[:2], set()).add(row.values.get("caches") or "cold")
    mixed = {of for of, found in kinds.items() if len(found) > 1}

    def left_out(row):
        return row.stage == "kernel" and row.values.get("caches") == "hot" and row.configuration[:2] in mixed

    out = list(filter(left_out, source.rows))
    counts = Counter((source.layouts[row.point], *row.configuration[:2]) for row in out)
    for row in out:  # nobody misses what is left out
        source.announced.get("kernel", {}).pop(row.configuration, None)
    source.rows = [row for row in source.rows if not left_out(row)]
    return [
        f"{source.root}: {n} kernels of {model} {dtype} in {layout} had hot caches, and others of them cold ones: they"
        " are left out; give them as a source of their own"
        for (layout, model, dtype), n in sorted(counts.items())
    ]


def repeats(source, hardware):
    """Sentences on points that two layouts have: how many, which are used, and how far they differ."""
    used = {}
    for row in source.rows:
        used[(*row.point, row.linear)] = row
    pairs = {}
    for layout, row in source.repeated:
        pairs.setdefault((source.layouts[row.point], layout), []).append(row)
    sentences = []
    for (first, second), rows in pairs.items():
        points = {row.point for row in rows}
        counts = [f"{n} {stage}" for stage in STAGES if (n := sum(point[0] == stage for point in points))]
        sentences.append(
            f"{source.root} has {' and '.join(counts)} points of {hardware} twice: in {first}, which is used,"
            f" and in {second}"
        )
        apart = []
        for row in rows:
            mine = used.get((*row.point, row.linear))
            here, there = (figure(mine), figure(row)) if mine and comparable(row) else (None, None)
            if here and there and abs(there / here - 1) > APART:
                apart.append((abs(there / here - 1), row, here, there))
        if apart:
            _, row, here, there = max(apart, key=lambda item: item[0])
            unit = "µs" if row.stage == "kernel" else "tokens/s"
            where = f"{row.stage} {'/'.join(row.configuration)}{f' {row.linear}' if row.linear else ''} M={row.M}"
            sentences.append(
                f"{source.root}: of the figures of these points, {len(apart)} differ in {second}, most {where}:"
                f" {there:,.7g} instead of {here:,.7g} {unit}"
            )
    return sentences


def comparable(row):
    """Whether a linear of a kernel row has the same name in every layout."""
    return row.stage != "kernel" or row.linear in LINEARS


def figure(row):
    """The figure of a row that layouts have in common, tokens/s or µs with hot caches; None if it has none."""
    if row.status != "ok":
        return None
    hot = row.values.get("caches") == "hot"
    return row.values.get("tokens_per_s" if row.stage != "kernel" else "latency_us" if hot else "latency_hot_us")


def hardware_keys(roots):
    """Hardware keys of which any root has something, sorted."""
    keys = set()
    for root in roots:
        keys |= {*hardware_directories(root), *published.hardware_keys(Path(root)), *tidy.hardware_keys(root)}
    return sorted(keys)
