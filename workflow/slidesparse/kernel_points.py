"""A kernel point: the four linears of one model, one backend, one pattern and one M, verified and then measured.

Every product is checked before and after it is timed. The backend's products, those of its dense peers, and all of
them as whole linears take turns, each beside its rivals of the same kind.
"""

from contextlib import contextmanager
from functools import lru_cache

import torch

from slidesparse import hardware, roofline, timing, tuning
from slidesparse.errors import OutOfMemoryError, SlideSparseError
from slidesparse.gemm import backend as find_backend
from slidesparse.kernels import configurations
from slidesparse.patterns import Pattern
from slidesparse.products import ZERO_RATE, Linear, Problem, Product, Weight


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
    stopping = timing.Stopping(**request["parameters"])
    with _memory():
        backend = find_backend(request["backend"])
        with _tuned_quantisers(request, backend) as quantisers:
            table = tuning.search(backend, products(request), stopping)
            return table | {"quantize_lift": quantisers()}


@contextmanager
def _tuned_quantisers(request, backend):
    """A function that tunes the kernels which make the backend's operands; they are compiled meanwhile."""
    if backend.device == "cpu":
        yield list
        return
    from slidesparse.kernels import tuning as kernel_tuning

    pattern = request["sparsity"] if backend.sparse else "dense"
    shapes = [(K, pattern, request["dtype"]) for K in sorted({linear["K"] for linear in request["linears"]})]
    with kernel_tuning.compiling(shapes) as finish:
        yield lambda: finish() and [kernel_tuning.tune(*shape) for shape in shapes]


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
    for quantiser in (quantiser for _, table in contenders if table for quantiser in table.quantize_lift):
        configurations.use(quantiser)
    machine = hardware.detect()
    before = hardware.state(machine)
    with _memory():
        gemms = [_measured(request, linear, contenders, missing, machine) for linear in request["linears"]]
    return {
        "zero_rate": ZERO_RATE,
        "library": backend.version(),
        "gemms": gemms,
        "peers_missing": missing,
        "state": {"before": before, "after": hardware.state(machine)},
        "capacity": hardware.capacity(machine),
    }


@lru_cache(maxsize=8)
def _weight(name, N, K, dtype, sparsity, device):
    """The weight of a linear; those of the last points are kept, since the next point often differs only in M."""
    return Weight(name, N, K, dtype, Pattern(sparsity), device)


class _Run:
    """One product that takes part in a point: its algorithm, what its table says of it, and its samples."""

    def __init__(self, product, table, own):
        self.product, self.own = product, own
        found = table and table.algorithm(product.backend, product.operand, product.M, product.output)
        self.algorithm = tuning.best_of_few(product) if found is None else found
        self.entry = table.entry(product.N, product.K_slid, product.M, product.output) if table else None
        product.verify(self.algorithm, product.sets)
        product.poison()
        self.sampler = product.sampler(self.algorithm)
        self.samples = None

    def row(self, machine):
        """What is reported of it; raises MeasurementError if what it multiplied last is wrong."""
        product, cold = self.product, timing.summarize(self.samples)
        worst, exact = product.check(self.sampler.used)
        clock = self.sampler.clock_mhz
        operations = 2 * product.M * product.N * product.K_slid
        least = roofline.least(
            machine, product.problem.weight.dtype, product.backend.sparse, operations, product.bytes, clock
        )
        names = {found["algorithm"]: found["name"] for found in self.entry["top"]} if self.entry else {}
        return {
            "output": product.output,
            "algorithm": self.algorithm,
            "algorithm_name": names.get(self.algorithm) or tuning.name_of(product, self.algorithm),
            "algorithms": self.entry["algorithms"] if self.entry else 0,
            "operand_sets": product.sets,
            "cold": cold.as_dict(),
            "samples_us": _microseconds(self.samples),
            "effective_tops": 2 * product.M * product.N * product.K / cold.median_s / 1e12,
            "clock_mhz": clock,
            "roofline": least,
            "error_max_abs": worst,
            "exact": exact,
        }


def _measured(request, linear, contenders, missing, machine):
    """One linear's entry: the backend's default output, with its other outputs, its peers, and the whole linear.

    Why a peer takes no part goes into `missing`.
    """
    stopping = timing.Stopping(**request["parameters"])
    own, device = contenders[0][0], contenders[0][0].device
    weight = _weight(linear["name"], linear["N"], linear["K"], request["dtype"], request["sparsity"], device)
    problem = Problem(weight, request["M"])
    runs = []
    for backend, table in contenders:
        for output in backend.outputs(request["dtype"]):
            try:
                product = Product(problem, backend, output, machine.cache_bytes, _most_sets(backend, request))
                runs.append(_Run(product, table, backend is own))
            except (RuntimeError, SlideSparseError) as error:  # torch and vLLM refuse with a RuntimeError
                if backend is own or isinstance(error, torch.OutOfMemoryError):
                    raise
                missing[backend.name] = str(error).partition("\n")[0]
    rows = []
    for run, samples in zip(runs, _in_turn([run.sampler for run in runs], stopping), strict=True):
        run.samples = samples
        row = run.row(machine)
        if run.own:
            hot = run.product.sampler(run.algorithm, hot=True)
            row["hot"] = timing.summarize(_in_turn([hot], stopping)[0]).as_dict()
            run.product.check(1)
        else:
            rival = next((rival for rival in runs if rival.own and rival.product.output == run.product.output), None)
            row |= {"backend": run.product.backend.name, "library": run.product.backend.version()}
            row["speedup"] = rival and _ratio(samples, rival.samples)
        rows.append(row)
    shape = {"name": weight.name, "N": weight.N, "K": weight.K, "K_slid": runs[0].product.K_slid}
    own_rows, peers = ([row for row in rows if ("hot" in row) is mine] for mine in (True, False))
    whole = _whole(runs, stopping)
    weight.release()
    return shape | own_rows[0] | {"other_outputs": own_rows[1:], "peers": peers, "whole": whole}


def _whole(runs, stopping):
    """The whole linears of a backend and of its peers, each with the first type of output that it has."""
    first = {}
    for run in runs:
        first.setdefault(run.product.backend.name, run)
    linears = [Linear(run.product, run.algorithm) for run in first.values()]
    for linear in linears:
        linear.verify()
    own = linears[0]
    folds = own.passes and own.product.output == "BF16"
    forms = [own.raw, own.passed] if folds else []
    samplers = [linear.sampler(linear.whole) for linear in linears] + [own.sampler(form) for form in forms]
    samples = _in_turn(samplers, stopping)
    rows = [
        {
            "backend": linear.product.backend.name,
            "output": linear.product.output,
            "scales": "a pass of their own" if linear.passes else "in the epilogue",
            "cold": timing.summarize(taken).as_dict(),
            "samples_us": _microseconds(taken),
            "speedup": _ratio(taken, samples[0]) if linear is not own else None,
        }
        for linear, taken in zip(linears, samples, strict=False)
    ]
    if folds:
        whole, raw, passed = samples[0], samples[-2], samples[-1]
        folded = [c + max(0.0, a - b) for a, b, c in zip(whole, passed, raw, strict=True)]
        rows[0]["folded"] = timing.summarize(folded).as_dict()
    for linear in linears:
        linear.verify()
    return rows


def _in_turn(samplers, stopping):
    """Samples of every sampler, which take turns."""
    return list(timing.measure(dict(enumerate(samplers)), stopping).values())


def _microseconds(samples):
    return [round(seconds * 1e6, 3) for seconds in samples]


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
