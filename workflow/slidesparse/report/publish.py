"""Documents -> files: figures, CSVs of tables, Markdown and HTML; what would not change stays untouched."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from slidesparse.report import drawing
from slidesparse.report.document import Figure, Table
from slidesparse.report.gather import write_if_changed
from slidesparse.report.render import to_csv, to_html, to_markdown

MANY = 24
"""Figures from which on two processes draw them."""


def publish(documents, languages):
    """Write documents: [(document, directory, stem)] -> `{stem}.{language}.{md,html}`, their figures and tables in
    `{stem}/`.
    """
    draw([item for document, directory, stem in documents for item in stale(document, directory / stem)])
    for document, directory, stem in documents:
        folder = directory / stem
        texts = {f"{table.name}.csv": to_csv(table) for table in tables(document)}
        for name, text in texts.items():
            write_if_changed(folder / name, text)
        drawn = {figure.name for figure in document.walk(Figure)}
        for path in sorted(folder.glob("*")):  # what an earlier report had and this one has not
            if path.name not in texts and path.stem not in drawn and path.suffix in (".csv", ".svg", ".png"):
                path.unlink()
        drawings = {name: (folder / f"{name}.svg").read_text() for name in sorted(drawn)}
        for language in languages:
            write_if_changed(directory / f"{stem}.{language}.md", to_markdown(document, language, stem))
            page = to_html(document, language, stem, stem, drawings, languages)
            write_if_changed(directory / f"{stem}.{language}.html", page)


def tables(document):
    """Every table of a document, those behind figures too."""
    return [*document.walk(Table), *(figure.table for figure in document.walk(Figure))]


def stale(document, folder):
    """[(panels, path, key)] of the figures that are not yet drawn from what they hold."""
    found = []
    for figure in document.walk(Figure):
        path, key = folder / f"{figure.name}.svg", drawing.key_of(figure)
        if not drawing.up_to_date(path, key):
            found.append((figure.panels, path, key))
    return found


def draw(items):
    """Draw figures, in two processes where there are many."""
    if len(items) < MANY:
        for item in items:
            drawing.draw(*item)
        return
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(draw_one, items, chunksize=4))


def draw_one(item):
    """Draw one figure."""
    drawing.draw(*item)


def prefix_tables(section, prefix):
    """Let the names of the tables of a section begin with `prefix`, so that sources do not meet in one file."""
    for table in section.walk(Table):
        table.name = f"{prefix}_{table.name}"
