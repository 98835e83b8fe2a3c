"""What the ratios of one pattern say: whether it pays, and from which M on.

A word is decided by the ratios over the fastest dense engine that count (`Comparison.counted`), at their largest M.
What is faster, and costs too much in quality, does not pay (`losses`).
"""

from typing import NamedTuple

from slidesparse.plan import prompts
from slidesparse.report.document.model import fixed, interval, joined, say
from slidesparse.report.sections import losses
from slidesparse.report.sections.quantities import ACROSS, EVEN, FASTER, SLOWER, UNKNOWN
from slidesparse.report.sections.ratios import DENSE_RAN, HOST_BOUND, lacking_at
from slidesparse.report.sources.rows import OURS, grouped, pattern_length, spell

PAYS, COSTS, LOSES = say("pays"), say("costs more than it gains"), say("loses")

WORDS = {str(FASTER): PAYS, str(EVEN): EVEN, str(SLOWER): LOSES, str(UNKNOWN): UNKNOWN}

ORDER = (PAYS, COSTS, EVEN, LOSES, UNKNOWN)
"""All words, in the order in which sentences have them."""

STAGES = {"prefill": ("step_ms", "tokens_per_s"), "decode": ("step_ms", "gpu_step_ms", "tokens_per_s")}
"""stage -> its figures, by preference. The first of those decides in which most patterns have a ratio that counts."""

FIGURES = {
    "step_ms": say("by the clock"),
    "gpu_step_ms": say("by GPU time"),
    "tokens_per_s": say("by tokens/s"),
}

NONE_COUNTS, NO_INTERVAL, NO_INTERVAL_THERE, TWO_GPUS = "no ratio", "no interval", "no interval there", "two GPUs"
TOO_WIDE = "too wide"
"""Why a word is UNKNOWN: no ratio counts; none has an interval; that of the largest M that counts has none; that one's
sides were measured by two GPUs; its interval holds 1 and is too wide."""

MOST_TYPES = 4
"""Most pairs of model and type on the first screen."""


class Verdict(NamedTuple):
    """What the ratios of one configuration say.

    word: PAYS, COSTS, EVEN, LOSES or UNKNOWN. since: M from which on all M count, and say so, up to the largest that
    counts. counted: M -> ratio, of those that count. left: why -> M of those that do not. absent: M without one -> why.
    loss: the Loss of the checkpoint; None if it was not scored.
    """

    word: object
    since: int | None
    counted: dict
    left: dict
    absent: dict
    loss: losses.Loss | None = None

    @property
    def until(self):
        """The largest M that counts, if larger ones do not, or have no ratio; else None."""
        largest = max([*self.absent, *(M for _, Ms in self.left.values() for M in Ms)], default=0)
        most = max(self.counted, default=0)
        return most if self.counted and largest > most else None

    @property
    def missing(self):
        """M -> why there is no ratio, of those at which a sparse kernel should have run."""
        return {M: why for M, why in self.absent.items() if why is not DENSE_RAN}

    @property
    def ratios(self):
        """Ratios from `since` on."""
        return [each for M, each in self.counted.items() if self.since <= M]

    @property
    def unsure(self):
        """Why the word is UNKNOWN."""
        if not self.counted:
            return NONE_COUNTS
        *_, last = self.counted.values()
        if last.across:
            return TWO_GPUS
        if last.low is not None:
            return TOO_WIDE
        return NO_INTERVAL if all(each.low is None for each in self.counted.values()) else NO_INTERVAL_THERE

    @property
    def doubt(self):
        """What must be equal of verdicts that pay and are said together: whether there is a cost, and its word."""
        return str(self.loss.word) if self.word is PAYS and self.loss else ""

    @property
    def said(self):
        """The word, and from which M on, as a cell of a table says it."""
        if self.word is not PAYS:
            return self.word
        if self.until == self.since:
            said = say("pays at {since}", since=self.since)
        elif self.until:
            said = say("pays {since} to {until}", since=self.since, until=self.until)
        else:
            said = say("pays from {since}", since=self.since)
        return losses.at_a_cost(said, [self.loss]) if self.loss else said


