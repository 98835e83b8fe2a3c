"""Statistics of samples, and when enough were taken."""

import pytest

from slidesparse.timing import Stopping, copies, measure, summarize


def test_summary():
    summary = summarize([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (summary.median_s, summary.n) == (3.0, 5)
    assert (summary.ci_low_s, summary.ci_high_s) == (1.0, 5.0)  # five samples say little of the median
    many = summarize(range(1, 1001))
    assert 465 <= many.ci_low_s <= 475 and 525 <= many.ci_high_s <= 535
    assert many.p5_s == pytest.approx(50.95) and many.p95_s == pytest.approx(950.05)
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


def test_copies_exceed_the_cache_twice():
    assert copies(100, 1000) == 20
    assert copies(10_000, 1000) == 1
    assert copies(1 << 20, 1 << 40, limit_bytes=1 << 24) == 16


NOISE = [1.0 + i * 37 % 101 / 50 for i in range(100)]  # spread evenly from 1 to 3


class Clock:
    """A clock that a call moves on by the next of its durations."""

    def __init__(self, durations):
        self.now, self.durations, self.calls = 0.0, iter(durations), []

    def __call__(self):
        return self.now

    def call(self, i):
        self.calls.append(i)
        self.now += next(self.durations)


def run(durations, sets=3, **changes):
    options = {"warmup": 2, "min_samples": 4, "max_samples": 50, "relative_ci": 0.01, "time_limit_s": 1e9} | changes
    clock = Clock(durations)
    return measure(clock.call, sets, Stopping(**options), clock), clock


def test_steady_samples_stop_at_the_minimum():
    summary, clock = run([9.0, 9.0] + [1.0] * 60)
    assert (summary.n, summary.median_s) == (4, 1.0)
    assert clock.calls == [0, 1] + [0, 1, 2, 0]  # warm-up, then round the operand sets


def test_noisy_samples_go_on_to_the_maximum():
    summary, _ = run([1.0, 1.0] + NOISE)
    assert summary.n == 50


def test_the_time_limit_ends_it_but_not_before_the_minimum():
    assert run([1.0, 1.0] + NOISE, time_limit_s=0.0)[0].n == 4
    assert run([1.0, 1.0] + NOISE, time_limit_s=20.0)[0].n == 11
