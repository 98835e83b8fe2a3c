"""The table that the rules read: all planned points and CSVs, their order, and the resources of their jobs."""

import functools
import inspect
import json
from collections import defaultdict

from slidesparse.files import digest, write_json
from slidesparse.machine import hardware
from slidesparse.plan import backends, cluster, matrix, prompts, stock
from slidesparse.plan import tasks as harness
from slidesparse.plan.dataset import Dataset
from slidesparse.plan.key import Key
from slidesparse.plan.tasks import TaskKey


def inspected(function):
    """A function of wildcards that keeps its signature: Snakemake asks for it twice for each job.

    To find out a signature takes longer than most of these functions, and a tenth of planning.
    """

    def same(w):
        return function(w)

    same.__signature__ = inspect.signature(same)
    return same


class Table:
    """The points of a validated configuration on all its hardware keys.

    config: the validated configuration.
    plans: {hardware key: the configuration for it, `matrix.planned`}.
    left_out: {hardware key: see `matrix.left_out`}.
    seats: names of the resources that assign GPUs.
    count: number of all points.
    plan(hardware key): the configuration for it, also for a key that is not planned.
    measuring(hardware key, stage, wildcard m of a point): JSON of the measuring parameters that decide its value; if it
    changes, the point is measured again. Without m those of the stage.
    """

    def __init__(self, config, root="results", gpus=1):
        """root: the folder of results. gpus: number of GPUs of this machine that measure at once."""
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
        self._tasks = defaultdict(list)
        for key in (key for hardware_key in self.plans for key in matrix.tasks(config, hardware_key)):
            self._priority.setdefault((*key[:5], False), len(self._priority))
            self._tasks[key[:5]].append(key)
        self._seat = seats(self._priority, gpus)
        self.plan = functools.cache(lambda key: self.plans.get(key) or matrix.planned(config, key))
        self.measuring = functools.cache(self._measuring)
        self._content = functools.cache(lambda task: task.content)

    def _add(self, key):
        """Add a point. A point of stock vLLM is chosen from its variants, so it needs no engine."""
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
        """All planned points and CSVs, or those of one stage. Points are included so that deleted ones are missed."""
        points = [point for key, held in self._points.items() if stage in (None, key[1]) for point in held]
        return points + self.csvs(stage=stage)

    def csvs(self, hardware_key=None, stage=None):
        """All planned CSVs, or those of one hardware key or stage."""
        return [csv for key, csv in self._csvs.items() if hardware_key in (None, key[0]) and stage in (None, key[1])]

    def task_results(self, w):
        """Results of the planned tasks of the checkpoint and backend that wildcards `w` name."""
        return [key.path(self.root) for key in self._tasks[w.hardware, w.model, w.dtype, w.backend, w.sparsity]]

    def task_csvs(self, hardware_key=None):
        """All planned CSVs of tasks, or those of one hardware key."""
        return [keys[0].csv(self.root) for held, keys in self._tasks.items() if hardware_key in (None, held[0])]

    def planned_tasks(self):
        """All planned results of tasks and their CSVs."""
        return [key.path(self.root) for keys in self._tasks.values() for key in keys] + self.task_csvs()

    def task(self, w):
        """The plan.tasks.Task that wildcards `w` name."""
        tasks = harness.named(self.plan(w.hardware)["quality"]["tasks"], "quality.tasks")
        return next((task for task in tasks if task.name == w.task), harness.Task(w.task, w.task))

    def task_parameters(self, w):
        """JSON of what a task is. If it changes, the task is scored again."""
        task = self.task(w)
        return json.dumps({"source": task.source, "content": self._content(task)}, sort_keys=True)

    def asked_of_task(self, w):
        """(TaskKey, content of the task, basis, tuning table) of a result's request; see points.request."""
        key = TaskKey(w.hardware, w.model, w.dtype, w.backend, w.sparsity, w.task)
        return key, self._content(self.task(w)), key.point.basis(self.root), self.tuned(w)

    def notes(self):
        """Sentences on what is left out, of this machine or of the configuration."""
        note = hardware.detect().note if self.config["hardware"] == "auto" else None
        left_out = [(key, item) for key, omitted in self.left_out.items() for item in omitted]
        said = [f"{item['what']} is left out on {key}: {item['reason']}" for key, item in left_out]
        return [note, *said] if note else said

    def content(self, hardware_key):
        """The content of plan.json of a hardware key."""
        return matrix.plan(self.config, hardware_key)

    def write_plans(self):
        """Write plan.json of every hardware key."""
        for key in self.plans:
            write_json(f"{self.root}/{key}/plan.json", self.content(key))

    def entry(self, model):
        """JSON of a model's entry in the registry. If it changes, the model is fetched again."""
        return json.dumps(self._entries[model], sort_keys=True)

    def dimensions(self, model):
        """JSON of the part of a model's entry that decides its shape."""
        return json.dumps({"shape": self._entries[model]["shape"]}, sort_keys=True)

    def variants(self, w):
        """Points of the variants of stock vLLM, from which the point at an M is chosen."""
        best = Key(w.hardware, w.stage, w.model, w.dtype, stock.BACKEND, "dense", *prompts.read(w.m))
        return [key.path(self.root) for key in matrix.variants([best])]

    def tuned(self, w):
        """The tuning table, or the choices, of an engine point. Models of one shape share them."""
        key = Key(w.hardware, "prefill", w.model, w.dtype, w.backend, w.sparsity, 0)
        return key.tuning(self.root, self._shapes[w.model])

    def text(self, w):
        """The manifest of the text of quality points, if it is a hub's; or nothing."""
        text = self.plan(w.hardware)["quality"]["text"]
        return f"{self.root}/texts/{name_of(text)}.json" if Dataset.of(text) else []

    def text_named(self, w):
        """The hub's text whose manifest wildcards `w` name."""
        texts = [plan["quality"]["text"] for plan in (*self.plans.values(), self.config)]
        return next(text for text in texts if name_of(text) == w.text)

    def compared_with(self, w):
        """The dense backend of the checkpoint that a quality point is compared with, and its tuning table."""
        key = Key(w.hardware, "quality", w.model, w.dtype, w.backend, w.sparsity, *prompts.read(w.m))
        return backends.compared_with(self.root, key, self._shapes.get(w.model, w.model))

    def asked(self, key):
        """(parameters, basis, tuning table or None, peers) of a point's request; see points.request."""
        shape = self._shapes.get(key.model, key.model)
        tuning = None if key.untuned else key.tuning(self.root, shape)
        peers = backends.compared_with(self.root, key, shape)
        if key.stage == "kernel":
            peers = backends.peers(self.root, key.hardware, key.model, key.dtype, key.backend)
        return self.plan(key.hardware)["measure"][key.stage], key.basis(self.root), tuning, peers

    def peers(self, w):
        """Dense backends that take turns with a kernel point, and their tuning tables."""
        return backends.peers(self.root, w.hardware, w.model, w.dtype, w.backend)

    def auto_backends(self, w):
        """Backends that `auto` may choose, and their tuning tables."""
        names = matrix.configured(self.plan(w.hardware))
        return matrix.auto_backends(self.root, w.hardware, w.model, w.dtype, w.sparsity, names)

    def compared(self, w):
        """Kernel points from which `auto` makes its choices."""
        plan = self.plan(w.hardware)
        runs, Ms = matrix.compared(w.hardware, w.dtype, w.sparsity, matrix.configured(plan)), plan["kernel"]["M"]
        keys = [Key(w.hardware, "kernel", w.model, w.dtype, *run, M) for run in runs for M in Ms]
        return [key.path(self.root) for key in keys]

    def _measuring(self, hardware_key, stage, m=None):
        parameters = backends.deciding(stage, self.plan(hardware_key)["measure"][stage])
        parameters = prompts.measuring(stage, parameters, prompts.read(m)[1]) if m else parameters
        return json.dumps(parameters, sort_keys=True)

    def priority(self, w):
        """Priority of an engine's points: engines run one after the other, in the order of the configuration."""
        at = self._priority.get((*_engine(w), False))
        return 0 if at is None else 2 * (self.count - at)

    def priority_of_quality(self, w):
        """Priority of an engine's quality point: behind its timed ones, because it may load another engine."""
        return max(0, self.priority(w) - 1)

    def priority_of_task(self, w):
        """Priority of an engine's tasks: behind all points, because tasks need a worker of their own."""
        return self.priority(w) - self.first

    @property
    def first(self):
        """A priority before that of all engines."""
        return 2 * self.count + 1

    def resources(self, kernel):
        """{resource: amount} for a job that measures or searches: a turn, a seat, and what it asks of a cluster.

        kernel: whether the job belongs to the kernel stage.
        """

        def seat(w):
            return self._seat.get((*_engine(w), kernel), 0)

        taken = {name: lambda w, name=name: int(name == f"seat{seat(w)}") for name in self.seats}
        asked = {name: self._asked(name) for name in cluster.NAMES}
        return asked | taken | {"seat": seat if self.seats else 0, "turn": 1}

    def _asked(self, name):
        """The amount of one resource that a job asks of a cluster; a function of wildcards if hardware keys differ."""
        values = {key: cluster.resources(self.config, key).get(name) for key in self.plans}
        return next(iter(values.values())) if len(set(values.values())) == 1 else lambda w: values.get(w.hardware)


