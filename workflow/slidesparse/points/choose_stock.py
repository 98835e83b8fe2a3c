"""The point of stock vLLM at one M: its fastest variant. Each variant is measured as a point of its own."""

from slidesparse.errors import RecordError, SlideSparseError
from slidesparse.files import sealed, write_json
from slidesparse.plan import stock
from slidesparse.plan.key import Key
from slidesparse.points import records, request
from slidesparse.points.validate import read_point


def choose(output, basis, parameters, *, log=None):
    """Write the point of stock vLLM that belongs at `output`: that of the variant with the smallest median step.

    It is out of memory only if all variants are. results["variant"] names the chosen variant, by what ran. In
    results["variants"] each has its status, step_s (seconds, as in a point), gpu_step_ms, reason and sha256, and `ran`
    if vLLM changed its graphs: the name of the variant that ran. The blocks hardware, software
    and run are those of the chosen variant, but run["seconds"] is the sum over all variants.

    basis: path of the checkpoint's manifest. A failure is recorded beside `output` and raised. It is a RecordError if
    the point of a variant is missing or damaged, or answers another request.
    """
    try:
        point = _best(output, basis, parameters)
    except SlideSparseError as error:
        records.write_failure(output, str(error), log)
        raise
    write_json(output, sealed(point))
    records.failure_of(output).unlink(missing_ok=True)


def _best(output, basis, parameters):
    """The content of the point that `choose` writes."""
    key = Key.of(output)
    asked = request.request(key, parameters, basis)
    points = {name: _variant(path, asked["candidates"][name]) for name, path in request.variant_paths(output).items()}
    ran = {name: stock.ran(name, point["results"].get("graph_mode", "")) for name, point in points.items()}
    variants = {
        name: {
            "status": point["status"],
            **{figure: point["results"].get(figure) for figure in ("step_s", "gpu_step_ms")},
            "reason": point["reason"],
            "sha256": point.get("sha256"),
            **({"ran": ran[name]} if ran[name] != name else {}),
        }
        for name, point in points.items()
    }
    good = [name for name in points if points[name]["status"] == "ok"]
    name = min(good, key=lambda name: variants[name]["step_s"]["median"]) if good else next(iter(points))
    best = points[name]
    seconds = sum(point["run"]["seconds"] for point in points.values())
    return best | {
        "key": key.stored,
        "request": asked,
        "results": best["results"] | ({"variant": ran[name]} if good else {}) | {"variants": variants},
        "run": best["run"] | {"seconds": round(seconds, 3)},
    }


def _variant(path, digest):
    """The point at `path`, which must answer the request with that digest (hex)."""
    point = read_point(path, digest)
    if point["status"] == "ok" and "step_s" not in point["results"]:
        raise RecordError(f"{path} is damaged: it has no step_s; delete it and it is measured again")
    return point
