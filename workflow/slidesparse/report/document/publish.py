"""Documents -> files: figures, CSVs of tables, Markdown and HTML. Files that would not change stay untouched."""

from slidesparse.errors import RecordError
from slidesparse.files import inside, is_own, leads_out, mark_own
from slidesparse.report.document import drawing
from slidesparse.report.document.languages import ENGLISH, speaker
from slidesparse.report.document.model import Choice, Figure, Section, Table, file_name
from slidesparse.report.document.render import file_of, spoken, to_csv, to_html, to_markdown
from slidesparse.report.tables.gather import refuse_folder, write_if_changed


def publish(document, directory, stem, languages):
    """Write a document: `{stem}.{language}.{md,html}`, and its figures and the CSVs of its tables in `{stem}/`.

    Figures are there in English, and in each other language. One that already lies in the folder is kept only if this
    user's programs drew exactly these bytes. Raises RecordError if the folder is a link, or if it holds files to be
    replaced that this program did not make. A page in whose place a folder lies is named, and the others are written.
    """
    name_apart(document)
    texts = {f"{table.name}.csv": to_csv(table) for table in [*tables(document), contents(document, languages)]}
    names = {name for figure in document.walk(Figure) for name in files(figure, languages)}
    folder = own_folder(directory / stem, {*texts, *names})
    for name, text in texts.items():
        write_if_changed(inside(folder, name), text, durable=False)
    drawings = {}
    for figure in document.walk(Figure):
        place = inside(folder, file_of(figure, ENGLISH))
        refuse_folder(place)
        svg = drawings[figure.name] = drawing.drawn(figure, place)
        for language in [each for each in languages if each != ENGLISH]:
            write_if_changed(inside(folder, file_of(figure, language)), spoken(svg, speaker(language)), durable=False)
    wrong = []
    for language in languages:
        pages = {"md": to_markdown(document, language, stem)}
        pages["html"] = to_html(document, language, stem, stem, drawings, languages)
        for kind, page in pages.items():
            try:
                write_if_changed(directory / f"{stem}.{language}.{kind}", page)
            except RecordError as error:
                wrong.append(str(error))
    if wrong:
        raise RecordError("; ".join(wrong))


def own_folder(folder, names):
    """The folder of a document, made if missing; deletes tables and figures in it that are not in `names`."""
    if folder.is_symlink() or (folder.exists() and leads_out(folder.parent, folder)):
        raise RecordError(f"{folder} is a link, through which nothing is written: remove it")
    if folder.exists() and not folder.is_dir():
        raise RecordError(f"{folder} is a file in place of a folder: remove it")
    found = (path for path in sorted(folder.glob("*")) if path.is_symlink() or not path.is_dir())
    stale = [path for path in found if path.suffix in (".csv", ".svg", ".png") and path.name not in names]
    if stale and not is_own(folder):
        raise RecordError(f"{stale[0]} was not made by this program, which deletes nothing of others: move it away")
    for path in stale:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    mark_own(folder)
    return folder


def contents(document, languages):
    """The table of the files in a document's folder, each with the titles of its sections."""
    return Table("contents", ("File", "Section"), [*_named(document, languages, [])])


def _named(section, languages, titles):
    for block in section.blocks:
        if isinstance(block, Section):
            yield from _named(block, languages, [*titles, str(block.title)])
        elif isinstance(block, Choice):
            yield from _named(Section("", list(block.items.values())), languages, titles)
        elif isinstance(block, Figure | Table):
            names = files(block, languages) if isinstance(block, Figure) else [f"{block.name}.csv"]
            yield from ((name, " / ".join(titles)) for name in names)


def files(figure, languages):
    """Names of the files of a figure."""
    return [file_of(figure, language) for language in dict.fromkeys([ENGLISH, *languages])]


def tables(document):
    """All tables of a document, also those behind figures."""
    return [*document.walk(Table), *(figure.table for figure in document.walk(Figure))]


def name_apart(document):
    """Number the names of tables and figures that another one has, so that none overwrites another."""
    for blocks in (tables(document), [*document.walk(Figure)]):
        taken = set()
        for block in blocks:
            name, number = block.name, 2
            while block.name in taken:
                block.name = file_name(f"{name}_{number}")
                number += 1
            taken.add(block.name)


def prefix_tables(section, prefix):
    """Let the names of a section's tables begin with `prefix`, so that two sources never write one file."""
    for table in section.walk(Table):
        table.name = file_name(f"{prefix}_{table.name}")
