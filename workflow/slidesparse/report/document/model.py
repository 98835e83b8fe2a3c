"""The model of a report, without language or format: sections with sentences, tables and figures."""

import hashlib
import re
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from slidesparse.files import printable

NONE = "—"
PLACES = [Decimal(1).scaleb(-digits) for digits in range(10)]


class Text(NamedTuple):
    """A sentence that can be translated: its English form with {names}, and the values of the names."""

    english: str
    values: dict

    def __str__(self):
        return self.english.format_map({name: str(value) for name, value in self.values.items()})


def say(english, **values):
    """A sentence that a catalogue translates. Its values may be sentences, too."""
    return Text(english, values)


class Number(str):
    """A printed number that keeps its `value` for sorting and for CSV files."""

    value = None


def number(text, value):
    """`text` as a Number that keeps `value`."""
    shown = Number(text)
    shown.value = value
    return shown


def fixed(value, digits, thousands=False):
    """`value` with this many decimals, halves rounded up in decimal; a dash for None."""
    if value is None:
        return NONE
    if abs(value) >= 1e15:
        return number(f"{value:.{digits}e}", value)
    rounded = Decimal(repr(float(value))).quantize(PLACES[digits], ROUND_HALF_UP)
    return number(f"{rounded:,f}" if thousands else f"{rounded:f}", value)


def whole(value):
    """A count, with separators between thousands; a dash for None."""
    return NONE if value is None else number(f"{value:,}", value)


def interval(value, low, high, digits):
    """`value (low–high)`, or only the value if its interval is not known."""
    shown = fixed(value, digits)
    if value is None or low is None or high is None:
        return shown
    return number(f"{shown} ({fixed(low, digits)}–{fixed(high, digits)})", value)


def joined(parts, mark="; "):
    """Sentences joined with a mark between them."""
    names = [f"part{i}" for i in range(len(parts))]
    return Text(mark.join(f"{{{name}}}" for name in names), dict(zip(names, parts, strict=True)))


def plain(value):
    """A cell as one line of printable text; a dash if it is empty."""
    return printable(value) if value not in (None, "") else NONE


def file_name(name):
    """`name`, which may contain data, as a plain file name that cannot leave its folder."""
    safe = re.sub(r"[^A-Za-z0-9_.+-]", "_", name).lstrip(".")[:160]
    return safe if safe == name else f"{safe}-{hashlib.sha256(ascii(name).encode()).hexdigest()[:8]}"


@dataclass
class Table:
    """name: of its CSV file, unique in a report. align: for each column l, r, or w, which is l with cells
    that wrap; r for columns beyond its end.
    """

    name: str
    headers: tuple
    rows: list
    align: str = ""

    def __post_init__(self):
        self.name = file_name(self.name)

    def side(self, column):
        """Alignment of a column: l, r or w."""
        return self.align[column] if column < len(self.align) else "r"


@dataclass
class Figure:
    """name: of its SVG. panels: input of slidesparse.report.document.drawing. table: the numbers behind it."""

    name: str
    caption: Text
    panels: list
    table: Table

    def __post_init__(self):
        self.name = file_name(self.name)


@dataclass
class Bullets:
    """A list of sentences."""

    items: list


@dataclass
class Choice:
    """Tables or figures of which a reader of the page sees one at a time.

    axes: what is chosen, such as type and stage. items: an option of each axis -> its block. Choices of one section
    share the axes that have one name. first_only: Markdown, where nobody chooses, shows only the first.
    """

    axes: tuple
    items: dict
    first_only: bool = False

    def options(self, place):
        """The options of one axis, in order."""
        return list({str(key[place]): key[place] for key in self.items}.values())


@dataclass
class Section:
    """blocks: sentences (str, Text), Bullets, Tables, Figures, Choices and Sections.

    folded: collapsed at first in HTML; in Markdown its tables are links. printed: unfolded for a print. first: it
    is the first screen.
    """

    title: object
    blocks: list = field(default_factory=list)
    folded: bool = False
    printed: bool = False
    first: bool = False

    def walk(self, kind):
        """All blocks of a kind below this section, in order."""
        for block in self.blocks:
            if isinstance(block, kind):
                yield block
            if isinstance(block, Section):
                yield from block.walk(kind)
            if isinstance(block, Choice):
                yield from (item for item in block.items.values() if isinstance(item, kind))
