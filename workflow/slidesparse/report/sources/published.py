"""The layout of the published system (repository bcacdwk/vllmbench) -> rows.

throughput_benchmark_results/{stage}/{GPU}_{cc}_{dtype}_{py}_{cu}_{arch}/{backend}[/{sparsity}]/{model}-{dtype}_{stage}.csv
benchmark_kernel/{library}/alg_search_results/{hardware}/{dtype}/alg_search_{model}-{any dtype}[_{sparsity}].csv
vllm_bench_logs/{GPU}/*_status.json

Kernels in this layout were timed back to back on the same operands, so their caches were hot.
"""

import re
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import parse_json
from slidesparse.plan.backends import STAGES
from slidesparse.plan.key import Configuration
from slidesparse.points.strict import read_csv, read_json, refuse_duplicates, refuse_zeros
from slidesparse.report.sources import names
from slidesparse.report.sources.agree import refuse_contradiction, wrong_operations
from slidesparse.report.sources.rows import HARDWARE, Provenance, Row
from slidesparse.report.sources.rows import PUBLISHED as LAYOUT
from slidesparse.report.tables.columns import M_COLUMN, POSITIVE, PUBLISHED
from slidesparse.report.tables.tasks import NAMES, entry, point_status, task_of

FOLDERS = (".", "slidesparse", "slidesparse/tools")
"""Folders below a root where the layout may begin: the root itself, or places in a checkout of the repository."""

THROUGHPUT_FOLDER = re.compile(r"(?P<gpu>.+)_(?P<cc>cc\d+)_(?P<dtype>[A-Z0-9]+)_(?P<rest>py\d+_cu\d+_\w+)")
KERNEL_FILE = re.compile(r"alg_search_(?P<model>.+)-(?:INT8|FP8|FP8E4M3|BF16|FP16)(?:_(?P<sparsity>[^ ]+))?\.csv")
SQUARE = "square"
"""Part of the name of searches of square shapes, which belong to no model and are not read."""

THROUGHPUT, KERNELS, SEARCHES, LOGS = (
    "throughput_benchmark_results",
    "benchmark_kernel",
    "alg_search_results",
    "vllm_bench_logs",
)
"""Folders of this layout."""

TOP = 3
"""Number of algorithms of each search in a kernel file."""

LONGEST = 1e9
"""Seconds that no task takes."""

MOST = 1000
"""Most M or shapes that a head announces and that are then counted as asked for."""

FAILED = -1

BRACKETS = str.maketrans("()", "[]")
"""Turns lists of pairs in Python's form into JSON."""


def bases(root, folder):
    """Directories called `folder` below a root, at the places of this layout."""
    return [path for base in FOLDERS if (path := Path(root, base, folder)).is_dir()]


def throughput_folders(root):
    """(hardware, name of the type, stage, directory) of every throughput folder below a root, sorted."""
    folders = []
    for base in bases(root, THROUGHPUT):
        for directory in sorted(base.glob("*/*")):
            match = THROUGHPUT_FOLDER.fullmatch(directory.name)
            hardware = match and f"{match['gpu']}_{match['cc']}_{match['rest']}"
            if match and HARDWARE.fullmatch(hardware) and directory.parent.name in PUBLISHED:
                folders.append((hardware, match["dtype"], directory.parent.name, directory))
    return folders


def kernel_folders(root):
    """(hardware, library, directory) of every folder of GEMM searches below a root, sorted."""
    return [
        (directory.name, directory.parts[-3], directory)
        for base in bases(root, KERNELS)
        for directory in sorted(base.glob(f"*/{SEARCHES}/*"))
        if HARDWARE.fullmatch(directory.name)
    ]


def hardware_keys(root):
    """Hardware keys in this layout below a root, sorted."""
    return sorted({item[0] for item in throughput_folders(root)} | {item[0] for item in kernel_folders(root)})


def read(source, hardware):
    """Add all of one hardware key in the published layout to `source`; refused files become sentences in it."""
    files = {}
    for key, dtype, stage, directory in throughput_folders(source.root):
        if key == hardware:
            for path in sorted(directory.glob("**/*.csv")):
                place = hardware, stage, dtype, path.parent.relative_to(directory).parts
                add(source, files, stage, path, lambda path, p=place: read_throughput(source, path, *p))
    for key, library, directory in kernel_folders(source.root):
        if key == hardware:
            for path in sorted([*directory.glob("*.csv"), *directory.glob("*/*.csv")]):
                if SQUARE not in path.name.lower():
                    add(source, files, "kernel", path, lambda path, b=library: read_kernel(source, path, hardware, b))
    count_linears(source)
    fill_dense_K(source.rows)


