"""The one tidy form of all measurements: a row for each configuration and M, and for kernels also for each linear."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from slidesparse.machine.naming import KEY_PATTERN
from slidesparse.plan import prompts
from slidesparse.plan.backends import DENSE_BACKENDS, DTYPES, STAGES
from slidesparse.plan.key import Configuration

LINEARS = ("qkv", "o", "gate_up", "down")
HARDWARE = re.compile(KEY_PATTERN)


class Provenance(NamedTuple):
    """The properties in which two runs under one hardware key may differ; empty if not recorded."""

    gpu_name: str = ""
    driver: str = ""
    torch: str = ""
    vllm: str = ""
    protocol: str = ""
    git_commit: str = ""
    git_dirty: str = ""
    gpu_uuid: str = ""
    """Hash of the GPU's UUID."""

    @property
    def machine(self):
        """Hardware name, driver, versions and protocol."""
        return self[:5]


NOT_RECORDED = Provenance()


@dataclass(frozen=True)
class Row:
    """One measured point, or one linear of a kernel point.

    status: ok, out_of_memory, failed (with `reason` and perhaps `log`) or in_flight (with `utc`, its beginning).
    values: columns of its CSV.
    """

    hardware: str
    stage: str
    configuration: Configuration
    M: int
    status: str
    values: dict = field(hash=False)
    provenance: Provenance = NOT_RECORDED
    linear: str | None = None
    reason: str = ""
    log: str = ""
    utc: str = ""
    seconds: float | None = None

    @property
    def point(self):
        """Its point among those of one hardware key."""
        return self.stage, self.configuration, self.M

    @property
    def machine(self):
        """The properties of machine and run that must agree before two figures are divided by one another."""
        return (*self.provenance.machine, self.values.get("power_limit_w"))

    @property
    def measured(self):
        """Whether the measurement has a result; out of memory is one."""
        return self.status in ("ok", "out_of_memory")

    @property
    def sparse(self):
        """Whether a sparse kernel ran. `auto` may choose dense ones for all linears. Points of engines say what ran."""
        name, ran = self.configuration, self.values.get("sparse_linears")
        return name.sparse_kernel and (bool(ran) if ran is not None else name.backend != "auto")

    @property
    def silent(self):
        """Whether a good point of `auto` on pruned weights does not say which kernels ran."""
        name, known = self.configuration, self.values.get("sparse_linears") is not None
        return (
            self.status == "ok"
            and self.stage != "kernel"
            and name.backend == "auto"
            and name.sparse_kernel
            and not known
        )


OURS, PUBLISHED, TIDY = "our layout", "the published layout", "the tidy tables"
"""Layouts of files, in the order in which a point that several have is taken."""


@dataclass
class Source:
    """All of one hardware key that one root has.

    files: (path, rows) of each file that was read.
    refused: a sentence for each refused file.
    tasks: rows of the task table.
    scores: rows of CSVs of tasks of the lm-evaluation-harness, with their configuration, and tasks that failed.
    models, checkpoints: manifests.
    linears, layers: model -> number of linears in a layer, and of layers.
    shapes: model -> the model whose tuning tables and kernel points it shares.
    tuning: rows of tuning tables, with their configuration.
    lifts: rows of published quantise-and-lift kernels.
    ungathered: directories whose points are in no CSV.
    sums, unfit, stages: what sections have computed of the source, kept for the next one that asks.
    dates: ISO times besides those of rows.
    log: the log of the run, as far as a status file tells.
    plan: the Plan of the run, or None.
    announced: stage -> Configuration -> set of M that files of others say or show were asked for.
    layouts: (stage, Configuration, M) -> the layout whose rows are used.
    read: paths of all files that were read, also of those whose rows are not used.
    paths: (layout, stage, Configuration) -> the file of its rows.
    repeated: (layout, row) of rows that are not used, because another layout has their point.
    """

    root: str
    rows: list = field(default_factory=list)
    files: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    tasks: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    models: list = field(default_factory=list)
    checkpoints: list = field(default_factory=list)
    linears: dict = field(default_factory=dict)
    layers: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=dict)
    tuning: list = field(default_factory=list)
    lifts: list = field(default_factory=list)
    sums: dict = field(default_factory=dict)
    ungathered: list = field(default_factory=list)
    dates: list = field(default_factory=list)
    unfit: dict | None = None
    log: str = ""
    plan: object = None
    announced: dict = field(default_factory=dict)
    layouts: dict = field(default_factory=dict)
    repeated: list = field(default_factory=list)
    read: set = field(default_factory=set)
    paths: dict = field(default_factory=dict)
    stages: tuple = (None, 0, {})

    def add(self, layout, rows, path=None):
        """Add the rows of one file, or of none. A point that another layout has brought keeps that layout's rows."""
        used = [row for row in rows if self.layouts.setdefault(row.point, layout) == layout]
        self.repeated += [(layout, row) for row in rows if self.layouts[row.point] != layout]
        self.rows += used
        self.read.add(str(path))
        self.paths |= {(layout, row.stage, row.configuration): str(path) for row in rows if path is not None}
        if path is not None and used:
            self.files.append((str(path), len(used)))

    def uncount(self, path, rows):
        """Take rows that are not used after all from those of a file."""
        counts = ((name, n - rows if name == path else n) for name, n in self.files)
        self.files = [(name, n) for name, n in counts if n > 0]

    def announce(self, stage, configuration, Ms=()):
        """Note that a configuration was asked for in files of others, at least at these M."""
        self.announced.setdefault(stage, {}).setdefault(configuration, set()).update(Ms)

    def stage(self, stage):
        """The rows of one stage. They are sorted out again if rows were added, or replaced by another list."""
        rows, count, by_stage = self.stages
        if rows is not self.rows or count != len(rows):
            by_stage = {}
            for row in self.rows:
                by_stage.setdefault(row.stage, []).append(row)
            self.stages = self.rows, len(self.rows), by_stage
        return [*by_stage.get(stage, ())]

    def planned(self, stage):
        """Configuration -> set of M that were asked for, by the plan or by files of others; empty if nobody says it."""
        planned = self.plan.of_stage(stage) if self.plan else {}
        asked = self.announced.get(stage)
        if not asked:
            return planned
        there = {}
        for row in [] if self.plan else self.stage(stage):  # without a plan, what was measured was asked for
            there.setdefault(row.configuration, set()).add(row.M)
        empty = set()
        return {
            name: asked.get(name, empty) | planned.get(name, empty) | there.get(name, empty)
            for name in {**asked, **planned}
        }

    def shape_of(self, model):
        """The model under whose name a model's tuning tables and kernel points lie, at whatever prompt."""
        name, _ = prompts.apart(model)
        return self.shapes.get(name, name)

    def model_names(self):
        """Models that were measured or planned, without their prompts."""
        planned = {name.weights for stage in STAGES for name in self.planned(stage)}
        return planned | {row.configuration.weights for row in self.rows}


