"""Speed-ups: ratios of the same figure of two configurations, over a named denominator, with noise if it is known."""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from slidesparse.plan.backends import DENSE_BACKENDS
from slidesparse.report.document.model import Text, say
from slidesparse.report.sections.unfit import reasons
from slidesparse.report.sources.rows import caches_of, configuration_order, grouped, workload
from slidesparse.report.tables.columns import CUBLASLT
from slidesparse.sparsity.patterns import Pattern

ACROSS = " ⇄"
"""Mark of a ratio whose sides were measured on two GPUs."""

ACROSS_NOTE = say(
    "⇄ marks ratios of points that two GPUs measured: GPUs of one name differ by some percent, so which side is faster"
    " is unknown."
)

HALF = "2_4"
"""The pattern that sparse tensor cores are made for."""


FASTER, EVEN, SLOWER, UNKNOWN = VERDICTS = (say("faster"), say("even"), say("slower"), say("unknown"))
"""What an interval says of a ratio. Without an interval nobody knows."""

HOST_BOUND = say("bound by the host")
ABOVE_BOUND = say("above the bound")

DENSE_RAN = say("only dense kernels ran")
UNKNOWN_RAN = say("unknown which kernels ran")
FAILED = say("not measured")
BLANK = say("its points lack this figure")
MEMORY = say("out of memory")
ALONE = say("the denominator has no figure")
APART = say("the denominator was measured otherwise")


