"""Sections on speed-ups, with denominator, noise and bound, and on the gain from searching algorithms."""

from statistics import median

from slidesparse.report.document.model import NONE, Section, Table, fixed, interval, joined, number, say, whole
from slidesparse.report.sections.coverage import covers
from slidesparse.report.sections.outputs import unlike_outputs
from slidesparse.report.sections.quantities import ACROSS, ACROSS_NOTE
from slidesparse.report.sections.ratios import is_dense_engine, lacking_at
from slidesparse.report.sections.verdict import asks_sparse
from slidesparse.report.sources.rows import configuration_order, grouped
from slidesparse.report.tables.columns import RIVALS
from slidesparse.sparsity.patterns import Pattern

NOISE = " ≈"
"""Mark of a ratio whose confidence interval contains 1."""

HOST = " †"
"""Mark of a ratio with a side that the host bounds."""

HOST_NOTE = say(
    "† marks ratios of which a side is bound by the host: its step is longer than the GPU's work by more than noise"
    " explains, so they say as much of the host as of the kernels."
)

TURN_TITLE = say("What turns with sparse products cost dense ones")

TURN_NOTE = say(
    "Libraries that take turns share a GPU's power and a process in which sparse products run: dense ones may take"
    " longer than alone, and over those alone sparse ones gain that much less (where it was measured: “{title}”).",
    title=TURN_TITLE,
)


def speedup_blocks(source, comparisons):
    """A table for every comparison, with the bound of each pattern."""
    blocks = [
        block for comparison in comparisons if comparison.ratios for block in comparison_section(source, comparison)
    ]
    notes = [note for stage in ("prefill", "decode", "kernel") for note in without_dense(source, comparisons, stage)]
    if not comparisons and not notes:
        notes = [say("No speed-up: nothing was measured beside a dense backend or 2:4.")]
    apart = [
        say(
            "{stage} {dtype}: left out are {n} ratios of points that differ in hardware name, driver,"
            " versions, protocol, power limit or requests.",
            stage=comparison.stage,
            dtype=comparison.dtype,
            n=len(comparison.apart),
        )
        for comparison in comparisons
        if comparison.apart and comparison.kind == "dense" and not comparison.ratios
    ]
    return notes + apart + blocks


def without_dense(source, comparisons, stage):
    """Sentences on why sparse figures of a stage have no speed-up over dense: on all, or on each model and type."""
    known = {(c.model, c.dtype) for c in comparisons if c.kind == "dense" and c.stage == stage}
    groups = {
        key: rows
        for key, rows in grouped(source.stage(stage)).items()
        if key not in known and asks_sparse(source, stage, key)
    }
    if groups and not known:
        groups = {(): source.stage(stage)}
    sentences = []
    for key, rows in groups.items():
        what = " ".join((stage, *key))
        dense = [row for row in rows if row.configuration.sparsity == "dense" and not row.configuration.stock]
        good = [[row for row in side if row.status == "ok"] for side in (dense, [r for r in rows if r not in dense])]
        rivals = [name for name in source.planned(stage) if is_dense_engine(name) and name[: len(key)] == key]
        if (dense or rivals) and not good[0]:
            sentences.append(say("{stage}: no speed-up over dense, because no dense engine gave a figure.", stage=what))
        elif dense and not any(row.configuration.sparse_kernel for row in good[1]):
            sentences.append(say("{stage}: no speed-up over dense, because no sparse one gave a figure.", stage=what))
        elif dense:
            sentences.append(
                say(
                    "{stage}: no speed-up over dense, because both sides have no M in common, or other outputs, or a"
                    " layer lacks linears.",
                    stage=what,
                )
            )
        else:
            but = say(" other than stock vLLM") if any(row.configuration.stock for row in rows) else ""
            sentences.append(
                say("{stage}: no speed-up over dense, because no dense backend{but} was measured.", stage=what, but=but)
            )
    return sentences


def title_of(comparison):
    """Heading of a comparison."""
    return say(
        "{stage} {model} {dtype}, {what}, over {over}",
        stage=comparison.stage,
        model=comparison.model,
        dtype=comparison.dtype,
        what=comparison.what,
        over=comparison.over,
    )


def name_of(comparison):
    """Name of the CSV of a comparison."""
    parts = ("speedup", comparison.stage, comparison.model, comparison.dtype, comparison.metric, comparison.kind)
    turn = "paired" if comparison.in_turn else comparison.caches
    return "_".join(filter(None, (*parts, turn)))


def cell(ratio):
    """A table cell for a ratio, with its interval and marks."""
    if ratio is None:
        return None
    shown, marks = interval(ratio.value, ratio.low, ratio.high, 2), marks_of(ratio)
    return number(shown + marks, ratio.value) if marks else shown


def marks_of(ratio):
    """The marks that stand behind a ratio."""
    return NOISE * ratio.inside_noise + ACROSS * ratio.across + HOST * ratio.host_bound


def notes_on(ratios):
    """Sentences on the marks of {(Configuration, M): ratio}, and on the ratios that a check disqualifies."""
    notes = ((ACROSS_NOTE, "across"), (HOST_NOTE, "host_bound"))
    found = [note for note, mark in notes if any(getattr(ratio, mark) for ratio in ratios.values())]
    unfit = {}
    for (*_, M), ratio in ratios.items():
        if ratio.unfit:
            unfit.setdefault(str(ratio.unfit), (ratio.unfit, []))[1].append(M)
    for why, Ms in unfit.values():
        names = ", ".join(map(str, sorted(set(Ms))))
        found.append(
            say(
                "A check disqualifies {n} figures here, at M={Ms} ({why}): they count nowhere.",
                n=len(Ms),
                Ms=names,
                why=why,
            )
        )
    return found


