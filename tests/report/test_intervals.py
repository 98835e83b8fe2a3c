"""Intervals of medians: their ranks and what they cover, and that gathering takes them from a point's samples."""

from math import comb

import pytest

from slidesparse.report.tables.intervals import of_median


def coverage(n, rank):
    """Probability that samples of ranks `rank` and n-1-rank enclose the median."""
    return 1 - 2 * sum(comb(n, i) for i in range(rank + 1)) / 2**n


@pytest.mark.parametrize(
    ("n", "rank", "covers"),
    [(1, 0, 0), (2, 0, 0.5), (3, 0, 0.75), (5, 0, 0.9375), (6, 0, 0.96875), (9, 1, 0.9609375), (10, 1, 0.978515625)],
)
def test_few_samples(n, rank, covers):
    assert of_median(range(n)) == (rank, n - 1 - rank, covers)


def test_the_ranks_of_forty_samples_are_symmetric():
    """By n/2 + 0.98 sqrt(n), rounded up, the upper one was 27 from 0, which is one too high."""
    low, high, covers = of_median([float(i) for i in range(40)])
    assert (low, high) == (13, 26)
    assert covers == pytest.approx(0.9615, abs=1e-4)


@pytest.mark.parametrize("n", [*range(1, 60), 100, 200, 1001, 3000])
def test_the_interval_is_the_narrowest_that_covers_enough(n):
    low, high, covers = of_median(list(range(n))[::-1])
    assert high == n - 1 - low and covers == pytest.approx(coverage(n, low), abs=1e-12)
    assert covers >= 0.95 or low == 0
    assert low + 1 > (n - 1) / 2 or coverage(n, low + 1) < 0.95


def test_an_interval_holds_the_median_that_was_stored_before_samples_were_rounded():
    assert of_median([2.001, 2.001, 2.001], 2.0008)[:2] == (2.0008, 2.001)


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="no samples"):
        of_median([])
