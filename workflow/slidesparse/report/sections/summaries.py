"""What the comparison of hardware needs of each source of each key."""

from dataclasses import dataclass, field
from typing import NamedTuple

from slidesparse.errors import HardwareError
from slidesparse.machine import naming
from slidesparse.plan.key import Configuration
from slidesparse.report.document.model import NONE, joined, say
from slidesparse.report.sections import answer_clock, checks, overview, quality, verdict
from slidesparse.report.sections.answer_costs import named
from slidesparse.report.sections.answer_table import costs_over_dense
from slidesparse.report.sections.outputs import output_pair, output_texts
from slidesparse.report.sections.quantities import Quantity, linears_of, of_layers, of_points
from slidesparse.report.sections.ratios import asked, is_dense_engine, lost, why_lacking
from slidesparse.report.sources import shapes
from slidesparse.report.sources.rows import OURS, caches_of, grouped, step_value, workload

ENGINES = {"prefill": ("step_ms", "tokens_per_s"), "decode": ("gpu_step_ms", "tokens_per_s")}
"""stage -> columns by which engines of two GPUs are compared. In decode the host may decide the time by the clock."""


class Fastest(NamedTuple):
    """The fastest dense engine of one GPU at one M.

    protocol: what must be equal before it is divided by another GPU's. settings: what `settings` gives.
    lacking: dense backends without a figure that counts beside it -> why. One of them may be faster.
    timed: whether its GPU time is known, and so the share of its host.
    """

    name: Configuration
    figure: Quantity
    protocol: tuple
    settings: dict
    lacking: dict
    timed: bool


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
    dense: (stage, column, model, dtype) -> {M: Fastest}, of the figures that count.
    dense_there: (stage, column, model, dtype) of which a dense engine has a figure, or a point that failed, or
    was asked for and has no point.
    protocols: as `ratios` -> (Configuration, M) -> how its sides were measured, as texts.
    answers: (model, dtype) -> stage -> the Comparison that decides there, or None.
    unmatched: (stage, model, dtype) of sparse engines that were asked for, and that no Comparison decides on.
    clocks: (model, dtype) -> the Comparison by the clock beside one of decode by GPU time, or None.
    ways: (stage, model, dtype) -> how its engines were measured, as texts: protocol 9, published.
    settings: (stage, model, dtype) -> what `settings` gives.
    requests: (stage, model, dtype) -> {M: tokens of its requests, as texts}.
    costs: (model, dtype) -> the shortest pattern, its memory of weights and energy of a token in prefill, over dense.
    foreign: whether others published all of it.
    shapes: model -> shapes of its linears, as `sources.shapes` has them.
    linears: model -> number of linears whose kernels are summed.
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
    dense_there: set = field(default_factory=set)
    protocols: dict = field(default_factory=dict)
    answers: dict = field(default_factory=dict)
    unmatched: list = field(default_factory=list)
    clocks: dict = field(default_factory=dict)
    ways: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    requests: dict = field(default_factory=dict)
    costs: dict = field(default_factory=dict)
    foreign: bool = False
    shapes: dict = field(default_factory=dict)
    linears: dict = field(default_factory=dict)


