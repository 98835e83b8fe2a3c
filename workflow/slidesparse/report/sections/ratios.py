"""Speed-ups: ratios of the same figure of two configurations, over a named denominator, with noise if it is known."""

import math
from dataclasses import dataclass, field, replace

from slidesparse.plan.backends import DENSE_BACKENDS
from slidesparse.report.document.model import Text, say
from slidesparse.report.sections.losses import losses
from slidesparse.report.sections.outputs import outputs_of
from slidesparse.report.sections.quantities import around, ends, linears_of, of_layers, of_points, quotient
from slidesparse.report.sections.unfit import reasons
from slidesparse.report.sources.rows import caches_of, configuration_order, grouped
from slidesparse.report.tables.columns import CUBLASLT
from slidesparse.sparsity.patterns import Pattern

HALF = "2_4"
"""The pattern that sparse tensor cores are made for."""


HOST_BOUND = say("bound by the host")
ABOVE_BOUND = say("above the bound")

DENSE_RAN = say("only dense kernels ran")
UNKNOWN_RAN = say("unknown which kernels ran")
RAN = (DENSE_RAN, UNKNOWN_RAN)
FAILED = say("failed")
FLYING = say("being measured")
MISSING = say("no usable point")
OTHERWISE = say("measured otherwise")
OTHER_OUTPUTS = say("other outputs")
BLANK = say("its points lack this figure")
MEMORY = say("out of memory")
ALONE = say("the denominator has no figure")
APART = say("the denominator was measured otherwise")


