"""Our results -> the published layout, CSV and JSON, for programs that read that layout.

The head of each kernel file has two things that published files lack. One is whether caches were cold or hot. The other
is the real length of slid rows. The column K holds the published K', padded to 32, because those programs join dense
and sparse rows by it. Our rows are padded further.
"""

import csv
import io
import json
import re
import struct
from base64 import b64decode
from binascii import Error as Base64Error
from math import ceil
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import inside, write_atomic
from slidesparse.report.sources.published import FAILED, TOP
from slidesparse.report.sources.read import read_source
from slidesparse.report.sources.rows import by_configuration, linear_order
from slidesparse.report.tables.columns import PUBLISHED
from slidesparse.sparsity.patterns import Pattern

LIBRARIES = {"cublaslt": "cuBLASLt", "cusparselt": "cuSPARSELt"}
"""Backends for which the layout has kernel files."""

DTYPES = {"FP8": "FP8E4M3"}


def export(root, hardware, output, caches="hot"):
    """Write the results of one hardware key below `root`, which has our layout, to `output` in the published layout.

    caches: hot, as the published kernels were timed, or cold. Returns one sentence for each thing that was refused or
    that the layout cannot hold. Raises RecordError if nothing was found.
    """
    source = read_source(root, hardware)
    if not source.rows:
        raise RecordError(f"{root} holds no results of hardware {hardware}")
    left = list(source.refused)
    for stage in ("prefill", "decode"):
        for name, rows in by_configuration(source.stage(stage)).items():
            left += export_throughput(Path(output), hardware, stage, name, rows)
    for name, rows in by_configuration(source.stage("kernel")).items():
        left += export_kernel(Path(output), hardware, name, rows, caches, source.tuning)
    export_status(Path(output), hardware, source)
    return left


def export_throughput(output, hardware, stage, name, rows):
    """Write one throughput CSV and a JSON for each M; returns sentences on what was left out."""
    gpu, cc, rest = re.fullmatch(r"(.+)_(cc\d+)_(.+)", hardware).groups()
    dtype = DTYPES.get(name.dtype, name.dtype)
    folders = [f"{gpu}_{cc}_{dtype}_{rest}", name.backend, *([] if name.sparsity == "dense" else [name.sparsity])]
    model = f"{name.model}-{name.dtype}"
    folder = inside(output / "throughput_benchmark_results" / stage, *folders)
    inside(folder, model)
    left, lines = [], []
    for row in rows:
        values = row.values
        numbers = [values.get(column) for column in PUBLISHED[stage]]
        if row.status != "ok" or None in numbers:
            left.append(
                f"{stage} {'/'.join(name)} M={row.M}: {row.reason or 'lacks figures of the published protocol'}"
            )
            continue
        lines.append([f"{number:.4f}" if isinstance(number, float) else number for number in numbers])
        tokens = values["num_prompts"] * (values["prompt_len"] + values.get("output_len", 1))
        figures = {
            "elapsed_time": values["elapsed_time_s"],
            "num_requests": values["num_prompts"],
            "total_num_tokens": tokens,
            "requests_per_second": values["requests_per_s"],
            "tokens_per_second": values["tokens_per_s"],
        }
        write_atomic(folder / "json" / f"{model}_M{row.M}.json", json.dumps(figures, indent=4) + "\n")
    if lines:
        write_atomic(folder / f"{model}_{stage}.csv", to_csv(PUBLISHED[stage], lines))
    return left