def count_linears(source):
    """Note how many linears a layer of each model has: as many as in most of its searches. The others are named."""
    shapes = {}
    for row in source.stage("kernel"):
        if row.values.get("caches") == "hot":
            shapes.setdefault(row.configuration, set()).add(row.linear)
    models = {}
    for name, linears in shapes.items():
        models.setdefault(name.model, []).append(len(linears))
    for model, counts in models.items():
        source.linears[model] = max(counts, key=lambda n: (counts.count(n), n))
    for name, linears in shapes.items():
        if len(linears) != source.linears[name.model]:
            source.refused.append(
                f"{source.root}: the search of {name.name} has {len(linears)} linears, and most of {name.model} have"
                f" {source.linears[name.model]}: it counts in no sum"
            )


def fill_dense_K(rows):
    """Add K, the weight's length before sliding, to kernel rows, if a file of the same model with K' = K shows it."""
    known = {
        (row.configuration.model, row.linear): row.values["K_slid"]
        for row in rows
        if row.stage == "kernel" and row.configuration.sparsity in ("dense", "2_4") and "K_slid" in row.values
    }
    for row in rows:
        if row.stage == "kernel" and row.values:
            row.values.setdefault("K", known.get((row.configuration.model, row.linear)))


def add(source, files, stage, path, read):
    """Add the rows of one file, unless it is refused or another file has the same configuration."""
    try:
        rows = read(path)
        first = files.setdefault((stage, rows[0].configuration), path)
        if first != path:
            raise RecordError(f"{path} holds the same configuration as {first}; keep one of them")
    except RecordError as error:
        source.refused.append(str(error))
        return
    source.add(LAYOUT, rows, path)


def read_throughput(source, path, hardware, stage, dtype, folders):
    """Rows of one throughput CSV. `folders`: the names of its backend and, if it is not dense, of its pattern.

    Raises RecordError if the file is damaged, incomplete, or in a place with an unknown name.
    """
    names.refuse_copy(path)
    if len(folders) not in (1, 2):
        raise RecordError(f"{path} does not belong there: a file lies in {{backend}} or in {{backend}}/{{pattern}}")
    backend, sparsity = folders if len(folders) == 2 else (*folders, "dense")
    dtype, backend, sparsity = known(path, dtype, backend, sparsity)
    model, _, suffix = path.name.removesuffix(f"_{stage}.csv").rpartition("-")
    if not model or not path.name.endswith(f"_{stage}.csv") or names.short_dtype(suffix) != dtype:
        raise RecordError(f"{path} does not belong there: it is not called {{model}}-{dtype}_{stage}.csv")
    configuration = Configuration(model, dtype, backend, sparsity)
    source.announce(stage, configuration)
    table, header = read_csv(path, PUBLISHED[stage])
    names.refuse_other_head(path, header, hardware, [dtype], [model])
    M = M_COLUMN[stage]
    refuse_empty(path, table, PUBLISHED[stage])
    refuse_duplicates(path, table, (M,))
    refuse_zeros(path, table, [column for column in POSITIVE[stage] if column in PUBLISHED[stage]])
    rows = []
    for row in table:
        failed = row["tokens_per_s"] == FAILED or row["requests_per_s"] == FAILED or row["elapsed_time_s"] == FAILED
        reason = "the file records it as failed (-1)" if failed else ""
        status = "failed" if failed else "ok"
        rows.append(Row(hardware, stage, configuration, row[M], status, row, reason=reason))
        refuse_negative(path, row, () if failed else ("tokens_per_s", "requests_per_s", "elapsed_time_s"))
    refuse_contradiction(path, stage, [row.values for row in rows if row.status == "ok"])
    source.announce(stage, configuration, [row.M for row in rows])
    return rows


def known(path, *said):
    """(type, backend, pattern) in our names. Raises RecordError, which names the file, for an unknown one."""
    try:
        return names.configured(*said)
    except RecordError as error:
        raise RecordError(f"{path} is not read: {error}") from None


