"""The layout of the published system (repository bcacdwk/vllmbench) -> rows.

throughput_benchmark_results/{stage}/{GPU}_{cc}_{dtype}_{py}_{cu}_{arch}/{backend}[/{sparsity}]/{model}-{dtype}_{stage}.csv
benchmark_kernel/{library}/alg_search_results/{hardware}/{dtype}/alg_search_{model}-{any dtype}[_{sparsity}].csv
vllm_bench_logs/{GPU}/*_status.json

Kernels in this layout were timed back to back on the same operands, so their caches were hot.
"""

import os
import re
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import parse_json
from slidesparse.plan.backends import DTYPES, STAGES
from slidesparse.plan.key import Configuration
from slidesparse.points.strict import read_csv, read_json, read_text, refuse_duplicates, refuse_zeros
from slidesparse.report.sources import names
from slidesparse.report.sources.agree import refuse_contradiction, wrong_operations
from slidesparse.report.sources.rows import HARDWARE, Provenance, Row
from slidesparse.report.sources.rows import PUBLISHED as LAYOUT
from slidesparse.report.tables.columns import M_COLUMN, POSITIVE, PUBLISHED
from slidesparse.report.tables.tasks import NAMES, entry, point_status, task_of
from slidesparse.sparsity.patterns import Pattern

FOLDERS = (".", "slidesparse", "slidesparse/tools")
"""Folders below a root where the layout may begin: the root itself, or places in a checkout of the repository."""

THROUGHPUT_FOLDER = re.compile(r"(?P<gpu>.+)_(?P<cc>cc\d+)_(?P<dtype>[A-Z0-9]+)_(?P<rest>py\d+_cu\d+_\w+)")
KERNEL_FILE = re.compile(r"alg_search_(?P<model>.+)-(?:INT8|FP8|FP8E4M3|BF16|FP16)(?:_(?P<sparsity>[^ ]+))?\.csv")
STATUS_FILE = re.compile(r"bitnet_bench_.*_status\.json")
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

FAILED, FAILED_SAID = -1, "the file records it as failed (-1)"

OUTPUTS, NO_OUTPUT = ("INT32", "BF16", "FP16", "FP32"), "not recorded"
"""Wide output types that a head may name, and what our export writes if a point does not tell."""

CALLS, USUAL_CALLS = re.compile(r"(\d{1,9}), *repeat=(\d{1,9})"), ("25", "50")
"""Calls that warm up and that are timed, in the head of a search behind `warmup=`, and those of the published files."""

BRACKETS = str.maketrans("()", "[]")
"""Turns lists of pairs in Python's form into JSON."""


def bases(root, folder):
    """Directories called `folder` below a root, at the places of this layout."""
    return [path for base in FOLDERS if os.path.isdir(path := Path(root, base, folder))]


def throughput_folders(root):
    """(hardware, name of the type, stage, directory) of every throughput folder below a root, sorted."""
    folders = []
    for base in bases(root, THROUGHPUT):
        for directory in sorted(base.glob("*/*")):
            match = THROUGHPUT_FOLDER.fullmatch(directory.name)
            hardware = match and f"{match['gpu']}_{match['cc']}_{match['rest']}"
            held = match and HARDWARE.fullmatch(hardware) and directory.parent.name in PUBLISHED
            if held and os.path.isdir(directory):
                folders.append((hardware, match["dtype"], directory.parent.name, directory))
    return folders


