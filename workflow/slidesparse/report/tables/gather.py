"""The points of one configuration -> its CSV, with a row for each point, or for each linear of a kernel point.

What is only concluded from a point's samples and figures is computed here: intervals, rooflines, and what the host
bounds. So no measurement depends on it.
"""

import csv
import io
import re
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import canonical_json, inside, is_plain, leads_out, printable, read_text, write_atomic
from slidesparse.plan import stock
from slidesparse.plan.backends import BACKENDS, STAGES, deciding
from slidesparse.plan.key import Configuration, Key, is_pattern, root_of
from slidesparse.points.plan import Plan, read_plan
from slidesparse.points.request import expected_digests, linears
from slidesparse.points.strict import parse_csv, refuse_zeros
from slidesparse.points.validate import AGAIN, check_digest, read_point
from slidesparse.report.sources.rows import HARDWARE, linear_order
from slidesparse.report.tables import intervals, roofline
from slidesparse.report.tables.columns import COLUMNS, CUBLASLT, M_COLUMN, POSITIVE, STEP, cell

SHOWN = 5
"""Most refused points that one sentence names."""

PROFILE = 0.02
"""Share of a step's GPU time by which profiles of one point differ: repeated ones agreed within 1.8 % (see
resources/measured/README.md)."""

WINDOWS = 5
"""Least number of profiled windows of which a GPU time gets an interval."""

POWER_CAP = 4
"""NVML's bit for clocks that are held down by the power limit (nvmlClocksThrottleReasonSwPowerCap)."""


def gather(point_paths, output_csv, expected=None):
    """Write the CSV of the points of one configuration, atomically. The same points give the same bytes.

    point_paths: files `{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.json`, in any order.
    expected: M -> request digest (hex) that the point must answer; None is not checked. The points must have exactly
    these M. Without `expected`, neither is checked.

    Returns the number of rows. If a point is refused, it writes nothing and raises RecordError that names the points.
    """
    points, refused = read_points(point_paths, expected)
    if refused:
        more = f" (and {len(refused) - SHOWN} more)" if len(refused) > SHOWN else ""
        raise RecordError("; ".join(refused[:SHOWN]) + more)
    if expected is not None:
        measured = {point["key"]["M"] for point in points}
        for problem, values in (("lacks", set(expected) - measured), ("was not asked for", measured - set(expected))):
            if values:
                names = ", ".join(f"M={M}" for M in sorted(values))
                raise RecordError(f"{output_csv} cannot be gathered: its configuration {problem} {names}")
    text = to_csv(points)
    write_atomic(output_csv, text)
    return text.count("\n") - 1


def rows_of(path):
    """{M: digest of the request} of the rows of a gathered CSV; empty if it cannot be read."""
    try:
        rows = list(csv.DictReader(read_text(path).splitlines()))
        return {
            int(row[column]): row["request_digest"] for row in rows for column in M_COLUMN.values() if column in row
        }
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        return {}


def read_points(paths, expected=None, parameters=None):
    """(valid points of one configuration sorted by M, one sentence for each refused file).

    parameters: how the plan measures; a point that was measured in another way is told from a stale one.
    """
    points, refused = {}, []
    for path in sorted(paths, key=str):
        try:
            point = read_point(path)
            refuse_other_request(path, point, expected.get(Key.of(path).M) if expected else None, parameters)
            first = next(iter(points.values()), point)
            check_shape(path, point)
            if configuration_of(point) != configuration_of(first):
                raise RecordError(f"{path} is of another configuration than the points beside it")
            if point["key"]["M"] in points:
                raise RecordError(f"{path} is a second point for M={point['key']['M']}")
            refuse_unreadable(path, point)
            points[point["key"]["M"]] = point
        except RecordError as error:
            refused.append(str(error))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            refused.append(f"{path} is damaged: no row can be made of it ({type(error).__name__}); {AGAIN}")
    return [points[M] for M in sorted(points)], refused


def refuse_unreadable(path, point):
    """Raise RecordError unless a point of the right form gives rows that can be read again."""
    stage = point["key"]["stage"]
    rows, _ = parse_csv(path, to_csv([point]), COLUMNS[stage])
    refuse_zeros(path, rows, POSITIVE[stage])


def refuse_other_request(path, point, digest, parameters):
    """Raise RecordError if a point answers another request than that of `digest` (hex; None is not checked)."""
    if digest is None or point["request"]["digest"] == digest:
        return
    there = differences(point["request"]["parameters"], parameters or {}) if parameters is not None else []
    if there:
        raise RecordError(f"{path} is of another configuration ({'; '.join(there)}), so it is in no CSV of this plan")
    check_digest(path, point, digest)


def differences(stored, planned):
    """`name 6, the plan has 5` for each parameter that differs, at most `SHOWN`."""
    names = [name for name in sorted({*stored, *planned}) if stored.get(name) != planned.get(name)]
    return [f"{printable(name):.40} {said(stored, name)}, the plan has {said(planned, name)}" for name in names[:SHOWN]]


def said(parameters, name):
    """A parameter's value as text, cut at 40 characters."""
    return f"{printable(canonical_json(parameters[name])):.40}" if name in parameters else "none"


def check_shape(path, point):
    """Raise RecordError if the linears of a kernel point are not those of the model's shape.json in the same tree."""
    gemms = point["results"].get("gemms") if point["key"]["stage"] == "kernel" else None
    shape = Path(Key.of(path).basis(root_of(path)))
    if not gemms or not shape.is_file():
        return
    try:
        said = {each["name"]: (each["N"], each["K"]) for each in linears(shape)}
    except RecordError:  # who needs the shape says so
        return
    for gemm in gemms:
        known = said.get(gemm["name"])
        if known != (gemm["N"], gemm["K"]):
            says = f"N={known[0]}, K={known[1]}" if known else "nothing of it"
            has = f"{gemm['name']:.80} has N={gemm['N']}, K={gemm['K']}"
            raise RecordError(f"{path}: {has}, but {shape} says {says}; {AGAIN}")