def read_kernel(source, path, hardware, library):
    """Rows of one GEMM search. Raises RecordError if the file is damaged, incomplete, or not what its path says."""
    names.refuse_copy(path)
    match = KERNEL_FILE.fullmatch(path.name)
    if not match or path.parent.name == hardware:
        raise RecordError(
            f"{path} is no search: those are {{type}}/alg_search_{{model}}-{{any type}}[_{{pattern}}].csv"
        )
    dtype, backend, sparsity = known(path, path.parent.name, library, match["sparsity"] or "dense")
    split = backend == "cusparselt"
    columns = {"M": int, "N": int, "K": int, "alg_count": int}
    for rank in range(1, TOP + 1):
        columns |= {f"tops_{rank}": float, f"lat_us_{rank}": float, f"alg_id_{rank}": int}
        columns |= {f"split_k_{rank}": int} if split else {}
        columns |= {f"workspace_{rank}": int}
    table, header = read_csv(path, columns, ended=False)
    shapes, Ms = check_header(path, header, hardware, backend, sparsity)
    names.refuse_other_head(path, header, hardware, [dtype], [match["model"]])
    configuration = Configuration(match["model"], dtype, backend, sparsity)
    if len(Ms) <= MOST and len(shapes) <= MOST:
        source.announce("kernel", configuration, Ms)
    refuse_empty(path, table, ("M", "N", "K", "alg_count"))
    refuse_duplicates(path, table, ("M", "N", "K"))
    if len(table) < len(shapes) * len(Ms):
        raise RecordError(f"{path} is truncated: it holds {len(table)} of {len(shapes) * len(Ms)} announced rows")
    refuse_zeros(path, table, ("M", "N", "K", "tops_1", "lat_us_1"))
    provenance, names_of = origin(header), names.linears(shapes)
    rows = []
    for row in table:
        failed = row["lat_us_1"] in (None, FAILED)
        if (row["N"], row["K"]) not in shapes or row["M"] not in Ms:
            raise RecordError(f"{path} is damaged: its header does not announce M={row['M']} N={row['N']} K={row['K']}")
        refuse_negative(path, row, () if failed else ("tops_1", "lat_us_1"))
        if not failed:
            refuse_wrong_kernel(path, row)
        values = {
            "N": row["N"],
            "K_slid": row["K"],
            "alg_count": row["alg_count"],
            "alg_id": str(row["alg_id_1"]) + (f"/split {row['split_k_1']}" if split else ""),
            "latency_us": None if failed else row["lat_us_1"],
            "caches": "hot",
        }
        rows.append(
            Row(
                hardware,
                "kernel",
                configuration,
                row["M"],
                "failed" if failed else "ok",
                values,
                provenance,
                names_of[row["N"], row["K"]],
                "the search found no algorithm" if failed else "",
                utc=header.get("Time", ""),
            )
        )
    return rows


def origin(header):
    """Provenance of a file's rows, from its leading lines."""
    driver = header.get("driver", "") or header.get("CUDA driver", "").replace("runtime: ", "runtime ")
    name = f"CUDA {driver}" if "CUDA driver" in header else driver
    return Provenance(header.get("GPU", ""), name, header.get("torch", ""))


def check_header(path, header, hardware, backend, sparsity):
    """(list of (N, K'), list of M) from the head of a kernel file. The rest of the head must agree with the path."""
    words = {
        "CC": (header.get("CC"), re.search(r"_(cc\d+)_", hardware)[1]),
        "Backend": (header.get("Backend", "").lower(), backend),
        "Sparsity": (header.get("Sparsity", "dense").partition(" ")[0], sparsity),
    }
    for word, (said, placed) in words.items():
        if said != placed and (word != "Sparsity" or our_pattern(said) != placed):
            raise RecordError(f"{path} does not belong there: its header says {word} {said}, its place says {placed}")
    try:
        shapes, Ms = (parse_json(header[name].translate(BRACKETS)) for name in ("NK_list", "M_list"))
        return [(int(N), int(K)) for N, K in shapes], [int(M) for M in Ms]
    except (KeyError, ValueError, TypeError):
        raise RecordError(f"{path} is damaged: its header has no readable M_list and NK_list") from None


def our_pattern(said):
    """Our name of a pattern, or None."""
    try:
        return names.pattern(said)
    except RecordError:
        return None


