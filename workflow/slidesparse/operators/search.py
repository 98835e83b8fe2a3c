"""Search for the fastest launch of the quantise and lift kernel, by row length, pattern, dtype and number of rows."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from statistics import median

import torch
import triton

from slidesparse.errors import MeasurementError
from slidesparse.operators import quantize_lift, reference, run
from slidesparse.operators.launches import SCHEMA, launches_for
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import DTYPES
from slidesparse.timing import cuda, protocol

ROWS = (64, 1024, 4096, 16384)
FINALISTS = 3
FIRST = protocol.Stopping(warmup_s=0, min_samples=4, max_samples=4, relative_ci=0.01, time_limit_s=1)
FINAL = protocol.Stopping(warmup_s=0.002, min_samples=8, max_samples=32, relative_ci=0.005, time_limit_s=0.02)


@contextmanager
def compiling(shapes, processes=None):
    """Compile all candidates of shapes (K, pattern, dtype) into Triton's cache on disk, in `processes` processes.

    Yields a function that waits for the compilation and returns the number of kernels.
    """
    jobs = [(pattern, K, dtype, launch) for K, pattern, dtype in shapes for launch in launches_for(K)]
    processes = processes or max(1, min(8, len(os.sched_getaffinity(0)) - 1))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        compiled = pool.map(_compile, jobs, chunksize=2)
        yield lambda: sum(1 for _ in compiled)


def _compile(job):
    quantize_lift.compile_ahead(*job)


class Operands:
    """Inputs and outputs of one M, K, pattern and dtype: enough sets to exceed the L2 cache twice."""

    def __init__(self, M, K, pattern, dtype, device="cuda"):
        self.pattern, self.dtype = pattern, dtype
        K_slid = Pattern(pattern).K_slid(K)
        self.bytes_moved = M * (2 * K + K_slid + 4)
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.sets = max(2, protocol.copies(2 * M * K, cache))
        self.x = [torch.randn(M, K, device=device, dtype=torch.bfloat16) for _ in range(self.sets)]
        self.codes = [torch.empty(M, K_slid, device=device, dtype=DTYPES[dtype]) for _ in range(self.sets)]
        self.scale = [torch.empty(M, device=device) for _ in range(self.sets)]
        self._right = None

    def call(self, launch=None):
        """A function that runs the kernel on set i."""
        return lambda i: run(self.x[i], self.pattern, self.dtype, self.codes[i], self.scale[i], launch)

    def right(self, launch=None):
        """Whether the kernel, run over poisoned outputs, writes exactly the reference's bytes."""
        codes, scale = self.codes[0].view(torch.uint8), self.scale[0]
        codes.fill_(0x55)
        scale.fill_(-1)
        self.call(launch)(0)
        if self._right is None:
            self._right = reference(self.x[0], self.pattern, self.dtype)
        return torch.equal(codes, self._right[0].view(torch.uint8)) and torch.equal(scale, self._right[1])


def tune(K, pattern, dtype, Ms=ROWS, tried=None):
    """Check and time every candidate at every M; returns a table for `launches.use`.

    Operands are cold. The fastest candidates are timed again, in turn. Raises MeasurementError if a candidate writes
    other bytes than the reference.
    """
    entries = []
    for M in Ms:
        operands = Operands(M, K, pattern, dtype)
        samplers = {}
        for launch in tried or launches_for(K):
            if not operands.right(launch):
                raise MeasurementError(f"quantise and lift is wrong at M={M} K={K} {pattern} {dtype} cut into {launch}")
            samplers[launch] = cuda.Launches(operands.call(launch), operands.sets)
        first = {name: min(samples) for name, samples in protocol.measure(samplers, FIRST).items()}
        best = sorted(first, key=first.get)[:FINALISTS]
        finalists = {name: cuda.Replays(operands.call(name), operands.sets) for name in best}
        final = protocol.measure(finalists, FINAL)
        final = {name: median(samples) for name, samples in final.items()}
        fastest = min(final, key=final.get)
        entries.append(
            {
                "M": M,
                "configuration": list(fastest),
                "latency_us": final[fastest] * 1e6,
                "bytes_moved": operands.bytes_moved,
                "tried": [[*name, seconds * 1e6] for name, seconds in first.items()],
            }
        )
    return {
        "schema": SCHEMA,
        "kernel": "quantize_lift",
        "device": torch.cuda.get_device_name(),
        "triton": triton.__version__,
        "K": K,
        "pattern": pattern,
        "dtype": dtype,
        "entries": entries,
    }