def export_kernel(output, hardware, name, rows, caches, tuning):
    """Write one kernel CSV and its JSON; returns sentences on what was left out."""
    library = LIBRARIES.get(name.backend)
    if library is None:
        return [f"kernel {'/'.join(name)}: the published layout has no place for {name.backend}"]
    column = "latency_hot_us" if caches == "hot" else "latency_us"
    good = [row for row in rows if row.status == "ok" and row.values.get(column)]
    left = [
        f"kernel {'/'.join(name)} M={M}: {reason}"
        for M, reason in sorted(
            {(row.M, row.reason or f"no {caches} latency was measured") for row in rows if row not in good}
        )
    ]
    if not good:
        return left
    split = name.backend == "cusparselt"
    ranked = [candidates(row, good_tuning(tuning, name, row), row.values[column], split) for row in good]
    folder = inside(output / "benchmark_kernel" / library / "alg_search_results", hardware, name.dtype)
    stem = f"alg_search_{name.model}-INT8" + ("" if name.sparsity == "dense" else f"_{name.sparsity}")
    inside(folder, stem)
    header = ["M", "N", "K", "alg_count"]
    for rank in range(1, TOP + 1):
        header += [f"tops_{rank}", f"lat_us_{rank}", f"alg_id_{rank}", *([f"split_k_{rank}"] if split else [])]
        header.append(f"workspace_{rank}")
    lines = [kernel_line(row, algorithms, name, split) for row, algorithms in zip(good, ranked, strict=True)]
    text = "".join(f"# {line}\n" for line in kernel_head(hardware, name, good, caches, library))
    write_atomic(folder / f"{stem}.csv", text + to_csv(header, sorted(lines)))
    meta = {"gpu_name": good[0].provenance.gpu_name, "gpu_short_name": hardware.partition("_cc")[0]}
    meta |= {
        "compute_capability": re.search(r"_(cc\d+)_", hardware)[1],
        "model_name": f"{name.model}-INT8",
        "mode": "model",
    }
    meta |= {"backend": library, "dtype": DTYPES.get(name.dtype, name.dtype), "caches": caches}
    meta |= {"torch_version": good[0].provenance.torch, "time": max(row.utc for row in good)}
    meta |= {"M_list": sorted({row.M for row in good}), "NK_list": [list(shape) for shape in shapes(good, name)]}
    meta |= {"sparsity": name.sparsity} if split else {}
    entries = {}
    for row, algorithms in zip(good, ranked, strict=True):
        key = f"({row.values['N']},{published_K(row.values['K'], name.sparsity)})"
        entry = entries.setdefault(key, {"m_thresholds": [], "alg_by_m": {}})
        entry["m_thresholds"] = sorted({*entry["m_thresholds"], row.M})
        best = algorithms[0]
        entry["alg_by_m"][str(row.M)] = {
            "workspace": best["workspace"],
            "tops": tops(row, best["us"], name),
            "lat_us": best["us"],
            "alg_id": best["id"],
            **({"split_k": best["split"]} if split else {"algo_data": best["stored"]}),
        }
    write_atomic(folder / f"{stem}.json", json.dumps({"meta": meta, "nk_entries": entries}, indent=2) + "\n")
    return left


def kernel_head(hardware, name, rows, caches, library):
    """The lines at the head of a kernel CSV."""
    row = rows[0]
    lines = [
        f"GPU: {row.provenance.gpu_name}",
        f"CC: {re.search(r'_(cc[0-9]+)_', hardware)[1]}",
        "Mode: model",
        f"Model: {name.model}-INT8",
        f"Backend: {library}",
        f"dtype: {DTYPES.get(name.dtype, name.dtype)} -> {row.values.get('output') or 'not recorded'}",
        f"alg_count: {max(row.values.get('alg_count') or 0 for row in rows)}, config_count: 0",
        f"torch: {row.provenance.torch}",
        f"driver: {row.provenance.driver}",
        f"caches: {caches}",
        f"M_list: {sorted({row.M for row in rows})}",
        f"NK_list: {shapes(rows, name)}",
    ]
    if name.sparsity != "dense":
        slid = sorted({(row.values["N"], row.values["K_slid"]) for row in rows})
        lines += [f"NK_measured: {slid}", f"Sparsity: {name.sparsity} (K_factor={Pattern(name.sparsity).gamma:.3f})"]
    return [*lines, f"Time: {max(row.utc for row in rows)}"]


