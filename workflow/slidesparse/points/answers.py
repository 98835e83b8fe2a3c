"""Whether a stored point or tuning table answers a request, told from the head and the end of its file."""

import os
import re

from slidesparse.errors import RecordError
from slidesparse.files import open_regular, parse_json, read_bytes, read_json
from slidesparse.points import request
from slidesparse.tuning import table as tables

HEAD, END = 16 << 10, b"\n}\n"
"""Bytes at the head of a file in which its digest stands, and how a whole file ends."""

SEAL = 128
"""Bytes at the end of a point in which its digest of itself stands."""

DIGEST = re.compile(rb'\n "request": \{\n  "digest": "([0-9a-f]{64})"')


def stored_digest(path):
    """The digest (hex) of the request that a file says it answers; None if it says nothing, is cut or is no file."""
    try:
        with open_regular(path) as stream:
            head = stream.read(HEAD)
            stream.seek(-min(len(head), len(END)), os.SEEK_END)
            whole = stream.read() == END
    except OSError:
        return None
    match = DIGEST.search(head)
    return match[1].decode() if match and whole else _parsed_digest(path)


def _parsed_digest(path):
    """The same of a file that another program wrote again, with other spaces or ends of lines."""
    from slidesparse.points.strict import read_json as read_strictly

    try:
        digest = read_strictly(path)["request"]["digest"]
    except (RecordError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None


def is_point(path, asked):
    """Whether a whole and valid point that answers the request `asked` lies at `path`."""
    if stored_digest(path) != asked["digest"]:
        return False
    from slidesparse.points.validate import read_point  # costs the time of a client's start, and few come here

    try:
        read_point(path, asked["digest"])
    except RecordError:
        return False
    return True


def is_of_other_variants(path):
    """Whether the point of stock vLLM at `path` was chosen from other points of its variants than are there now.

    Points that do not say what they were chosen from, or whose variants are not there, are left alone. Planning asks
    this of every point of stock vLLM, so of a variant only the end of its file is read, if it has a digest there.
    """
    paths = request.variant_paths(path)
    try:
        text = read_bytes(path) if paths else b""
        if b'"variants"' not in text:
            return False
        known = parse_json(text.decode())["results"]["variants"]
        return any(_is_another(paths[name], known[name]) for name in paths if os.path.exists(paths[name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_another(path, said):
    """Whether the point of a variant at `path` is not the one of which a chosen point says this.

    Variants from before points had digests are known by their figures.
    """
    if said.get("sha256"):
        return said["sha256"] != _seal(path)
    point = parse_json(read_bytes(path).decode())
    there = point["results"] | {name: point[name] for name in ("status", "reason")}
    return any(there.get(name) != value for name, value in said.items() if name != "sha256")


def _seal(path):
    """The digest that the point at `path` has of itself at its end, or None."""
    try:
        with open_regular(path) as stream:
            stream.seek(-min(os.fstat(stream.fileno()).st_size, SEAL), os.SEEK_END)
            match = re.search(rb'"sha256":\s*"([0-9a-f]{64})"\s*}\s*$', stream.read())
    except OSError:
        return None
    return match[1].decode() if match else None


def csv_of_table(path):
    """The text of the CSV that belongs beside a tuning table. RecordError if the table is damaged."""
    try:
        return tables.to_csv(read_json(path, RecordError))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RecordError(f"{path} is no tuning table; delete it to tune again") from None


def has_text(path, text):
    """Whether a file has exactly this text."""
    try:
        return read_bytes(path) == text.encode()
    except OSError:
        return False


def is_table(path, asked):
    """Whether a tuning table that answers the request `asked` lies at `path`.

    RecordError if it is damaged, changed, or the table of another path's search. A table without a digest, from before
    tables had one, is read as a whole.
    """
    if not os.path.exists(path):
        return False
    stored = stored_digest(path)
    table = read_json(path, RecordError)
    request.check_table(path, table)
    if stored:
        return stored == asked["digest"]
    try:
        linears = [{"N": N, "K": K} for N, K in {(entry["N"], entry["K"]) for entry in table["entries"]}]
        Ms = {entry["M"] for entry in table["entries"]}
        return asked == request.of_table(path, linears, Ms, table["parameters"], table["protocol"])
    except (KeyError, TypeError):
        raise RecordError(f"{path} is no tuning table; delete it to tune again") from None
