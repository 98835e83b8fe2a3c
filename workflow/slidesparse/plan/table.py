"""Everything that a run plans, as the rules ask for it: points, CSVs, their order, and the seats that they take."""

import functools
import json
from collections import defaultdict

from slidesparse.files import write_json
from slidesparse.machine import hardware
from slidesparse.plan import backends, cluster, matrix, stock
from slidesparse.plan.key import Key


class Table:
    """The points of a validated configuration on all its hardware keys.

    Attributes: config, as validated. plans: {hardware key: the configuration as it holds there}. left_out: {hardware
    key: as `matrix.left_out`}. seats: names of the resources that hand out GPUs. count: number of all points.
    plan(hardware key): the configuration as it holds there. measuring(hardware key, stage): JSON of the measuring
    parameters; a changed value measures the stage's points again.
    """

    def __init__(self, config, root="results", gpus=1):
        """root: where results lie. gpus: how many GPUs of this machine measure at once."""
        self.config, self.root = config, root
        self.plans = {key: matrix.planned(config, key) for key in matrix.hardware_keys(config)}
        self.left_out = {key: matrix.left_out(config, key) for key in self.plans}
        self._entries, self._shapes = matrix.entries(config), matrix.shapes(config)
        self.seats = [f"seat{i}" for i in range(gpus) if gpus > 1]
        self.count, self._points, self._csvs, self._priority = 0, defaultdict(list), {}, {}
        for hardware_key in self.plans:
            planned = matrix.matrix(config, hardware_key)
            for key in planned + matrix.variants(planned):
                self._add(key)
        self._seat = seats(self._priority, gpus)
        self.plan = functools.cache(lambda key: self.plans.get(key) or matrix.planned(config, key))
        self.measuring = functools.cache(self._measuring)

    def _add(self, key):
        """Note a point. Points of stock vLLM are chosen among its variants' and have no engine."""
        self.count += 1
        held = self._points[key[:6]]
        held.append(key.path(self.root))
        if len(held) == 1 and key.backend not in stock.VARIANTS:
            self._csvs[key[:6]] = key.csv(self.root)
        if key.backend != stock.BACKEND:
            self._priority.setdefault((*key.engine, key.stage == "kernel"), len(self._priority))

    def points(self, w):
        """The planned points of the configuration that wildcards `w` name."""
        return self._points[w.hardware, w.stage, w.model, w.dtype, w.backend, w.sparsity]

    def planned(self, stage=None):
        """Every planned point and CSV (of one stage). The points too, or nobody would miss one that was deleted."""
        points = [point for key, held in self._points.items() if stage in (None, key[1]) for point in held]
        return points + self.csvs(stage=stage)

    def csvs(self, hardware_key=None, stage=None):
        """Every planned CSV (of one hardware key, of one stage)."""
        return [csv for key, csv in self._csvs.items() if hardware_key in (None, key[0]) and stage in (None, key[1])]

    def notes(self):
        """Sentences on what of this machine, or of the configuration, is left out."""
        note = hardware.detect().note if self.config["hardware"] == "auto" else None
        left_out = [(key, item) for key, omitted in self.left_out.items() for item in omitted]
        said = [f"{item['dtype']} is left out on {key}: {item['reason']}" for key, item in left_out]
        return [note, *said] if note else said

    def write_plans(self):
        """Write the plan of every hardware key, which workers, gathering and reporting read."""
        for key in self.plans:
            write_json(f"{self.root}/{key}/plan.json", matrix.plan(self.config, key))

    def entry(self, model):
        """JSON of a model's entry of the registry; a changed one fetches the model again."""
        return json.dumps(self._entries[model], sort_keys=True)

    def dimensions(self, model):
        """JSON of what of a model's entry decides its shape."""
        return json.dumps({"shape": self._entries[model]["shape"]}, sort_keys=True)

    def variants(self, w):
        """Points of variants of stock vLLM, of which one is the best at an M."""
        best = Key(w.hardware, w.stage, w.model, w.dtype, stock.BACKEND, "dense", int(w.m))
        return [key.path(self.root) for key in matrix.variants([best])]

    def tuned(self, w):
        """The tuning table, or the choices, of an engine point; models of one shape have them in common."""
        key = Key(w.hardware, "prefill", w.model, w.dtype, w.backend, w.sparsity, 0)
        return key.tuning(self.root, self._shapes[w.model])

    def peers(self, w):
        """Dense backends that a kernel point is measured in turn with, and their tuning tables."""
        return backends.peers(self.root, w.hardware, w.model, w.dtype, w.backend)

    def auto_backends(self, w):
        """Backends that auto may choose, and their tuning tables."""
        dense = self.plan(w.hardware)["backends"]["dense"]
        return matrix.auto_backends(self.root, w.hardware, w.model, w.dtype, w.sparsity, dense)

    def compared(self, w):
        """Kernel points that auto chooses by."""
        names = matrix.compared(w.hardware, w.sparsity)
        Ms = self.plan(w.hardware)["kernel"]["M"]
        keys = [Key(w.hardware, "kernel", w.model, w.dtype, *name, M) for name in names for M in Ms]
        return [key.path(self.root) for key in keys]

    def _measuring(self, hardware_key, stage):
        """Measuring parameters of a stage that decide its points' values, as JSON: equal parameters are equal text."""
        return json.dumps(backends.deciding(stage, self.plan(hardware_key)["measure"][stage]), sort_keys=True)

    def priority(self, w):
        """Order of an engine's points: those of one engine together, in the order of the configuration."""
        at = self._priority.get((w.hardware, w.model, w.dtype, w.backend, w.sparsity, False))
        return 0 if at is None else self.count - at

    def resources(self, kernel):
        """{resource: what a job that measures or searches takes}: a turn, a seat, and what a cluster is asked for.

        kernel: whether the job is of the kernel stage.
        """

        def seat(w):
            return self._seat.get((w.hardware, w.model, w.dtype, w.backend, w.sparsity, kernel), 0)

        taken = {name: lambda w, name=name: int(name == f"seat{seat(w)}") for name in self.seats}
        asked = {name: self._asked(name) for name in cluster.NAMES}
        return asked | taken | {"seat": seat if self.seats else 0, "turn": 1}

    def _asked(self, name):
        """What a job asks of a cluster under a name: one value, or a function of wildcards where hardware differs."""
        values = {key: cluster.resources(self.config, key).get(name) for key in self.plans}
        return next(iter(values.values())) if len(set(values.values())) == 1 else lambda w: values.get(w.hardware)


def options(tables):
    """Backends and their tuning tables, where they have one, as programs take them."""
    return [f"{name}={table}" if table else name for name, table in tables.items()]


def seats(keys, count):
    """{key: number of its seat, below `count`} of (hardware, model, dtype, backend, sparsity, is of the kernel stage).

    Kernel points have their rivals beside them and take any seat, in turn. Engines are divided by one another: those of
    a model and dtype have one seat, or as many as there are for each.
    """
    engines = [key for key in keys if not key[-1]]
    groups = list(dict.fromkeys(key[:3] for key in engines))
    seats = {key: i % count for i, key in enumerate(key for key in keys if key[-1])}
    for i, group in enumerate(groups):
        own = range(i, count, len(groups)) if len(groups) <= count else [i % count]
        members = [key for key in engines if key[:3] == group]
        seats |= {key: own[n % len(own)] for n, key in enumerate(members)}
    return seats
