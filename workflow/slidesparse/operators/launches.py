"""Launch configurations of the quantise and lift kernel: from tuned tables, or a default."""

from bisect import bisect_left
from math import ceil
from typing import NamedTuple

from slidesparse.errors import RecordError
from slidesparse.files import canonical_json, read_json, write_atomic
from slidesparse.sparsity.patterns import WINDOW

SCHEMA = 1


class Launch(NamedTuple):
    """Warps for one row, and the words (of four inputs) that they read at once. Both are powers of two."""

    warps: int
    chunk: int


_tuned = {}  # (K, pattern, dtype) -> [(M, Launch)] in ascending order of M


def launches_for(K):
    """Launches worth trying: at most eight steps along a row, and one, two or four words for each thread."""
    words = ceil(K / WINDOW)
    launches = [Launch(warps, 32 * warps * width) for warps in (1, 2, 4, 8) for width in (1, 2, 4)]
    launches = [one for one in launches if words <= 8 * one.chunk and (one.chunk < 2 * words or one == (1, 32))]
    return launches or [Launch(8, 1 << (ceil(words / 8) - 1).bit_length())]


def default(K):
    """The launch of a row length that was not tuned: the fewest words for each thread, then the fewest warps."""
    return min(launches_for(K), key=lambda one: (one.chunk // one.warps, one.warps))


def look_up(M, K, pattern, dtype):
    """The launch of the tuned M, else of the next larger M, else of the largest. A default if none was tuned."""
    rows = _tuned.get((K, pattern, dtype))
    return rows[min(bisect_left([m for m, _ in rows], M), len(rows) - 1)][1] if rows else default(K)


def use(table):
    """Use the launches of `table`, a result of `search.tune`. Raises RecordError if it is no such table."""
    try:
        if table["schema"] != SCHEMA:
            raise ValueError(f"schema {table['schema']}, not {SCHEMA}")
        rows = sorted((entry["M"], Launch(*entry["configuration"])) for entry in table["entries"])
        _tuned[table["K"], table["pattern"], table["dtype"]] = rows
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"this is not a table of quantise and lift launches ({error!r}); tune again") from None


def write_tables(path, tables):
    """Store tables as JSON, atomically."""
    write_atomic(path, canonical_json(tables) + "\n")


def read_tables(path):
    """Use every table of a file. Raises RecordError if it is missing or damaged."""
    for table in read_json(path, RecordError):
        use(table)
