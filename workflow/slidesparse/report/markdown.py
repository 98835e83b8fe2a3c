"""Numbers and tables as Markdown text."""

from decimal import ROUND_HALF_UP, Decimal

NONE = "—"


def fixed(value, digits, thousands=False):
    """`value` with so many decimals, halves rounded up as written; a dash for None."""
    if value is None:
        return NONE
    rounded = Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{rounded:,f}" if thousands else f"{rounded:f}"


def whole(value):
    """A count, with separators between thousands; a dash for None."""
    return NONE if value is None else f"{value:,}"


def text(value):
    """Anything as one table cell."""
    return " ".join(str(value).split()).replace("|", "\\|") if value not in (None, "") else NONE


def table(headers, rows, align=""):
    """Lines of a table and a blank line; align: l or r for every column, r for those that it does not reach."""
    rules = ["---" if side == "l" else "---:" for side in align.ljust(len(headers), "r")]
    lines = [headers, rules, *rows]
    return ["| " + " | ".join(text(cell) for cell in line) + " |" for line in lines] + [""]


def bullets(items):
    """Lines of a list; a blank line follows, unless there is nothing."""
    return [f"- {item}" for item in items] + [""] if items else []
