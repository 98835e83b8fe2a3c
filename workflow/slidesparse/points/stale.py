"""What a plan must make again: points, tables and CSVs that are there and do not answer what is asked today.

Snakemake decides by times and by its own records. Both can say that nothing is to be done where something is: results
were copied without records, or a job failed after its parameters had been recorded. So planning compares contents. A
file that is stale gets one more input, the marker, which is newer than everything.
"""

import glob
import json
import os
import sys
import time
from contextlib import suppress

from slidesparse.errors import SlideSparseError
from slidesparse.files import is_sealed, read_json, sha256_json, write_atomic
from slidesparse.models.shape import describe
from slidesparse.plan import prompts
from slidesparse.plan.backends import deciding
from slidesparse.plan.key import Key
from slidesparse.plan.table import inspected
from slidesparse.points import answers, request
from slidesparse.program import sentence

FIRST_NS = 10**9
"""The earliest time of a file, in nanoseconds."""

MARKER = ".snakemake/slidesparse/stale"
"""The input of everything stale. Its content is new at each planning that finds something."""


class Stale:
    """Functions of wildcards for the rules. They give the marker if what the wildcards name is stale, or nothing."""

    def __init__(self, table, marker=MARKER):
        """table: plan.table.Table."""
        self._table, self._marker, self._marked, self._digests = table, marker, False, {}

    def point(self, **names):
        """The function for points. names: the parts of a key that are no wildcards of the rule."""

        def stale(w):
            parts = [names[part] if part in names else getattr(w, part) for part in Key._fields[:6]]
            key = Key(*parts, *prompts.read(w.m))
            path = key.path(self._table.root)
            return self._mark(path) if os.path.exists(path) and self._differs(key, path) else []

        return inspected(stale)

    def _differs(self, key, path):
        try:
            asked = request.request(key, *self._table.asked(key))
        except (SlideSparseError, OSError):  # an input is missing or damaged, so nobody knows what the point answers
            return True
        return self._stored(path) != asked["digest"] or answers.is_of_other_variants(path)

    def _stored(self, path):
        if path not in self._digests:
            self._digests[path] = answers.stored_digest(path)
        return self._digests[path]

    def task(self, w):
        """For results of tasks of the harness."""
        key, *asked = self._table.asked_of_task(w)
        path = key.path(self._table.root)
        if not os.path.exists(path):
            return []
        try:
            asked = request.of_task(key, *asked)
        except (SlideSparseError, OSError):
            asked = {"digest": None}
        return [] if asked["digest"] and self._stored(path) == asked["digest"] else self._mark(path)

    def tuned(self, w):
        """For tuning tables."""
        path = self._table.tuned(w)
        if not os.path.exists(path):
            return []
        plan, shape = self._table.plan(w.hardware), f"{self._table.root}/models/{w.model}/shape.json"
        try:
            linears = request.linears(shape)
            asked = request.of_table(path, linears, plan["tune"]["M"], plan["measure"]["tune"])
            beside = os.path.splitext(path)[0] + ".csv"
            found = answers.is_table(path, asked) and answers.has_text(beside, answers.csv_of_table(path))
            return [] if found else self._mark(path)
        except SlideSparseError:  # the shape is missing, or the table is damaged: who reads it says so
            return []

    def chosen(self, w):
        """For the choices of `auto`: made from other files than today's."""
        path = f"{self._table.root}/{w.hardware}/tuning/{w.model}/{w.dtype}/auto/{w.sparsity}.json"
        if not os.path.exists(path):
            return []
        wanted = [*self._table.compared(w), *filter(None, self._table.auto_backends(w).values())]
        if not all(map(os.path.isfile, wanted)):  # what is made now is newer
            return []
        place = os.path.dirname(path)
        try:
            chosen = read_json(path)
            said = {os.path.normpath(f"{place}/{name}"): digest for name, digest in chosen["made_from"].items()}
            said = said if is_sealed(chosen) and ("sha256" in chosen or self._still_chosen(w, path, chosen)) else None
        except (SlideSparseError, AttributeError, KeyError, TypeError):
            said = None
        return [] if said == {os.path.normpath(name): sha256_json(name) for name in wanted} else self._mark(path)

    def _still_chosen(self, w, path, chosen):
        """Whether choices without a digest of themselves, from before they had one, are those of today's points.

        Those of an earlier schema were made otherwise, and stay.
        """
        from slidesparse.points.choose_kernels import SCHEMA, choices  # costs the time of planning, and few come here

        if chosen["schema"] != SCHEMA:
            return True
        asked = self._table.compared(w), self._table.auto_backends(w), self._table.plan(w.hardware)["measure"]["kernel"]
        return choices(path, *asked) == chosen

    def plan(self, w):
        """For reports: stale if plan.json is missing or shows another plan. It is written when a first job starts."""
        try:
            there = _shown(read_json(f"{self._table.root}/{w.hardware}/plan.json"))
        except (SlideSparseError, OSError, AttributeError, KeyError, TypeError):
            there = None
        reports = glob.glob(f"{self._table.root}/{w.hardware}/report.*")
        return [] if there == _shown(self._table.content(w.hardware)) else self._mark(*reports)

    def shape(self, w):
        """For shapes: one that is not its entry's would make all of its model's points stale."""
        path = f"{self._table.root}/models/{w.model}/shape.json"
        if not os.path.exists(path):
            return []
        try:
            there = read_json(path)
        except SlideSparseError:
            there = None
        described = describe(w.model, json.loads(self._table.dimensions(w.model)))
        return [] if there == described else self._mark(path)

    def model(self, w):
        """For manifests of models: one of other weights than its entry's would lead to points of the wrong model."""
        path = f"{self._table.root}/models/{w.model}/manifest.json"
        if not os.path.exists(path):
            return []
        entry = json.loads(self._table.entry(w.model))
        asked = {name: entry[name] for name in ("repository", "path", "seed") if name in entry}
        usual = {"positions": prompts.POSITIONS}
        if entry["source"] == "generated":
            asked |= usual | {name: entry[name] for name in usual if name in entry} | entry["shape"]
        try:
            source = usual | read_json(path)["source"]
            same = (asked | {"kind": entry["source"]}).items() <= source.items()
        except (SlideSparseError, AttributeError, KeyError, TypeError):
            same = False
        return [] if same else self._mark(path)

    def csv(self, rows_of):
        """The function for CSVs. rows_of: gives {(M, prompt): digest of the request} of a CSV's rows.

        A CSV answers if it has a row of today's point for each planned one. It may have rows of others.
        """

        def stale(w):
            points = self._table.points(w)
            path = Key.of(points[0]).csv(self._table.root) if points else ""
            if not os.path.exists(path):
                return []
            rows = rows_of(path)
            asked = ((prompts.read(os.path.basename(point)[1:-5]), point) for point in points)  # M16.json
            return [] if all(rows.get(step) == self._stored(point) for step, point in asked) else self._mark(path)

        return inspected(stale)

    def _mark(self, *paths):
        """The marker, as the input of what makes the stale files at `paths`."""
        for path in paths:
            _give_time(path)
        if not self._marked:
            try:
                write_atomic(self._marker, os.urandom(16).hex())
            except OSError as error:  # as an exit, because Snakemake prints a traceback for other exceptions here
                sys.exit(sentence(error))
            self._marked = True
        return [self._marker]


def _give_time(path):
    """Let a file have a time after 0, which Snakemake takes for no time at all, and before now, as the marker's is.

    Archives may be packed with 0, and a clock may have gone back.
    """
    with suppress(OSError):
        if not FIRST_NS <= os.stat(path).st_mtime_ns < time.time_ns():
            os.utime(path, ns=(FIRST_NS, FIRST_NS))


def _shown(plan):
    """What reports and status show of the content of a plan.json, as JSON: without how workers run."""
    parameters = {stage: deciding(stage, values) for stage, values in plan["parameters"].items()}
    parts = {name: plan[name] for name in ("points", "variants", "left_out", "shapes", "acceptable")}
    return json.dumps(parts | {"parameters": parameters, "tasks": plan.get("tasks", {})}, sort_keys=True)
