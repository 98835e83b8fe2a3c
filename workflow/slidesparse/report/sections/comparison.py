"""The comparison of all hardware keys: what they can run, what was measured, and how fast they are."""

import re
from statistics import geometric_mean

from slidesparse.errors import HardwareError
from slidesparse.machine import hardware
from slidesparse.report.document.model import (
    NONE,
    Bullets,
    Figure,
    Section,
    Table,
    fixed,
    joined,
    number,
    say,
    whole,
)
from slidesparse.report.sections import across, checks, overview
from slidesparse.report.sections.figures import look
from slidesparse.report.sections.ratios import ACROSS, FIGURES
from slidesparse.report.sections.speedups import marks_of, name_of, notes_on, unlike_outputs
from slidesparse.report.sections.verdict import row_names
from slidesparse.report.sources.rows import DTYPES, configuration_order
from slidesparse.report.sources.shapes import differ

SHOWN_BARS, SHOWN_PATTERNS = 12, 4
"""Most hardware keys and patterns that a figure shows."""


def capability_table(keys):
    """A table of what each hardware key says about its machine, and which types it can run."""
    rows = []
    for key in keys:
        try:
            parts = hardware.parse(key)
        except HardwareError:
            rows.append((key, *[NONE] * 5, *[NONE] * len(DTYPES)))
            continue
        capability = number(f"{parts.cc / 10:.1f}", parts.cc / 10) if parts.cc else say("none: a CPU")
        cuda = f"{parts.cuda // 10}.{parts.cuda % 10}" if parts.cuda else NONE
        python = f"{str(parts.python)[0]}.{str(parts.python)[1:]}"
        runs = [hardware.supports(key, dtype) or "yes" for dtype in DTYPES]
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
        (say("What passed, by type and stage"), [type_table(summaries, labels)]),
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
        for stage in ("prefill", "decode", "kernel"):
            cells = []
            for item in summaries:
                pair = item.by_type.get((dtype, stage))
                cells.append(checks.ratio(pair) if pair else cannot(item.key, dtype) or say("not measured"))
            rows.append((f"{dtype} {stage}", *cells))
    return Table("by_type", ("what", *labels), rows, "l" * (1 + len(labels)))


def cannot(key, dtype):
    """Why a hardware key cannot run a type, or None."""
    try:
        return hardware.supports(key, dtype)
    except HardwareError:
        return None


def measured_table(summaries, labels):
    """Names, dates, software, and how many points passed, for every source of every key."""
    rows = []
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
                *(checks.ratio(item.passed[stage]) for stage in ("prefill", "decode", "kernel")),
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
        "prefill passed",
        "decode passed",
    )
    headers += ("kernel passed", "failed", "out of memory", "anomalies")
    return Table("measured", headers, rows, "l" * 9)


def shared(summaries, attribute):
    """Keys of an attribute's dictionaries, in the order of stages, model and dtype."""
    order = ("prefill", "decode", "kernel")
    keys = dict.fromkeys(key for item in summaries for key in getattr(item, attribute))
    return sorted(keys, key=lambda key: (order.index(key[0]), *configuration_order((*key[-2:], "", "")), key[1:-2]))


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
                counted = [value.value for value in one.sparse_counted(name).values()]
                mean = geometric_mean(counted) if counted else None
                shown = [cell and number(fixed(cell.value, 2) + marks_of(cell), cell.value) for cell in cells]
                rows.append((label, name.column, *shown, fixed(mean, 2)))
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
        notes = [*unlike(summaries, labels, key, having), *unlike_outputs(having[0][0]), *notes_on(marks)]
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
        sections.append(Section(title, [*note, table], folded=True))
    return sections


