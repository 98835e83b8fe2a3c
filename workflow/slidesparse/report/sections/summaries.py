"""What the comparison of hardware needs of each source of each key."""

from dataclasses import dataclass, field

from slidesparse.report.document.model import NONE, joined, say
from slidesparse.report.sections import checks, overview, verdict
from slidesparse.report.sections.answer_table import costs_over_dense
from slidesparse.report.sections.ratios import of_layers, of_points
from slidesparse.report.sources import shapes
from slidesparse.report.sources.rows import OURS, caches_of, grouped, step_value, workload

ENGINES = {"prefill": ("step_ms", "tokens_per_s"), "decode": ("gpu_step_ms", "tokens_per_s")}
"""stage -> columns by which engines of two GPUs are compared. In decode the host may decide the time by the clock."""


@dataclass
class Summary:
    """What the comparison needs of one source of one hardware key.

    values: (stage, metric, model, dtype) -> {(Configuration, M): value}; a kernel metric names its caches.
    ratios: (stage, what, over, model, dtype) -> Comparison.
    passed: stage -> (passed, asked for).
    by_type: (type, stage) -> (passed, asked for).
    problems: status -> number of points.
    anomalies: number of anomalies.
    span: first and last time.
    dense: (stage, column, model, dtype) -> {M: (Configuration, Quantity, protocol)} of the fastest dense engine, of
    the figures that count.
    protocols: as `ratios` -> (Configuration, M) -> how its sides were measured, as text.
    answers: (model, dtype) -> stage -> the Comparison that decides there, or None.
    ways: (stage, model, dtype) -> how its engines were measured, as text: protocol 9, published.
    costs: (model, dtype) -> (the shortest pattern, its memory of weights and energy of a token in prefill, over dense).
    foreign: whether others published all of it.
    shapes: model -> shapes of its linears, as `sources.shapes` has them.
    """

    key: str
    root: str
    names: list
    provenance: list
    span: tuple | None
    passed: dict
    problems: dict
    anomalies: int
    by_type: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    ratios: dict = field(default_factory=dict)
    dense: dict = field(default_factory=dict)
    protocols: dict = field(default_factory=dict)
    answers: dict = field(default_factory=dict)
    ways: dict = field(default_factory=dict)
    costs: dict = field(default_factory=dict)
    foreign: bool = False
    shapes: dict = field(default_factory=dict)


def summary(key, source, compared, anomalies):
    """The Summary of one source, its comparisons and its anomalies."""
    kept = Summary(
        key,
        source.root,
        sorted({row.provenance.gpu_name for row in source.rows} - {""}),
        sorted({row.provenance.machine[1:4] for row in source.rows if any(row.provenance.machine[1:4])}),
        overview.dates(source),
        {stage: checks.add(checks.passed(source, stage).values()) for stage in ("prefill", "decode", "kernel")},
        {
            word: len({(r.stage, r.configuration, r.M) for r in source.rows if r.status == word})
            for word in ("failed", "out_of_memory")
        },
        sum(len(findings) for *_, findings in anomalies),
        checks.by_type(source),
    )
    for stage in ("prefill", "decode"):
        for (model, dtype), rows in grouped(source.stage(stage)).items():
            good = [row for row in rows if row.status == "ok"]
            ways = {str(each): each for each in (way(source, row) for row in good)}
            kept.ways[stage, model, dtype] = joined([ways[text] for text in sorted(ways)], ", ")
            tokens = {
                (r.configuration, r.M): r.values["tokens_per_s"]
                for r in good
                if r.values.get("tokens_per_s") is not None
            }
            steps = {(r.configuration, r.M): step_value(r)[0] for r in good if step_value(r)}
            kept.values[stage, "tokens/s", model, dtype] = tokens
            kept.values[stage, "step (ms)", model, dtype] = steps
            for column in ENGINES[stage]:
                kept.dense[stage, column, model, dtype] = fastest_dense(source, rows, column)
    for (model, dtype), rows in grouped(source.stage("kernel")).items():
        for column, caches in (("latency_us", caches_of(rows)), ("latency_hot_us", "hot")):
            sums = {key: value.value for key, value in of_layers(source, model, dtype, column).items()}
            if sums:
                kept.values["kernel", f"{caches} GEMMs of a layer (µs)", model, dtype] = sums
    for one in compared:
        if one.kind in ("dense", "best_dense", "linear") and one.ratios:
            over = str(one.over)
            key = one.stage, str(one.what), over, one.model, one.dtype
            kept.ratios[key], kept.protocols[key] = one, protocols(source, one)
    for model, dtype in verdict.types_of(source):
        kept.answers[model, dtype] = {
            stage: verdict.deciding(compared, stage, model, dtype) for stage in verdict.STAGES
        }
        kept.costs[model, dtype] = cost(source, kept.answers[model, dtype]["prefill"])
    kept.foreign = verdict.foreign(source)
    kept.shapes = shapes.of_models(source)
    return kept


def cost(source, comparison):
    """(the shortest pattern that is not chosen, memory, energy) in prefill over dense; dashes where unknown."""
    names = verdict.row_names(comparison.sparse_names()) if comparison else {}
    name = next((each for each in names if each.backend != "auto"), None)
    if not name:
        return NONE, NONE, NONE
    memory, energy, _ = costs_over_dense(source, comparison, name)
    return names[name], memory or NONE, energy


def protocols(source, comparison):
    """(Configuration, M) -> how both sides of a ratio were measured: the protocol, the lengths of requests."""
    words = {}
    for row in source.stage(comparison.stage):
        if row.status == "ok" and row.configuration[:2] == (comparison.model, comparison.dtype):
            said = [way(source, row)]
            if comparison.metric == "tokens_per_s" and workload(row):
                said.append(say("{n} tokens a request", n=workload(row)))
            words[row.configuration, row.M] = {str(each): each for each in said}
    found = {}
    for name, M in comparison.ratios:
        sides = words.get((name, M), {}) | words.get((comparison.bases.get((name, M)), M), {})
        found[name, M] = joined([sides[text] for text in sorted(sides)], ", ")
    return found


def way(source, row):
    """How a row was measured: by which protocol of ours, or by others."""
    ours = source.layouts.get(row.point) == OURS
    return say("protocol {n}", n=row.provenance.protocol) if ours else say("published")


def protocol(row, column):
    """What must be equal if figures of two sources are to be divided: the protocol, for tokens/s also the requests."""
    lengths = f"{workload(row)} tokens a request" if column == "tokens_per_s" and workload(row) else ""
    return ", ".join(filter(None, (row.provenance.protocol, lengths)))


def fastest_dense(source, rows, column):
    """M -> (Configuration, Quantity, protocol) of the fastest dense engine that is not stock vLLM.

    Only figures count that no check disqualifies. An M at which the host bounds the fastest has none: a slower engine
    is not the fastest.
    """
    protocols = {(row.configuration, row.M): protocol(row, column) for row in rows}
    best = {}
    for (name, M), each in of_points(source, rows, column).items():
        if name.sparsity == "dense" and not name.stock and not each.unfit:
            rate = each.value if column == "tokens_per_s" else 1 / each.value
            if M not in best or rate > best[M][0]:
                best[M] = rate, (name, each, protocols[name, M])
    return {M: found for M, (_, found) in best.items() if not found[1].host_bound}
