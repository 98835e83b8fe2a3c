"""What a plan asks for, on one screen, before anything runs: points, jobs, hours, disk, and what is left out."""

import csv
import math
import re
from collections import Counter
from pathlib import Path

from slidesparse.errors import HardwareError, RecordError
from slidesparse.files import printable, read_text
from slidesparse.machine import naming
from slidesparse.models import bitnet
from slidesparse.models.shape import shape_of
from slidesparse.plan import layers, matrix, stock
from slidesparse.plan.backends import STAGES, TIMED
from slidesparse.plan.key import Key
from slidesparse.plan.table import Table
from slidesparse.points.status import read
from slidesparse.sparsity.patterns import Pattern

TASK = {"tune": 3, "prefill": 4, "decode": 5, "dense": 6, "sparse": 7, "high": 8}
"""What takes time on the device: the number of its task in tasks.csv. Quality, which takes little, has none."""

HIGH_SPARSITY = 10
"""Largest L of task 7."""


def plan(files, words, results="results"):
    """The screen of the configuration that Snakemake would make of the options --configfile and --config."""
    content, own = layers.configuration(files, words)
    table = Table(layers.validated(content, own), root=results)
    return screen(table, layers.overruled(own, table))


def screen(table, notes=()):
    """The text of the screen of a plan.table.Table. Reads files only."""
    sources = [table.root, *table.config["report"]["sources"]]
    rows = [("", *STAGES, "there", "searches", "jobs", "hours left", "")]
    rows += [_row(table, key, sources) for key in table.plans]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if i in (0, len(rows[0]) - 1) else text.rjust(width)
            for i, (text, width) in enumerate(columns)
        ).rstrip()
        for columns in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    lines += map(printable, [*table.notes(), *notes])
    return "\n".join([*lines, *_disk(table)]) + "\n"


def _row(table, key, sources):
    keys, variants = planned(table, key)
    stages = read(table.root, key, table.content(key))
    done = {path for stage in stages.values() for path in stage.done}
    timed = [each for each in keys if each.backend != stock.BACKEND and each.stage in TIMED]
    work = Counter(_kind(each) for each in timed if Path(each.path(table.root)) not in done)
    work += Counter(_kind(each) for each in variants if not Path(each.path(table.root)).exists())
    tables = [path for path in searched(table, key) if "/auto/" not in path]
    work["tune"] = sum(not Path(path).exists() for path in tables)
    counts = [str(sum(each.stage == stage for each in keys)) for stage in STAGES]
    made = jobs(table, key).total()
    return (printable(key), *counts, str(len(done)), str(len(tables)), str(made), *_hours(key, work, sources))


def planned(table, key):
    """(Keys of the points of one hardware key, Keys of the variants of stock vLLM among which some are chosen)."""
    keys = matrix.matrix(table.config, key)
    return keys, matrix.variants(keys)


def searched(table, key):
    """Paths of the tuning tables, and of the choices of `auto`, that the points of one hardware key need; sorted."""
    keys, _ = planned(table, key)
    found, wanted = set(), []
    for each in keys:
        _, _, tuning, peers = table.asked(each)
        wanted += filter(None, [tuning, *peers.values()])
    wanted += [table.asked(each.point)[2] for each in matrix.tasks(table.config, key)]
    while wanted:
        path = wanted.pop()
        if path in found:
            continue
        found.add(path)
        _, _, model, dtype, backend, sparsity = Path(path).with_suffix("").parts[-6:]
        if backend == "auto":
            wanted += filter(None, table.auto_backends(Key(key, "kernel", model, dtype, backend, sparsity, 1)).values())
    return sorted(found)


def jobs(table, key):
    """{rule: number of its jobs} for all that one hardware key asks for, if nothing is there yet."""
    keys, variants = planned(table, key)
    counts = Counter(f"measure_{each.stage}" for each in keys if each.backend != stock.BACKEND)
    counts["choose_stock"] = sum(each.backend == stock.BACKEND for each in keys)
    counts["measure_stock"] = len(variants)
    tables = searched(table, key)
    counts["choose_kernels"] = sum("/auto/" in path for path in tables)
    counts["tune_backend"] = len(tables) - counts["choose_kernels"]
    counts["gather_points"] = len(table.csvs(key))
    counts["score_task"] = len(tasks := matrix.tasks(table.config, key))
    counts["gather_tasks"] = len({each.configuration for each in tasks})
    counts["convert_checkpoint"] = len(checkpoints(table, [key]))
    counts["fetch_model"] = len({model for model, _, _ in checkpoints(table, [key])})
    shapes = {Path(path).parts[-4] for path in tables} | {each.model for each in keys if each.stage == "kernel"}
    counts["describe_model"] = len(shapes)
    counts |= {"write_report": 1, "write_comparison": 1, "all": 1}
    return +counts