def verdict(comparison, name):
    """The Verdict on one configuration."""
    ratios = {M: each for M, each in comparison.of(name).items() if each.sparse}
    left = {}
    for M in ratios:
        if why := comparison.left_out(name, M):
            left.setdefault(str(why), (why, []))[1].append(M)
    counted = {M: each for M, each in ratios.items() if not comparison.left_out(name, M)}
    loss = comparison.losses.get(name.sparsity)
    if not counted:
        return Verdict(UNKNOWN, None, counted, left, comparison.absent(name), loss)
    absent, most = comparison.absent(name), max(counted)
    last, since = counted[most], most
    for M in sorted(M for M in {*ratios, *absent} if most > M)[::-1]:
        if M not in counted or counted[M].verdict != last.verdict:
            break
        since = M
    word = WORDS[str(last.verdict)]
    if word is PAYS and loss and loss.word is losses.TOO_MUCH:
        word = COSTS
    return Verdict(word, since, counted, left, absent, loss)


def costs_more(names, several, members, times, since):
    """A text on patterns of the word COSTS. several: whether they are more than one. times: how fast they are.

    members: their Verdicts, which have one `until`.
    """
    until, of = members[0].until, {"since": since, "until": members[0].until}
    if until == since:
        reach = say("at M={since}; larger M do not count", **of)
    elif until:
        reach = say("from M={since} to {until}; larger M do not count", **of)
    else:
        reach = say("from M={since} on", **of)
    of = {"names": names, "cost": losses.cost(each.loss for each in members), "times": times, "reach": reach}
    if several:
        return say("{names} cost more than they gain: {cost}, and {times} {reach}", **of)
    return say("{names} costs more than it gains: {cost}, and {times} {reach}", **of)


def lacking_where_counted(comparison):
    """What `lacking_at` gives of the ratios of patterns that count."""
    names = comparison.sparse_names()
    return lacking_at(comparison, [(name, M) for name in names for M in comparison.sparse_counted(name)])


def reasons_of(absent):
    """M -> why there is no ratio, as a text: `failed`, or if it is not one reason `failed at M=64, not measured at
    M=128, 256`.
    """
    found = {}
    for M, why in sorted(absent.items()):
        found.setdefault(str(why), (why, []))[1].append(str(M))
    if len(found) == 1:
        return next(iter(found.values()))[0]
    return joined([say("{why} at M={Ms}", Ms=", ".join(Ms), why=why) for why, Ms in found.values()], ", ")


def alike(texts):
    """text -> names, of name -> text."""
    groups = {}
    for name, text in texts.items():
        groups.setdefault(str(text), (text, []))[1].append(name)
    return [*groups.values()]


def over_dense(comparisons, stage, model, dtype, metric):
    """The comparison over the fastest dense engine, or over the only one; None without any."""
    found = {c.kind: c for c in comparisons if (c.stage, c.model, c.dtype, c.metric) == (stage, model, dtype, metric)}
    found = {kind: each for kind, each in found.items() if each.ratios and not each.in_turn}
    return found.get("best_dense") or found.get("dense")


def deciding(comparisons, stage, model, dtype):
    """The comparison whose figure decides at a stage: the first of those in which most patterns count; or None."""
    found = [over_dense(comparisons, stage, model, dtype, metric) for metric in STAGES[stage]]
    found = [each for each in found if each and each.sparse_names()]
    return max(found, key=lambda c: sum(bool(c.sparse_counted(name)) for name in c.sparse_names()), default=None)


def row_names(names):
    """Configuration -> its name: the pattern, and the backend if it is `auto`, or not the one of most patterns."""
    backends = [name.backend for name in names if name.backend != "auto"]
    usual = max(dict.fromkeys(backends), key=backends.count, default=None)
    shown = {name: spell(name.sparsity) + ("" if name.backend == usual else f" {name.backend}") for name in names}
    order = sorted(names, key=lambda name: (pattern_length(name.sparsity), name.backend != usual, name.backend))
    return {name: shown[name] for name in order}


