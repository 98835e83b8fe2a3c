"""The measuring protocol of a repeated operation, and its statistics. It depends on no GEMM and no engine.

A sampler takes samples of one operation. Calling it starts a sample and returns a function. That function waits for the
sample and returns its seconds.

Calls cycle through copies of the operands. `cold` calls have enough copies to exceed the cache twice. So nothing that
an operation reads is still in the cache, as in a model, which reads its weights once a step. `hot` calls have one copy.
Samplers that are to be compared take turns. Sampling ends when the confidence intervals of the medians are narrow
enough, or when the time is up.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Stopping:
    """When enough samples were taken.

    warmup_s: seconds of samples, of all samplers together, that are thrown away.
    min_samples, max_samples: bounds on the number of samples.
    relative_ci: enough when half the width of the median's confidence interval is below this share of the median.
    time_limit_s: seconds for each sampler. After their sum no further sample is taken, but at least min_samples are.
    """

    warmup_s: float
    min_samples: int
    max_samples: int
    relative_ci: float
    time_limit_s: float


@dataclass(frozen=True)
class Summary:
    """Statistics of samples in seconds: median, 5th and 95th percentile, count, interval of the median."""

    median_s: float
    p5_s: float
    p95_s: float
    n: int
    ci_low_s: float
    ci_high_s: float

    def as_dict(self):
        return asdict(self)

    @property
    def relative_ci(self):
        return (self.ci_high_s - self.ci_low_s) / 2 / self.median_s if self.median_s else 0.0


def summarize(samples):
    """Summary of a sequence of seconds. Raises ValueError if it is empty.

    The interval comes from order statistics and assumes no distribution. Its ranks are n/2 -+ 1.96 sqrt(n)/2 (Conover,
    Practical Nonparametric Statistics, section 3.2), rounded outwards, which is nearly symmetric and nominally covers
    95 %. It decides when sampling ends. Reports have exact ones (report/tables/intervals.py).
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    if not n:
        raise ValueError("no samples to summarise")
    half = 0.98 * math.sqrt(n)
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half))
    p5, median, p95 = np.percentile(ordered, (5, 50, 95))
    return Summary(float(median), float(p5), float(p95), n, float(ordered[low]), float(ordered[high]))


def copies(bytes_read, cache_bytes, limit_bytes=1 << 30):
    """Number of operand sets that exceed the cache twice: at least 1, and at most `limit_bytes` in all."""
    return max(1, min(math.ceil(2 * cache_bytes / bytes_read), limit_bytes // bytes_read))


class Calls:
    """Sampler of `call(i)` on the host, with i cycling through 0 … sets-1. One sample is the time of one call.

    hot: an untimed call comes before each sample.
    """

    ahead = 1
    """Samples that are started before the first of them is read."""

    clock_mhz = None

    def __init__(self, call, sets, hot=False, clock=time.perf_counter):
        self._call, self._sets, self._hot, self._clock = call, sets, hot, clock
        self._next = 0
        self.used = 0
        """Number of operand sets that were run."""

    def __call__(self):
        if self._hot:
            self._call(self._next)
        begin = self._clock()
        self._call(self._next)
        seconds = self._clock() - begin
        self._next = (self._next + 1) % self._sets
        self.used = min(self._sets, self.used + 1)
        return lambda: seconds


def measure(samplers, stopping, clock=time.perf_counter):
    """{name: samples in seconds} of {name: sampler}. The samplers take turns, every other round in reverse order.

    All get the same number of samples. Sample i of each was taken in the same round.
    """
    order = list(samplers)
    samples = {name: [] for name in order}
    ahead = min(sampler.ahead for sampler in samplers.values())

    def rounds(count):
        started = []
        for _ in range(count):
            started += [(name, samplers[name]()) for name in order]
            order.reverse()
        return [(name, read()) for name, read in started]

    start = clock()
    while clock() - start < stopping.warmup_s:
        rounds(1)
    taken, checked = 0, 0
    start = clock()
    while taken < stopping.max_samples:
        now = min(ahead, stopping.max_samples - taken)
        for name, seconds in rounds(now):
            samples[name].append(seconds)
        taken += now
        if taken < stopping.min_samples:
            continue
        if clock() - start > stopping.time_limit_s * len(order):
            break
        if taken >= checked * 1.25:  # intervals are checked ever more rarely, which costs little
            checked = taken
            if all(summarize(own).relative_ci <= stopping.relative_ci for own in samples.values()):
                break
    return samples
