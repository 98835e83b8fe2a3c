"""What a plan must make again: points, tables and CSVs that are there and do not answer what is asked today.

Snakemake decides by times and by its own records. Both can say that nothing is to be done where something is: results
were copied without records, or a job failed after its parameters had been recorded. So planning compares contents. A
file that is stale gets one more input, the marker, which is newer than everything.
"""

import os
import sys

from slidesparse.errors import SlideSparseError
from slidesparse.files import write_atomic
from slidesparse.plan.key import Key
from slidesparse.points import answers, request
from slidesparse.program import sentence

MARKER = ".snakemake/slidesparse/stale"
"""The input of everything stale. Its content is new at each planning that finds something."""


class Stale:
    """Functions of wildcards for the rules. They give the marker if what the wildcards name is stale, or nothing."""

    def __init__(self, table, marker=MARKER):
        """table: plan.table.Table."""
        self._table, self._marker, self._marked = table, marker, False

    def point(self, **names):
        """The function for points. names: the parts of a key that are no wildcards of the rule."""

        def stale(w):
            parts = {part: names[part] if part in names else getattr(w, part) for part in Key._fields[:-1]}
            key = Key(**parts, M=int(w.m))
            path = key.path(self._table.root)
            return self._mark() if os.path.exists(path) and self._differs(key, path) else []

        return stale

    def _differs(self, key, path):
        try:
            asked = request.request(key, *self._table.asked(key))
        except (SlideSparseError, OSError):  # an input is missing or damaged, so nobody knows what the point answers
            return True
        return answers.stored_digest(path) != asked["digest"]

    def tuned(self, w):
        """For tuning tables."""
        path = self._table.tuned(w)
        if not os.path.exists(path):
            return []
        plan, shape = self._table.plan(w.hardware), f"{self._table.root}/models/{w.model}/shape.json"
        try:
            linears = request.linears(shape)
            asked = request.of_table(path, linears, plan["tune"]["M"], plan["measure"]["tune"])
            return [] if answers.is_table(path, asked) else self._mark()
        except SlideSparseError:  # the shape is missing, or the table is damaged: who reads it says so
            return []

    def csv(self, rows_of):
        """The function for CSVs. rows_of: gives the M of a CSV's rows."""

        def stale(w):
            keys = [Key.of(path) for path in self._table.points(w)]
            path = keys[0].csv(self._table.root) if keys else ""
            if not os.path.exists(path):
                return []
            return [] if rows_of(path) == {key.M for key in keys} else self._mark()

        return stale

    def _mark(self):
        if not self._marked:
            try:
                write_atomic(self._marker, os.urandom(16).hex())
            except OSError as error:  # as an exit, because Snakemake prints a traceback for other exceptions here
                sys.exit(sentence(error))
            self._marked = True
        return [self._marker]