def kernel_folders(root):
    """(hardware, library, directory) of every folder of GEMM searches below a root, sorted."""
    return [
        (directory.name, directory.parts[-3], directory)
        for base in bases(root, KERNELS)
        for directory in sorted(base.glob(f"*/{SEARCHES}/*"))
        if HARDWARE.fullmatch(directory.name) and os.path.isdir(directory)
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


def count_linears(source):
    """Note how many linears a layer of each model has: as many as in most of its searches. The others are named."""
    shapes = {}
    for row in source.stage("kernel"):
        if source.layouts[row.point] == LAYOUT and row.values.get("caches") == "hot":
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


def outputs_apart(source):
    """Sentences on kernels with narrow outputs, which are not divided by those of their model with wide ones."""
    found = {}
    for row in source.stage("kernel"):
        if row.values.get("output_of_others"):
            kinds = found.setdefault(row.configuration[:2], {})
            kinds.setdefault(row.values.get("output"), set()).add(row.configuration.column)
    return [
        f"{source.root}: kernels of {model} {dtype} with outputs of {kind} ({', '.join(sorted(names))}) are not divided"
        " by those with other outputs"
        for (model, dtype), kinds in found.items()
        for kind, names in kinds.items()
        if kind and len(kinds) > 1
    ]


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
        names.refuse_unprintable(path, source.root)
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
    dtype, backend, sparsity = known(path, hardware, dtype, backend, sparsity)
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
        reason = FAILED_SAID if failed else ""
        status = "failed" if failed else "ok"
        rows.append(Row(hardware, stage, configuration, row[M], status, row, reason=reason))
        refuse_negative(path, row, () if failed else ("tokens_per_s", "requests_per_s", "elapsed_time_s"))
    refuse_contradiction(path, stage, [row.values for row in rows if row.status == "ok"])
    source.announce(stage, configuration, [row.M for row in rows])
    return rows


def known(path, hardware, *said):
    """(type, backend, pattern) in our names. Raises RecordError, which names the file, for an unknown one.

    And for a type that the hardware cannot run.
    """
    try:
        configured = names.configured(*said)
        names.refuse_unable(hardware, configured[:1])
        return configured
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
    dtype, backend, sparsity = known(path, hardware, path.parent.name, library, match["sparsity"] or "dense")
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
    output, utc = output_of(path, header, dtype), names.instant(header.get("Time"))
    if header.get("Time") and not utc:
        source.refused.append(f"{path}: its header says Time {header['Time']:.80}, which is no time: it is not used")
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
            **output,
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
                utc=utc or "",
            )
        )
    return rows


def origin(header):
    """Provenance of a file's rows, from its leading lines."""
    driver = header.get("driver", "") or header.get("CUDA driver", "").replace("runtime: ", "runtime ")
    name = f"CUDA {driver}" if "CUDA driver" in header else driver
    calls = CALLS.match(header.get("warmup", ""))
    protocol = "" if not calls or calls.groups() == USUAL_CALLS else "warmup={}, repeat={}".format(*calls.groups())
    return Provenance(header.get("GPU", ""), name, header.get("torch", ""), protocol=protocol)


def output_of(path, header, dtype):
    """The output type that the head of a search names, as values of its rows; {} if it names none.

    Its authors divide wide outputs by one another whatever their type: those are only noted. Narrow ones are a kind of
    their own, which is never divided by others. Raises RecordError for another word, or one that the type cannot have.
    """
    said = header.get("dtype", "").partition("->")[2].strip()
    if not said or said == NO_OUTPUT:
        return {}
    said = said.upper().replace("BFLOAT16", "BF16")
    narrow = names.short_dtype(said)
    if narrow in DTYPES:
        return {"output": narrow, "output_of_others": narrow}
    if said not in OUTPUTS or (said == "INT32" and dtype != "INT8"):
        raise RecordError(f"{path} is not read: its header says outputs of {said:.80}, which no {dtype} kernel has")
    return {"output_of_others": said}


def capability(text):
    """A compute capability as keys write it: cc89 for 8.9, sm_89 and cc89; other text as it is."""
    match = re.fullmatch(r"(?:cc|sm_?)?([0-9]{1,2})[.]?([0-9])a?", text.strip(), re.ASCII | re.IGNORECASE)
    return f"cc{match[1]}{match[2]}" if match else text


