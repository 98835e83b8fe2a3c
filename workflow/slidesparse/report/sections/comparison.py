"""The comparison of all hardware keys: what they can run, what was measured, and how fast they are."""

import re
from statistics import geometric_mean

from slidesparse.errors import HardwareError
from slidesparse.machine import families, naming
from slidesparse.report.document.model import (
    NONE,
    Bullets,
    Figure,
    Section,
    Table,
    fixed,
    number,
    say,
    whole,
)
from slidesparse.report.sections import across, checks, overview
from slidesparse.report.sections.across_sentences import conclusions
from slidesparse.report.sections.alike import other_shapes, shared, unlike
from slidesparse.report.sections.comparison_graphs import speedup_figures
from slidesparse.report.sections.quantities import ACROSS
from slidesparse.report.sections.speedups import marks_of, name_of, notes_on
from slidesparse.report.sources.rows import DTYPES, configuration_order


def capability_table(keys):
    """A table of what each hardware key says about its machine, and which types it can run."""
    rows = []
    for key in keys:
        try:
            parts = naming.parse(key)
        except HardwareError:
            rows.append((key, *[NONE] * 5, *[NONE] * len(DTYPES)))
            continue
        capability = number(f"{parts.cc / 10:.1f}", parts.cc / 10) if parts.cc else say("none: a CPU")
        cuda = f"{parts.cuda // 10}.{parts.cuda % 10}" if parts.cuda else NONE
        python = f"{str(parts.python)[0]}.{str(parts.python)[1:]}"
        known = say("yes") if families.family(parts.cc) or not parts.cc else say("unknown")
        runs = [families.supports(key, dtype) or known for dtype in DTYPES]
        rows.append((key, parts.gpu, capability, python, cuda, parts.arch, *runs))
    headers = ("hardware", "GPU", "compute capability", "Python", "CUDA", "machine", *DTYPES)
    return Table("capability", headers, rows, "l" * 8)


def labels_of(summaries):
    """A short name for every summary, the first of these that is unique: GPU, product name, key, key and source.

    What others published says so.
    """
    names = [[*short_names(item), item.key, f"{item.key} ({item.root})"] for item in summaries]
    labels = []
    for item, mine in zip(summaries, names, strict=True):
        others = [other for other in names if other is not mine]
        short = next((name for name in mine if not any(name in other for other in others)), mine[-1])
        labels.append(short + say_published(item, summaries))
    return labels


def short_names(item):
    """The GPU of a key, and the name that its driver gives it, without the maker's."""
    products = [re.sub("NVIDIA |GeForce ", "", name) for name in item.names]
    return [item.key.partition("_cc")[0], *(products if len(products) == 1 else [])]


def say_published(item, summaries):
    """A mark of figures that others published, where others are there beside our own."""
    return " (published)" if item.foreign and not all(other.foreign for other in summaries) else ""


def document(summaries):
    """The document that compares all summaries."""
    labels = labels_of(summaries)
    keys = list(dict.fromkeys(item.key for item in summaries))
    count = say("Hardware keys: {n}. Sources: {m}.", n=len(keys), m=len({item.root for item in summaries}))
    sentences = conclusions(summaries, labels) or [
        say("Nothing to conclude: no two have a figure that counts at one M.")
    ]
    parts = [
        (say("What was measured"), [measured_table(summaries, labels)]),
        (say("Conclusions"), [Bullets(sentences)]),
        (say("Figures"), comparison_figures(summaries, labels) or [say("Nothing to draw.")]),
        (say("What passed, by type and stage"), [type_table(summaries, labels), checks.BY_LINEAR]),
        (say("What each can run"), [capability_table(keys)]),
        (say("Speed-up"), speedup_sections(summaries, labels) or [say("Nothing measured.")]),
        (say("Absolute figures"), value_sections(summaries, labels) or [say("Nothing measured.")]),
    ]
    first = Section(say("Does sparsity pay?"), [count, *across.answer_blocks(summaries, labels)], first=True)
    folded = [Section(title, blocks, folded=True, printed=at < 3) for at, (title, blocks) in enumerate(parts)]
    return Section(say("Hardware compared"), [first, *folded])


def type_table(summaries, labels):
    """A row for the architecture, and one for each type and stage: how many points passed, or why none was measured."""
    rows = [("architecture", *(overview.architecture_name(item.key) or NONE for item in summaries))]
    for dtype in DTYPES:
        for stage in stages_of(summaries):
            cells = []
            for item in summaries:
                pair = item.by_type.get((dtype, stage))
                cells.append(checks.ratio(pair) if pair else cannot(item.key, dtype) or say("not measured"))
            rows.append((f"{dtype} {stage}", *cells))
    return Table("by_type", ("what", *labels), rows, "l" * (1 + len(labels)))


def stages_of(summaries):
    """The stages whose points are counted: quality only if any summary was asked for it."""
    return [s for s in checks.STAGES_CHECKED if s != "quality" or any(item.passed[s][1] for item in summaries)]


def cannot(key, dtype):
    """Why a hardware key cannot run a type, or None."""
    try:
        return families.supports(key, dtype)
    except HardwareError:
        return None