def name_of(text):
    """The name of the manifest of a hub's text."""
    return digest(text)[:16]


def _engine(w):
    """`Key.engine` of a point that wildcards name, or of the search for a kernel configuration, which has no m."""
    model = prompts.at(w.model, prompts.read(w.m)[1]) if hasattr(w, "m") else w.model
    return w.hardware, model, w.dtype, w.backend, w.sparsity


def options(tables):
    """Backends and their tuning tables, if any, in the form of the programs' options."""
    return [f"{name}={table}" if table else name for name, table in tables.items()]


def seats(keys, count):
    """{key: number of its seat, below `count`}; a key is (hardware, model, dtype, backend, sparsity, whether kernel).

    A kernel configuration is measured in turn with its rivals, so it may take any seat; seats are dealt one by one. The
    report divides engines of one model and dtype by one another, so these share a seat. If there are more seats than
    such groups, a group has several.
    """
    engines = [key for key in keys if not key[-1]]
    groups = list(dict.fromkeys(key[:3] for key in engines))
    dealt = {key: i % count for i, key in enumerate(key for key in keys if key[-1])}
    for i, group in enumerate(groups):
        own = range(i, count, len(groups)) if len(groups) <= count else [i % count]
        members = [key for key in engines if key[:3] == group]
        dealt |= {key: own[n % len(own)] for n, key in enumerate(members)}
    return dealt