def step_value(row):
    """(milliseconds of a step, whether they are only elapsed time over steps), or None if no step is known.

    For decode in the published protocol, elapsed time over steps is no step, because the number of sequences varies.
    """
    values = row.values
    if row.status != "ok":
        return None
    if values.get("step_ms") is not None:
        return values["step_ms"], False
    if row.stage == "prefill" and values.get("elapsed_time_s") and values.get("N_prefill"):
        return 1000 * values["elapsed_time_s"] / values["N_prefill"], True
    return None


def pattern_length(sparsity):
    """L of a sparsity, for sorting: 0 for dense, and the largest for 2_inf."""
    text = sparsity.partition("_")[2]
    return int(text) if text.isdigit() else 10**9 if text == "inf" else 0


def spell(sparsity):
    """A pattern as people write it: 2:4."""
    return sparsity.replace("_", ":").replace("inf", "∞")


def configuration_order(configuration):
    """Sort key: model, dtype, dense first, backend, L."""
    model, dtype, backend, sparsity = configuration
    position = DTYPES.index(dtype) if dtype in DTYPES else len(DTYPES)
    return model, position, dtype, backend not in DENSE_BACKENDS, backend, pattern_length(sparsity), sparsity


def linear_order(name):
    """Sort key of a linear: its place in a layer. Unknown names come last."""
    return (LINEARS.index(name) if name in LINEARS else len(LINEARS), name or "")


def configurations(rows):
    """The configurations of rows, sorted."""
    return sorted({row.configuration for row in rows}, key=configuration_order)


def grouped(rows):
    """(model, dtype) -> its rows, in the order of configurations."""
    groups = {}
    for row in rows:
        groups.setdefault(row.configuration[:2], []).append(row)
    return {key: groups[key] for key in sorted(groups, key=lambda key: configuration_order((*key, "", "")))}


def by_configuration(rows):
    """Configuration -> its rows sorted by M, in the order of configurations."""
    groups = {}
    for row in rows:
        groups.setdefault(row.configuration, []).append(row)
    return {
        name: sorted(groups[name], key=lambda row: (row.M, linear_order(row.linear)))
        for name in sorted(groups, key=configuration_order)
    }


def workload(row):
    """Lengths of a row's prompts and outputs, as text; empty if they are not known."""
    lengths = [row.values.get(name) for name in ("prompt_len", "output_len")]
    if row.stage == "prefill":
        lengths[1] = None
    return "+".join(str(length) for length in lengths if length is not None)


def numbers(row):
    """(prompts, steps) of a row's run of the published protocol; None where they are not known."""
    steps = "N_prefill" if row.stage == "prefill" else "N_decode"
    return row.values.get("num_prompts"), row.values.get(steps)


def caches_of(rows):
    """cold or hot: the caches with which latency_us of kernel rows was measured."""
    return next((row.values["caches"] for row in rows if row.values.get("caches")), "cold")