def refuse_empty(path, table, columns):
    """Raise RecordError if the file has no rows, or an empty cell in these columns."""
    if not table:
        raise RecordError(f"{path} is truncated: it holds no rows")
    for number, row in enumerate(table, start=1):
        empty = [column for column in columns if row[column] is None]
        if empty:
            raise RecordError(f"{path} is damaged: row {number} has no {', '.join(empty)}")


def refuse_negative(path, row, columns):
    """Raise RecordError if a measured value is missing or negative."""
    for column in columns:
        if row[column] is None:
            raise RecordError(f"{path} is damaged: it has a row without {column}")
        if row[column] < 0:
            raise RecordError(f"{path} is damaged: it has {column} = {row[column]:g}, below zero")


def refuse_wrong_kernel(path, row):
    """Raise RecordError if operations per second do not follow from the latency, or a later rank is faster."""
    wrong = wrong_operations(row, "lat_us_1", "tops_1")
    others = [row[f"lat_us_{rank}"] for rank in range(2, TOP + 1)]
    if not wrong and any(other is not None and 0 < other < row["lat_us_1"] for other in others):
        wrong = f"M={row['M']} N={row['N']} has a rank that is faster than the first"
    if wrong:
        raise RecordError(f"{path} contradicts itself: {wrong}")


def read_status(source, hardware):
    """Read the task table from the newest complete status file of this GPU, if there is one and no other table.

    Its time is that of the end. The run began as long before as its tasks took, or at the time in the file's name.
    """
    gpu = hardware.partition("_cc")[0]
    candidates = []
    for base in bases(source.root, LOGS):
        for path in sorted(Path(base, gpu).glob("bitnet_bench_*_status.json")):
            try:
                status = read_json(path)
                rows = status_rows(path, status, source)
            except RecordError as error:
                source.refused.append(str(error))
                continue
            said = status.get("log") or status.get("log_file")
            log = str(said) if said else f"{path.name.removesuffix('_status.json')}.log"
            candidates.append((bool(status.get("completed")), str(status.get("timestamp", "")), str(path), rows, log))
    if not candidates:
        return
    if source.tasks:
        source.refused.append(f"{candidates[0][2]} is not used: {source.root} has a tasks.csv of {hardware}")
        return
    _, timestamp, path, source.tasks, source.log = max(candidates, key=lambda item: item[:3])
    source.dates += span_of_run(path, timestamp, source.tasks)
    source.files.append((path, len(source.tasks)))


def span_of_run(path, timestamp, tasks):
    """[first, last] ISO time of a run that wrote a status file, or [] if its time cannot be read."""
    try:
        last = datetime.fromisoformat(timestamp)
        begun = [last - timedelta(seconds=sum(row["seconds"] or 0.0 for row in tasks))]
    except (ValueError, OverflowError):
        return []
    stamp = re.search(r"_(\d{8}_\d{6})_status\.json$", path)
    with suppress(ValueError):
        named = datetime.strptime(stamp[1], "%Y%m%d_%H%M%S") if stamp else last
        begun.append(named.replace(tzinfo=last.tzinfo))
    return [min(begun).replace(microsecond=0).isoformat(), timestamp]


def status_rows(path, status, source):
    """Rows of the task table from a status file. Raises RecordError if the file has another form."""
    results = status.get("results")
    if not isinstance(results, dict) or not all(isinstance(result, dict) for result in results.values()):
        raise RecordError(f"{path} is damaged: it has no results of tasks")
    rows = []
    for index in range(len(NAMES)):
        result = results.get(str(index))
        if result is None:
            rows.append(entry(index, "missing", note="not in the status file"))
        elif result.get("skipped"):
            rows.append(entry(index, "skipped", note="already there"))
        else:
            seconds = result.get("duration")
            if not isinstance(seconds, int | float) or not 0 <= seconds < LONGEST:
                raise RecordError(f"{path} is damaged: task {index + 1} has no duration")
            points = point_status(
                [row for row in source.rows if index >= 3 and task_of(row.stage, row.configuration) == index]
            )
            asked = {
                (name, M)
                for stage in STAGES
                for name, Ms in source.planned(stage).items()
                if index >= 3 and task_of(stage, name) == index
                for M in Ms
            }
            ok, failed = (list(points.values()).count(word) for word in ("ok", "failed"))
            counts = (ok, failed, len(asked | points.keys())) if points else (None, None, None)
            rows.append(entry(index, "success" if result.get("success") else "failed", float(seconds), "", *counts))
    return rows
