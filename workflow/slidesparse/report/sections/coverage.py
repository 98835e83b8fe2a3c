"""What the report says of an interval: the probability with which it covers the median."""

from math import floor

from slidesparse.report.document.model import say
from slidesparse.report.sections.quantities import ends
from slidesparse.report.sources.rows import grouped
from slidesparse.report.tables.intervals import PERCENT

PAIRED = ("speedup_best_dense", "speedup_cublaslt", "speedup_linear")
"""Columns of ratios that have an interval with the coverage of latency_us."""


def covers(source, comparisons):
    """A text on how often the intervals behind ratios cover their medians: the least often of all, at most 95 %.

    comparisons: Comparisons of one stage and metric. If the CSV of one of their rows does not tell, it is 95 % in name.
    """
    known = []
    for each in comparisons:
        column = "latency_us" if each.stage == "kernel" else each.metric
        for row in grouped(source.stage(each.stage)).get((each.model, each.dtype), ()):
            if any(ends(row.values, name, column)[0] is not None for name in (column, *PAIRED)):
                known.append(row.values.get(f"{column}_ci_coverage"))
    if not known or None in known:
        return say("nominally {share} %", share=PERCENT)
    return say("at least {share} %", share=f"{floor(100 * min(PERCENT, 100 * min(known))) / 100:g}")