def check_header(path, header, hardware, backend, sparsity):
    """(list of (N, K'), list of M) from the head of a kernel file. The rest of the head must agree with the path."""
    words = {
        "CC": (capability(header.get("CC", "")), re.search(r"_(cc\d+)_", hardware)[1]),
        "Backend": (header.get("Backend", "").lower(), backend),
        "Sparsity": (header.get("Sparsity", "dense").partition(" ")[0].replace(":", "_"), sparsity),
    }
    for word, (said, placed) in words.items():
        if said != placed and (word != "Sparsity" or our_pattern(said) != placed):
            raise RecordError(f"{path} does not belong there: its header says {word} {said}, its place says {placed}")
    factor = re.search(r"K_factor=([0-9.]{1,10})", header.get("Sparsity", ""))
    gamma = Pattern(sparsity).gamma
    if factor and factor[1] != f"{gamma:.{len(factor[1].partition('.')[2])}f}":
        raise RecordError(f"{path} contradicts itself: it has {factor[0]}, but {gamma:.3f} follows from {sparsity}")
    try:
        shapes, Ms = (parse_json(header[name].translate(BRACKETS)) for name in ("NK_list", "M_list"))
        shapes, Ms = [(N, K) for N, K in shapes], list(Ms)
        if {type(number) for number in (*sum(shapes, ()), *Ms)} - {int}:
            raise ValueError
        return list(dict.fromkeys(shapes)), list(dict.fromkeys(Ms))
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


def status_files(root):
    """(path, whether a report of some GPU may read it) of every status file below a root, sorted."""
    found = {}
    for base in bases(root, LOGS):
        for path in sorted([*base.glob("*.json"), *base.glob("*/*.json"), *base.glob("*/*/*.json")]):
            read = path.parent.parent == base and STATUS_FILE.fullmatch(path.name)
            if read or "status" in path.name.lower():
                found[path] = bool(read)
    return list(found.items())


def read_status(source, hardware):
    """Read the task table from the newest complete status file of this GPU, if there is one and no other table.

    Its time is that of the end. The run began as long before as its tasks took, or at the time in the file's name.
    If a root has several keys of the GPU, the file belongs to the one whose searches alone lie in the time of the run.
    """
    gpu = hardware.partition("_cc")[0]
    candidates = []
    for path, is_read in status_files(source.root):
        if not is_read or path.parent.name != gpu:
            continue
        try:
            status = read_json(path)
            rows = status_rows(path, status, source)
        except RecordError as error:
            source.refused.append(str(error))
            continue
        said = status.get("log") or status.get("log_file")
        log = str(said) if said else f"{path.name.removesuffix('_status.json')}.log"
        timestamp = names.instant(status.get("timestamp")) or ""
        candidates.append((bool(status.get("completed")), timestamp, str(path), rows, log))
    keys = [key for key in hardware_keys(source.root) if key.partition("_cc")[0] == gpu]
    mine = []
    for candidate in candidates:
        _, timestamp, path, rows, _ = candidate
        fitting = [key for key in keys if in_span(times(source.root, key), span_of_run(path, timestamp, rows))]
        if not set(keys) - {hardware} or fitting == [hardware]:
            mine.append(candidate)
        elif len(fitting) == 1:
            source.refused.append(f"{path} is not used here: by the times of the searches it is of {fitting[0]}")
        else:
            source.refused.append(f"{path} is not used: it may be of {' or '.join(fitting or keys)}")
    mine.sort(key=lambda item: item[:3])
    if source.tasks:
        source.refused += [f"{item[2]} is not used: {source.root} has a tasks.csv of {hardware}" for item in mine]
        return
    if mine:
        *others, (_, timestamp, path, source.tasks, source.log) = mine
        source.refused += [f"{item[2]} is not used: {path} is, the newest complete one of {gpu}" for item in others]
        source.dates += span_of_run(path, timestamp, source.tasks)
        source.files.append((path, len(source.tasks)))


def times(root, hardware):
    """ISO times in the heads of the searches of one hardware key."""
    found = []
    for path in (path for key, _, folder in kernel_folders(root) if key == hardware for path in folder.rglob("*.csv")):
        with suppress(RecordError):
            said = re.search(r"^# Time: (.*)$", read_text(path), re.MULTILINE)
            found.append(names.instant(said[1].strip()) if said else None)
    return [time for time in found if time]


def in_span(found, span):
    """Whether there are times, and all lie within [first, last]. Times without an offset are of one clock."""
    return bool(found and span) and span[0] <= min(found) and max(found) <= span[1]


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
    first = min(begun).replace(microsecond=0).isoformat()
    return [names.instant(first) or timestamp, timestamp]


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
            if type(seconds) not in (int, float) or not 0 <= seconds < LONGEST:
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
