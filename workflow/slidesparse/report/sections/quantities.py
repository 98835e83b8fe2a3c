"""A figure with the ends of its interval, the ratio of two and what it says, and the figures of rows."""

import math
from typing import NamedTuple

from slidesparse.report.document.model import Text, fixed, interval, number, say
from slidesparse.report.sections.unfit import reasons
from slidesparse.report.sources.rows import OURS, grouped, numbers, workload

ACROSS = " ⇄"
"""Mark of a ratio whose sides were measured on two GPUs."""

ACROSS_NOTE = say(
    "⇄ marks ratios of points that two GPUs measured: GPUs of one name differ by some percent, so which side is faster"
    " is unknown."
)

LEAST_COVERAGE = 0.9
"""An interval that covers its median less often decides nothing, so it counts as none: that of three repeats or two."""

EVEN_FROM, EVEN_TO = 0.95, 1.05
"""Where an interval that holds 1 must lie to say even: gains that are called faster begin at a few percent."""

NARROW = say("{low} to {high}", low=fixed(EVEN_FROM, 2), high=fixed(EVEN_TO, 2))

FASTER, EVEN, SLOWER, UNKNOWN = VERDICTS = (say("faster"), say("even"), say("slower"), say("unknown"))
"""What an interval says of a ratio. Without an interval, or with a wide one that holds 1, nobody knows."""


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

        Unknown, too, if it holds 1 and leaves `NARROW`, or if two GPUs measured the sides: it does not hold their
        difference.
        """
        if self.low is None or self.high is None or self.across:
            return UNKNOWN
        if not self.inside_noise:
            return FASTER if self.value > 1 else SLOWER
        return EVEN if self.low >= EVEN_FROM and self.high <= EVEN_TO else UNKNOWN


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


def marked(quantity, digits, ends=False):
    """A ratio, marked if its sides were measured on two GPUs. ends: with its interval, if that is known."""
    shown = interval(quantity.value, quantity.low, quantity.high, digits) if ends else fixed(quantity.value, digits)
    return number(shown + ACROSS * quantity.across, quantity.value)


def linears_of(source, model):
    """Number of linears in a layer: from the model's shape, or else from what was measured, or else 1."""
    if model in source.linears:
        return source.linears[model]
    rows = [row for row in source.stage("kernel") if row.configuration.model == model and row.linear]
    return len({row.linear for row in rows}) or 1


def ends(values, column, covered=None):
    """(low, high) of the interval of a column in a row's `values`; None for both if it covers too little.

    covered: the column whose interval covers as much, if it is another.
    """
    coverage = values.get(f"{covered or column}_ci_coverage")
    if coverage is not None and coverage < LEAST_COVERAGE:
        return None, None
    return values.get(f"{column}_ci_low"), values.get(f"{column}_ci_high")


def of_points(source, rows, column):
    """(configuration, M) -> Quantity of a column of prefill or decode rows of a source.

    The GPU time of stock vLLM is that of the variant with the least GPU time, if known. The interval of
    another variant's is not its own.
    """
    least = "least_gpu_step_ms" if column == "gpu_step_ms" else column

    def machine(row):
        """Only requests of equal lengths are compared, and by others' tokens/s only equal numbers of them."""
        foreign = column == "tokens_per_s" and source.layouts.get(row.point, OURS) != OURS
        return (*row.machine, workload(row), *(numbers(row) if foreign else ()))

    def own(row):
        return ends(row.values, column) if row.values.get(least) in (None, row.values[column]) else (None, None)

    return {
        (row.configuration, row.M): Quantity(
            row.values.get(least) or row.values[column],
            *own(row),
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
    kind, why = values.get("output") or "", reasons(source).get((row.stage, row.configuration, row.M))
    found = Quantity(values[column], *ends(values, column), row.machine, kind, row.provenance.gpu_uuid)
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
