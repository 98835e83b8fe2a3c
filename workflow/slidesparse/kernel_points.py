"""A kernel point: the four linears of one model, one backend, one pattern and one M, verified and then measured.

Weights are ternary codes of a stated zero rate, activations are quantised normal numbers; both from a fixed seed. A
product is checked against the float64 product X W^T of the unslid codes before and after it is timed. All backends of
a point multiply the same codes, a dense one the pruned weight of its sparse rival, and take turns.
"""

import time
from contextlib import contextmanager

import torch

from slidesparse import hardware, timing, tuning
from slidesparse.errors import MeasurementError, OutOfMemoryError, SlideSparseError
from slidesparse.gemm import backend as find_backend
from slidesparse.gemm.dense import OUTPUTS
from slidesparse.patterns import Pattern
from slidesparse.prune import prune
from slidesparse.quantize import quantize_per_token, store_as
from slidesparse.slide import lift, slide

ZERO_RATE = 0.42
"""Share of exact zeros in BitNet b1.58 2B 4T's ternary weights (median over its layers)."""

TOLERANCE = {"INT32": (0.0, 0.0), "BF16": (4e-3, 4e-3), "FP32": (1e-5, 1e-5)}
"""Errors allowed of a product, by its type: Frobenius norm over the float64 product's, and largest over largest."""

POISON = -1234567


class Weight:
    """The weight of one linear, pruned to a pattern, and copies of it as backends want it."""

    def __init__(self, name, N, K, dtype, pattern, device):
        self.name, self.N, self.K, self.dtype, self.pattern, self.device = name, N, K, dtype, pattern, device
        generator = torch.Generator(device).manual_seed(N * 1_000_003 + K * 1_009)
        latent = torch.randn(N, K, generator=generator, device=device)
        kept = torch.rand(N, K, generator=generator, device=device) >= ZERO_RATE
        self.codes, self.changed = prune(latent.sign().to(torch.int8) * kept, latent, pattern)
        self._operands = {}

    def operands(self, backend, count):
        """`count` copies in the backend's form; the more of them are kept for the next call."""
        kept = self._operands.setdefault(backend.name, [])
        if not kept:
            codes = slide(self.codes, self.pattern) if backend.sparse else self.codes
            kept.append(backend.prepare(store_as(codes, self.dtype)))
        kept += [kept[0].clone() for _ in range(count - len(kept))]
        return kept[:count]


class Problem:
    """A weight, M rows of activations, and their float64 product."""

    def __init__(self, weight, M):
        self.weight, self.M = weight, M
        generator = torch.Generator(weight.device).manual_seed(weight.N * 1_000_003 + weight.K * 1_009 + M)
        x = torch.randn(M, weight.K, generator=generator, device=weight.device)
        self.x, _ = quantize_per_token(x, weight.dtype)
        self.reference = self.x.to(torch.float64) @ weight.codes.to(torch.float64).t()
        self.norm, self.largest = self.reference.norm().item(), self.reference.abs().max().item()

    def error(self, out):
        """(Frobenius norm of the error of a product over the reference's, largest over largest, largest)."""
        if out.is_cuda:
            from slidesparse import cuda_tools

            norm, most = cuda_tools.error(out, self.reference)
        else:
            difference = out.to(torch.float64) - self.reference
            norm, most = difference.norm().item(), difference.abs().max().item()
        return norm / self.norm, most / self.largest, most


