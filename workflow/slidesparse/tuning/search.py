"""Search for the fastest algorithm of a backend per (N, K, M, output).

All algorithms get the same effort. Each one is checked against a reference product. The right ones take turns in giving
samples. In every round the slow ones drop out and the others give more samples, until few are left. These finalists,
the library's default and the algorithm that its own search finds are then measured again, in another order. Only these
times are reported.
"""

import math

from slidesparse.errors import MeasurementError
from slidesparse.timing import protocol

TOP = 3

FINALISTS = 6
SLOW = 1.5
SAMPLES = 3
"""Successive halving: all algorithms give SAMPLES samples. Those that take SLOW times as long as the fastest drop
out. So do all that are not in the fastest third. The others give twice as many samples, and so on, until FINALISTS
are left."""


def search(backend, products, stopping):
    """Search a backend over products (kernel.products.Product); returns the table as a dictionary.

    A wrong algorithm is excluded and named in the table. Raises MeasurementError if a linear has no right algorithm at
    any M.
    """
    entries = [_entry(product, stopping) for product in products]
    for linear, output in dict.fromkeys((entry["linear"], entry["output"]) for entry in entries):
        rows = [entry for entry in entries if (entry["linear"], entry["output"]) == (linear, output)]
        if not any(entry["top"] for entry in rows):
            why = rows[0]["wrong"][0]["reason"]
            raise MeasurementError(f"{linear} has no algorithm whose product is right at any M: {why}")
    return {"schema": 3, "backend": backend.name, "library": backend.version(), "entries": entries}


def _entry(product, stopping):
    listed = product.algorithms()
    right, wrong = _verified(product, listed)
    known = {algorithm.id: algorithm for algorithm in right}
    finalists = _halved(product, list(known))
    default = listed[0].id
    library_id = product.found() if product.main else None
    beside = [id for id in (default, library_id) if id in known]
    times = _times(product, list(dict.fromkeys([*reversed(finalists), *beside])), stopping) if right else {}
    return {
        "linear": product.name,
        "N": product.N,
        "K": product.K,
        "K_slid": product.K_slid,
        "M": product.M,
        "output": product.output,
        "algorithms": len(listed),
        "wrong": [{"algorithm": algorithm.id, "reason": reason} for algorithm, reason in wrong],
        "default": default,
        "default_us": times.get(default),
        "library": library_id,
        "library_us": times.get(library_id),
        "top": [
            {
                "algorithm": id,
                "name": known[id].name,
                "latency_us": times[id],
                "workspace": known[id].workspace,
                "kernels": product.kernels(id),
            }
            for id in list(times)[:TOP]
        ],
    }


def _verified(product, algorithms):
    """(algorithms whose product is right, [(algorithm whose product is wrong, why)])."""
    right, wrong = [], []
    for algorithm in algorithms:
        try:
            product.verify(algorithm.id)
            right.append(algorithm)
        except MeasurementError as error:
            wrong.append((algorithm, str(error)))
    return right, wrong


def _halved(product, ids):
    """The finalists among algorithms, by successive halving, the fastest first."""
    samples = SAMPLES
    while len(ids) > FINALISTS:
        few = protocol.Stopping(0, samples, samples, 0.0, math.inf)
        taken = protocol.measure({id: product.sampler(id, quick=True) for id in ids}, few)
        best = {id: min(seconds) for id, seconds in taken.items()}
        ids = sorted(ids, key=best.get)[: max(FINALISTS, len(ids) // 3)]
        ids = [id for id in ids if best[id] <= SLOW * best[ids[0]]]
        samples *= 2
    return ids


def best_of_few(product):
    """Id of the fastest right algorithm of a product without a table, or the default if there are many algorithms."""
    listed = product.algorithms()
    if len(listed) > FINALISTS:
        return listed[0].id
    right, wrong = _verified(product, listed)
    if not right:
        raise MeasurementError(wrong[0][1])
    few = protocol.Stopping(0, 8, 8, 0.0, math.inf)
    return next(iter(_times(product, [algorithm.id for algorithm in right], few)))


def name_of(product, algorithm):
    """Name of an algorithm that no table names: as the backend lists it, or the library's default."""
    listed = {known.id: known.name for known in product.algorithms()}
    return listed.get(algorithm, "the library's default")


def _times(product, ids, stopping):
    """{id: median in microseconds} of algorithms that take turns, the fastest first."""
    samples = protocol.measure({id: product.sampler(id) for id in ids}, stopping)
    medians = {id: protocol.summarize(taken).median_s * 1e6 for id, taken in samples.items()}
    return dict(sorted(medians.items(), key=lambda pair: pair[1]))