def configuration_of(point):
    """The key of a point without its M."""
    return {name: value for name, value in point["key"].items() if name != "M"}


def to_csv(points):
    """CSV text of points of one configuration, sorted by M. Raises RecordError if there are none."""
    if not points:
        raise RecordError("there are no points to gather; measure one first")
    stage = points[0]["key"]["stage"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS[stage])
    for point in points:
        for row in kernel_rows(point) if stage == "kernel" else [throughput_row(point)]:
            writer.writerow(cell(row.get(column)) for column in COLUMNS[stage])
    return stream.getvalue()


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


def throughput_row(point):
    """The CSV row of a prefill or decode point."""
    stage, results = point["key"]["stage"], point["results"]
    row = {M_COLUMN[stage]: point["key"]["M"], f"N_{stage}": results.get("steps"), **tail(point)}
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
    times = {name: each.get("gpu_step_ms") for name, each in results.get("variants", {}).items()}
    least = min((name for name in times if times[name]), key=times.get, default=None)
    row |= {"least_gpu_variant": least, "least_gpu_step_ms": times.get(least)}
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
    without the suffix _s, in 1/`unit` of the column's), and their coverage is not known.
    """
    stored = {statistic.removesuffix("_s"): value for statistic, value in stored.items()}
    ends = intervals.Interval(as_float(stored.get("ci_low"), unit), as_float(stored.get("ci_high"), unit), None)
    if samples:
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
    found = roofline.least(point["hardware"], key["dtype"], is_sparse(key["backend"]), gemm, key["M"])
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


def gather_all(results, hardware):
    """Gather all configurations of one hardware key that have points; only CSVs whose content changes are rewritten.

    A point is refused if it is damaged, or if it is planned but answers another request than the plan's: a stale one,
    or one that was measured with another configuration. All other points are gathered. Returns one sentence for each
    refused file.
    """
    refused = []
    try:
        plan = read_plan(results, hardware) or Plan()
    except RecordError as error:
        plan, refused = Plan(), [str(error)]
    for directory in configuration_directories(results, hardware):
        stage, *names = directory.parts[-5:]
        paths = point_files(directory)
        if not is_usable(directory):
            refused.append(f"{directory} does not belong there: its name is no sparsity, or one that files cannot have")
            continue
        if leads_out(results, directory):
            refused.append(
                f"{directory} leads out of {results} by a link, so nothing is gathered there: remove the link"
            )
            continue
        Ms = plan.of_stage(stage).get(Configuration(*names), ())
        planned = [path for path in paths if Key.of(path).M in Ms]
        try:
            digests = expected_digests(planned, plan.parameters[stage]) if stage in plan.parameters else {}
        except RecordError as error:
            digests, refused = {}, [*refused, str(error)]
        parameters = deciding(stage, plan.parameters[stage]) if stage in plan.parameters else None
        points, sentences = read_points(paths, digests, parameters)
        refused += sentences
        refused += [f"{path} has no name of a point, such as M16.json: remove it" for path in stray_files(directory)]
        if points:
            try:
                write_if_changed(inside(directory, f"{names[0]}-{names[1]}_{stage}.csv"), to_csv(points))
            except RecordError as error:
                refused.append(str(error))
    return refused


def point_files(directory):
    """Files in a configuration's folder that have the name of a point, which has no zeros in front."""
    return sorted(path for path in directory.glob("M*.json") if re.fullmatch("M[1-9][0-9]{0,11}", path.stem))


def stray_files(directory):
    """Files in a configuration's folder that look like points and have no name of one, such as M016.json."""
    named = {*point_files(directory), *directory.glob("*.failed.json")}
    return sorted(path for path in directory.glob("[Mm]*.json") if path not in named)


def is_usable(directory):
    """Whether the path of a configuration's folder has valid names, so that its CSV can be named after it."""
    _, model, dtype, _, sparsity = directory.parts[-5:]
    return is_pattern(sparsity) and is_plain(f"{model}-{dtype}_prefill.csv")


def configuration_directories(root, hardware, variants=False):
    """Sorted directories `{stage}/{model}/{dtype}/{backend}/{sparsity}` of one hardware key below a root.

    variants: those of the variants of stock vLLM, or else those of all other backends.
    """
    directories = [d for stage in STAGES for d in sorted(Path(root, hardware, stage).glob("*/*/*/*")) if d.is_dir()]
    return [directory for directory in directories if (directory.parts[-2] in stock.VARIANTS) == variants]


def hardware_directories(root):
    """Hardware keys that have results directly below a root, sorted; a report alone does not count."""
    names = (*STAGES, "tuning", "tasks.csv", "plan.json")
    held = {path.parent.name for name in names for path in Path(root).glob(f"*/{name}")}
    return sorted(name for name in held if HARDWARE.fullmatch(name))


def write_if_changed(path, text):
    """Write a file atomically unless it already has exactly this text; returns whether it was written.

    Raises RecordError if a folder lies in its place, or a file in place of its folder.
    """
    path = Path(path)
    if path.is_dir():
        raise RecordError(f"{path} is a folder in place of a file: remove it")
    if path.parent.exists() and not path.parent.is_dir():
        raise RecordError(f"{path.parent} is a file in place of a folder: remove it")
    data = text.encode()
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return False
    write_atomic(path, text)
    return True
