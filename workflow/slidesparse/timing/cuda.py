"""Samples of an operation on a GPU. One sample is the mean time of a call in one replay of a CUDA graph.

A graph holds whole rounds over the operand sets. So each set was last used a round ago, and the host does nothing
between the calls. While the host starts a replay, a waiting kernel keeps the GPU busy. So the events at both ends see
no gap. The waiting kernel also counts its cycles, which gives the clock under this load.
"""

import math

import torch

from slidesparse.timing import cuda_tools

LEAST_S = 3e-4
"""Least duration of a sample. Events resolve half a microsecond, and a replay starts within a few microseconds."""

MOST_CALLS = 1024
"""Most calls in one graph, unless a single round has more."""


class _Sampler:
    """Times the work that `_start` starts. A waiting kernel runs ahead of it and keeps the GPU busy."""

    ahead = 8
    wait_ns = 20_000
    """Nanoseconds that the host needs to start a sample."""

    def __init__(self, call, sets):
        self._call, self.used = call, sets
        self._wait = cuda_tools.Wait()

    def __call__(self):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._wait(self.wait_ns)
        self._before()
        start.record()
        calls = self._start()
        end.record()

        def read():
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / calls

        return read

    def _before(self):
        """Work before a sample that is not timed."""

    @property
    def clock_mhz(self):
        """Mean clock of the multiprocessors during the waiting kernels."""
        return self._wait.clock_mhz


class Launches(_Sampler):
    """Sampler of `call(i)`, which starts work on the current stream. One sample is one call, started by the host.

    It is made at once, and its samples are a microsecond or two too long.
    """

    wait_ns = 50_000

    def __init__(self, call, sets):
        super().__init__(call, sets)
        self._next = 0

    def _start(self):
        self._call(self._next)
        self._next = (self._next + 1) % self.used
        return 1


class Replays(_Sampler):
    """Sampler of `call(i)`, which starts work on the current stream; i cycles through 0 … sets-1.

    hot: an untimed round comes before each sample.
    """

    def __init__(self, call, sets, hot=False):
        super().__init__(call, sets)
        self._first = None
        self._capture(1)
        self._first = self._graph if hot else None
        self()()  # the first replay of a graph is slower
        rounds = min(math.ceil(LEAST_S / (self()() * sets)), max(1, MOST_CALLS // sets))
        if rounds > 1:
            self._capture(rounds)
            self()()
        self._wait.reset()

    def _capture(self, rounds):
        self._calls = self.used * rounds
        work = [i for _ in range(rounds) for i in range(self.used)]
        self._graph = cuda_tools.captured(lambda: [self._call(i) for i in work])

    def _before(self):
        if self._first:
            self._first.replay()

    def _start(self):
        self._graph.replay()
        return self._calls
