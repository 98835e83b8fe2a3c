"""The measuring protocol of a repeated operation, and its statistics. Knows no GEMM and no engine.

One sample is the time of one call. Calls go round a set of operands: `cold` over as many copies as exceed the cache
twice, so that nothing an operation reads is still in the cache (as in a model, whose weights are read once a step);
`hot` over one. Samples are taken until the confidence interval of their median is narrow enough, or the time is up.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Stopping:
    """When enough samples were taken.

    warmup: calls before the first sample. min_samples, max_samples: bounds on their number. relative_ci: enough when
    half the width of the median's 95 % confidence interval is below this share of it. time_limit_s: seconds after
    which no further sample is taken (at least min_samples are).
    """

    warmup: int
    min_samples: int
    max_samples: int
    relative_ci: float
    time_limit_s: float


@dataclass(frozen=True)
class Summary:
    """Statistics of samples in seconds: median, 5th and 95th percentile, count, 95 % interval of the median."""

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

    The interval is the distribution-free one of order statistics: ranks n/2 -+ 1.96 sqrt(n)/2 (Conover, Practical
    Nonparametric Statistics, section 3.2).
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
    """How many operand sets exceed the cache twice, at least 1 and at most `limit_bytes` in all."""
    return max(1, min(math.ceil(2 * cache_bytes / bytes_read), limit_bytes // bytes_read))


def measure(call, sets, stopping, clock=time.perf_counter):
    """Summary of the seconds of `call(i)`, i going round 0 … sets-1."""
    for i in range(stopping.warmup):
        call(i % sets)
    samples, checked = [], 0
    start = clock()
    while len(samples) < stopping.max_samples:
        i = len(samples) % sets
        begin = clock()
        call(i)
        end = clock()
        samples.append(end - begin)
        if len(samples) < stopping.min_samples:
            continue
        if end - start > stopping.time_limit_s:
            break
        if len(samples) >= checked * 1.25:  # the interval is looked at ever more rarely, to cost nothing
            checked = len(samples)
            if summarize(samples).relative_ci <= stopping.relative_ci:
                break
    return summarize(samples)
