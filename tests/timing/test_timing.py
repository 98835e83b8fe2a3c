"""The measuring protocol, with samplers that know what they will say."""

import pytest

from slidesparse.timing import protocol
from slidesparse.timing.protocol import Stopping

EXACT = Stopping(warmup_s=0, min_samples=10, max_samples=100, relative_ci=0.01, time_limit_s=60)


class Sampler:
    """Gives the same seconds each time, a little more every other time if it is noisy; keeps who was asked when."""

    ahead = 1

    def __init__(self, name, seconds, noise=0.0, order=None):
        self.name, self.seconds, self.noise, self.order = name, seconds, noise, order if order is not None else []

    def __call__(self):
        self.order.append(self.name)
        seconds = self.seconds + self.noise * (len(self.order) % 2)
        return lambda: seconds


def test_samplers_take_turns_every_other_round_in_reverse():
    order = []
    samplers = {name: Sampler(name, 1.0, order=order) for name in "abc"}
    clock = iter(range(1000))
    samples = protocol.measure(samplers, Stopping(1.5, 2, 2, 0.01, 60), clock=lambda: next(clock))
    assert "".join(order) == "abc" + "cba" + "abc"  # the first, of one tick, warms up
    assert samples == {name: [1.0, 1.0] for name in "abc"}


def test_steady_samples_stop_early_and_noisy_ones_late():
    steady, noisy = Sampler("a", 1.0), Sampler("b", 1.0, noise=0.5)
    assert len(protocol.measure({"a": steady}, EXACT)["a"]) == EXACT.min_samples
    both = protocol.measure({"a": steady, "b": noisy}, EXACT)
    assert [len(taken) for taken in both.values()] == [EXACT.max_samples] * 2


def test_the_time_limit_holds_for_each_sampler():
    clock = iter(range(1000))
    samplers = {name: Sampler(name, 1.0, noise=0.5) for name in "ab"}
    samples = protocol.measure(samplers, Stopping(0, 3, 1000, 0.0, 10), clock=lambda: next(clock))
    assert len(samples["a"]) == len(samples["b"]) == 3 + 20  # one tick a round from the third on, 2 * 10 in all


def test_samplers_may_be_ahead_of_what_is_read():
    sampler = Sampler("a", 1.0)
    sampler.ahead = 8
    assert len(protocol.measure({"a": sampler}, EXACT)["a"]) == 16
    assert len(protocol.measure({"a": sampler}, Stopping(0, 3, 3, 1.0, 1))["a"]) == 3


def test_calls_go_round_the_operand_sets():
    seen, clock = [], iter(range(100))
    calls = protocol.Calls(seen.append, 3, clock=lambda: next(clock))
    assert [calls()() for _ in range(5)] == [1] * 5
    assert seen == [0, 1, 2, 0, 1]


def test_statistics():
    summary = protocol.summarize(range(1, 102))
    assert (summary.median_s, summary.p5_s, summary.p95_s, summary.n) == (51, 6, 96, 101)
    assert (summary.ci_low_s, summary.ci_high_s) == (41, 62)
    with pytest.raises(ValueError, match="no samples"):
        protocol.summarize([])


@pytest.mark.parametrize(("bytes_read", "expected"), [(10, 20), (100, 2), (1000, 1)])
def test_copies_exceed_the_cache_twice(bytes_read, expected):
    assert protocol.copies(bytes_read, 100) == expected
