"""A kernel point: the four linears of one model, one backend, one pattern and one M, verified and then measured.

Weights are ternary codes of a stated zero rate, activations are quantised normal numbers; both from a fixed seed. A
product is checked against the reference product X W^T of the unslid codes before and after it is timed.
"""

import torch

from slidesparse import hardware, timing, tuning
from slidesparse.errors import MeasurementError
from slidesparse.gemm import backend as find_backend
from slidesparse.patterns import Pattern
from slidesparse.prune import prune
from slidesparse.quantize import quantize_per_token, store_as
from slidesparse.slide import lift, slide

ZERO_RATE = 0.42
"""Share of exact zeros in BitNet b1.58 2B 4T's ternary weights (median over its layers)."""

TOLERANCE = 1e-5
"""Frobenius error allowed of an FP32 accumulator, relative to the norm of the float64 product."""

POISON = -1234567


class Problem:
    """One product of a backend: operands, reference, verification, timing."""

    def __init__(self, name, N, K, M, dtype, pattern, backend, cache_bytes, most_sets):
        self.name, self.N, self.K, self.M, self.dtype = name, N, K, M, dtype
        self.pattern, self.backend = pattern, backend
        self.K_slid = pattern.K_slid(K) if backend.sparse else K
        generator = torch.Generator().manual_seed(N * 1_000_003 + K * 1_009 + M)
        latent = torch.randn(N, K, generator=generator)
        kept = torch.rand(N, K, generator=generator) >= ZERO_RATE
        codes, self.changed = prune(latent.sign().to(torch.int8) * kept, latent, pattern)
        stored = store_as(slide(codes, pattern) if backend.sparse else codes, dtype)
        self.operand = backend.prepare(stored)
        self.sets = min(most_sets, timing.copies(self.operand.footprint + M * self.K_slid, cache_bytes))
        self.operands = [self.operand] + [self.operand.clone() for _ in range(self.sets - 1)]
        x, _ = quantize_per_token(torch.randn(M, K, generator=generator), dtype)
        self.reference = x.to(torch.float64) @ codes.to(torch.float64).t()
        lifted = lift(x, pattern) if backend.sparse else x
        self.inputs = [lifted.clone() for _ in range(self.sets)]
        self.output_dtype = torch.int32 if dtype == "INT8" else torch.float32
        self.outputs = [torch.empty(M, N, dtype=self.output_dtype) for _ in range(self.sets)]

    def run(self, algorithm, i):
        self.backend.matmul(self.operands[i], self.inputs[i], algorithm.id, out=self.outputs[i])

    def poison(self):
        for output in self.outputs:
            output.fill_(POISON)

    def check(self, sets=None):
        """(largest absolute error, exact) of the outputs; raises MeasurementError if one is wrong."""
        worst, exact = 0.0, True
        for output in self.outputs[: sets or self.sets]:
            difference = output.to(torch.float64) - self.reference
            worst = max(worst, difference.abs().max().item())
            exact &= worst == 0.0
            relative = (difference.norm() / self.reference.norm()).item()
            if not relative <= (0.0 if self.dtype == "INT8" else TOLERANCE):
                raise MeasurementError(
                    f"backend {self.backend.name}: {self.name} at M={self.M} N={self.N} K={self.K_slid} {self.dtype} is"
                    f" wrong by {relative:.2e} of the product's norm"
                )
        return worst, exact

    def verified(self, backend):
        """(algorithms whose product is right, algorithms whose product is wrong)."""
        right, wrong = [], []
        for algorithm in backend.algorithms(self.operand, self.M):
            self.poison()
            try:
                self.run(algorithm, 0)
                self.check(sets=1)
                right.append(algorithm)
            except MeasurementError:
                wrong.append(algorithm)
        if not right:
            raise MeasurementError(
                f"backend {backend.name} has no algorithm that multiplies {self.name} (M={self.M} N={self.N}"
                f" K={self.K_slid} {self.dtype}) correctly"
            )
        return right, wrong

    def time(self, algorithm, stopping, clock=timing, hot=False):
        """Summary of the algorithm's time, cold unless `hot`."""
        return clock.measure(lambda i: self.run(algorithm, i), 1 if hot else self.sets, stopping)


def problems(request, Ms):
    """The products of a request at every M, largest operands freed one after the other."""
    backend = find_backend(request["backend"])
    pattern = Pattern(request["sparsity"])
    cache = hardware.detect().cache_bytes
    for M in Ms:
        for linear in request["linears"]:
            name, N, K = linear["name"], linear["N"], linear["K"]
            yield Problem(
                name, N, K, M, request["dtype"], pattern, backend, cache, request["parameters"]["max_samples"]
            )


def tune(request):
    """Tuning table of a request: backend, dtype, sparsity, linears, M (list), parameters."""
    torch.set_num_threads(1)
    backend = find_backend(request["backend"])
    return tuning.search(backend, problems(request, request["M"]), timing.Stopping(**request["parameters"]))


def measure(request):
    """Results of one kernel point (M one number); the algorithm is the one its tuning table gives for M."""
    torch.set_num_threads(1)
    backend = find_backend(request["backend"])
    table = tuning.Table.read(request["tuning"], backend.version())
    stopping = timing.Stopping(**request["parameters"])
    gemms = []
    for problem in problems(request, [request["M"]]):
        algorithms = {a.id: a for a in backend.algorithms(problem.operand, problem.M)}
        entry = table.entry(problem.N, problem.K_slid, problem.M)
        chosen = entry["top"][0]["algorithm"] if entry else next(iter(algorithms))
        problem.poison()
        for i in range(problem.sets):
            problem.run(algorithms[chosen], i)
        problem.check()
        problem.poison()
        cold = problem.time(algorithms[chosen], stopping, timing)
        worst, exact = problem.check(min(problem.sets, cold.n))
        hot = problem.time(algorithms[chosen], stopping, timing, hot=True)
        gemms.append(
            {
                "name": problem.name,
                "N": problem.N,
                "K": problem.K,
                "K_slid": problem.K_slid,
                "algorithm": chosen,
                "algorithm_name": algorithms[chosen].name,
                "algorithms": entry["algorithms"] if entry else 0,
                "output": "INT32" if problem.dtype == "INT8" else "FP32",
                "error_max_abs": worst,
                "exact": exact,
                "operand_sets": problem.sets,
                "cold": cold.as_dict(),
                "hot": hot.as_dict(),
                "effective_tops": 2 * problem.M * problem.N * problem.K / cold.median_s / 1e12,
            }
        )
    return {"zero_rate": ZERO_RATE, "library": backend.version(), "gemms": gemms}