class Product:
    """A problem as one backend does it, with one type of output: rotated operands, execution, checks."""

    def __init__(self, problem, backend, output=None, cache_bytes=0, most_sets=1 << 30):
        weight = problem.weight
        self.problem, self.backend = problem, backend
        self.output = output or backend.outputs(weight.dtype)[0]
        self.name, self.N, self.K, self.M = weight.name, weight.N, weight.K, problem.M
        self.K_slid = weight.pattern.K_slid(weight.K) if backend.sparse else weight.K
        self.operand = weight.operands(backend, 1)[0]
        self.sets = min(most_sets, timing.copies(self.operand.footprint + self.M * self.K_slid, cache_bytes))
        self.operands = weight.operands(backend, self.sets)
        x = lift(problem.x, weight.pattern) if backend.sparse else problem.x
        self.inputs = [x] + [x.clone() for _ in range(self.sets - 1)]
        shape = {"dtype": OUTPUTS[self.output], "device": weight.device}
        self.outputs = [torch.empty(self.M, self.N, **shape) for _ in range(self.sets)]

    def __str__(self):
        return (
            f"backend {self.backend.name}: {self.name} at M={self.M} N={self.N} K={self.K_slid}"
            f" {self.problem.weight.dtype} to {self.output}"
        )

    def algorithms(self):
        return self.backend.algorithms(self.operand, self.M, self.output)

    def run(self, algorithm, i):
        self.backend.matmul(self.operands[i], self.inputs[i], algorithm, self.output, self.outputs[i])

    def poison(self):
        for output in self.outputs:
            output.fill_(POISON)

    def check(self, sets=None):
        """(largest absolute error, exact) of the outputs; raises MeasurementError if one is wrong."""
        worst = 0.0
        for output in self.outputs[: sets or self.sets]:
            frobenius, largest, most = self.problem.error(output)
            worst = max(worst, most)
            allowed = TOLERANCE[self.output]
            if not (frobenius <= allowed[0] and largest <= allowed[1]):
                raise MeasurementError(
                    f"{self} is wrong by {frobenius:.2e} of the product's norm and {largest:.2e} of its largest entry"
                )
        return worst, worst == 0.0

    def verify(self, algorithm, sets=1):
        """Run an algorithm once over the first operand sets and check; raises MeasurementError if it is wrong."""
        for i in range(sets):
            self.outputs[i].fill_(POISON)
            self.run(algorithm, i)
        return self.check(sets)

    def glance(self, algorithm):
        """Seconds of one call, with the time that starting it and waiting for it takes."""
        begin = time.perf_counter()
        self.run(algorithm, 0)
        if self.backend.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    def sampler(self, algorithm, hot=False, quick=False):
        """Sampler of the algorithm's time, cold unless `hot`; `quick` has the shortest samples."""
        sets = 1 if hot else self.sets
        if self.backend.device == "cpu":
            return timing.Calls(lambda i: self.run(algorithm, i), sets)
        from slidesparse import timing_cuda

        least = 0.0 if quick else timing_cuda.LEAST_S
        return timing_cuda.Replays(lambda i: self.run(algorithm, i), sets, least)

    def kernels(self, algorithm):
        """Names of the kernels that an algorithm starts, on a GPU."""
        if self.backend.device == "cpu":
            return []
        from slidesparse import cuda_tools

        return cuda_tools.kernels(lambda: self.run(algorithm, 0))

    def found(self):
        """Id of the algorithm that the library's own search finds, or None."""
        return self.backend.found(self.operand, self.inputs[0], self.output)


def products(request):
    """The products of a tuning request, one after the other, each weight prepared once for every M and output type."""
    backend = find_backend(request["backend"])
    pattern = Pattern(request["sparsity"])
    cache = hardware.detect().cache_bytes
    for linear in request["linears"]:
        weight = Weight(linear["name"], linear["N"], linear["K"], request["dtype"], pattern, backend.device)
        for M in request["M"]:
            problem = Problem(weight, M)
            for output in backend.outputs(request["dtype"]):
                yield Product(problem, backend, output, cache, _most_sets(backend, request))


def _most_sets(backend, request):
    """On a CPU a sample uses one operand set, on a GPU all of them."""
    return request["parameters"]["max_samples"] if backend.device == "cpu" else 1 << 30


def tune(request):
    """Tuning table of a request: backend, dtype, sparsity, linears, M (list), parameters."""
    torch.set_num_threads(1)
    with _memory():
        backend = find_backend(request["backend"])
        return tuning.search(backend, products(request), timing.Stopping(**request["parameters"]))


