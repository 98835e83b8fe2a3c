"""The one tidy form of everything measured: a row per configuration and M, for kernels also per linear."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from slidesparse.machine.hardware import KEY_PATTERN
from slidesparse.plan.backends import DENSE_BACKENDS, DTYPES, STAGES
from slidesparse.plan.key import Configuration

LINEARS = ("qkv", "o", "gate_up", "down")
HARDWARE = re.compile(KEY_PATTERN)


class Provenance(NamedTuple):
    """What distinguishes two runs under one hardware key; empty where it was not recorded."""

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
        """The part that must agree before two figures are divided by one another."""
        return self[:5]


NOT_RECORDED = Provenance()


@dataclass(frozen=True)
class Row:
    """One measured point, or one linear of a kernel point.

    status: ok, out_of_memory, failed (then `reason` and, if there is one, `log`) or in_flight (then `utc` is when it
    began). values: columns of its CSV.
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
    def measured(self):
        """Whether a measurement came to an end here, be it for want of memory."""
        return self.status in ("ok", "out_of_memory")


@dataclass
class Source:
    """Everything that one root holds of one hardware key.

    files: (path, rows) of what was read. refused: sentences. tasks: rows of the task table. models, checkpoints:
    manifests. linears, layers: model -> number of linears in a layer, of layers. shapes: model -> the one whose tuning
    tables and kernel points it shares. tuning: rows of tuning tables, with their configuration. lifts: rows of
    published quantise-and-lift kernels. ungathered: directories whose points are in no CSV. dates: ISO times besides
    those of rows. plan: the Plan of the run, or None.
    """

    root: str
    rows: list = field(default_factory=list)
    files: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    tasks: list = field(default_factory=list)
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
    plan: object = None

    def stage(self, stage):
        """Its rows of one stage."""
        return [row for row in self.rows if row.stage == stage]

    def planned(self, stage):
        """Configuration -> set of M that the plan asks for; empty without a plan."""
        return self.plan.of_stage(stage) if self.plan else {}

    def shape_of(self, model):
        """The model below whose name the tuning tables and kernel points of a model lie."""
        return self.shapes.get(model, model)

    def model_names(self):
        """Models that were measured or planned."""
        planned = {name.model for stage in STAGES for name in self.planned(stage)}
        return planned | {row.configuration.model for row in self.rows}


def pattern_length(sparsity):
    """L of a sparsity for sorting: 0 for dense, largest for 2_inf."""
    text = sparsity.partition("_")[2]
    return int(text) if text.isdigit() else 10**9 if text == "inf" else 0


def configuration_order(configuration):
    """Sort key: model, dtype, dense first, backend, L."""
    model, dtype, backend, sparsity = configuration
    position = DTYPES.index(dtype) if dtype in DTYPES else len(DTYPES)
    return model, position, dtype, backend not in DENSE_BACKENDS, backend, pattern_length(sparsity), sparsity


def linear_order(name):
    """Sort key of a linear: its place in a layer, unknown names last."""
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


def caches_of(rows):
    """cold or hot: with which caches the latency_us of kernel rows was measured."""
    return next((row.values["caches"] for row in rows if row.values.get("caches")), "cold")
