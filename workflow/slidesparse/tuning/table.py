"""A tuning table, the result of a search: as CSV, and look-up at run time."""

import csv
import io
from bisect import bisect_left
from contextlib import suppress

from slidesparse.errors import MeasurementError, RecordError
from slidesparse.files import is_sealed, parse_json, read_text

COLUMNS = (
    "linear",
    "N",
    "K",
    "K_slid",
    "M",
    "output",
    "algorithms",
    "rank",
    "algorithm",
    "name",
    "latency_us",
    "default_us",
    "library_us",
    "workspace",
    "kernels",
)


def to_csv(table):
    """The table as CSV text, one row for each of the top algorithms of a product."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for entry in table["entries"]:
        for rank, algorithm in enumerate(entry["top"], start=1):
            times = {name: entry.get(name) for name in ("default_us", "library_us")}
            times["latency_us"] = algorithm["latency_us"]
            shown = {name: "" if value is None else f"{value:.3f}" for name, value in times.items()}
            writer.writerow(entry | algorithm | {"rank": rank, "kernels": " ".join(algorithm["kernels"])} | shown)
    return stream.getvalue()


def check_seal(path, table):
    """Raise RecordError if the table read from `path` is not as it was written."""
    if isinstance(table, dict) and not is_sealed(table):
        raise RecordError(f"{path} was changed after it was written: put it back, or delete it to tune again")


def check(table):
    """The table, if all that a look-up needs of it has the right types. ValueError, KeyError or TypeError if not."""
    for entry in table["entries"]:
        numbers = [entry[name] for name in ("N", "K_slid", "M")]
        for algorithm in entry["top"]:
            numbers.append(algorithm["workspace"])
            if type(algorithm["algorithm"]) not in (int, str):
                raise ValueError("an algorithm of it is none")
        if any(type(number) is not int or number < 0 for number in numbers) or not isinstance(entry["output"], str):
            raise ValueError("a product of it is none")
    if not isinstance(table["library"], str):
        raise ValueError("it names no library")
    return table


class Table:
    """Look-up at run time: exact M, else the next larger one with right algorithms, else the library's default (None).

    quantize_lift: tables for operators.launches.use, of the kernel that makes the backend's activations on a GPU.
    """

    def __init__(self, table):
        self.library = table["library"]
        self.quantize_lift = table["quantize_lift"]
        self._by_shape = {}
        for entry in (entry for entry in table["entries"] if entry["top"]):
            shape = (entry["N"], entry["K_slid"], entry["output"])
            self._by_shape.setdefault(shape, []).append((entry["M"], entry))
        for rows in self._by_shape.values():
            rows.sort(key=lambda row: row[0])

    @classmethod
    def read(cls, path, library):
        """The table in a file. Raises RecordError if it is damaged or was made by another library version."""
        try:
            content = parse_json(read_text(path))
            check_seal(path, content)
            table = cls(check(content))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} is not a tuning table ({error}); delete it to tune again") from None
        if table.library != library:
            raise RecordError(
                f"{path} was tuned with {table.library} and this is {library}, whose algorithms may be numbered"
                " otherwise; delete it to tune again"
            )
        return table

    def entry(self, N, K_slid, M, output):
        """The entry that serves M, or None if the shape was not tuned at M or above."""
        rows = self._by_shape.get((N, K_slid, output), [])
        at = bisect_left([m for m, _ in rows], M)
        return rows[at][1] if at < len(rows) else None

    def algorithm(self, backend, operand, M, output):
        """Id of the algorithm to use, or None for the library's default."""
        return next(self.algorithms(backend, operand, M, output), None)

    def algorithms(self, backend, operand, M, output):
        """Ids, best first, of algorithms that need no more workspace for the product at M than they were tuned with."""
        entry = self.entry(operand.N, operand.K, M, output)
        for algorithm in entry["top"] if entry else []:
            with suppress(MeasurementError):
                if backend.workspace(operand, M, algorithm["algorithm"], output) <= algorithm["workspace"]:
                    yield algorithm["algorithm"]