def conclusions(summaries, labels):
    """Computed sentences: the fastest dense engines of all hardware, and mean speed-ups by pattern."""
    sentences = []
    for key in shared(summaries, "dense"):
        dense = {label: item.dense.get(key, {}) for item, label in zip(summaries, labels, strict=True)}
        dense = {label: values for label, values in dense.items() if values}
        other = other_shapes(summaries, labels, key[0], key[2], key[3], dense)
        sentences += other or dense_engines(key, dense)
    for key in shared(summaries, "ratios"):
        having = [
            (item.ratios[key], label) for item, label in zip(summaries, labels, strict=True) if key in item.ratios
        ]
        if len(having) < 2:
            continue
        if other := other_shapes(summaries, labels, key[0], key[3], key[4], [label for _, label in having]):
            sentences += [each for each in other if each not in sentences]
            continue
        patterns = sorted({name for one, _ in having for name in one.sparse_names()}, key=configuration_order)
        for name in patterns:
            there = {label: (one.of(name), one.sparse_counted(name)) for one, label in having}
            there = {label: both for label, both in there.items() if any(each.sparse for each in both[0].values())}
            gpus, Ms = sharing({label: counted for label, (_, counted) in there.items()})
            if len(gpus) < 2:
                continue
            every = set.intersection(*(set(there[label][0]) for label in gpus))
            parts = means(
                Ms,
                {label: there[label][1] for label in gpus},
                protocols_of(summaries, labels, key, name, Ms),
            )
            first = having[0][0]
            of = {"stage": key[0], "model": key[3], "dtype": key[4], "pattern": name.column, "what": first.what}
            of |= {"over": first.over, "n": len(Ms), "m": len(every), "parts": parts}
            if others := [label for label in there if label not in gpus]:
                sentences.append(
                    say(
                        "{stage} {model} {dtype} {pattern}, {what}, over {over}, geometric mean over {n} of the {m} M"
                        " that these have: {parts}. None of these M counts for {others}.",
                        others=", ".join(others),
                        **of,
                    )
                )
                continue
            sentences.append(
                say(
                    "{stage} {model} {dtype} {pattern}, {what}, over {over}, geometric mean over {n} of the {m} M"
                    " that all have: {parts}.",
                    **of,
                )
            )
    return sentences


def sharing(counted):
    """(labels, M): the largest group of GPUs that share an M, and all M that they share. counted: label -> {M: …}."""
    holders = {M: [label for label in counted if M in counted[label]] for each in counted.values() for M in each}
    if not holders:
        return [], []

    def size(M):
        return len(holders[M]), sum(set(holders[M]) <= set(other) for other in holders.values()), M

    gpus = holders[max(holders, key=size)]
    return gpus, sorted(M for M, other in holders.items() if set(gpus) <= set(other))


def protocols_of(summaries, labels, key, name, Ms):
    """label -> M -> how both sides of a configuration's ratio were measured."""
    return {
        label: {M: item.protocols[key][name, M] for M in Ms if (name, M) in item.protocols[key]}
        for item, label in zip(summaries, labels, strict=True)
        if key in item.protocols
    }


def other_shapes(summaries, labels, stage, model, dtype, having):
    """A list with a sentence, if kernels of GPUs have other shapes under one model's name. having: labels compared."""
    known = [(item.shapes.get(model), label) for item, label in zip(summaries, labels, strict=True) if label in having]
    known = [(shapes, label) for shapes, label in known if shapes]
    odd = [label for found, label in known if differ(known[0][0], found)]
    if not odd:
        return []
    of = {"stage": stage, "model": model, "dtype": dtype, "first": known[0][1], "others": ", ".join(odd)}
    return [
        say(
            "{stage} {model} {dtype}: {first} and {others} have linears of other shapes, so they are not compared.",
            **of,
        )
    ]


def unlike(summaries, labels, key, having):
    """A list with a sentence, if ratios of one configuration and M were measured in unlike ways on two GPUs.

    having: (Comparison, label) shown.
    """
    cells, found = {}, {}
    for item, label in zip(summaries, labels, strict=True):
        if label in [shown for _, shown in having]:
            for place, text in item.protocols[key].items():
                cells.setdefault(place, {})[str(text)] = text
    for texts in cells.values():
        found |= texts if len(texts) > 1 else {}
    if not found:
        return []
    return [say("Measured in unlike ways: {protocols}.", protocols=joined([found[text] for text in sorted(found)]))]


def means(Ms, counted, protocols):
    """Geometric means over M, largest first, each with its protocol if they differ, and marked if two GPUs measured it.

    counted: label -> M -> ratio.
    """
    ranked = sorted(counted, key=lambda label: -geometric_mean([counted[label][M].value for M in Ms]))
    differ = any(len({str(protocols[label].get(M)) for label in counted}) > 1 for M in Ms)
    parts = []
    for label in ranked:
        mean = geometric_mean([counted[label][M].value for M in Ms])
        mark = ACROSS * any(counted[label][M].across for M in Ms)
        texts = {str(text): text for text in protocols[label].values()}
        said = {"label": label, "mean": f"{fixed(mean, 2)}{mark}"}
        how = joined([texts[text] for text in sorted(texts)])
        parts.append(say("{label} {mean} ({how})", how=how, **said) if differ else say("{label} {mean}", **said))
    return joined(parts, ", ")


