"""Sources -> reports of hardware keys and their comparison, in all formats and languages. Times come from the data."""

import errno
import gc
import json
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import leads_out
from slidesparse.machine.memory import cannot_share
from slidesparse.program import end_with, sentence, tell_end
from slidesparse.report.document import publish
from slidesparse.report.document.model import Bullets, Section, say
from slidesparse.report.document.render import check_languages
from slidesparse.report.sections import (
    anomalies,
    answer,
    by_prompt,
    checks,
    comparison,
    conclusions,
    factors,
    harness,
    lifts,
    overview,
    performance,
    quality,
    speedups,
    tradeoffs,
    verdict,
)
from slidesparse.report.sections.figures import figures
from slidesparse.report.sections.ratios import comparisons
from slidesparse.report.sections.summaries import summary
from slidesparse.report.sources import measured
from slidesparse.report.sources.places import nothing, plain_files
from slidesparse.report.sources.read import hardware_keys, read_source
from slidesparse.report.sources.rows import Source
from slidesparse.report.tables import task_scores
from slidesparse.report.tables.gather import closed_folders, gather_all, hardware_directories, write_if_changed
from slidesparse.report.tables.tasks import write_tasks


class NothingHeld(RecordError):
    """No source has anything of one hardware key."""


def write_report(hardware, sources, output, languages=("en",)):
    """Write the report of one hardware key from gathered files: `{output}/report.{language}.{md,html}` and its folder.

    sources: roots in our layout or the published one. Each is shown by itself and compared with its own plan.json.
    The same inputs give the same bytes. Files whose content would not change stay untouched. Returns one sentence for
    each refused file. Raises RecordError if no source has anything of this hardware.
    """
    with uncollected():
        held = held_sources(hardware, sources)
        document = report(hardware, held, analysed(held), sources)
        publish.publish(document, Path(output), "report", check_languages(languages))
    return [sentence for source in held for sentence in source.refused]


def write_reports(results, sources, hardware=None, languages=("en",), processes=1):
    """Gather the points below `results`, and write its task tables, a report for every hardware key and a comparison.

    hardware: only this key, and no comparison.
    processes: number of reports that are written side by side.

    Returns one sentence for each refused file. Raises RecordError if no source has anything, of the one key if given,
    and, when all others are written, for reports that could not be.
    """
    roots = {}
    for root in sources:
        roots.setdefault(os.path.realpath(root), str(root))
    sources = list(roots.values())
    asked = str(results), sources, check_languages(languages)
    one = partial(write_hardware if hardware else write_if_held, *asked)
    keys = [hardware] if hardware else hardware_keys(sources)
    linked = [key for key in keys if leads_out(results, Path(results, key))]
    if hardware and linked:
        raise RecordError(f"{Path(results, hardware)} is a link out of {results}, through which nothing is written")
    keys = [key for key in keys if key not in linked]
    if processes > 1 and len(keys) > 1 and not cannot_share():
        tell_end()
        how = {"mp_context": get_context("spawn"), "initializer": end_with, "initargs": (os.getpid(),)}
        with ProcessPoolExecutor(processes, **how) as pool:
            written = list(pool.map(one, keys))
    else:
        written = [one(key) for key in keys]
    summaries = [summary for _, summaries, _ in written for summary in summaries]
    wrong = [sentence for *_, sentences in written for sentence in sentences]
    if not (hardware or summaries or linked or wrong):
        raise RecordError(f"no source holds anything to report: {'; '.join(empty_sources(sources) or written[0][0])}")
    if not hardware and summaries:
        wrong += published(comparison.document(summaries), Path(results), "comparison", languages)
    if wrong:
        raise RecordError("; ".join(wrong))
    refused = [f"{Path(results, key)} is a link out of {results}: no report is written through it" for key in linked]
    refused += [] if hardware else closed_folders(results)
    return list(dict.fromkeys([*refused, *(sentence for sentences, *_ in written for sentence in sentences)]))


def published(*document):
    """Publish a document; returns a list with what was wrong in a sentence, or an empty one."""
    return _said_wrong(publish.publish, *document)


def _said_wrong(write, *arguments):
    """Call `write`; returns the same."""
    try:
        write(*arguments)
    except RecordError as error:
        return [str(error)]
    return []


