"""Search for the fastest algorithm of a backend per (N, K, M), and the table of what was found.

All algorithms get the same effort: every one is checked against a reference product, then measured; the winner and
the runners-up are measured again in another order, and what is reported is that second measurement.
"""

import csv
import io
import json
from bisect import bisect_left
from pathlib import Path

from slidesparse.errors import RecordError

COLUMNS = ("linear", "N", "K", "K_slid", "M", "algorithms", "rank", "algorithm", "name", "latency_us", "default_us")
TOP = 3


def search(backend, problems, stopping):
    """Search a backend over problems (see gemm.points.Problem); returns the table as a dictionary.

    A wrong algorithm is excluded and named in the table. Raises MeasurementError if no algorithm of a problem is right.
    """
    from slidesparse import timing

    entries = []
    for problem in problems:
        right, wrong = problem.verified(backend)
        first = [(problem.time(algorithm, stopping, timing), algorithm) for algorithm in right]
        best = [algorithm for _, algorithm in sorted(first, key=lambda pair: pair[0].median_s)[:TOP]]
        again = [(problem.time(algorithm, stopping, timing), algorithm) for algorithm in reversed(best)]
        again.sort(key=lambda pair: pair[0].median_s)
        default = {a.id: summary for summary, a in first + again}[right[0].id]
        entries.append(
            {
                "linear": problem.name,
                "N": problem.N,
                "K": problem.K,
                "K_slid": problem.K_slid,
                "M": problem.M,
                "algorithms": len(right) + len(wrong),
                "wrong": [algorithm.id for algorithm in wrong],
                "default_us": default.median_s * 1e6,
                "top": [
                    {"algorithm": algorithm.id, "name": algorithm.name, "latency_us": summary.median_s * 1e6}
                    for summary, algorithm in again
                ],
            }
        )
    return {"schema": 1, "backend": backend.name, "library": backend.version(), "entries": entries}


def to_csv(table):
    """The table as CSV text, one row for each of the top algorithms of a problem."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for entry in table["entries"]:
        for rank, found in enumerate(entry["top"], start=1):
            writer.writerow(
                {name: entry[name] for name in COLUMNS if name in entry}
                | {"rank": rank, "algorithm": found["algorithm"], "name": found["name"]}
                | {"latency_us": f"{found['latency_us']:.3f}", "default_us": f"{entry['default_us']:.3f}"}
            )
    return stream.getvalue()


class Table:
    """Look-up at run time: exact M, else the next larger tuned M, else the library's default (None)."""

    def __init__(self, table):
        self.library = table["library"]
        self._by_shape = {}
        for entry in table["entries"]:
            self._by_shape.setdefault((entry["N"], entry["K_slid"]), []).append((entry["M"], entry))
        for rows in self._by_shape.values():
            rows.sort(key=lambda row: row[0])

    @classmethod
    def read(cls, path, library):
        """The table in a file. Raises RecordError if it is damaged or was made by another library version."""
        try:
            content = json.loads(Path(path).read_text())
            table = cls(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path} is not a tuning table ({error}); delete it to tune again") from None
        if table.library != library:
            raise RecordError(
                f"{path} was tuned with {table.library} and this is {library}, whose algorithms may be numbered"
                " otherwise; delete it to tune again"
            )
        return table

    def entry(self, N, K_slid, M):
        """The row that serves M, or None if the shape was not tuned at M or above."""
        rows = self._by_shape.get((N, K_slid), [])
        at = bisect_left([m for m, _ in rows], M)
        return rows[at][1] if at < len(rows) else None

    def algorithm(self, N, K_slid, M):
        """Id of the algorithm to use, or None for the library's default."""
        entry = self.entry(N, K_slid, M)
        return entry["top"][0]["algorithm"] if entry else None
