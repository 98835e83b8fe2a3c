"""Reports as tests read them: as Markdown without drawing figures, and the tables in it."""

import re

import synthetic
from places import ROOT
from slidesparse.plan.key import Configuration
from slidesparse.report.document.model import Section
from slidesparse.report.document.render import to_markdown
from slidesparse.report.sections import comparison
from slidesparse.report.sources.read import hardware_keys
from slidesparse.report.sources.rows import Provenance, Row, Source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import analysed, held_sources, report, summaries_of

PUBLISHED = ROOT / "resources" / "published"
HARDWARE = synthetic.HARDWARE
H100 = "H100_cc90_py312_cu129_x86_64"
SPARSE = {"backend": "cusparselt", "sparsity": "2_8"}
DENSE = Configuration("BitNet-2B", "INT8", "cublaslt", "dense")
SLID = Configuration("BitNet-2B", "INT8", "cusparselt", "2_8")
MACHINE = Provenance("NVIDIA H200", "580.95")
H200 = "H200_cc90_py312_cu130_x86_64"


def rows_under(text, title):
    """Cells of the tables under a heading."""
    _, _, after = text.partition(f"# {title}\n")
    assert after, f"no heading {title}"
    lines = re.split(r"\n#+ ", after)[0].splitlines()
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    return [row for row in found[1:] if set(row[0]) - set("-:")]


def markdown(*sources, hardware=HARDWARE, language="en"):
    """(text of the report with all its tables, refused sentences)."""
    document, refused = unfolded_report(*sources, hardware=hardware)
    return to_markdown(document, language, "report"), refused


def unfolded_report(*sources, hardware=HARDWARE):
    """(the report's document with no section folded, refused sentences)."""
    held = held_sources(hardware, sources)
    document = unfolded(report(hardware, held, analysed(held), sources))
    return document, [sentence for source in held for sentence in source.refused]


def unfolded(document):
    """The document with no section folded: in Markdown the tables of folded ones are links."""
    for section in document.walk(Section):
        section.folded = False
    return document


def compared(*sources):
    """Text of the comparison, with all its tables."""
    summaries = []
    for key in hardware_keys(sources):
        held = held_sources(key, sources)
        summaries += summaries_of(key, held, analysed(held))
    return to_markdown(unfolded(comparison.document(summaries)), "en", "comparison")


def ours(root, driver="580.95", **properties):
    """A small run: dense and 2_8, prefill, decode and kernel, gathered."""
    for stage, Ms in (("prefill", (512, 1024)), ("decode", (64, 128)), ("kernel", (64, 128))):
        synthetic.write(root, stage, Ms, 0.012, driver=driver, **properties)
        synthetic.write(root, stage, Ms, 0.010, place=SPARSE, driver=driver, **properties)
    assert gather_all(root, HARDWARE) == []
    return root


def gathered(root, stage="prefill", backend="cublaslt", sparsity="dense"):
    """Path of a gathered CSV of `ours`."""
    return root / HARDWARE / stage / "BitNet-2B" / "INT8" / backend / sparsity / f"BitNet-2B-INT8_{stage}.csv"


def edit(path, change):
    """Change the text of a file."""
    text = path.read_text()
    changed = change(text)
    assert changed != text
    path.write_text(changed)


def set_column(path, column, values):
    """Give every row of a CSV a value in a column, which is added in front of `status` where the file lacks it."""
    import csv

    with open(path, encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    if column not in header:
        at = header.index("status")
        header.insert(at, column)
        for row in rows:
            row.insert(at, "")
    values = values if isinstance(values, list) else [values] * len(rows)
    for row, value in zip(rows, values, strict=True):
        row[header.index(column)] = str(value)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


def kernel(configuration, M, latency, **values):
    """Rows of the four linears of one kernel point."""
    rows = []
    for linear, (N, K) in synthetic.LINEARS.items():
        measured = {"N": N, "K": K, "K_slid": K, "latency_us": latency} | values
        rows.append(Row(H200, "kernel", configuration, M, "ok", measured, MACHINE, linear))
    return rows


def step(stage, configuration, M, ms, width=0.01, **values):
    """A prefill or decode row with a measured step."""
    interval = {"step_ms_ci_low": ms * (1 - width), "step_ms_ci_high": ms * (1 + width)}
    rates = {"requests_per_s": 1.0, "tokens_per_s": 1000 * M / ms, "elapsed_time_s": 1.0, "step_ms": ms}
    return Row(H200, stage, configuration, M, "ok", rates | interval | values, MACHINE)


def text_of(rows, language="en", **more):
    """The report of rows."""
    source = Source("results", rows=rows, linears={"BitNet-2B": 4}, **more)
    return to_markdown(unfolded(report(H200, [source], analysed([source]), ["results"])), language, "report")
