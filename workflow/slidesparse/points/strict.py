"""Read whole CSV and JSON files, or refuse them with one sentence that names the file and the cause."""

import csv
import math
import os
import re

from slidesparse import files
from slidesparse.errors import RecordError

LIMIT = 8 << 20
"""Bytes of the largest file of results that is read. A point has at most 0.3 MB."""


def read_text(path):
    """Content of a UTF-8 file, without a byte order mark at its head, as editors on Windows write it.

    Raises RecordError if the file is missing, not UTF-8, no regular file, too large, or a link.

    A link in somebody else's results may lead to a private file of the user, which the report would then quote.
    """
    if os.path.islink(path):
        raise RecordError(f"{path} is a link, which no report follows: put the file itself there")
    try:
        return files.read_text(path, LIMIT).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is damaged: byte {error.start} is not UTF-8 text") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None


def read_json(path):
    """Object in a JSON file. Raises RecordError if it is damaged, holds NaN, or is no object."""
    try:
        value = files.parse_json(read_text(path))
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise RecordError(f"{path} is damaged: it holds no JSON object")
    return value


HEADS = ("GPU", "CC", "Model", "model", "Backend", "Sparsity", "Time", "NK_list", "M_list", "torch", "CUDA driver")
HEADS += ("driver", "dtype", "warmup")
"""Keys of leading lines that some reader looks for."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A number as programs write it: no underscores, no digits of other scripts."""


def number(text, kind):
    """`text` as int or float; raises ValueError for anything that is not a finite number."""
    if len(text) > 40 or not NUMBER.fullmatch(text.strip()):
        raise ValueError(text)
    value = kind(text)
    if not math.isfinite(value) or abs(value) >= 1 << 63:
        raise ValueError(text)
    return value


CONVERT = {
    int: lambda text: number(text, int),
    float: lambda text: number(text, float),
    bool: lambda text: {"true": True, "false": False}[text],
    str: str,
}


def read_csv(path, columns, ended=True, optional=()):
    """Rows of a CSV file as dictionaries, and a dictionary of its leading `# key: value` lines.

    columns: name -> int, float, bool or str, in the order of the file; an empty cell becomes None.
    ended: whether a file without a newline at its end counts as truncated.
    optional: columns that may be missing; their values are None. Blank lines at the end are not read.

    Raises RecordError for unknown or missing columns, a short or long row, or a cell that cannot be converted.
    """
    return parse_csv(path, read_text(path), columns, ended, optional)


def parse_csv(path, text, columns, ended=True, optional=()):
    """The same of the text of a file; `path` is named in errors."""
    lines = text.splitlines(keepends=True)
    comments = [line.strip().lstrip("#").strip() for line in lines if line.lstrip().startswith("#")]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise RecordError(f"{path} is truncated: it holds no header")
    if ended and not lines[-1].endswith("\n"):
        raise RecordError(f"{path} is truncated: its last line has no end")
    table = csv.reader(lines, strict=True)
    try:
        header, *body = list(table)
    except csv.Error as error:
        raise RecordError(f"{path} is damaged: {error}") from None
    lacking = {name: None for name in optional if name not in header}
    columns = {name: kind for name, kind in columns.items() if name not in lacking}
    if header != list(columns):
        raise RecordError(f"{path} cannot be read: {header_difference(header, list(columns))}")
    rows = [convert(path, number, cells, columns) | lacking for number, cells in enumerate(body, start=1)]
    return rows, dict(filter(None, map(head_line, comments)))


def head_line(text):
    """(key, value) of a leading line such as `GPU: H100` or `warmup=25`, also in small letters, or None."""
    match = re.fullmatch(r"([A-Za-z][\w ]{0,30}?) *[:=] *(.*)", text)
    if not match:
        return None
    key, value = match.groups()
    known = next((word for word in HEADS if word.lower() == key.lower()), key)
    return key if key in HEADS else known, value


def header_difference(header, columns):
    """A sentence on how a header differs from the known columns.

    It quotes the file only if the header has a known column. Any other file may hold secrets, if a link led to it.
    """
    if not set(header) & set(columns):
        if len(header) == 1 and any(set(header[0].split(mark)) & set(columns) for mark in ";\t|"):
            return "its columns are not separated by commas"
        return "it has none of the columns that it should have"
    for names, verb in ((set(header) - set(columns), "unknown"), (set(columns) - set(header), "missing")):
        if names:
            columns = "columns" if len(names) > 1 else "column"
            return f"{verb} {columns} {', '.join(sorted(name[:80] for name in names))}"
    return "its columns are in another order or repeated"


def convert(path, number, cells, columns):
    """One row of text cells as a dictionary of values."""
    if len(cells) != len(columns):
        raise RecordError(f"{path} is truncated or damaged: row {number} has {len(cells)} of {len(columns)} columns")
    row, fault = values(dict(zip(columns, cells, strict=True)), columns)
    if fault:
        raise RecordError(f"{path} is damaged: row {number}, {fault}")
    return row


def values(texts, columns):
    """(the values of a row of texts, what is wrong with the first that cannot be converted, or None).

    Such a value is None. So is that of an empty text and of None, and nothing is wrong with it.
    """
    row, faults = {}, []
    for name, kind in columns.items():
        text = texts[name]
        try:
            row[name] = None if text in ("", None) else CONVERT[kind](text)
        except (ValueError, KeyError, OverflowError):
            what = {bool: "neither true nor false", int: "no whole number"}.get(kind, "no finite number below 2^63")
            row[name] = None
            faults.append(f"column {name}: {text!r:.80} is {what}")
    return row, next(iter(faults), None)


def refuse_duplicates(path, rows, columns):
    """Raise RecordError if two rows agree in `columns`."""
    seen = set()
    for row in rows:
        key = tuple(row[column] for column in columns)
        if key in seen:
            raise RecordError(
                f"{path} holds two rows for " + ", ".join(f"{c}={v}" for c, v in zip(columns, key, strict=True))
            )
        seen.add(key)


def refuse_zeros(path, rows, columns):
    """Raise RecordError if a row has a zero where a measured value must be positive, as dry runs of others write it."""
    for number, row in enumerate(rows, start=1):
        zeros = [column for column in columns if row[column] == 0]
        if zeros:
            raise RecordError(
                f"{path} holds values that nobody measured: row {number} has {', '.join(zeros)} = 0, as after a dry run"
            )