def comparison_section(source, comparison):
    """A list with the section of one comparison of a source."""
    names = comparison.names()
    Ms = sorted({M for _, M in comparison.ratios})
    rows = [(number(str(M), M), *(cell(comparison.ratios.get((name, M))) for name in names)) for M in Ms]
    sparse = comparison.sparse_names()
    bounded = comparison.kind in ("dense", "best_dense") and sparse
    if bounded:
        bounds = [fixed(Pattern(name.sparsity).bound, 2) if name in sparse else None for name in names]
        rows.append(("bound", *bounds))
    notes = [say("Denominator: {over}, at the same M.", over=comparison.over)]
    if bounded:
        notes = [say("Denominator: {over}, at the same M. Bound: L/(L-2).", over=comparison.over)]
    known = [ratio for ratio in comparison.ratios.values() if ratio.low is not None]
    if known:
        noise = sum(ratio.inside_noise for ratio in known)
        notes.append(
            say(
                "In brackets the interval, made of intervals that cover their medians with {coverage}; ≈ marks the {n}"
                " of {total} ratios whose interval holds 1: no difference beyond the noise.",
                coverage=covers(source, [comparison]),
                n=noise,
                total=len(known),
            )
        )
    else:
        notes.append(say("No ratio here has an interval: how much of it is noise is not known."))
    if comparison.in_turn and any(name.sparse_on_gpu for name in sparse):
        notes.append(TURN_NOTE)
    notes += notes_on(comparison.ratios)
    notes += unlike_outputs(comparison)
    if comparison.lacking and comparison.kind != "stock":
        lacking = joined(
            [
                say("{name} at M={Ms} ({why})", name=name, Ms=Ms, why=why)
                for name, Ms, why in lacking_at(comparison, comparison.lacking)
            ]
        )
        notes.append(say("Dense backends without a figure here, which may be faster: {lacking}.", lacking=lacking))
    above = [say("{name} at M={M}", name=name.column, M=M) for name, M in comparison.above_bound()]
    if above:
        notes.append(say("Above the bound, which supposes GEMMs of equal efficiency: {above}.", above=above))
    if comparison.apart:
        notes.append(
            say(
                "Left out: {n} ratios of points that differ in hardware name, driver, versions, protocol, power limit"
                " or requests.",
                n=len(comparison.apart),
            )
        )
    table = Table(name_of(comparison), ("M", *(name.column for name in names)), rows)
    return [Section(title_of(comparison), [*notes, table], folded=comparison.kind in ("half", "stock"))]


def search_blocks(source):
    """The gain from searching: the chosen algorithm against the library's default, and against its own search."""
    rows = []
    for name in sorted({item["configuration"] for item in source.tuning}, key=configuration_order):
        best = [item for item in source.tuning if item["configuration"] == name and item["rank"] == 1]
        gains = [item["default_us"] / item["latency_us"] for item in best if item["default_us"] and item["latency_us"]]
        own = [item["library_us"] / item["latency_us"] for item in best if item["library_us"] and item["latency_us"]]
        rows.append(
            (
                "/".join(name),
                whole(len(best)),
                fixed(median(gains), 3) if gains else NONE,
                fixed(max(gains), 3) if gains else NONE,
                fixed(median(own), 3) if own else NONE,
                fixed(max(own), 3) if own else NONE,
            )
        )
    if not rows:
        return []
    headers = ("configuration", "searches", "default ÷ found, median", "largest")
    headers += ("library's own search ÷ found, median", "largest of these")
    note = say(
        "Cold latency of the library's default algorithm, and of what its own search picks, over that"
        " of the algorithm that the search found."
    )
    return [Section(say("What the search for algorithms was worth"), [note, Table("searches", headers, rows, "l")])]


def turn_blocks(source):
    """Latency of dense products in turn with sparse ones, over that in a process without sparse ones, by M."""
    kernels = [row for row in source.stage("kernel") if row.status == "ok"]
    alone = {turn_key(row, rival_column(row)): row.values["latency_us"] for row in kernels if row.values.get("process")}
    ratios = {}
    for row in kernels:
        for rival in RIVALS if row.configuration.sparse_kernel else ():
            mine, theirs = row.values.get(f"{rival}_us"), alone.get(turn_key(row, f"{rival}_us"))
            if mine and theirs:
                group = row.configuration.model, row.configuration.dtype, row.M
                ratios.setdefault(group, []).append(mine / theirs)
    rows = [
        (model, dtype, number(str(M), M), whole(len(each)), *(fixed(of(each), 3) for of in (min, median, max)))
        for (model, dtype, M), each in sorted(ratios.items())
    ]
    if not rows:
        return []
    headers = ("model", "dtype", "M", "products", "smallest", "median", "largest")
    note = say("Cold latency in turn over that of the same product and library in a process without sparse products.")
    return [Section(TURN_TITLE, [note, Table("turns", headers, rows, "ll")])]


def turn_key(row, column):
    """What a product in turn and one alone must have in common. column: its column as a rival (`rival_column`)."""
    name = row.configuration
    return name.model, name.dtype, row.linear, row.M, column, row.machine, row.provenance.gpu_uuid


def rival_column(row):
    """The column for the library and output type of a dense product when it is a rival."""
    suffix = "_int32" if row.values.get("output") == "INT32" else ""
    return f"{row.configuration.backend}{suffix}_us"