def empty_sources(sources):
    """A sentence on each source that holds nothing of any hardware, with the folder that may be meant."""
    return [sentence for root in sources if (sentence := nothing(root))]


def write_if_held(results, sources, languages, key):
    """`write_hardware`, or a sentence if no source has anything of this key, or if its files cannot be used.

    The disk of one key is that of the others: OSError if it is full, broken or read-only.
    """
    try:
        return write_hardware(results, sources, languages, key)
    except NothingHeld as error:
        return [str(error)], [], []
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        return [], [], [sentence(error)]


def write_hardware(results, sources, languages, key):
    """Gather and report one hardware key; returns (sentences about refused files, its summaries, what was wrong)."""
    with uncollected():
        return _write_hardware(results, sources, languages, key)


def _write_hardware(results, sources, languages, key):
    refused, ours = [*gather_all(results, key), *task_scores.gather_all(results, key)], {}
    if key in hardware_directories(results):
        root = next((root for root in sources if os.path.realpath(root) == os.path.realpath(results)), results)
        ours[root] = Source(root)
        measured.read(ours[root], key)
        try:
            write_tasks(results, key, ours[root])
        except RecordError as error:
            refused.append(str(error))
    held = held_sources(key, sources, {results: refused}, ours)
    analyses = analysed(held)
    wrong = published(report(key, held, analyses, sources), Path(results, key), "report", languages)
    lines = [verdict.line_of(source, compared) for source, (compared, _) in zip(held, analyses, strict=True)]
    if not wrong:
        line = json.dumps({"line": next(filter(None, lines), "")})
        wrong = _said_wrong(write_if_changed, Path(results, key, "report", "answer.json"), line)
    refused = [sentence for source in held for sentence in source.refused]
    return refused, summaries_of(key, held, analyses), wrong


def write_comparison(results, sources, languages=("en",)):
    """Write `{results}/comparison.{language}.{md,html}`, with all hardware keys of the sources side by side.

    The points below `results` are gathered first.
    """
    languages = check_languages(languages)
    summaries = []
    for key in hardware_keys(sources):
        with suppress(NothingHeld):
            refused = [] if leads_out(results, Path(results, key)) else gather_all(results, key)
            held = held_sources(key, sources, {str(results): refused})
            summaries += summaries_of(key, held, analysed(held))
    if not summaries:
        raise RecordError("; ".join(["no source holds anything that could be compared", *empty_sources(sources)]))
    publish.publish(comparison.document(summaries), Path(results), "comparison", languages)