def measured_table(summaries, labels):
    """Names, dates, software, and how many points passed, for every source of every key."""
    rows, stages = [], stages_of(summaries)
    for item, label in zip(summaries, labels, strict=True):
        software = [", ".join(filter(None, words)) for words in item.provenance]
        rows.append(
            (
                label,
                ", ".join(item.names) or say("name not recorded"),
                f"`{item.root}`",
                "; ".join(software) or say("not recorded"),
                item.span[0][:10] if item.span else say("not recorded"),
                item.span[1][:10] if item.span else say("not recorded"),
                *(checks.ratio(item.passed[stage]) for stage in stages),
                whole(item.problems["failed"]),
                whole(item.problems["out_of_memory"]),
                whole(item.anomalies),
            )
        )
    headers = (
        "hardware",
        "name",
        "source",
        "driver, torch, vLLM",
        "first point",
        "last point",
        *("kernel passed, linears" if stage == "kernel" else f"{stage} passed" for stage in stages),
        "failed",
        "out of memory",
        "anomalies",
    )
    return Table("measured", headers, rows, "l" * (6 + len(stages)))


def speedup_sections(summaries, labels):
    """A table for every comparison, with a row for each hardware and configuration, and a column for each M."""
    sections = []
    for key in shared(summaries, "ratios"):
        having = [
            (item.ratios[key], label) for item, label in zip(summaries, labels, strict=True) if key in item.ratios
        ]
        Ms = sorted({M for one, _ in having for _, M in one.ratios})
        rows = []
        for one, label in having:
            for name in one.names():
                values = one.of(name)
                cells = [values.get(M) for M in Ms]
                counted = one.sparse_counted(name).values()
                mean = geometric_mean([value.value for value in counted]) if counted else None
                mark = ACROSS * any(value.across for value in counted)
                shown = [cell and number(fixed(cell.value, 2) + marks_of(cell), cell.value) for cell in cells]
                rows.append((label, name.column, *shown, mean and number(fixed(mean, 2) + mark, mean)))
        stage, _, _, model, dtype = key
        title = say(
            "{stage} {model} {dtype}, {what}, over {over}",
            stage=stage,
            model=model,
            dtype=dtype,
            what=having[0][0].what,
            over=having[0][0].over,
        )
        headers = ("hardware", "backend/sparsity", *(f"M={M}" for M in Ms), "geometric mean of those that count")
        name = name_of(having[0][0])
        marks = {(label, *key): value for one, label in having for key, value in one.ratios.items()}
        other = other_shapes(summaries, labels, stage, model, dtype, [label for _, label in having])
        notes = [*other, *unlike(summaries, labels, key, having), *notes_on(marks)]
        sections.append(Section(title, [*notes, Table(name, headers, rows, "ll")], folded=len(sections) > 3))
    return sections


def value_sections(summaries, labels):
    """Tables of the figures, with a row for each hardware and configuration, and a column for each M."""
    sections = []
    for key in shared(summaries, "values"):
        having = [
            (item.values[key], label) for item, label in zip(summaries, labels, strict=True) if item.values.get(key)
        ]
        if not having:
            continue
        stage, metric, model, dtype = key
        other = other_shapes(summaries, labels, stage, model, dtype, [label for _, label in having])
        digits = 0 if metric == "tokens/s" else 3
        Ms = sorted({M for values, _ in having for _, M in values})
        rows = []
        for values, label in having:
            for name in sorted({name for name, _ in values}, key=configuration_order):
                rows.append((label, name.column, *(fixed(values.get((name, M)), digits, True) for M in Ms)))
        headers = ("hardware", "backend/sparsity", *(f"M={M}" for M in Ms))
        slug = {"tokens/s": "tokens", "step (ms)": "step"}.get(metric, metric.partition(" ")[0])
        table = Table(f"{stage}_{model}_{dtype}_{slug}", headers, rows, "ll")
        title = say("{stage} {model} {dtype}, {metric}", stage=stage, model=model, dtype=dtype, metric=say(metric))
        note = [say("Elapsed time over steps where no step was measured.")] if metric == "step (ms)" else []
        sections.append(Section(title, [*other, *note, table], folded=True))
    return sections


def comparison_figures(summaries, labels):
    """Figures by hardware: dense throughput, and the speed-up of each pattern."""
    panels, rows = [], []
    for key in shared(summaries, "values"):
        stage, metric, model, dtype = key
        if metric != "tokens/s":
            continue
        series = []
        for i, (item, label) in enumerate(zip(summaries, labels, strict=True)):
            found = item.dense.get((stage, "tokens_per_s", model, dtype), {})
            dense = sorted((M, each.figure.value) for M, each in found.items())
            if dense:
                series.append(
                    {"label": label, "style": (i,), "x": [M for M, _ in dense], "y": [value for _, value in dense]}
                )
                rows += [(stage, model, dtype, label, number(str(M), M), fixed(value, 0, True)) for M, value in dense]
        if series:
            panels.append(
                {
                    "kind": "lines",
                    "title": f"{stage} {model} {dtype}, dense",
                    "y": "tokens/s",
                    "log": True,
                    "series": series,
                }
            )
    figures = []
    if panels:
        table = Table("comparison_throughput", ("stage", "model", "dtype", "hardware", "M", "tokens/s"), rows, "llll")
        figures.append(
            Figure(
                "comparison_throughput",
                say(
                    "Tokens/s of the published protocol over M, by hardware: the fastest dense engine at each M that"
                    " counts."
                ),
                panels,
                table,
            )
        )
    return [*figures, *speedup_figures(summaries, labels)]
