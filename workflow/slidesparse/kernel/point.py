"""A kernel point: the four linears of one model, one backend, one pattern and one M, verified and then measured.

Every product is checked before and after it is timed. A peer is a dense backend that multiplies the same codes. A whole
linear also quantises (and lifts) its inputs and scales its output. The products of the backend and of its peers take
turns, and so do their whole linears. Each is next to its rivals of the same kind.
"""

from contextlib import contextmanager
from functools import lru_cache

import torch

from slidesparse.errors import MeasurementError, OutOfMemoryError, SlideSparseError
from slidesparse.gemm import backend as find_backend
from slidesparse.kernel.products import ZERO_RATE, Linear, Problem, Product, Weight
from slidesparse.machine import hardware, memory, provenance
from slidesparse.operators import launches
from slidesparse.sparsity.patterns import Pattern
from slidesparse.timing import protocol
from slidesparse.tuning import search
from slidesparse.tuning.table import Table


def products(request):
    """Yield the products of a tuning request. Each weight is prepared once for all M and output types."""
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
    """Most operand sets that samples can use. On a CPU a sample uses one set, on a GPU all of them."""
    return request["parameters"]["max_samples"] if backend.device == "cpu" else 1 << 30


def tune(request):
    """Tuning table of a request with backend, dtype, sparsity, linears, M (a list) and parameters."""
    torch.set_num_threads(1)
    stopping = protocol.Stopping(**request["parameters"])
    with _memory():
        backend = find_backend(request["backend"])
        with _tuned_quantisers(request, backend) as quantisers:
            backend.compile_ahead([(each["N"], each["K"], M) for each in request["linears"] for M in request["M"]])
            table = search.search(backend, products(request), stopping)
            return table | {"quantize_lift": quantisers(), "capacity": provenance.capacity(hardware.detect())}


@contextmanager
def _tuned_quantisers(request, backend):
    """Compile the kernels that make the backend's activations, in the background. Yields a function that tunes them."""
    if backend.device == "cpu":
        yield list
        return
    from slidesparse.operators import search as kernel_tuning

    pattern = request["sparsity"] if backend.sparse else "dense"
    shapes = [(K, pattern, request["dtype"]) for K in sorted({linear["K"] for linear in request["linears"]})]
    with kernel_tuning.compiling(shapes) as finish:
        yield lambda: finish() and [kernel_tuning.tune(*shape) for shape in shapes]


def measure(request):
    """Results of one kernel point, at one M, with the algorithms that the tuning tables give for it.

    request["peers"], if there: {dense backend: path of its tuning table, or None}. Peers take turns with the backend on
    the same codes. Those that cannot run are named with the reason.
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
        together = True
        try:
            gemms = _measured(request, request["linears"], contenders, missing, machine)
        except Exception as error:
            if not memory.is_full(error):
                raise
            together = False
        if not together:  # here the error is gone, and with it its frames, which hold the products
            torch.cuda.empty_cache()
            each = [_measured(request, [linear], contenders, missing, machine) for linear in request["linears"]]
            gemms = sum(each, [])
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
    """The weight of a linear. The last few are kept, because the next point often differs only in M."""
    return Weight(name, N, K, dtype, Pattern(sparsity), device)


def _measured(request, linears, contenders, missing, machine):
    """Result entries of linears. All of them take turns, so they run at the clock and power of a whole layer.

    If a peer cannot take part, the reason goes into `missing`.
    """
    contests = [_Contest(request, linear, contenders, missing, machine) for linear in linears]
    samplers = {(i, name): sampler for i, contest in enumerate(contests) for name, sampler in contest.samplers.items()}
    samples = protocol.measure(samplers, protocol.Stopping(**request["parameters"]))
    entries = [
        contest.entry({name: taken for (at, name), taken in samples.items() if at == i})
        for i, contest in enumerate(contests)
    ]
    for contest in contests:
        contest.weight.release()
    return entries


class _Contest:
    """One linear: the products of the backend and of its peers, and the whole linear of each, all verified."""

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
                    if backend is own or memory.is_full(error):
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

    def entry(self, samples):
        """The linear's entry in the results. Raises MeasurementError if its last outputs are wrong."""
        rows = []
        for i, run in enumerate(self.runs):
            row = run.row(samples["cold", i], self.samplers["cold", i])
            if run.own:
                row["hot"] = protocol.summarize(samples["hot", i]).as_dict()
            else:
                same = [j for j, one in enumerate(self.runs) if one.own and one.product.output == run.product.output]
                own = same[0] if same else None
                row |= {"backend": run.product.backend.name, "library": run.product.backend.version()}
                row["speedup"] = None if own is None else _ratio(samples["cold", i], samples["cold", own])
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
        """Rows of the whole linears: first that of the backend, then those of its peers."""
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
    """One product of a point, with its algorithm and the entry of the tuning table for it."""

    def __init__(self, product, table, own):
        self.product, self.own = product, own
        self._entry = table.entry(product.N, product.K_slid, product.M, product.output) if table else None
        self.algorithm, self._wrong = self._right(table)

    def _right(self, table):
        """(the table's best algorithm whose product is right, [{"algorithm", "reason"} of better ones that are wrong]).

        The table may have been tuned with another pattern, so its algorithms are checked again here. The library's
        default is tried last. Without a table, `search.best_of_few` picks the algorithm. Raises MeasurementError if
        none is right.
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

    def row(self, samples, sampler):
        """The product's row in the results. Raises MeasurementError if its last outputs are wrong."""
        product, cold = self.product, protocol.summarize(samples)
        worst, exact = product.check(sampler.used)
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
            "clock_mhz": sampler.clock_mhz,
            "error_max_abs": worst,
            "exact": exact,
        }


def _microseconds(samples):
    return [round(seconds * 1e6, 3) for seconds in samples]


def _ratio(samples, own):
    """Statistics of the paired ratios of a rival's samples over our own, which are our speed-ups over it."""
    ratios = protocol.summarize([theirs / ours for theirs, ours in zip(samples, own, strict=True)]).as_dict()
    return {name.removesuffix("_s"): value for name, value in ratios.items()}


@contextmanager
def _memory():
    """Free the GPU's cached memory at the end. An error that says it is full becomes an OutOfMemoryError of ours."""
    try:
        yield
    except Exception as error:
        if not memory.is_full(error):
            raise
        raise OutOfMemoryError(memory.told(error)) from None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