def summary(key, source, compared, anomalies):
    """The Summary of one source, its comparisons and its anomalies."""
    kept = Summary(
        key,
        source.root,
        sorted({row.provenance.gpu_name for row in source.rows} - {""}),
        sorted({row.provenance.machine[1:4] for row in source.rows if any(row.provenance.machine[1:4])}),
        overview.dates(source),
        {stage: checks.add(checks.passed(source, stage).values()) for stage in checks.STAGES_CHECKED},
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
            kept.ways[stage, model, dtype] = unique([way(source, row) for row in good])
            kept.settings[stage, model, dtype] = settings(good)
            kept.requests[stage, model, dtype] = {
                row.M: {workload(other) for other in good if other.M == row.M} - {""} for row in good if workload(row)
            }
            tokens = {
                (r.configuration, r.M): r.values["tokens_per_s"]
                for r in good
                if r.values.get("tokens_per_s") is not None
            }
            steps = {(r.configuration, r.M): step_value(r)[0] for r in good if step_value(r)}
            kept.values[stage, "tokens/s", model, dtype] = tokens
            kept.values[stage, "step (ms)", model, dtype] = steps
            for column in ENGINES[stage]:
                kept.dense[stage, column, model, dtype] = fastest_dense(source, stage, model, dtype, column)
                engines = [row for row in rows if is_dense_engine(row.configuration)]
                lacking = any(map(is_dense_engine, asked(source, stage, model, dtype, rows)["asked"])) and not engines
                tried = any(row.status in ("failed", "out_of_memory") for row in engines)
                if tried or any(column in known(row) for row in (rows if lacking else engines)):
                    kept.dense_there.add((stage, column, model, dtype))
    for (model, dtype), rows in grouped(source.stage("kernel")).items():
        kept.linears[model] = linears_of(source, model)
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
        kept.clocks[model, dtype] = answer_clock.beside(compared, kept.answers[model, dtype]["decode"])
        kept.costs[model, dtype] = cost(source, kept.answers[model, dtype]["prefill"])
    for stage in verdict.STAGES:
        sparse = {name[:2] for name in checks.names_of(source, stage) if name.sparse_kernel}
        decided = {of for of, stages in kept.answers.items() if stages[stage]}
        kept.unmatched += [(stage, *of) for of in sorted(sparse - decided)]
    kept.foreign = verdict.foreign(source)
    kept.shapes = shapes.of_models(source)
    return kept


def known(row):
    """The columns of a row that have a value."""
    return {column for column, value in row.values.items() if value is not None}


def cost(source, comparison):
    """The shortest pattern that is not `auto`, its memory and energy in prefill over dense and its quality, as text.

    With M and denominator, if they are not those of the hardware's own table. A dash where memory and quality are
    unknown.
    """
    names = verdict.row_names(comparison.sparse_names()) if comparison else {}
    name = next((each for each in names if each.backend != "auto"), None)
    if not name:
        return NONE
    memory, energy, place = costs_over_dense(source, comparison, name)
    parts = [named(memory, energy)] if memory else []
    if memory and place:
        parts = [say("{cost} (M={M}, over {base})", cost=parts[0], M=place[0], base=place[1])]
    if bits := quality.against_dense(source, name.model, name.dtype, name.sparsity):
        parts.append(say("bits per byte {own} against {dense}", own=bits[0], dense=bits[1]))
    return say("{name}: {costs}", name=names[name], costs=joined(parts, ", ")) if parts else NONE


def protocols(source, comparison):
    """(Configuration, M) -> how both sides of a ratio were measured, as texts: protocol, requests, output types."""
    words, rows = {}, grouped(source.stage(comparison.stage)).get((comparison.model, comparison.dtype), ())
    rows = [row for row in rows if row.status == "ok"]
    for row in rows:
        said = [way(source, row)]
        if workload(row):
            said.append(say("{n} tokens a request", n=workload(row)))
        words[row.configuration, row.M] = {str(each): each for each in said}
    outputs = output_texts(source, rows) if comparison.stage == "kernel" and not comparison.in_turn else {}
    found = {}
    for name, M in comparison.ratios:
        sides = words.get((name, M), {}) | words.get((comparison.bases.get((name, M)), M), {})
        if outputs:
            text = output_pair(comparison.outputs.get((name, M))) or outputs[name, M]
            sides = sides | {str(text): text}
        found[name, M] = tuple(sides[text] for text in sorted(sides))
    return found


def way(source, row):
    """How a row was measured: by which protocol of ours, or by others."""
    protocol = row.provenance.protocol
    if is_foreign(source, row):
        return say("published, {calls}", calls=protocol) if protocol else say("published")
    return say("protocol {n}", n=protocol)


def settings(rows):
    """Property -> texts on it, sorted: versions and the power limit under which rows were measured, where known."""
    found = {}
    for row in rows:
        cuda, power = cuda_of(row.hardware), row.values.get("power_limit_w")
        known = {"CUDA": cuda and f"CUDA {cuda}", "power": power and say("power limit {n} W", n=f"{power:g}")}
        libraries = ("torch", row.provenance.torch), ("vLLM", row.provenance.vllm)
        known |= {name: version and f"{name} {version}" for name, version in libraries}
        for name, text in known.items():
            if text:
                found.setdefault(name, []).append(text)
    return {name: unique(texts) for name, texts in found.items()}


def cuda_of(key):
    """The version of CUDA in a hardware key, as text; empty if it has none."""
    try:
        cuda = naming.parse(key).cuda
    except HardwareError:
        return ""
    return f"{cuda // 10}.{cuda % 10}" if cuda else ""


def unique(texts):
    """Texts without repeats, sorted."""
    found = {str(text): text for text in texts}
    return [found[text] for text in sorted(found)]


def is_foreign(source, row):
    """Whether others published a row."""
    return source.layouts.get(row.point) != OURS


def protocol(source, row, column):
    """What must be equal if figures of two sources are to be divided: protocol and requests, as texts."""
    parts = [row.provenance.protocol]
    if workload(row):
        parts.append(f"{workload(row)} tokens a request")
    if column == "tokens_per_s" and is_foreign(source, row) and row.values.get("num_prompts"):
        parts.append(f"{row.values['num_prompts']} requests")
    return tuple(filter(None, parts))


def fastest_dense(source, stage, model, dtype, column):
    """M -> Fastest. Stock vLLM is none.

    An M has none where the host bounds the fastest, or a check disqualifies it: a slower engine is not the fastest.
    """
    rows = grouped(source.stage(stage)).get((model, dtype), ())
    values, reasons = of_points(source, rows, column), lost(rows, column)
    rivals = [name for name in asked(source, stage, model, dtype, rows)["asked"] if is_dense_engine(name)]
    by_place = {(row.configuration, row.M): row for row in rows if row.status == "ok"}
    best = {}
    for (name, M), each in values.items():
        if name in rivals:
            rate = each.value if column == "tokens_per_s" else 1 / each.value
            if M not in best or rate > best[M][0]:
                best[M] = rate, name, each
    found = {}
    for M, (_, name, each) in best.items():
        if each.host_bound or each.unfit:
            continue
        reason = {rival.backend: why_lacking(values, reasons, (rival, M), each) for rival in sorted(rivals)}
        lacking = {backend: why for backend, why in reason.items() if why}
        row = by_place[name, M]
        timed = row.values.get("gpu_step_ms") is not None
        found[M] = Fastest(name, each, protocol(source, row, column), settings([row]), lacking, timed)
    return found