class Quantity(NamedTuple):
    """A figure, or a ratio of two, with the ends of its confidence interval (None if not known).

    machine: properties of machine and run that must agree on both sides of a ratio.
    kind: a property that must agree as well, such as the output type of a GEMM.
    gpu_uuid: hash of the GPU's UUID; empty if not known.
    across: whether the sides of a ratio were measured on two GPUs of one name.
    host_bound: whether the host bounds the figure, or a side of the ratio.
    unfit: why a check disqualifies the figure, or a side of the ratio; None if none does.
    sparse: whether a sparse kernel ran for the figure, or for the ratio's own side.
    """

    value: float
    low: float | None = None
    high: float | None = None
    machine: tuple = ()
    kind: str = ""
    gpu_uuid: str = ""
    across: bool = False
    host_bound: bool = False
    unfit: Text | None = None
    sparse: bool = False

    @property
    def spread(self):
        """Half the width of the interval divided by the value, or None."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2 / self.value

    @property
    def inside_noise(self):
        """Whether the interval of a ratio contains 1."""
        return self.low is not None and self.high is not None and self.low <= 1 <= self.high

    @property
    def verdict(self):
        """Of a ratio: FASTER, SLOWER or EVEN by its interval; UNKNOWN without one, whatever its value.

        Unknown, too, if two GPUs measured its sides: the interval does not hold their difference.
        """
        if self.low is None or self.high is None or self.across:
            return UNKNOWN
        return EVEN if self.inside_noise else FASTER if self.value > 1 else SLOWER


def around(value, spread, machine=(), kind="", gpu_uuid=""):
    """A quantity from a value and the relative half-width of its interval, which may be None."""
    ends = (value * (1 - spread), value * (1 + spread)) if spread is not None else (None, None)
    return Quantity(value, *ends, machine, kind, gpu_uuid)


def both(first, second):
    """Relative half-width of a ratio from those of its two independent sides."""
    return None if first is None or second is None else math.hypot(first, second)


def quotient(first, second):
    """The ratio of two independent figures, first over second."""
    across = bool(first.gpu_uuid and second.gpu_uuid) and first.gpu_uuid != second.gpu_uuid
    marks = {"across": across, "host_bound": first.host_bound or second.host_bound}
    marks["unfit"] = first.unfit or second.unfit
    return around(first.value / second.value, both(first.spread, second.spread))._replace(**marks)


@dataclass
class Comparison:
    """Ratios of one model and dtype at one stage over one denominator.

    what: name of the compared figure.
    over: the denominator.
    kind: kind of denominator: dense, best_dense, half (2:4), linear or stock.
    unit: of the values in `sides`.
    metric: column of the figure.
    caches: cold or hot for kernels.
    ratios: (Configuration, M) -> Quantity.
    sides: (Configuration, M) -> (own value, denominator's value).
    bases: (Configuration, M) -> the Configuration of the denominator, if it is one.
    apart: (Configuration, M) whose ratios are left out because hardware, driver, versions, protocol or lengths of
    requests differ.
    alone: (Configuration, M) of sparse figures without a figure of the denominator.
    failed, memory: (Configuration, M) of figures that failed, or found too little memory.
    blank: (Configuration, M) of good points without this figure.
    silent: (Configuration, M) of points of `auto` that do not say which kernels ran.
    Ms: all M of the stage, of engines, that were measured for any configuration or are planned.
    lacking: M -> dense backends that have no figure there, and may be the fastest.
    outputs: (output types of sparse products, those of the denominator's), if files of others say that they differ.
    """

    stage: str
    model: str
    dtype: str
    what: Text
    over: object
    kind: str
    unit: str
    metric: str
    caches: str = ""
    ratios: dict = field(default_factory=dict)
    sides: dict = field(default_factory=dict)
    bases: dict = field(default_factory=dict)
    apart: list = field(default_factory=list)
    alone: list = field(default_factory=list)
    failed: list = field(default_factory=list)
    memory: list = field(default_factory=list)
    blank: list = field(default_factory=list)
    silent: list = field(default_factory=list)
    Ms: frozenset = frozenset()
    lacking: dict = field(default_factory=dict)
    outputs: tuple | None = None

    @property
    def in_turn(self):
        """Whether sparse products took turns with the denominator in one process."""
        return self.over in (CUBLASLT, BEST, BEST_LINEAR)

    @property
    def axis(self):
        """Title of an axis that shows the ratios."""
        short = {"best_dense": "the fastest dense", "linear": "the fastest dense linear"}
        return f"speed-up over {short.get(self.kind, self.over)}"

    def names(self):
        """Configurations that have a ratio, sorted."""
        return sorted({name for name, _ in self.ratios}, key=configuration_order)

    def of(self, name):
        """M -> ratio of one configuration."""
        return {M: self.ratios[other, M] for other, M in sorted(self.ratios, key=lambda key: key[1]) if other == name}

    def left_out(self, name, M):
        """Why a ratio takes part in no conclusion, or None if it takes part."""
        ratio = self.ratios[name, M]
        if ratio.unfit or ratio.host_bound:
            return ratio.unfit or HOST_BOUND
        return ABOVE_BOUND if self.is_above_bound(name, M) else None

    def counted(self, name):
        """M -> ratio of one configuration, of those that take part in conclusions."""
        return {M: ratio for M, ratio in self.of(name).items() if not self.left_out(name, M)}

    def absent(self, name):
        """M -> why a configuration has no ratio of a sparse kernel there."""
        own = self.of(name)
        why = dict.fromkeys(self.Ms - own.keys(), FAILED)
        why |= {M: DENSE_RAN for M, ratio in own.items() if not ratio.sparse}
        lists = (
            (BLANK, self.blank),
            (UNKNOWN_RAN, self.silent),
            (FAILED, self.failed),
            (MEMORY, self.memory),
            (ALONE, self.alone),
            (APART, self.apart),
        )
        for reason, keys in lists:
            why |= {M: reason for other, M in keys if other == name}
        return dict(sorted(why.items()))

    def sparse_counted(self, name):
        """M -> ratio of one configuration, of those that count and for which a sparse kernel ran."""
        return {M: ratio for M, ratio in self.counted(name).items() if ratio.sparse}

    def sparse_names(self):
        """Configurations with a ratio for which a sparse kernel ran, sorted."""
        return sorted({name for (name, _), ratio in self.ratios.items() if ratio.sparse}, key=configuration_order)

    def is_above_bound(self, name, M):
        """Whether a ratio exceeds the bound of its pattern by more than noise explains."""
        ratio = self.ratios[name, M]
        known = self.kind in ("dense", "best_dense") and ratio.sparse
        return known and (ratio.value if ratio.low is None else ratio.low) > Pattern(name.sparsity).bound

    def above_bound(self):
        """(configuration, M) of the ratios that exceed the bound of their pattern."""
        order = sorted(self.ratios, key=lambda key: (configuration_order(key[0]), key[1]))
        return [key for key in order if self.is_above_bound(*key)]


def outputs_of(rows, comparison):
    """(own, denominator's) output types of kernels in files of others, as text, if they differ; else None."""
    kinds = {}
    for row in rows:
        if kind := row.values.get("output_of_others"):
            for sparse, sides in ((True, comparison.names()), (False, comparison.bases.values())):
                if row.configuration in sides:
                    kinds.setdefault(sparse, set()).add(kind)
    own, over = (", ".join(sorted(kinds.get(sparse, ()))) for sparse in (True, False))
    return (own, over) if own and over and own != over else None


def linears_of(source, model):
    """Number of linears in a layer: from the model's shape, or else from what was measured, or else 1."""
    if model in source.linears:
        return source.linears[model]
    rows = [row for row in source.stage("kernel") if row.configuration.model == model and row.linear]
    return len({row.linear for row in rows}) or 1


def of_points(source, rows, column):
    """(configuration, M) -> Quantity of a column of prefill or decode rows of a source.

    The GPU time of stock vLLM is that of the variant with the least GPU time, if known. The interval of
    another variant's is not its own.
    """
    least = "least_gpu_step_ms" if column == "gpu_step_ms" else column

    def machine(row):
        """Only requests of equal lengths are compared by tokens/s."""
        return row.provenance.machine + ((workload(row),) if column == "tokens_per_s" else ())

    def end(row, which):
        own = row.values.get(least) in (None, row.values[column])
        return row.values.get(f"{column}_ci_{which}") if own else None

    return {
        (row.configuration, row.M): Quantity(
            row.values.get(least) or row.values[column],
            end(row, "low"),
            end(row, "high"),
            machine(row),
            gpu_uuid=row.provenance.gpu_uuid,
            host_bound=bool(row.values.get("host_bound")) and column != "gpu_step_ms",
            unfit=reasons(source).get((row.stage, row.configuration, row.M)),
            sparse=row.sparse,
        )
        for row in rows
        if row.status == "ok" and row.values.get(column) is not None
    }


def of_layers(source, model, dtype, column):
    """(configuration, M) -> Quantity of a column summed over a layer's linears, if all of them were measured."""
    if (model, dtype, column) not in source.sums:
        points, need = {}, linears_of(source, model)
        for row in grouped(source.stage("kernel")).get((model, dtype), ()):
            if row.status == "ok" and row.values.get(column) is not None:
                points.setdefault((row.configuration, row.M), []).append(of_row(source, row, column))
        sums = {key: summed(linears) for key, linears in points.items() if len(linears) == need}
        source.sums[model, dtype, column] = sums
    return source.sums[model, dtype, column]


def of_row(source, row, column):
    """Quantity of a column of one kernel row of a source."""
    values = row.values
    ends = values.get(f"{column}_ci_low"), values.get(f"{column}_ci_high")
    kind, why = values.get("output") or "", reasons(source).get((row.stage, row.configuration, row.M))
    found = Quantity(values[column], *ends, row.provenance.machine, kind, row.provenance.gpu_uuid)
    return found._replace(unfit=why, sparse=row.sparse)


def summed(quantities):
    """Sum of independent figures."""
    total = sum(quantity.value for quantity in quantities)
    spreads = [quantity.spread for quantity in quantities]
    known = (
        None
        if None in spreads
        else math.hypot(*(s * q.value for s, q in zip(spreads, quantities, strict=True))) / total
    )
    first = quantities[0]
    return around(total, known, first.machine, first.kind, first.gpu_uuid)._replace(
        unfit=first.unfit, sparse=first.sparse
    )


TOKENS = ("tokens_per_s", say("tokens/s of the published protocol"), "tokens/s")
WALL = ("step_ms", say("steady-state step time"), "ms")
FIGURES = {"prefill": (TOKENS, WALL), "decode": (TOKENS, WALL, ("gpu_step_ms", say("GPU time of a step"), "ms"))}
"""stage -> (column, name, unit) of the compared figures. Decode also has GPU time, because the host may need longer."""


def planned(source, stage, model, dtype):
    """The M that a plan asks for at a stage, of a model and type."""
    points = source.plan.points.get(stage, {}) if source.plan else {}
    return {M for name, Ms in points.items() if name[:2] == (model, dtype) for M in Ms}


def comparisons(source):
    """All Comparisons that the rows of a source allow."""
    comparisons = []
    for stage, columns in FIGURES.items():
        for (model, dtype), rows in grouped(source.stage(stage)).items():
            for column, what, unit in columns:
                values = of_points(source, rows, column)
                failed, memory = (
                    [(row.configuration, row.M) for row in rows if row.status == status]
                    for status in ("failed", "out_of_memory")
                )
                good = [row for row in rows if row.status == "ok"]
                blank = [(row.configuration, row.M) for row in good if row.values.get(column) is None]
                silent = [(row.configuration, row.M) for row in good if row.silent]
                lists = {"failed": failed, "memory": memory, "blank": blank, "silent": silent}
                new = Comparison(stage, model, dtype, what, "", "dense", unit, column, **lists)
                new.Ms = frozenset(row.M for row in rows) | planned(source, stage, model, dtype)
                comparisons += divided(new, values, higher=column == "tokens_per_s")
    for (model, dtype), rows in grouped(source.stage("kernel")).items():
        for column, caches in (("latency_us", caches_of(rows)), ("latency_hot_us", "hot")):
            values = of_layers(source, model, dtype, column)
            what = say("sum of {caches} GEMM latencies of a layer", caches=say(caches))
            new = Comparison("kernel", model, dtype, what, "", "dense", "µs", column, caches)
            found = divided(new, values, higher=False)
            for each in found:
                each.outputs = outputs_of(rows, each)
            comparisons += found
        turns = say("{caches} GEMMs of a layer in turn", caches=say("cold"))
        if any(row.values.get("latency_int32_us") and row.values.get("cublaslt_int32_us") for row in rows):
            exact = say("{caches} GEMMs of a layer in turn, INT32 outputs", caches=say("cold"))
        else:
            exact = turns
        for kind, what, over, sides in (
            ("dense", exact, CUBLASLT, beside_cublaslt),
            ("best_dense", turns, BEST, beside_best),
            (
                "linear",
                say("{caches} whole linears of a layer in turn", caches=say("cold")),
                BEST_LINEAR,
                beside_best_linear,
            ),
        ):
            metric = "linear_us" if kind == "linear" else "latency_us"
            comparisons += paired(
                source, rows, Comparison("kernel", model, dtype, what, over, kind, "µs", metric, "cold"), sides
            )
    return comparisons


BEST = say("each linear's fastest dense library with BF16 outputs")
BEST_LINEAR = say("the fastest dense library of each whole linear")
FASTEST = say("the fastest dense backend of each M")
STOCK = say("stock vLLM (fusion and sparsity together)")


def dense_base(values):
    """The dense configuration that is the denominator of speed-ups, or None."""
    dense = {name for name, _ in values if name.sparsity == "dense"}
    order = {backend: at for at, backend in enumerate(DENSE_BACKENDS)}
    return min(dense, key=lambda name: order.get(name.backend, len(order)), default=None)


def divided(empty, values, higher):
    """Comparisons of measured values over the dense backend, the fastest dense backend, 2:4, and stock vLLM.

    Stock vLLM is no dense backend here. It lacks our fusion, so a ratio over it does not show the gain of sparsity.
    """
    stock = next((name for name, _ in values if name.stock), None)
    everything, values = values, {key: value for key, value in values.items() if not key[0].stock}
    base = dense_base(values)
    dense = sorted({name for name, _ in values if name.sparsity == "dense"}, key=configuration_order)
    comparisons = []
    if base:
        comparisons.append(ratios(replace(empty, over=base.column), values, lambda name, M: base, higher))
    if len(dense) > 1:
        pick = max if higher else min

        def best(name, M):
            kind = values[name, M].kind
            there = [other for other in dense if (other, M) in values and values[other, M].kind == kind]
            there = [other for other in there if not values[other, M].unfit] or there
            return pick(there, key=lambda other: values[other, M].value) if there and name not in dense else None

        fastest = replace(empty, over=FASTEST, kind="best_dense")
        comparisons.append(ratios(fastest, values, best, higher))
        for M in sorted({M for _, M in comparisons[-1].ratios}):
            absent = [name.backend for name in dense if (name, M) not in values]
            if absent:
                comparisons[-1].lacking[M] = absent
    sparse = {name.backend: name for name, _ in values if name.sparsity == HALF and name.sparse_kernel}
    if sparse:
        over = ", ".join(sorted(name.column for name in sparse.values()))
        new = replace(empty, over=over, kind="half")
        comparisons.append(ratios(new, values, lambda name, M: sparse.get(name.backend), higher))
    if stock:
        comparisons.append(ratios(replace(empty, over=STOCK, kind="stock"), everything, lambda name, M: stock, higher))
    return [comparison for comparison in comparisons if comparison.ratios or comparison.apart]


def ratios(empty, values, base_of, higher):
    """A copy of the Comparison `empty` with the ratios of all values over those of `base_of(configuration, M)`.

    GEMMs with different output types are not compared, but for published ones (`Comparison.outputs`).
    """
    filled = replace(empty, ratios={}, sides={}, bases={}, apart=[], alone=[], lacking={})
    for (name, M), mine in values.items():
        base = base_of(name, M)
        theirs = values.get((base, M))
        if base in (None, name) or theirs is None or theirs.kind != mine.kind:
            filled.alone += [(name, M)] if base != name and mine.sparse else []
            continue
        if theirs.machine != mine.machine:
            filled.apart.append((name, M))
            continue
        ratio = quotient(mine, theirs) if higher else quotient(theirs, mine)
        filled.ratios[name, M] = ratio._replace(sparse=mine.sparse)
        filled.sides[name, M], filled.bases[name, M] = (mine.value, theirs.value), base
    return filled


def beside_cublaslt(values):
    """(own latency, cuBLASLt's latency, ends of the ratio's interval) of one linear, for the same output type."""
    interval = values.get("speedup_cublaslt_ci_low"), values.get("speedup_cublaslt_ci_high")
    if values.get("latency_int32_us") and values.get("cublaslt_int32_us"):
        return values["latency_int32_us"], values["cublaslt_int32_us"], *interval
    return values.get("latency_us"), values.get("cublaslt_us"), *interval


def beside_best(values):
    """The same for the fastest dense library."""
    interval = values.get("speedup_best_dense_ci_low"), values.get("speedup_best_dense_ci_high")
    ratio = values.get("speedup_best_dense")
    theirs = values.get("best_dense_us")
    return (theirs / ratio if ratio and theirs else None), theirs, *interval


def beside_best_linear(values):
    """The same for whole linears: quantising, lifting, GEMM, scales."""
    interval = values.get("speedup_linear_ci_low"), values.get("speedup_linear_ci_high")
    return values.get("linear_us"), values.get("best_dense_linear_us"), *interval


def paired(source, rows, empty, sides):
    """A list with the Comparison of sums over a layer's linears that took turns with a rival; empty without rivals.

    It has only sparse configurations, because a dense one is itself a rival.
    """
    points = {}
    for row in rows:
        sparse = row.status == "ok" and row.configuration.sparse_kernel
        mine, theirs, low, high = sides(row.values) if sparse else (None, None, None, None)
        if mine and theirs:
            points.setdefault((row.configuration, row.M), []).append((mine, theirs, low, high))
    need = linears_of(source, empty.model)
    for key, linears in points.items():
        if len(linears) != need:
            continue
        mine, theirs = sum(item[0] for item in linears), sum(item[1] for item in linears)
        halves = [None if None in item[2:] else (item[3] - item[2]) / 2 * item[0] for item in linears]
        spread = None if None in halves else math.hypot(*halves) / theirs
        empty.ratios[key] = around(theirs / mine, spread)._replace(
            unfit=reasons(source).get(("kernel", *key)), sparse=True
        )
        empty.sides[key] = mine, theirs
    return [empty] if empty.ratios else []