def measure(request):
    """Results of one kernel point (M one number); the algorithms are those that the tuning tables give for M.

    request["peers"], if there: {dense backend: path of its tuning table, or None}. They take turns with the backend on
    the same codes; those that cannot run are named with the reason.
    """
    torch.set_num_threads(1)
    backend = find_backend(request["backend"])
    contenders = [(backend, tuning.Table.read(request["tuning"], backend.version()))]
    missing = {}
    for name, path in request.get("peers", {}).items():
        try:
            peer = find_backend(name)
            version = peer.version()
            contenders.append((peer, path and tuning.Table.read(path, version)))
        except SlideSparseError as error:
            missing[name] = str(error)
    machine = hardware.detect()
    before = hardware.state(machine)
    with _memory():
        gemms = [_measured(request, linear, contenders, missing, machine.cache_bytes) for linear in request["linears"]]
    return {
        "zero_rate": ZERO_RATE,
        "library": backend.version(),
        "gemms": gemms,
        "peers_missing": missing,
        "state": {"before": before, "after": hardware.state(machine)},
    }


def _measured(request, linear, contenders, missing, cache_bytes):
    """One linear's entry: the backend's default output, with its other outputs and its peers beside it.

    Why a peer takes no part goes into `missing`.
    """
    stopping = timing.Stopping(**request["parameters"])
    pattern, device = Pattern(request["sparsity"]), contenders[0][0].device
    weight = Weight(linear["name"], linear["N"], linear["K"], request["dtype"], pattern, device)
    problem = Problem(weight, request["M"])
    runs = []
    for backend, table in contenders:
        for output in backend.outputs(request["dtype"]):
            product = Product(problem, backend, output, cache_bytes, _most_sets(backend, request))
            try:
                algorithm = table and table.algorithm(backend, product.operand, product.M, output)
                algorithm = tuning.best_of_few(product) if algorithm is None else algorithm
                product.verify(algorithm, product.sets)
            except (RuntimeError, SlideSparseError) as error:  # torch and vLLM refuse with a RuntimeError
                if backend is contenders[0][0] or isinstance(error, torch.OutOfMemoryError):
                    raise
                missing[backend.name] = str(error).partition("\n")[0]
                continue
            product.poison()
            runs.append((product, table, algorithm))
    cold = timing.measure({i: run[0].sampler(run[2]) for i, run in enumerate(runs)}, stopping)
    rows = []
    for (product, table, algorithm), samples in zip(runs, cold.values(), strict=True):
        worst, exact = product.check(min(product.sets, stopping.warmup + len(samples)))
        row = _row(product, table, algorithm, timing.summarize(samples)) | {"error_max_abs": worst, "exact": exact}
        if product.backend is contenders[0][0]:
            hot = timing.measure({0: product.sampler(algorithm, hot=True)}, stopping)[0]
            product.check(1)
            row["hot"] = timing.summarize(hot).as_dict()
        else:
            row |= {"backend": product.backend.name, "library": product.backend.version()}
            rivals = [i for i, own in enumerate(rows) if "hot" in own and own["output"] == product.output]
            row["speedup"] = _ratio(samples, cold[rivals[0]]) if rivals else None
        rows.append(row)
    own, peers = [row for row in rows if "hot" in row], [row for row in rows if "hot" not in row]
    shape = {"name": weight.name, "N": weight.N, "K": weight.K, "K_slid": runs[0][0].K_slid}
    return shape | own[0] | {"other_outputs": own[1:], "peers": peers}


def _row(product, table, algorithm, cold):
    """What is reported of one product."""
    entry = table.entry(product.N, product.K_slid, product.M, product.output) if table else None
    names = {found["algorithm"]: found["name"] for found in entry["top"]} if entry else {}
    return {
        "output": product.output,
        "algorithm": algorithm,
        "algorithm_name": names.get(algorithm, "the library's default"),
        "algorithms": entry["algorithms"] if entry else 0,
        "operand_sets": product.sets,
        "cold": cold.as_dict(),
        "effective_tops": 2 * product.M * product.N * product.K / cold.median_s / 1e12,
    }


def _ratio(samples, own):
    """Statistics of the paired ratios of a rival's samples over our own: the speed-up of ours over it."""
    ratios = timing.summarize([theirs / ours for theirs, ours in zip(samples, own, strict=True)]).as_dict()
    return {name.removesuffix("_s"): value for name, value in ratios.items()}


@contextmanager
def _memory():
    """Give the GPU's memory back at the end, and say what did not fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(str(error).partition(". ")[0]) from None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
