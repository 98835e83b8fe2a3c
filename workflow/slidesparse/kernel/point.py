"""A kernel point: the four linears of one model, one backend, one pattern and one M, verified and then measured.

Every product is checked before and after it is timed. The backend's products, those of its dense peers, and all of
them as whole linears take turns, each beside its rivals of the same kind.
"""

from contextlib import contextmanager
from functools import lru_cache

import torch

from slidesparse.errors import MeasurementError, OutOfMemoryError, SlideSparseError
from slidesparse.gemm import backend as find_backend
from slidesparse.kernel import roofline
from slidesparse.kernel.products import ZERO_RATE, Linear, Problem, Product, Weight
from slidesparse.machine import hardware, provenance
from slidesparse.operators import launches
from slidesparse.sparsity.patterns import Pattern
from slidesparse.timing import protocol
from slidesparse.tuning import search
from slidesparse.tuning.table import Table


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
    stopping = protocol.Stopping(**request["parameters"])
    with _memory():
        backend = find_backend(request["backend"])
        with _tuned_quantisers(request, backend) as quantisers:
            table = search.search(backend, products(request), stopping)
            return table | {"quantize_lift": quantisers(), "capacity": provenance.capacity(hardware.detect())}


@contextmanager
def _tuned_quantisers(request, backend):
    """A function that tunes the kernels which make the backend's operands; they are compiled meanwhile."""
    if backend.device == "cpu":
        yield list
        return
    from slidesparse.operators import search as kernel_tuning

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
    contenders = [(backend, Table.read(request["tuning"], backend.version()))]
    missing = {}
    for name, path in request.get("peers", {}).items():
        try:
            peer = find_backend(name)
            version = peer.version()
            contenders.append((peer, path and Table.read(path, version)))
        except SlideSparseError as error:
            missing[name] = str(error)
    for quantiser in (quantiser for _, table in contenders if table for quantiser in table.quantize_lift):
        launches.use(quantiser)
    machine = hardware.detect()
    before = provenance.state(machine)
    with _memory():
        try:
            together, gemms = True, _measured(request, request["linears"], contenders, missing, machine)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            each = [_measured(request, [linear], contenders, missing, machine) for linear in request["linears"]]
            together, gemms = False, sum(each, [])
    return {
        "zero_rate": ZERO_RATE,
        "library": backend.version(),
        "linears_together": together,
        "gemms": gemms,
        "peers_missing": missing,
        "state": {"before": before, "after": provenance.state(machine)},
        "capacity": provenance.capacity(machine),
    }


@lru_cache(maxsize=8)
def _weight(name, N, K, dtype, sparsity, device):
    """The weight of a linear; those of the last points are kept, since the next point often differs only in M."""
    return Weight(name, N, K, dtype, Pattern(sparsity), device)


def _measured(request, linears, contenders, missing, machine):
    """The entries of linears, all of which take turns, so that they run at the clock and power of a whole layer.

    Why a peer takes no part goes into `missing`.
    """
    contests = [_Contest(request, linear, contenders, missing, machine) for linear in linears]
    samplers = {(i, name): sampler for i, contest in enumerate(contests) for name, sampler in contest.samplers.items()}
    samples = protocol.measure(samplers, protocol.Stopping(**request["parameters"]))
    entries = [
        contest.entry({name: taken for (at, name), taken in samples.items() if at == i}, machine)
        for i, contest in enumerate(contests)
    ]
    for contest in contests:
        contest.weight.release()
    return entries