@contextmanager
def uncollected():
    """Without Python's garbage collector, which goes through all rows again and again; afterwards it runs once."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
            gc.collect()


def held_sources(hardware, roots, refused=None, ours=None):
    """Sources that have anything of a hardware key.

    refused: root -> sentences on refused files, if known already. ours: root -> what `measured.read` has made of it.
    """
    sources = [read_source(root, hardware, (ours or {}).get(root)) for root in roots]
    for source in sources:
        source.refused = list(dict.fromkeys([*(refused or {}).get(source.root, []), *source.refused]))
        for other in sources:
            source.layers = other.layers | source.layers
            source.shapes = other.shapes | source.shapes
    held = [s for s in sources if s.rows or s.tasks or s.scores or s.lifts or s.refused or s.ungathered or s.plan]
    if not held:
        known = ", ".join(key for key in hardware_keys(roots) if key != hardware) or "none"
        there = f"no source holds anything of hardware {hardware}; there is: {known}"
        files = [sentence for root in roots for sentence in plain_files(root)]
        raise NothingHeld("; ".join(dict.fromkeys([there, *empty_sources(roots), *files])))
    return held


def analysed(held):
    """[(comparisons, anomalies)] of every source of one hardware key."""
    compared = [comparisons(source) for source in held]
    return [
        (ratios, anomalies.anomalies(source, ratios, [other for other in held if other is not source]))
        for source, ratios in zip(held, compared, strict=True)
    ]


def summaries_of(key, held, analyses):
    """What the comparison needs of every source of one hardware key."""
    return [summary(key, source, *analysis) for source, analysis in zip(held, analyses, strict=True)]


def report(hardware, held, analyses, roots):
    """The document of one hardware key: for each source the answer, then what a doubting reader asks, folded."""
    labels = overview.provenance_labels(held)
    prefixes = source_names(held)
    capability = Section(say("What this hardware can run"), [comparison.capability_table([hardware])])
    origin = Section(say("Provenance"), overview.provenance_blocks(held, labels))
    blocks = []
    for source, analysis in zip(held, analyses, strict=True):
        parts = one_source(hardware, source, *analysis, labels, prefixes[source.root])
        if len(held) > 1:
            parts = [Section(say("Source {root}", root=f"`{source.root}`"), parts)]
        blocks += parts
    measured = [Bullets(head(hardware, held, roots)), capability, origin]
    how = Section(say("How it was measured"), measured, folded=True, printed=True)
    blocks.insert(1 if len(held) == 1 else len(blocks), how)
    return Section(hardware, blocks)


def one_source(hardware, source, compared, anomalous, labels, prefix):
    """The sections of one source, with its comparisons and anomalies. The names of its tables begin with `prefix`."""
    first = answer.answer_blocks(hardware, source, compared, prefix)
    kernels = [
        *performance.kernel_blocks(source, labels),
        *speedups.turn_blocks(source),
        *speedups.search_blocks(source),
        *lifts.lift_blocks(source),
    ]
    gains = [*factors.factor_figures(source, prefix), *factors.gain_blocks(source)]
    prompts = by_prompt.prompt_blocks(source, compared)
    scored = [*tradeoffs.pictures(compared, prefix), *quality.quality_blocks(source), *harness.harness_blocks(source)]
    gains = gains or [say("Stock vLLM has no step beside another dense engine.")]
    parts = [
        (say("Conclusions"), conclusions.conclusion_blocks(source, compared, anomalous), True),
        *([(say("Prompts"), prompts, False)] if prompts else []),
        (say("Figures by stage"), figures(source, compared, prefix) or [say("Nothing to draw.")], True),
        (say("Dense rivals"), factors.rival_blocks(source), False),
        (say("Factors: fusion, library, sparsity"), gains, False),
        (say("Kernels: whole linears and products"), kernels, False),
        (say("Quality"), scored, True),
        (say("Anomalies"), anomalies.anomaly_blocks(anomalous), True),
        (say("Missing, failed, left out"), [Bullets(conclusions.totals(source)), *checks.problem_blocks(source)], True),
        (say("Tasks"), overview.task_blocks(source), False),
        (say("Models and checkpoints"), overview.model_blocks(source), False),
        (say("All speed-ups"), speedups.speedup_blocks(source, compared), False),
        (say("Prefill"), performance.throughput_blocks(source, "prefill", labels), False),
        (say("Decode"), performance.throughput_blocks(source, "decode", labels), False),
        (say("Step time"), performance.step_blocks(source), False),
        (say("Passed"), checks.check_blocks(source), False),
        (say("Result files"), overview.file_blocks(source), False),
    ]
    whole = Section("", [Section(title, blocks, folded=True, printed=printed) for title, blocks, printed in parts])
    publish.prefix_tables(whole, prefix)
    return [Section(say("Does sparsity pay here?"), first, first=True), *whole.blocks]


def source_names(sources):
    """root -> a short name of a source, unique among them."""
    names = {}
    for source in sources:
        name = Path(source.root).name or "source"
        names[source.root] = name if name not in names.values() else f"{name}{len(names) + 1}"
    return names


def head(hardware, sources, roots):
    """The head of a report: name of the hardware, architecture, time span, sources, refused files."""
    names = sorted({row.provenance.gpu_name for source in sources for row in source.rows} - {""})
    empty = [root for root in map(str, roots) if root not in [source.root for source in sources]]
    refused = sum(len(source.refused) for source in sources)
    items = [say("Hardware: {names}", names=", ".join(names) or say("name not recorded"))]
    items += filter(None, (overview.architecture(hardware), overview.span_of_times(sources)))
    items.append(say("Sources: {roots}", roots=", ".join(f"`{source.root}`" for source in sources)))
    if empty:
        items.append(say("Nothing of this hardware in: {roots}", roots=", ".join(f"`{root}`" for root in empty)))
        items += empty_sources(empty)
    if refused:
        items.append(say("Files refused, and remarks on files: {n}, below", n=refused))
    return items
