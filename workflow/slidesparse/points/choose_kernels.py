"""The choices of the backend `auto`: a measured kernel for each linear and M of a checkpoint, mostly the fastest.

Kernels are compared by the time of a whole linear inside the fused model: quantising (and lifting), the product, the
scales. There are two cases:

- The product's epilogue applies both scales. Then the cost is the measured time of the whole linear.
- The point's whole linear scales in a pass of its own. In the model the consumer of the product scales, in a pass
  that it makes anyway. So the time of a pass that only copies is subtracted. The point gives this time as the
  difference between its backend's whole linear and the folded one. Reading an INT32 product, which has twice the
  bytes, still counts. Without a folded time, as on CPUs, nothing is subtracted.

A sparse kernel also costs time where it does not run: once a process has run one, its GPU keeps a lower clock. So a
table has sparse kernels only if all linears and M together gain enough from them.
"""

import math
import os
from contextlib import suppress
from pathlib import Path
from statistics import geometric_mean

from slidesparse.errors import RecordError
from slidesparse.files import read_json, sealed, sha256_json, write_json
from slidesparse.plan.backends import BACKENDS
from slidesparse.plan.key import Key
from slidesparse.points.request import expected_digests
from slidesparse.points.validate import read_point
from slidesparse.tuning.choices import SCHEMA

LEAST_GAIN = 1.02
"""Sparse kernels are chosen only if the linears gain this factor by them, as the geometric mean over M. Measured on
H100s: sparse products that gained 0.7 % (2:8, INT8) made engines 2 to 4 % slower at large M. Some that gained 2.8 %
(2:6) did not."""


def choose(output, points, candidates, parameters):
    """Write the `choices` at `output`, unless they are there, perhaps from before choices had a digest of themselves.

    Another digest would let all points of `auto` be measured again.
    """
    there, made = None, choices(output, points, candidates, parameters)
    with suppress(RecordError):
        there = read_json(output, RecordError)
    if there not in (made, sealed(made)):
        write_json(output, sealed(made))


def choices(output, points, candidates, parameters):
    """The choices that belong at `output`; the same inputs give the same.

    points: paths of kernel points, of any backends and M.
    candidates: {backend that may be chosen: path of its tuning table, or None}.
    parameters: measuring parameters of the kernel stage.

    An M that did not fit into memory is left out. Raises RecordError if a point is damaged, if its request has changed
    since it was measured, or if no candidate was measured at all.
    """
    place = Path(output).parent
    entries = {}
    for path in sorted(points, key=str):
        M = Key.of(path).M
        point = read_point(path, expected_digests([path], parameters)[path])
        for linear in point["results"].get("gemms", []) if point["status"] == "ok" else []:
            algorithms = {peer["backend"]: peer["algorithm"] for peer in linear.get("peers", [])}
            costs = entries.setdefault((linear["name"], linear["N"], linear["K"], M), {})
            for backend, us in _costs(linear).items():
                if us <= 0:
                    raise RecordError(f"{path} contradicts itself: {linear['name']} costs {us:g} µs on {backend}")
                if backend in candidates:
                    costs[backend] = us, None if candidates[backend] else algorithms[backend]
    entries = {key: costs for key, costs in sorted(entries.items()) if costs}
    gain = _gain(entries)
    entries = [_entry(*key, costs, sparse=gain >= LEAST_GAIN) for key, costs in entries.items()]
    if not entries:
        raise RecordError(f"{output} cannot be made: no kernel that can be chosen was measured at any M")
    files = {_relative(file, place): sha256_json(file) for file in [*points, *filter(None, candidates.values())]}
    return {
        "schema": SCHEMA,
        "made_from": dict(sorted(files.items())),
        "tables": {name: table and _relative(table, place) for name, table in candidates.items()},
        "sparse_gain": round(gain, 4) if math.isfinite(gain) else None,
        "entries": entries,
    }


def _gain(entries):
    """Time of the linears with the fastest dense kernels over that with the fastest of all, geometric mean over M.

    It is infinite without entries, and if a linear has no dense kernel at some M.

    entries: {(linear, N, K, M): {backend: (microseconds, algorithm or None)}}.
    """
    dense, all_kernels = {}, {}
    for (_, _, _, M), costs in entries.items():
        rivals = [us for backend, (us, _) in costs.items() if not BACKENDS[backend].sparse]
        dense[M] = dense.get(M, 0.0) + min(rivals, default=math.inf)
        all_kernels[M] = all_kernels.get(M, 0.0) + min(us for us, _ in costs.values())
    return geometric_mean(dense[M] / all_kernels[M] for M in dense) if dense else math.inf


def _entry(linear, N, K, M, costs, sparse):
    """The choice for a linear at M from costs: {backend: (microseconds, algorithm or None)}.

    sparse: whether a sparse kernel may be chosen. If kernels are equally fast, the first one in backends.BACKENDS is
    chosen.
    """
    ranked = sorted(costs, key=lambda backend: (costs[backend][0], list(BACKENDS).index(backend)))
    best = next(backend for backend in ranked if sparse or not BACKENDS[backend].sparse)
    return {
        "linear": linear,
        "N": N,
        "K": K,
        "M": M,
        "backend": best,
        "algorithm": costs[best][1],
        "us": {backend: costs[backend][0] for backend in ranked},
    }


def _costs(linear):
    """{backend: microseconds that a linear costs inside the fused model}, from a linear of a kernel point."""
    wholes = linear.get("whole", [])
    folded = wholes and wholes[0].get("folded")
    copying = max(0.0, wholes[0]["cold"]["median_s"] - folded["median_s"]) if folded else 0.0
    spared = {"in the epilogue": 0.0, "a pass of their own": copying}
    return {each["backend"]: round(1e6 * (each["cold"]["median_s"] - spared[each["scales"]]), 3) for each in wholes}


def _relative(path, place):
    """A path relative to the folder of the choices, as they store it."""
    return Path(os.path.relpath(path, place)).as_posix()