class _Contest:
    """One linear: the backend's products, those of its peers, and the whole linear of each, verified and ready."""

    def __init__(self, request, linear, contenders, missing, machine):
        own = contenders[0][0]
        self.weight = _weight(
            linear["name"], linear["N"], linear["K"], request["dtype"], request["sparsity"], own.device
        )
        problem = Problem(self.weight, request["M"])
        self.runs = []
        for backend, table in contenders:
            for output in backend.outputs(request["dtype"]):
                try:
                    product = Product(problem, backend, output, machine.cache_bytes, _most_sets(backend, request))
                    self.runs.append(_Run(product, table, backend is own))
                except (RuntimeError, SlideSparseError) as error:  # torch and vLLM refuse with a RuntimeError
                    if backend is own or isinstance(error, torch.OutOfMemoryError):
                        raise
                    missing[backend.name] = str(error).partition("\n")[0]
        self.wholes = [Linear(run.product, run.algorithm) for run in self.runs if run.product.main]
        for thing in (*(run.product for run in self.runs), *self.wholes):
            thing.poison()
        first = self.wholes[0]
        self.folds = first.passes and first.product.output == "BF16"
        forms = {("raw", 0): first.raw, ("passed", 0): first.passed} if self.folds else {}
        self.samplers = {
            **{("cold", i): run.product.sampler(run.algorithm) for i, run in enumerate(self.runs)},
            **{("whole", i): linear.sampler(linear.whole) for i, linear in enumerate(self.wholes)},
            **{key: first.sampler(form) for key, form in forms.items()},
            **{("hot", i): run.product.sampler(run.algorithm, hot=True) for i, run in enumerate(self.runs) if run.own},
        }

    def entry(self, samples, machine):
        """What is reported of the linear; raises MeasurementError if what was multiplied last is wrong."""
        rows = []
        for i, run in enumerate(self.runs):
            row = run.row(samples["cold", i], self.samplers["cold", i], machine)
            if run.own:
                row["hot"] = protocol.summarize(samples["hot", i]).as_dict()
            else:
                same = (j for j, own in enumerate(self.runs) if own.own and own.product.output == run.product.output)
                rival = next(same, None)
                row |= {"backend": run.product.backend.name, "library": run.product.backend.version()}
                row["speedup"] = None if rival is None else _ratio(samples["cold", i], samples["cold", rival])
            rows.append(row)
        own = [row for row in rows if "hot" in row]
        peers = [row for row in rows if "hot" not in row]
        shape = {
            "name": self.weight.name,
            "N": self.weight.N,
            "K": self.weight.K,
            "K_slid": self.runs[0].product.K_slid,
        }
        return shape | own[0] | {"other_outputs": own[1:], "peers": peers, "whole": self._whole(samples)}

    def _whole(self, samples):
        """The whole linears of the backend, which is the first, and of its peers."""
        rows = []
        for i, linear in enumerate(self.wholes):
            linear.check(self.samplers["whole", i].used)
            rows.append(
                {
                    "backend": linear.product.backend.name,
                    "output": linear.product.output,
                    "scales": "a pass of their own" if linear.passes else "in the epilogue",
                    "cold": protocol.summarize(samples["whole", i]).as_dict(),
                    "samples_us": _microseconds(samples["whole", i]),
                    "speedup": _ratio(samples["whole", i], samples["whole", 0]) if i else None,
                }
            )
        if self.folds:
            forms = zip(samples["whole", 0], samples["passed", 0], samples["raw", 0], strict=True)
            folded = [raw + max(0.0, whole - passed) for whole, passed, raw in forms]
            rows[0]["folded"] = protocol.summarize(folded).as_dict()
        return rows


class _Run:
    """One product that takes part in a point, and its algorithm with what the tuning table says of it."""

    def __init__(self, product, table, own):
        self.product, self.own = product, own
        self._entry = table.entry(product.N, product.K_slid, product.M, product.output) if table else None
        self.algorithm, self._wrong = self._right(table)

    def _right(self, table):
        """(best algorithm of the table whose product is right here, [better ones and why they are not]).

        Right there need not be right here: the table's products had another pattern. The library's default comes last;
        without a table it is what is taken, or the best of few. Raises MeasurementError if none is right.
        """
        product, listed, wrong = self.product, [], []
        if table:
            listed += table.algorithms(product.backend, product.operand, product.M, product.output)
        if listed:
            listed.append(self._entry["default"])
        for algorithm in dict.fromkeys(listed or [search.best_of_few(product)]):
            try:
                product.verify(algorithm, product.sets)
                return algorithm, wrong
            except MeasurementError as error:
                wrong.append({"algorithm": algorithm, "reason": str(error)})
        raise MeasurementError(wrong[0]["reason"])

    def row(self, samples, sampler, machine):
        """What is reported of it; raises MeasurementError if what it multiplied last is wrong."""
        product, cold = self.product, protocol.summarize(samples)
        worst, exact = product.check(sampler.used)
        clock, operations = sampler.clock_mhz, 2 * product.M * product.N * product.K_slid
        dtype, sparse = product.problem.weight.dtype, product.backend.sparse
        names = {algorithm["algorithm"]: algorithm["name"] for algorithm in self._entry["top"]} if self._entry else {}
        return {
            "output": product.output,
            "algorithm": self.algorithm,
            "algorithm_name": names.get(self.algorithm) or search.name_of(product, self.algorithm),
            "algorithms": self._entry["algorithms"] if self._entry else 0,
            "wrong": self._wrong,
            "operand_sets": product.sets,
            "cold": cold.as_dict(),
            "samples_us": _microseconds(samples),
            "effective_tops": 2 * product.M * product.N * product.K / cold.median_s / 1e12,
            "clock_mhz": clock,
            "roofline": roofline.least(machine, dtype, sparse, operations, product.bytes, clock),
            "error_max_abs": worst,
            "exact": exact,
        }


def _microseconds(samples):
    return [round(seconds * 1e6, 3) for seconds in samples]


def _ratio(samples, own):
    """Statistics of the paired ratios of a rival's samples over our own: the speed-up of ours over it."""
    ratios = protocol.summarize([theirs / ours for theirs, ours in zip(samples, own, strict=True)]).as_dict()
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