NO_RATIO = {str(ALONE), str(APART), str(BLANK)}
"""Why a point in which a sparse kernel ran has no ratio."""


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
    apart: (Configuration, M) whose ratios are left out because hardware, driver, versions, protocol, power limit or
    requests differ.
    alone: (Configuration, M) of sparse figures without a figure of the denominator.
    lost: (Configuration, M) -> why its point has no such figure, or does not say which kernels ran.
    asked: all configurations of the stage, model and type that were measured or are planned.
    Ms: all M of the stage that were measured for any configuration or are planned.
    rivals: dense backends of which the denominator is the fastest.
    lacking: (Configuration, M) -> {dense backend: why it has no figure that counts beside that ratio}. It may be the
    fastest.
    outputs: (Configuration, M) -> (own output type, the denominator's), if files of others say that they differ.
    losses: sparsity -> losses.Loss of the model's checkpoint, of those that were scored.
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
    lost: dict = field(default_factory=dict)
    asked: frozenset = frozenset()
    Ms: frozenset = frozenset()
    rivals: tuple = ()
    lacking: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    losses: dict = field(default_factory=dict)

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
        why = {M: self.lost.get((name, M), MISSING) for M in self.Ms - own.keys()}
        why |= {M: self.lost.get((name, M), DENSE_RAN) for M, ratio in own.items() if not ratio.sparse}
        for reason, keys in ((ALONE, self.alone), (APART, self.apart)):
            why |= {M: reason for other, M in keys if other == name and self.lost.get((name, M)) not in RAN}
        return dict(sorted(why.items()))

    def sparse_counted(self, name):
        """M -> ratio of one configuration, of those that count and for which a sparse kernel ran."""
        return {M: ratio for M, ratio in self.counted(name).items() if ratio.sparse}

    def sparse_names(self):
        """Configurations with a ratio for which a sparse kernel ran, sorted."""
        return sorted({name for (name, _), ratio in self.ratios.items() if ratio.sparse}, key=configuration_order)

    def patterns(self):
        """Configurations with a ratio for which a sparse kernel ran, those whose sparse figures lack a denominator, and
        those all of whose points failed or are missing, sorted.
        """
        there = {*self.sparse_names()}
        lost = {name: {*map(str, self.absent(name).values())} for name in self.asked if name.sparse_kernel}
        lost = {name for name, why in lost.items() if not {*map(str, RAN)} & why or NO_RATIO & why}
        return sorted(there | lost, key=configuration_order)

    def is_above_bound(self, name, M):
        """Whether a ratio exceeds the bound of its pattern by more than noise explains."""
        ratio = self.ratios[name, M]
        known = self.kind in ("dense", "best_dense") and ratio.sparse
        return known and (ratio.value if ratio.low is None else ratio.low) > Pattern(name.sparsity).bound

    def above_bound(self):
        """(configuration, M) of the ratios that exceed the bound of their pattern."""
        order = sorted(self.ratios, key=lambda key: (configuration_order(key[0]), key[1]))
        return [key for key in order if self.is_above_bound(*key)]


TOKENS = ("tokens_per_s", say("tokens/s of the published protocol"), "tokens/s")
WALL = ("step_ms", say("steady-state step time"), "ms")
FIGURES = {"prefill": (TOKENS, WALL), "decode": (TOKENS, WALL, ("gpu_step_ms", say("GPU time of a step"), "ms"))}
"""stage -> (column, name, unit) of the compared figures. Decode also has GPU time, because the host may need longer."""


def asked(source, stage, model, dtype, rows):
    """{"asked": configurations, "Ms": M} of a stage, model and type: those of its rows, and those that a plan or files
    of others ask for.
    """
    planned = {name: Ms for name, Ms in source.planned(stage).items() if name[:2] == (model, dtype)}
    Ms = {M for each in planned.values() for M in each} | {row.M for row in rows}
    return {"asked": frozenset({row.configuration for row in rows} | planned.keys()), "Ms": frozenset(Ms)}


def lost(rows, column):
    """(Configuration, M) -> why its point has no figure in a column, or no sparse kernel that is known to have run."""
    found, words = {}, {"failed": FAILED, "out_of_memory": MEMORY, "in_flight": FLYING}
    for row in rows:
        if row.status in words:
            found[row.configuration, row.M] = words[row.status]
        elif row.silent:
            found[row.configuration, row.M] = UNKNOWN_RAN
        elif row.stage != "kernel" and row.configuration.sparse_kernel and not row.sparse:
            found[row.configuration, row.M] = DENSE_RAN
        elif row.values.get(column) is None:
            found.setdefault((row.configuration, row.M), BLANK)
    return found


def comparisons(source):
    """All Comparisons that the rows of a source allow."""
    comparisons = []
    for stage, columns in FIGURES.items():
        for (model, dtype), rows in grouped(source.stage(stage)).items():
            all_of = asked(source, stage, model, dtype, rows) | {"losses": losses(source, model, dtype)}
            for column, what, unit in columns:
                values = of_points(source, rows, column)
                new = Comparison(
                    stage, model, dtype, what, "", "dense", unit, column, lost=lost(rows, column), **all_of
                )
                comparisons += divided(new, values, higher=column == "tokens_per_s")
    for (model, dtype), rows in grouped(source.stage("kernel")).items():
        all_of = asked(source, "kernel", model, dtype, rows)
        for column, caches in (("latency_us", caches_of(rows)), ("latency_hot_us", "hot")):
            values = of_layers(source, model, dtype, column)
            what = say("sum of {caches} GEMM latencies of a layer", caches=say(caches))
            new = Comparison(
                "kernel", model, dtype, what, "", "dense", "µs", column, caches, lost=lost(rows, column), **all_of
            )
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
            new = Comparison(
                "kernel", model, dtype, what, over, kind, "µs", metric, "cold", lost=lost(rows, metric), **all_of
            )
            comparisons += paired(source, rows, new, sides)
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


def is_dense_engine(name):
    """Whether a configuration is a dense engine of ours."""
    return name.sparsity == "dense" and not name.stock


def divided(empty, values, higher):
    """Comparisons of measured values over the dense backend, the fastest dense backend, 2:4, and stock vLLM.

    Stock vLLM is no dense backend here. It lacks our fusion, so a ratio over it does not show the gain of sparsity. The
    fastest dense backend is one of those that were measured as the other side was, if there are such. It may be one
    whose figure a check disqualifies. Then the ratio does not count.
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
            own = values[name, M]
            there = [other for other in dense if (other, M) in values and values[other, M].kind == own.kind]
            there = [other for other in there if values[other, M].machine == own.machine] or there
            return pick(there, key=lambda other: values[other, M].value) if there and name not in dense else None

        fastest = replace(empty, over=FASTEST, kind="best_dense")
        comparisons.append(ratios(fastest, values, best, higher))
    if dense:
        comparisons[-1].lacking = lacking(comparisons[-1], values)
        alike = {(base, M): values[base, M].machine for (_, M), base in comparisons[-1].bases.items()}
        alike = {(M, machine) for (_, M), machine in alike.items()}
        rivals = {name for name, M in values if name in dense and (M, values[name, M].machine) in alike}
        comparisons[-1].rivals = tuple(name.backend for name in dense if name in rivals)
    sparse = {name.backend: name for name, _ in values if name.sparsity == HALF and name.sparse_kernel}
    if sparse:
        over = ", ".join(sorted(name.column for name in sparse.values()))
        new = replace(empty, over=over, kind="half")
        comparisons.append(ratios(new, values, lambda name, M: sparse.get(name.backend), higher))
    if stock:
        comparisons.append(ratios(replace(empty, over=STOCK, kind="stock"), everything, lambda name, M: stock, higher))
        comparisons[-1].lacking = lacking(comparisons[-1], everything)
    return [comparison for comparison in comparisons if comparison.ratios or comparison.apart]


def lacking(comparison, values):
    """(Configuration, M) of ratios -> {dense backend that was asked for: why it has no figure that counts there}."""
    found = {}
    rivals = sorted(filter(is_dense_engine, comparison.asked), key=configuration_order)
    for (name, M), base in comparison.bases.items():
        for rival in (each for each in rivals if each not in (name, base)):
            if why := why_lacking(values, comparison.lost, (rival, M), values[base, M]):
                found.setdefault((name, M), {})[rival.backend] = why
    return found


def why_lacking(values, lost, key, beside):
    """Why the figure at `key` does not count beside another one, or None. lost: what `lost` gives."""
    mine = values.get(key)
    if mine is None or mine.unfit:
        return mine.unfit if mine else lost.get(key, MISSING)
    if mine.machine != beside.machine:
        return OTHERWISE
    return OTHER_OUTPUTS if mine.kind != beside.kind else None


def lacking_at(comparison, keys):
    """[(dense backend, M as text, why)]: where it has no figure that counts beside some ratios.

    keys: their (Configuration, M).
    """
    found = {}
    for key in comparison.lacking.keys() & set(keys):
        for backend, why in comparison.lacking[key].items():
            found.setdefault((backend, str(why)), (why, set()))[1].add(key[1])
    return [(backend, ", ".join(map(str, sorted(Ms))), why) for (backend, _), (why, Ms) in sorted(found.items())]


def ratios(empty, values, base_of, higher):
    """A copy of the Comparison `empty` with the ratios of all values over those of `base_of(configuration, M)`.

    GEMMs with different output types are not compared, but for published ones (`Comparison.outputs`).
    """
    filled = replace(empty, ratios={}, sides={}, bases={}, apart=[], alone=[], rivals=(), lacking={})
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
    interval = ends(values, "speedup_cublaslt", "latency_us")
    if values.get("latency_int32_us") and values.get("cublaslt_int32_us"):
        return values["latency_int32_us"], values["cublaslt_int32_us"], *interval
    return values.get("latency_us"), values.get("cublaslt_us"), *interval


def beside_best(values):
    """The same for the fastest dense library."""
    interval = ends(values, "speedup_best_dense", "latency_us")
    ratio = values.get("speedup_best_dense")
    theirs = values.get("best_dense_us")
    return (theirs / ratio if ratio and theirs else None), theirs, *interval


def beside_best_linear(values):
    """The same for whole linears: quantising, lifting, GEMM, scales."""
    interval = ends(values, "speedup_linear", "latency_us")
    return values.get("linear_us"), values.get("best_dense_linear_us"), *interval


def paired(source, rows, empty, sides):
    """A list with the Comparison of sums over a layer's linears that took turns with a rival; empty without rivals.

    It has only sparse configurations, because a dense one is itself a rival.
    """
    points = {}
    good = [row for row in rows if row.status == "ok"]
    empty.lost = dict.fromkeys([(row.configuration, row.M) for row in good], BLANK) | empty.lost
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
