"""Look-up of the backend that a linear runs on at an M, in a file that `points.choose_kernels.choose` wrote."""

from bisect import bisect_left
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import read_json, sha256_json, within

SCHEMA = 2
"""Version of the file and of how kernels are chosen. It is raised when one of them changes, so that the file is made
again."""


class Choices:
    """For each shape of a linear: the choice of the exact M, else of the next larger one, else of the largest.

    tables: {backend that is chosen anywhere: path of its tuning table, or None}.
    """

    def __init__(self, path):
        """Raises RecordError if the file is damaged, of another version, or made from other tables."""
        self._path, content = path, read_json(path, RecordError)
        try:
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']}, not {SCHEMA}")
            self._by_shape = {}
            for entry in sorted(content["entries"], key=lambda entry: entry["M"]):
                row = (entry["M"], entry["backend"], entry["algorithm"])
                self._by_shape.setdefault((entry["N"], entry["K"]), []).append(row)
            chosen = sorted({name for rows in self._by_shape.values() for _, name, _ in rows})
            tables = {name: content["tables"][name] for name in chosen}
            digests = {table: content["made_from"][table] for table in tables.values() if table}
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path} has no choices of kernels ({error!r}); delete it to choose again") from None
        place = Path(path).parent
        for table, digest in digests.items():
            within(place.parent, place / table)
            if not (place / table).is_file() or sha256_json(place / table) != digest:
                raise RecordError(f"{path} was made from another {place / table}; delete it to choose again")
        self.tables = {name: table and place / table for name, table in tables.items()}

    def backends(self, N, K):
        """Backends that are chosen for a linear at any M, sorted. Raises RecordError if its shape is unknown."""
        return sorted({name for _, name, _ in self._rows(N, K)})

    def at(self, N, K, M):
        """(backend, algorithm id) of a linear at M; errors as `backends`. With the id None its tuning table decides."""
        rows = self._rows(N, K)
        return rows[min(bisect_left([m for m, _, _ in rows], M), len(rows) - 1)][1:]

    def _rows(self, N, K):
        if (N, K) not in self._by_shape:
            raise RecordError(f"{self._path} has no choice for a linear of N={N} K={K}; delete it to choose again")
        return self._by_shape[N, K]