def dense_engines(key, dense):
    """A list with a sentence on the fastest dense engines of two or more GPUs at the largest M that counts for all.

    Figures of different protocols are not divided by one another. dense: label -> what `fastest_dense` gives.
    """
    stage, column, model, dtype = key
    gpus, Ms = sharing(dense)
    if len(gpus) < 2:
        return []
    dense, M = {label: dense[label] for label in gpus}, max(Ms)
    _, what, unit = next(figure for figure in FIGURES[stage] if figure[0] == column)
    rate = column == "tokens_per_s"
    ranked = sorted(dense, key=lambda label: dense[label][M][1].value, reverse=rate)
    parts = [
        say(
            "{label} {value} {unit} ({engine})",
            label=label,
            value=fixed(dense[label][M][1].value, 0 if rate else 3, True),
            unit=unit,
            engine=dense[label][M][0].column,
        )
        for label in ranked
    ]
    of = {
        "stage": stage,
        "model": model,
        "dtype": dtype,
        "what": what,
        "M": M,
        "parts": joined(parts, ", "),
    }
    protocols = [dense[label][M][2] for label in ranked]
    if len(set(protocols)) > 1:
        return [
            say(
                "{stage} {model} {dtype}, fastest dense engine, {what} at M={M}: {parts}. Their protocols"
                " differ ({protocols}), so they are not divided by one another.",
                protocols=", ".join(each or "—" for each in protocols),
                **of,
            )
        ]
    best, worst = (dense[label][M][1].value for label in (ranked[0], ranked[-1]))
    return [
        say(
            "{stage} {model} {dtype}, fastest dense engine, {what} at M={M}: {parts}; {first} is {ratio}"
            " times as fast as {last}.",
            first=ranked[0],
            last=ranked[-1],
            ratio=fixed(best / worst if rate else worst / best, 2),
            **of,
        )
    ]


def comparison_figures(summaries, labels):
    """Figures by hardware: dense throughput, and the mean speed-up of each pattern."""
    panels, rows = [], []
    for key in shared(summaries, "values"):
        stage, metric, model, dtype = key
        if metric != "tokens/s":
            continue
        series = []
        for i, (item, label) in enumerate(zip(summaries, labels, strict=True)):
            found = item.dense.get((stage, "tokens_per_s", model, dtype), {})
            dense = sorted((M, each.value) for M, (_, each, _) in found.items())
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
    panels, rows, left, keys = [], [], set(), set()
    several = len({key[3] for key in shared(summaries, "ratios")}) > 1
    for key in shared(summaries, "ratios"):
        having = [
            (item.ratios[key], label) for item, label in zip(summaries, labels, strict=True) if key in item.ratios
        ]
        one = having[0][0]
        if one.kind != "dense" or one.metric in ("step_ms", "gpu_step_ms"):
            continue
        patterns = sorted({name for other, _ in having for name in other.sparse_names()}, key=configuration_order)
        if not patterns:
            continue
        series = []
        shown = sorted(row_names(patterns), key=lambda name: name.backend == "auto")[:SHOWN_PATTERNS]
        left |= {name.column for name in patterns if name not in shown}
        keys |= {label for _, label in having[SHOWN_BARS:]}
        for name in patterns:
            counted = [[v.value for v in other.sparse_counted(name).values()] for other, _ in having]
            averages = [geometric_mean(values) if values else None for values in counted]
            if name in shown:
                label, y = row_names(patterns)[name], averages[:SHOWN_BARS]
                if any(y):
                    series.append({"label": label, "style": look(name, patterns), "y": y})
            rows += [
                (key[0], one.what, one.model, one.dtype, label, name.column, fixed(mean, 3))
                for (_, label), mean in zip(having, averages, strict=True)
            ]
        names = [label for _, label in having[:SHOWN_BARS]]
        if not series:
            continue
        title = f"{key[0]} {one.dtype}" + (f", {one.caches}" if one.caches else "")
        title = f"{one.model} {title}" if several else title
        turn = 0 if len(names) <= 4 and all(len(name) < 16 for name in names) else 90
        panels.append(
            {
                "kind": "grouped",
                "title": title,
                "y": one.axis,
                "one": True,
                "labels": names,
                "series": series,
                "turn": turn,
            }
        )
    if panels:
        headers = ("stage", "figure", "model", "dtype", "hardware", "backend/sparsity", "geometric mean")
        table = Table("comparison_speedup", headers, rows, "llllll")
        caption = say("Speed-up over the dense backend by hardware: geometric mean over the M that count.")
        if left or keys:
            absent = ", ".join([*sorted(left), *sorted(keys)])
            caption = say("{caption} Only in its table: {absent}.", caption=caption, absent=absent)
        figures.append(Figure("comparison_speedup", caption, panels, table))
    return figures
