"""Points -> rows of a CSV: one for each point, or for each linear of a kernel point.

What is only concluded from a point's samples and figures is computed here: intervals, rooflines, and what the host
bounds. So no measurement depends on it.
"""

import csv
import io

from slidesparse.errors import RecordError
from slidesparse.files import canonical_json
from slidesparse.plan import prompts
from slidesparse.plan.backends import BACKENDS
from slidesparse.report.sources.rows import linear_order
from slidesparse.report.tables import intervals, roofline
from slidesparse.report.tables.columns import COLUMNS, CUBLASLT, ESTIMATES, M_COLUMN, OTHER_PROMPTS, STEP, cell

PROFILE = 0.02
"""Share of a step's GPU time by which profiles of one point differ: repeated ones agreed within 1.8 % (see
resources/measured/README.md)."""

WINDOWS = 5
"""Least number of profiled windows of which a GPU time gets an interval."""

ENDS = {"": "value", "_ci_low": "ci_low", "_ci_high": "ci_high"}
"""End of a column's name -> the part of an estimate that it has."""

POWER_CAP = 4
"""NVML's bit for clocks that are held down by the power limit (nvmlClocksThrottleReasonSwPowerCap)."""


def to_csv(points):
    """CSV text of sorted points of one configuration. Raises RecordError if there are none."""
    if not points:
        raise RecordError("there are no points to gather; measure one first")
    stage = points[0]["key"]["stage"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    others = any("prompt" in point["key"] for point in points)
    columns = [column for column in COLUMNS[stage] if others or column not in OTHER_PROMPTS]
    writer.writerow(columns)
    for point in points:
        for row in rows_of(point):
            writer.writerow(cell(row.get(column)) for column in columns)
    return stream.getvalue()


def rows_of(point):
    """The CSV rows of a point."""
    stage = point["key"]["stage"]
    if stage == "kernel":
        return kernel_rows(point)
    return [(quality_row if stage == "quality" else throughput_row)(point)]


def tail(point):
    """The columns that all stages have: status, time, commit, machine and versions."""
    run, request = point["run"], point["request"]
    return {
        "status": point["status"],
        "reason": point["reason"],
        "utc": run["utc"],
        "seconds": float(run["seconds"]),
        "git_commit": run["git"]["commit"],
        "git_dirty": run["git"]["dirty"],
        "request_digest": request["digest"],
        "protocol": request["protocol"],
        "gpu_name": point["hardware"]["name"],
        "gpu_uuid": point["hardware"].get("uuid"),
        "driver": point["hardware"].get("driver"),
        "power_limit_w": as_float(point["hardware"].get("power_limit_w")),
        "torch": point["software"].get("torch"),
        "vllm": point["software"].get("vllm"),
    }


def quality_row(point):
    """The CSV row of a quality point."""
    results = point["results"]
    names = ("context", "bytes", "vocabulary", "reference", "scoring_s")
    row = {"tokens": point["key"]["M"], **tail(point)} | {name: results.get(name) for name in names}
    for name in ESTIMATES:
        found = results.get(name) or {}
        row |= {f"{name}{end}": as_float(found.get(kept)) for end, kept in ENDS.items()}
    return row


def throughput_row(point):
    """The CSV row of a prefill or decode point."""
    stage, results = point["key"]["stage"], point["results"]
    row = {M_COLUMN[stage]: point["key"]["M"], f"N_{stage}": results.get("steps"), **tail(point)}
    row["prompt"] = point["key"].get("prompt", prompts.USUAL)
    for name in ("prompt_len", "max_num_seqs", "num_prompts", "output_len"):
        row[name] = results.get(name)
    for name, result in (
        ("requests_per_s", "requests_per_s"),
        ("tokens_per_s", "tokens_per_s"),
        ("elapsed_time_s", "elapsed_s"),
        ("steady_tokens_per_s", "steady_tokens_per_s"),
    ):
        row[name] = as_float(results.get(result))
    step = results.get("step_s") or {}
    for name, statistic in (("step_ms", "median"), ("step_ms_p5", "p5"), ("step_ms_p95", "p95")):
        row[name] = as_float(step.get(statistic), 1e3)
    row |= interval_columns("step_ms", step, [1e3 * each for each in results.get("repeats_s") or ()], 1e3)
    windows = results.get("gpu_steps_ms") or ()
    row |= interval_columns("gpu_step_ms", {}, windows if len(windows) >= WINDOWS else ())
    row["power_capped"] = power_capped(results)
    row["host_bound"] = host_bound(results, row)
    of = results.get("variants", {})
    times = {name: each.get("gpu_step_ms") for name, each in of.items()}
    least = min((name for name in times if times[name]), key=times.get, default=None)
    row |= {"least_gpu_variant": least and of[least].get("ran", least), "least_gpu_step_ms": times.get(least)}
    for name in ("tokens", "sequences"):
        row[f"{name}_min"], row[f"{name}_max"] = results.get(name) or (None, None)
    ran = results.get("linears")
    row["sparse_linears"] = sum(is_sparse(linear["backend"]) for linear in ran.values()) if ran else None
    same = [name for name in STEP if name not in row]
    return row | {name: results.get(name) for name in same} | {"samples": step.get("n"), "repeats": repeats_of(results)}


def is_sparse(backend):
    """Whether products of a backend run on sparse kernels."""
    return backend in BACKENDS and BACKENDS[backend].sparse


def interval_columns(name, stored, samples, unit=1):
    """Ends and coverage of the interval of a median, as columns `name`_ci_low, _ci_high and _ci_coverage.

    samples: in the column's unit. Without any, as in old points, the ends are those of the block `stored` (with or
    without the suffix _s, in 1/`unit` of the column's), and their coverage is not known. One sample has no interval.
    """
    stored = {statistic.removesuffix("_s"): value for statistic, value in stored.items()}
    ends = intervals.Interval(as_float(stored.get("ci_low"), unit), as_float(stored.get("ci_high"), unit), None)
    if samples and len(samples) == 1:
        ends = intervals.Interval(None, None, None)
    elif samples:
        ends = intervals.of_median(samples, as_float(stored.get("median"), unit))
    return {f"{name}_ci_{end}": as_float(value) for end, value in ends._asdict().items()}


def power_capped(results):
    """Whether the GPU was at its power limit before or after the timed steps; None if that is not known."""
    states = results.get("state") or {}
    reasons = [(states.get(when) or {}).get("throttle_reasons") for when in ("before", "after")]
    if any(reason is not None and reason & POWER_CAP for reason in reasons):
        return True
    return None if None in reasons else False


def host_bound(results, row):
    """Whether the host makes a step longer than the GPU's work, or None if that is not known.

    The protocol's mark, a wall time above 1.1 times the GPU's, stays: a wide interval of such a wall time is the host's
    own. Below, a step is marked if wall and GPU time differ by more than the noise: half the wall's interval and
    PROFILE. At the power limit the profile ran at another clock than the timed steps, so such a difference says
    nothing of the host.
    """
    wall, low, high = (row.get(name) for name in ("step_ms", "step_ms_ci_low", "step_ms_ci_high"))
    gpu, marked = results.get("gpu_step_ms"), results.get("host_bound")
    if marked or row["power_capped"] is None or None in (wall, low, high, gpu):
        return marked
    return not row["power_capped"] and wall - gpu > (high - low) / 2 + PROFILE * gpu


def repeats_of(results):
    """Number of repeats of a prefill or decode point, or None."""
    return len(results["repeats_s"]) if results.get("repeats_s") else None


def kernel_rows(point):
    """The CSV rows of a kernel point: one for each linear, or one without a linear if nothing was measured."""
    shared = {"M": point["key"]["M"], "process": point["request"].get("process"), **tail(point)}
    gemms = point["results"].get("gemms") or []
    if not gemms or point["status"] != "ok":
        return [shared]
    gemms = sorted(gemms, key=lambda gemm: linear_order(gemm["name"]))
    return [shared | gemm_columns(gemm) | roofline_columns(point, gemm) for gemm in gemms]


def roofline_columns(point, gemm):
    """Least time of one linear, its share of the measured one, and what limits it; empty if the GPU is not known."""
    key = point["key"]
    bits = roofline.weight_bits(key["backend"])
    found = roofline.least(point["hardware"], key["dtype"], is_sparse(key["backend"]), gemm, key["M"], bits)
    if not found:
        return {}
    seconds, limit = found
    share = 100 * seconds / gemm["cold"]["median_s"]
    return {"roofline_us": seconds * 1e6, "roofline_pct": share, "roofline_limit": limit}


def gemm_columns(gemm):
    """The columns of one linear."""
    algorithm = gemm["algorithm"]
    cold, hot = gemm["cold"], gemm.get("hot") or {}
    return {
        "N": gemm["N"],
        "K": gemm["K"],
        "linear": gemm["name"],
        "K_slid": gemm["K_slid"],
        "alg_count": gemm["algorithms"],
        "alg_id": algorithm if isinstance(algorithm, str | int) else canonical_json(algorithm),
        "latency_us": as_float(cold["median_s"], 1e6),
        "latency_us_p5": as_float(cold["p5_s"], 1e6),
        "latency_us_p95": as_float(cold["p95_s"], 1e6),
        **interval_columns("latency_us", cold, gemm.get("samples_us"), 1e6),
        "latency_hot_us": as_float(hot.get("median_s"), 1e6),
        "effective_tops": as_float(gemm.get("effective_tops")),
        "output": gemm["output"],
        "exact": gemm["exact"],
        "error_max_abs": as_float(gemm["error_max_abs"]),
        "samples": cold["n"],
        "clock_mhz": as_float(gemm.get("clock_mhz")),
        **rival_columns(gemm),
        **whole_columns(gemm.get("whole") or []),
    }


def rival_columns(gemm):
    """Columns of what was measured in turn with a linear: its INT32 product, the dense rivals, and the fastest rival.

    The best dense library is the fastest one with the product's own output type. Its ratio is the paired one.
    """
    columns = {}
    for other in gemm.get("other_outputs", ()):
        if other["output"] == "INT32":
            columns["latency_int32_us"] = as_float(other["cold"]["median_s"], 1e6)
            columns["alg_id_int32"] = str(other["algorithm"])
    rivals = gemm.get("peers", [])
    own = {product["output"]: product for product in (gemm, *gemm.get("other_outputs", ()))}
    for rival in rivals:
        suffix = "_int32" if rival["output"] == "INT32" else ""
        columns[f"{rival['backend']}{suffix}_us"] = as_float(rival["cold"]["median_s"], 1e6)
        if rival["backend"] == CUBLASLT and rival.get("speedup") and rival["output"] in own:
            columns |= speedup_columns("speedup_cublaslt", rival, own[rival["output"]])
    same = [rival for rival in rivals if rival["output"] == gemm["output"] and rival.get("speedup")]
    if same:
        best = min(same, key=lambda rival: rival["cold"]["median_s"])
        columns |= {
            "best_dense": best["backend"],
            "best_dense_us": as_float(best["cold"]["median_s"], 1e6),
            "best_dense_alg": best.get("algorithm_name"),
            **speedup_columns("speedup_best_dense", best, gemm),
        }
    return {name: value for name, value in columns.items() if name in COLUMNS["kernel"]}


def whole_columns(linears):
    """Columns of whole linears: the backend's (the first of `linears`), the dense rivals', and the fastest rival's."""
    if not linears:
        return {}
    own, rivals = linears[0], linears[1:]
    folded = own.get("folded") or {}
    columns = {
        "linear_us": as_float(own["cold"]["median_s"], 1e6),
        "linear_folded_us": as_float(folded.get("median_s"), 1e6),
        **{f"{rival['backend']}_linear_us": as_float(rival["cold"]["median_s"], 1e6) for rival in rivals},
    }
    if rivals:
        best = min(rivals, key=lambda rival: rival["cold"]["median_s"])
        columns |= {
            "best_dense_linear": best["backend"],
            "best_dense_linear_us": as_float(best["cold"]["median_s"], 1e6),
            **speedup_columns("speedup_linear", best, own),
        }
    return {name: value for name, value in columns.items() if name in COLUMNS["kernel"]}


def speedup_columns(name, rival, own):
    """Median and interval of the paired ratios of a rival's samples over our own, those of the block `own`."""
    pairs = zip(rival.get("samples_us") or (), own.get("samples_us") or (), strict=False)
    ratios = [theirs / mine for theirs, mine in pairs]
    median = {name: as_float(rival["speedup"]["median"])}
    return median | interval_columns(name, rival["speedup"], ratios)


def as_float(value, factor=1.0):
    """`value` times `factor` as a float; None stays None."""
    return None if value is None else float(value) * factor
