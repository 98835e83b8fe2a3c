"""A document -> Markdown, one self-contained HTML page, and the CSV of every table."""

import csv
import hashlib
import html
import io
import re
from base64 import b64encode
from functools import cache, lru_cache
from itertools import product, takewhile
from pathlib import Path

import jinja2
from markupsafe import Markup

from slidesparse.files import printable
from slidesparse.report.document import drawing, looks
from slidesparse.report.document.languages import ENGLISH, available, speaker
from slidesparse.report.document.model import Bullets, Choice, Figure, Number, Section, Table, Text, plain
from slidesparse.report.tables.columns import cell

TEMPLATES = Path(__file__).parent / "templates"
NAMES = {"en": "English", "zh": "中文"}
WRAPPED, LONG = 44, ' class="w"'
"""Characters beyond which a cell wraps, and the class of a cell that does."""

MANY = 9
"""Most columns of a table in its full size."""

SHOWN_DEPTH, SHOWN_LENGTH = 2, 40
"""Deepest level and longest title of the sections that the page's navigation shows."""


@cache
def environment():
    """The Jinja environment of the templates. A misspelt name in a template is an error."""
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: name is not None and ".html" in name,
        keep_trailing_newline=True,
    )
    jinja.filters |= {"code": code, "markdown": markdown_block}
    jinja.globals |= {"kind": kind, "Section": Section, "names": NAMES}
    return jinja


SPECIAL = re.compile(r"[&<>\"'`]")


def kind(block):
    """The kind of a block, by which templates choose what to do."""
    kinds = {Section: "section", Table: "table", Bullets: "bullets", Figure: "figure", Choice: "choice"}
    return kinds.get(type(block), "text")


def code(text):
    """HTML of a text; words in backquotes become code."""
    text = str(text) if str(text).isprintable() else printable(text)
    text = html.escape(text) if SPECIAL.search(text) else text
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", text) if "`" in text else text)


SPAN = re.compile(r"(?<!`)`([^`<>&|\\]+)`(?!`)")
LINE_START = re.compile("[#+*=~_-]")
NUMBERED = re.compile(r"^([0-9]+)([.)])")
MARKUP = re.compile(r"[&<>`\[\]|\\]|(?<=[A-Za-z]):(?=//)|(?<=www)\.|@")


def markdown(text):
    """Markdown of a text on one line; words in backquotes become code, and data becomes neither markup nor link."""
    parts = SPAN.split(printable(text))
    parts[::2] = [MARKUP.sub(_escaped, part) for part in parts[::2]]
    parts[1::2] = [f"`{part}`" for part in parts[1::2]]
    return "".join(parts)


def _escaped(mark):
    return "\\|" if mark[0] == "|" else f"&#{ord(mark[0])};"


def markdown_block(text):
    """`markdown` of a text that begins a line, so that it becomes no heading and no list."""
    line = markdown(text)
    line = f"&#{ord(line[0])};{line[1:]}" if LINE_START.match(line) else line
    return NUMBERED.sub(lambda mark: f"{mark[1]}&#{ord(mark[2])};", line)


def markdown_cell(value):
    """A value as one cell of a Markdown table."""
    return markdown(plain(value)) if type(value) is not Number else str(value)


def markdown_table(table, say):
    """A table in Markdown."""
    rules = ["---:" if table.side(column) == "r" else "---" for column in range(len(table.headers))]
    heads, *rows = [[markdown_cell(say(value)) for value in line] for line in (table.headers, *table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rules, *rows))


LONG_WORD = re.compile(r"[^\s<>&;]{16,}")
BREAKS = re.compile(r"/(?=.)|_(?=\w{3})|[0-9A-Za-z]{10}(?=[0-9A-Za-z]{6})")


def breakable(text):
    """HTML of a text whose long words may be broken on paper: after a slash, or inside a long run of letters."""
    return LONG_WORD.sub(lambda word: BREAKS.sub(r"\g<0><wbr>", word[0]), text)


