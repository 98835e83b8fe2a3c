"""Samples of an operation on a GPU: one is the mean time of a call in one replay of a CUDA graph.

A graph holds whole rounds over the operand sets, so that what an operation reads was last touched a round ago, and
replaying it costs the host nothing between the calls. While the host starts a replay, a kernel that only waits keeps
the GPU busy, so that the events at both ends see no gap.
"""

import math

import torch

from slidesparse import cuda_tools

LEAST_S = 5e-4
"""A sample lasts at least this long: events tell half a microsecond, and a replay starts within a few."""

MOST_CALLS = 1024
"""Calls that one graph holds at most."""

WAIT_NS = 20_000


class Replays:
    """Sampler of `call(i)`, which starts work on the current stream; i goes round 0 … sets-1.

    least_s: seconds that a sample lasts at least; 0 for one round over the sets.
    """

    ahead = 8

    def __init__(self, call, sets, least_s=LEAST_S):
        self._capture(call, sets, 1)
        if least_s:
            self()()  # the first replay of a graph is slower
            rounds = math.ceil(least_s / (self()() * sets))
            rounds = min(rounds, max(1, MOST_CALLS // sets))
            if rounds > 1:
                self._capture(call, sets, rounds)
                self()()

    def _capture(self, call, sets, rounds):
        self.calls = sets * rounds
        self._graph = cuda_tools.captured(lambda: [call(i) for _ in range(rounds) for i in range(sets)])

    def __call__(self):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cuda_tools.wait(WAIT_NS)
        start.record()
        self._graph.replay()
        end.record()

        def read():
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / self.calls

        return read