def checkpoints(table, keys):
    """Sorted (model, dtype, sparsity) of the checkpoints that engines on these hardware keys load."""
    engines = [each for key in keys for each in planned(table, key)[0] if each.stage != "kernel"]
    engines += [each.point for key in keys for each in matrix.tasks(table.config, key)]
    return sorted({(each.model, each.dtype, each.sparsity) for each in engines})


def _kind(key):
    """What a point is timed by; see TASK."""
    if key.stage != "kernel":
        return key.stage
    if not key.configuration.sparse_kernel:
        return "dense"
    pattern = re.fullmatch(r"2_(\d+)", key.sparsity)
    return "sparse" if pattern and int(pattern[1]) <= HIGH_SPARSITY else "high"


def _hours(key, work, sources):
    """(hours on the device that the `work` takes, at whose speed), as text."""
    if not work.total():
        return "none", "all is there"
    nearest = sorted(_kept(sources), key=lambda held: _distance(key, held[1]))
    for path, kept, seconds in nearest:
        if naming.parse(key).processor == naming.parse(kept).processor and all(
            seconds.get(TASK[kind]) for kind in +work
        ):
            hours = sum(count * seconds[TASK[kind]] for kind, count in work.items()) / 3600
            speed = f"at {naming.parse(kept).gpu}'s speed, from {printable(path)}"
            return f"{hours:.1f}" if hours >= 0.1 else f"{hours:.2f}", speed
    return "unknown", "no tasks.csv of such hardware is kept"


def _distance(key, kept):
    """How far the hardware of kept times is from that of a key: a sortable value."""
    here, there = naming.parse(key), naming.parse(kept)
    return key != kept, here.gpu != there.gpu, abs(here.cc - there.cc), kept


def _kept(sources):
    """(path, hardware key, {number of a task: seconds of one of its items}) of every tasks.csv in the sources."""
    for path in (path for root in dict.fromkeys(map(str, sources)) for path in sorted(Path(root).glob("*/tasks.csv"))):
        try:
            naming.parse(path.parent.name)
            rows = [*csv.DictReader(read_text(path).splitlines())]
            yield str(path), path.parent.name, dict(filter(None, map(_seconds, rows)))
        except (HardwareError, RecordError, OSError, ValueError, KeyError, TypeError, csv.Error):
            continue  # somebody else's, or damaged: only an estimate is lost


def _seconds(row):
    """(number of a task, seconds of one of its items), or None if they were not recorded."""
    untold = re.search(r"duration of (\d+) of \d+ not recorded", row["note"] or "")
    items = int(row["items_ok"] or 0) - int(untold[1] if untold else 0)
    seconds = float(row["seconds"] or 0)
    return (int(row["task"].split()[0]), seconds / items) if items > 0 and 0 < seconds < math.inf else None


def _disk(table):
    """Lines on the weights that all hardware keys share."""
    made = checkpoints(table, table.plans)
    models = sorted({model for model, _, _ in made})
    if not models:
        return ["disk: no weights are needed"]
    registry = matrix.entries(table.config)
    own = {model: 0 if registry[model]["source"] == "local" else weights(registry, model) for model in models}
    said = [f"{name} {_bytes(size) if size else 'where it is'}" for name, size in own.items()]
    converted = sum(weights(registry, model, sparsity) for model, _, sparsity in made)
    return [
        f"disk: models {', '.join(said)}; {len(made)} checkpoints {_bytes(converted)};"
        f" together {_bytes(sum(own.values()) + converted)}, for all hardware"
    ]


def weights(registry, model, sparsity=None):
    """Bytes of a model's weights: in BF16, or of a checkpoint, whose linears have a byte for each entry."""
    total = 0
    for _, shape, kind in bitnet.tensors(shape_of(model, registry[model])):
        if sparsity and kind == "linear":
            total += shape[0] * (Pattern(sparsity).K_slid(shape[1]) + 4)  # and a float32 scale for each row
        else:
            total += 2 * math.prod(shape)
    return total


def _bytes(count):
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