def html_table(table, title, say):
    """A table in HTML. title: its caption, for those who do not see the page."""
    classes = {"l": ' class="l"', "w": LONG, "r": ""}
    sides = [classes[table.side(column)] for column in range(len(table.headers))]
    heads = [f'<th scope="col"{s}>{code(say(h))}</th>' for s, h in zip(sides, table.headers, strict=True)]
    many = ' class="many"' if len(table.headers) > MANY else ""
    caption = f"<caption>{code(title)}</caption>" if title else ""
    lines = [f"<table{many}>{caption}<thead><tr>{''.join(heads)}</tr></thead>", "<tbody>"]
    for row in table.rows:
        cells = []
        for side, value in zip(sides, row, strict=True):
            text = value if type(value) is Number else breakable(code(plain(say(value))))
            cells.append(f"<td{LONG if side and len(text.replace('<wbr>', '')) > WRAPPED else side}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return Markup("\n".join([*lines, "</tbody></table>"]))


def to_markdown(document, language, folder):
    """The document as Markdown; `folder`: where its figures lie, relative to the file."""
    words = speaker(language)

    def said(text, **values):
        return words(Text(text, values) if values else text)

    text = (
        environment()
        .get_template("report.md.jinja")
        .render(
            document=document,
            say=said,
            folder=folder,
            file_of=lambda figure: file_of(figure, language),
            markdown_table=lambda table: markdown_table(table, words),
            tables=lambda section: [*section.walk(Table), *(figure.table for figure in section.walk(Figure))],
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def to_html(document, language, folder, stem, drawings, languages=None):
    """The document as one page. drawings: name of a figure -> its SVG. stem: the file name without language."""
    say = speaker(language)
    script = f"\n{TEMPLATES.joinpath('report.js').read_text(encoding='utf-8')}"
    anchors, depths = {}, {}

    def number(section, depth=1):
        for block in section.blocks:
            if isinstance(block, Section):
                anchors[id(block)], depths[id(block)] = f"s{len(anchors) + 1}", depth + 1
                number(block, depth + 1)

    number(document)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            document=document,
            say=say,
            language=language,
            languages=languages or [language],
            folder=folder,
            stem=stem,
            style=Markup(palette() + TEMPLATES.joinpath("report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
            html_table=lambda table, title: html_table(table, title, say),
            drawing=lambda figure: pictures(drawings[figure.name], f"f-{figure.name}", say),
            anchor=lambda section: anchors[id(section)],
            shown=lambda section: depths[id(section)] <= SHOWN_DEPTH and len(brief(say(section.title))) <= SHOWN_LENGTH,
            axes=axes,
            alternatives=alternatives,
            absent=absent,
            brief=brief,
            leading=lambda section: [*takewhile(lambda block: kind(block) == "text", section.blocks)],
            depth=lambda section: depths[id(section)],
        )
    )


def axes(section):
    """Axes of the Choices of a section, each once, in order: [(axis, its options)]."""
    found = {}
    for choice in section.blocks:
        if isinstance(choice, Choice):
            for place, axis in enumerate(choice.axes):
                known = found.setdefault(str(axis), (axis, {}))[1]
                known.update({str(option): option for option in choice.options(place) if str(option) not in known})
    return [(axis, list(options.values())) for axis, options in found.values()]


def places(choice, known):
    """(numbers of the axes of a Choice, {numbers of its options: block}). known: the section's `axes`."""
    numbers = {str(axis): number for number, (axis, _) in enumerate(known)}
    mine = [numbers[str(axis)] for axis in choice.axes]
    options = [{str(option): i for i, option in enumerate(known[axis][1])} for axis in mine]
    return mine, {
        tuple(found[str(option)] for found, option in zip(options, key, strict=True)): block
        for key, block in choice.items.items()
    }


def under(items, start):
    """Options of the next axis that lead to a block, in order. start: options that are chosen already."""
    return sorted({key[len(start)] for key in items if key[: len(start)] == start})


def alternatives(choice, known):
    """[({number of an axis: number of its option}, block or None)] of what a reader may choose.

    Where the last axis has one block only, it is shown whatever that axis says, because `absent` hides the axis.
    """
    mine, items = places(choice, known)
    *first, last = (range(len(known[axis][1])) for axis in mine)
    found = []
    for start in product(*first):
        there = under(items, start)
        if first and len(there) < 2:
            found.append((start, items[*start, *there] if there else None))
        else:
            found += [((*start, option), items.get((*start, option))) for option in last]
    return [(dict(zip(mine, key, strict=False)), block) for key, block in found]


def absent(choice, known):
    """[({axis: option} chosen, axis, option)] of options without a block there; option None: all of a last axis.

    An option of the first axis is always there, because other parts of the section depend on it.
    """
    mine, items = places(choice, known)
    found = []
    for depth in range(1, len(mine)):
        axis, ahead = mine[depth], [range(len(known[each][1])) for each in mine[:depth]]
        for start in product(*ahead):
            there, chosen = under(items, start), dict(zip(mine, start, strict=False))
            if depth == len(mine) - 1 and len(there) == 1 < len(known[axis][1]):
                found.append((chosen, axis, None))
            elif there:
                found += [(chosen, axis, option) for option in range(len(known[axis][1])) if option not in there]
    return found


def brief(title):
    """A title for the navigation: what stands before a colon."""
    return re.split("[:：]", str(title))[0]


DIGITS = re.compile(r"(\.\d)\d+")
FONT = "font-family: 'DejaVu Sans'; "
INNER = {looks.GROUND: "var(--page)", looks.INK: "currentColor"} | {
    colour: f"var(--c{i})" for i, colour in enumerate(looks.COLOURS) if i
}
"""A colour of a drawing -> that of the same drawing inside a page, which has a light and a dark one."""


def palette():
    """CSS of the colours of drawings, on a light and on a dark page."""
    light, dark = (" ".join(f"--c{i}: {pair[side]};" for i, pair in enumerate(looks.PALETTE) if i) for side in (0, 1))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


@lru_cache(maxsize=64)  # a page in another language has the same figures
def inline(svg):
    """The <svg> element of a file, without parts that only a separate file needs; colours are those of the page.

    A tenth of a point is enough for coordinates on a screen.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:d|x|y|x1|y1|x2|y2|transform)="[^"]*"', lambda found: DIGITS.sub(r"\1", found[0]), svg)
    svg = re.sub(r'<g id="[A-Za-z0-9_.]+">', "<g>", svg).replace("<svg", '<svg role="img"', 1)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg).replace(FONT, "")
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").replace(' "', '"')
    return re.sub("#[0-9a-f]{6}", lambda found: INNER.get(found[0], found[0]), svg)


SPEED_UP = "speed-up over "


def label(text, say):
    """A word or a title inside a drawing in the language of `say`."""
    if text.startswith(SPEED_UP):
        return say(Text("speed-up over {over}", {"over": text[len(SPEED_UP) :]}))
    return say([*text.split(", ")])


def file_of(figure, language):
    """Name of the SVG of a figure in a language. No name of a figure has an @."""
    return f"{figure.name}.svg" if language == ENGLISH else f"{figure.name}@{language}.svg"


def spoken(svg, say):
    """A drawing with its words in the language of `say`."""
    return re.sub("(?<=>)[^<]+(?=</text>)", lambda text: html.escape(label(html.unescape(text[0]), say)), svg)


def pictures(svg, name, say):
    """HTML of a figure: the whole, and for narrow screens its parts below one another, which show pieces of the whole.

    name: becomes the id of the whole. say: translates the words in it.
    """
    drawn = spoken(inline(svg), say)
    if not (parts := drawing.parts_of(svg)):
        return Markup(f"<div>{drawn}</div>")
    width, height = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg).groups()
    use = f'<use href="#{name}" width="{width}" height="{height}"/>'
    widths = [f"{100 * part[2] / parts[0][2]:.1f}%" for part in parts]
    pieces = [
        f'<svg viewBox="{" ".join(map(str, part))}" style="width: {share}">{use}</svg>'
        for part, share in zip(parts, widths, strict=True)
    ]
    whole = drawn.replace("<svg", f'<svg id="{name}"', 1)
    return Markup(f'<div class="whole">{whole}</div><div class="parts" aria-hidden="true">{"".join(pieces)}</div>')


def to_csv(table):
    """The CSV of a table: English heads, numbers with all their digits, and empty cells for missing values."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    say = speaker("en")
    writer.writerow([raw(say(header)) for header in table.headers])
    writer.writerows([[raw(say(value)) for value in row] for row in table.rows])
    return stream.getvalue()


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""Characters at the beginning of a text that a spreadsheet would take for a formula."""

BEGINS = re.compile(f"(^|[;\t])(?=[{re.escape(''.join(FORMULA))}])")


def raw(value):
    """A cell as it is written to a CSV."""
    if isinstance(value, Number):
        return cell(value.value)
    text = "" if value in (None, "—") else plain(value)
    # A spreadsheet may take another separator than ours, and begin a cell behind it.
    return BEGINS.sub(r"\1'", text)


def check_languages(languages):
    """`languages`, checked; RecordError for a language without a catalogue."""
    from slidesparse.errors import RecordError

    for language in languages:
        if language not in available():
            raise RecordError(f"there is no report in {language}: there is {', '.join(available())}")
    return list(dict.fromkeys(languages))
