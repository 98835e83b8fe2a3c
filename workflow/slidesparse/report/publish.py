"""Documents -> files: figures, CSVs of tables, Markdown and HTML; what would not change stays untouched."""

from slidesparse.report import drawing
from slidesparse.report.document import Figure, Table
from slidesparse.report.gather import write_if_changed
from slidesparse.report.render import to_csv, to_html, to_markdown


def publish(document, directory, stem, languages):
    """Write a document: `{stem}.{language}.{md,html}`, and its figures and the CSVs of its tables in `{stem}/`."""
    folder = directory / stem
    texts = {f"{table.name}.csv": to_csv(table) for table in tables(document)}
    for name, text in texts.items():
        write_if_changed(folder / name, text)
    drawings = {}
    for figure in document.walk(Figure):
        path, key = folder / f"{figure.name}.svg", drawing.key_of(figure)
        if not drawing.up_to_date(path, key):
            drawing.draw(figure.panels, path, key)
        drawings[figure.name] = path.read_text()
    for path in sorted(folder.glob("*")):  # what an earlier report had and this one has not
        if path.name not in texts and path.stem not in drawings and path.suffix in (".csv", ".svg", ".png"):
            path.unlink()
    for language in languages:
        write_if_changed(directory / f"{stem}.{language}.md", to_markdown(document, language, stem))
        page = to_html(document, language, stem, stem, drawings, languages)
        write_if_changed(directory / f"{stem}.{language}.html", page)


def tables(document):
    """Every table of a document, those behind figures too."""
    return [*document.walk(Table), *(figure.table for figure in document.walk(Figure))]


def prefix_tables(section, prefix):
    """Let the names of the tables of a section begin with `prefix`, so that sources do not meet in one file."""
    for table in section.walk(Table):
        table.name = f"{prefix}_{table.name}"