def shapes(rows, name):
    """[(N, published K')] in the order of the linears."""
    by_linear = {row.linear: (row.values["N"], published_K(row.values["K"], name.sparsity)) for row in rows}
    return [by_linear[linear] for linear in sorted(by_linear, key=linear_order)]


def published_K(K, sparsity):
    """K' as the published programs compute it: K gamma, rounded down, then padded to a multiple of 32."""
    return K if sparsity == "dense" else ceil(int(K * Pattern(sparsity).gamma) / 32) * 32


def good_tuning(tuning, name, row):
    """Rows of the tuning table for a linear and M with the same output type, by rank."""
    entries = [
        item
        for item in tuning
        if item["configuration"] == name
        and (item["linear"], item["M"], item["output"]) == (row.linear, row.M, row.values.get("output"))
    ]
    return sorted(entries, key=lambda item: item["rank"])


def candidates(row, table, latency, split):
    """The algorithm of a point, then the next best ones from its tuning table, with the layout's numbers."""
    own = str(row.values["alg_id"])
    workspace = next((item["workspace"] for item in table if item["algorithm"] == own), 0)
    algorithms = [(own, latency, workspace)]
    algorithms += [
        (item["algorithm"], item["latency_us"], item["workspace"]) for item in table if item["algorithm"] != own
    ]
    return [
        {"stored": stored, "us": us, "workspace": workspace} | numbered(stored, split)
        for stored, us, workspace in algorithms[:TOP]
    ]


NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def numbered(stored, split):
    """{id, split} of a stored algorithm: a number, `id:split`, or a cuBLASLt algorithm in base64."""
    id, _, parts = stored.partition(":")
    if NUMBER.fullmatch(id):
        return {"id": int(id), "split": int(parts) if split and NUMBER.fullmatch(parts) else 1}
    try:
        return {"id": struct.unpack("<I", b64decode(id, validate=True)[:4])[0], "split": 1}
    except (Base64Error, struct.error, ValueError):
        return {"id": FAILED, "split": 1}


def tops(row, us, name):
    """10^12 operations/s as the layout counts them, with K'."""
    return 2 * row.M * row.values["N"] * published_K(row.values["K"], name.sparsity) / us / 1e6


def kernel_line(row, algorithms, name, split):
    """One line of a kernel CSV."""
    line = [
        row.M,
        row.values["N"],
        published_K(row.values["K"], name.sparsity),
        row.values.get("alg_count") or len(algorithms),
    ]
    for item in algorithms:
        line += [f"{tops(row, item['us'], name):.6f}", f"{item['us']:.3f}", item["id"]]
        line += [item["split"], item["workspace"]] if split else [item["workspace"]]
    columns = 5 if split else 4
    empty = [""] * columns * (TOP - len(algorithms))
    return line + empty


def export_status(output, hardware, source):
    """Write the status of the eight tasks, if the source has a task table."""
    if not source.tasks:
        return
    results = {}
    for index, row in enumerate(source.tasks):
        if row["status"] == "skipped":
            results[str(index)] = {"skipped": True}
        elif row["status"] in ("success", "failed"):
            success = row["status"] == "success"
            results[str(index)] = {"success": success, "duration": row["seconds"] or 0.0, "skipped": False}
    count = {word: sum(row["status"] == word for row in source.tasks) for word in ("success", "failed", "skipped")}
    total = sum(row["seconds"] or 0.0 for row in source.tasks)
    timestamp = max((row.utc for row in source.rows), default="").rstrip("Z")
    stamp = re.sub(r"[^0-9_]", "", timestamp.partition(".")[0].replace("T", "_"))
    status = {
        "completed": all(row["status"] != "missing" for row in source.tasks),
        "results": results,
        "summary": count | {"total_duration": total},
        "timestamp": timestamp,
    }
    path = output / "vllm_bench_logs" / hardware.partition("_cc")[0] / f"bitnet_bench_{stamp}_status.json"
    write_atomic(path, json.dumps(status, indent=2) + "\n")


def to_csv(header, lines):
    """CSV text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return stream.getvalue()
