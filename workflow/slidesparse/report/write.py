"""Sources -> report.md of one hardware key, or of all. Everything in it is computed; times come from the data."""

from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import write_atomic
from slidesparse.report import checks, overview, performance
from slidesparse.report.gather import gather_all, hardware_directories, write_if_changed
from slidesparse.report.markdown import bullets
from slidesparse.report.sources import hardware_keys, read_source
from slidesparse.report.tasks import write_tasks


def write_report(hardware, sources, output):
    """Write the Markdown report of one hardware key from gathered files; same inputs, same bytes.

    sources: roots in our layout or the published one, each shown for itself and held against its own plan.json.
    Returns one sentence per refused file. Raises RecordError if no source holds anything of this hardware.
    """
    text, refused = render(hardware, sources)
    write_atomic(output, text)
    return refused


def write_reports(results, sources, hardware=None):
    """Gather what there is below `results`, write its task tables, and a report of `sources` for every hardware key.

    hardware: one key; None takes every key of any source. Writes {results}/{hardware}/tasks.csv and report.md; files
    whose content would not change stay untouched. Returns one sentence per refused file. Raises RecordError if no
    source holds anything of the one key.
    """
    all_refused = []
    for key in [hardware] if hardware else hardware_keys(sources):
        refused = gather_all(results, key)
        if key in hardware_directories(results):
            try:
                write_tasks(results, key)
            except RecordError as error:
                refused.append(str(error))
        text, refused = render(key, sources, {str(results): refused})
        write_if_changed(Path(results, key, "report.md"), text)
        all_refused += [sentence for sentence in refused if sentence not in all_refused]
    return all_refused


def render(hardware, roots, refused=None):
    """(text of the report, sentences about refused files). `refused`: root -> those that are known already."""
    sources = [read_source(root, hardware) for root in roots]
    for source in sources:
        source.refused = list(dict.fromkeys([*(refused or {}).get(source.root, []), *source.refused]))
    held = [s for s in sources if s.rows or s.tasks or s.refused or s.ungathered or s.plan]
    if not held:
        known = ", ".join(hardware_keys(roots)) or "none"
        raise RecordError(f"no source holds anything of hardware {hardware}; there is: {known}")
    labels = overview.provenance_labels(held)
    lines = [f"# {hardware}", "", *bullets(head(held, roots))]
    for source in held:
        lines += [f"## Source `{source.root}`", ""]
        for title, section in (
            ("Tasks", overview.task_section(source)),
            ("Passed", checks.check_section(source)),
            ("Missing, failed, left out", checks.problem_section(source)),
            ("Models and checkpoints", overview.model_section(source)),
            ("Prefill", performance.throughput_section(source, "prefill", labels)),
            ("Decode", performance.throughput_section(source, "decode", labels)),
            ("Kernel", performance.kernel_section(source, labels)),
            ("Speed-up", performance.speedup_section(source)),
            ("Result files", overview.file_section(source)),
        ):
            lines += [f"### {title}", "", *section]
    lines += ["## Provenance", "", *overview.provenance_section(held, labels)]
    return "\n".join(lines).rstrip() + "\n", [sentence for source in held for sentence in source.refused]


def head(sources, roots):
    """What stands above everything: name of the hardware, time span, sources, refused files."""
    names = sorted({row.provenance.gpu_name for source in sources for row in source.rows} - {""})
    spans = [span for source in sources if (span := overview.dates(source))]
    empty = [root for root in map(str, roots) if root not in [source.root for source in sources]]
    refused = sum(len(source.refused) for source in sources)
    items = [f"Hardware: {', '.join(names) or 'name not recorded'}"]
    if spans:
        items.append(f"Measured: {min(span[0] for span in spans)} to {max(span[1] for span in spans)}")
    items.append(f"Sources: {', '.join(f'`{source.root}`' for source in sources)}")
    items += [f"Nothing of this hardware in: {', '.join(f'`{root}`' for root in empty)}"] if empty else []
    items += [f"Refused files: {refused}, named below"] if refused else []
    return items