def span(values, digits=2):
    """`low to high`, or one value."""
    low, high = fixed(min(values), digits), fixed(max(values), digits)
    return low if low == high else say("{low} to {high}", low=low, high=high)


def spanned(ratios):
    """The span of ratios, with ⇄ if two GPUs measured the sides of one."""
    ratios = [*ratios]
    text = span([each.value for each in ratios])
    return joined([text, ACROSS], "") if any(each.across for each in ratios) else text


def line_of(source, comparisons):
    """A short text with the largest ratio of prefill that counts, for the end of a run; empty without engines."""
    found = []
    for model, dtype in types_of(source):
        comparison = deciding(comparisons, "prefill", model, dtype)
        for name in comparison.sparse_names() if comparison else ():
            found += [(each, M, name, comparison) for M, each in comparison.counted(name).items() if each.sparse]
    if not found:
        return "prefill: no ratio counts" if any(row.stage == "prefill" for row in source.rows) else ""
    best, M, name, comparison = max(found, key=lambda item: item[0].value)
    ratio = interval(best.value, best.low, best.high, 2) + ACROSS * best.across
    shown = row_names(comparison.patterns())[name]
    lacking = ", ".join(comparison.lacking.get((name, M), ()))
    without = f", without {lacking}" if lacking else ""
    _, prompt = prompts.apart(name.model)
    at = f"M={M}" if prompt == prompts.USUAL else f"M={M}, prompt {prompt}"
    return f"prefill at best {name.dtype} {shown} {ratio} over {comparison.over} at {at}{without}"


def types_of(source):
    """(model, dtype) of sparse engines, or else of sparse kernels, or else of engines, those with most points first.

    Sparse ones may be planned only, if others of their stage, model and type have been measured.
    """
    for stages, sparse in ((("prefill", "decode"), True), (("kernel",), True), (("prefill", "decode"), False)):
        groups = {}
        for stage in stages:
            for key, rows in grouped(source.stage(stage)).items():
                if not sparse or asks_sparse(source, stage, key):
                    groups[key] = groups.get(key, 0) + len(rows)
        if groups:
            return sorted(groups, key=lambda key: (-groups[key], key))
    return []


def asks_sparse(source, stage, key):
    """Whether engines, or kernels, with a pattern were measured or are planned. key: (model, dtype)."""
    names = {row.configuration for row in source.stage(stage)} | {*source.planned(stage)}
    return any(name.sparse_kernel for name in names if name[:2] == key)


def over_stock(comparisons, stage, model, dtype, metric=None):
    """The comparison over stock vLLM by `metric`, or with the same figure as `deciding`; or None."""
    if not metric:
        chosen = deciding(comparisons, stage, model, dtype)
        metric = chosen.metric if chosen else STAGES[stage][0]
    of = (stage, model, dtype, "stock", metric)
    return next((c for c in comparisons if (c.stage, c.model, c.dtype, c.kind, c.metric) == of and c.ratios), None)


def fastest_over_stock(comparisons, stage, model, dtype, metric=None):
    """M -> the ratio of the fastest dense engine over stock vLLM, of the M at which it counts.

    Where a check disqualifies the fastest, none counts. metric: as for `over_stock`; if given, ratios that the host
    bounds are there, too.
    """
    comparison, best = over_stock(comparisons, stage, model, dtype, metric), {}
    for name in comparison.names() if comparison else ():
        if name.sparsity == "dense" and not name.stock:
            for M, each in comparison.of(name).items():
                if M not in best or each.value > best[M][1].value:
                    best[M] = name, each
    shown = (None, HOST_BOUND) if metric else (None,)
    return {M: each for M, (name, each) in best.items() if comparison.left_out(name, M) in shown}


def foreign(source):
    """Whether others published all figures of a source."""
    rows = [row for row in source.rows if row.status == "ok"]
    return bool(rows) and all(source.layouts.get(row.point, OURS) != OURS for row in rows)
