"""Intervals of medians from order statistics, which suppose independent samples and no distribution.

Points keep their samples, so intervals are computed here, when points are gathered. The protocol's own interval
(`timing.protocol.summarize`) decides when sampling ends, and stays in the point.
"""

from functools import lru_cache
from typing import NamedTuple

PERCENT = 95
"""Probability with which an interval is to cover the median, where there are enough samples."""


class Interval(NamedTuple):
    """Ends in the unit of the samples, and the probability with which they cover the median (None if not known)."""

    low: float
    high: float
    coverage: float | None


def of_median(samples, median=None):
    """The Interval of the median of samples. It is widened if a stored `median`, which was not rounded, lies outside.

    The ends are the samples of ranks l and n-1-l, counted from 0. Their coverage is 1 - 2 P(B <= l) for B ~ Binomial(n,
    1/2) (Conover, Practical Nonparametric Statistics, section 3.2). l is the largest with a coverage of at least
    PERCENT, or 0. Raises ValueError if there are no samples.
    """
    if not samples:
        raise ValueError("no samples have no median")
    ordered = sorted(samples)
    rank, coverage = _rank(len(ordered))
    ends = [ordered[rank], ordered[-1 - rank]]
    known = ends if median is None else [*ends, median]
    return Interval(min(known), max(known), coverage)


@lru_cache(maxsize=1024)
def _rank(n):
    """(l, coverage) of n samples. In whole numbers: 2**n times the tail 2 P(B <= l) is exact."""
    total, term = 1 << n, 1  # term: the number of ways to have `rank` of n samples below the median
    tail, rank = 2 * term, 0
    while True:
        term = term * (n - rank) // (rank + 1)
        if 100 * (tail + 2 * term) > (100 - PERCENT) * total:
            return rank, 1 - tail / total
        tail, rank = tail + 2 * term, rank + 1
