"""Published figures that exist only as tidy tables: `{root}/tidy/{hardware}/{kernel,throughput,quant_kernels}.csv`.

Leading lines `# key: value` name the GPU, torch, driver and source of all rows. The page resources/published/README.md
says where the tables come from, and what is missing in them.
"""

from collections import Counter
from contextlib import suppress
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.machine.hardware import gpu_model, parse, wrong_capability
from slidesparse.plan.key import Configuration
from slidesparse.points.strict import read_csv, refuse_duplicates, refuse_zeros
from slidesparse.report.sources import names
from slidesparse.report.sources.agree import contradiction, wrong_operations, wrong_step, wrong_tops
from slidesparse.report.sources.published import origin
from slidesparse.report.sources.rows import HARDWARE, TIDY, Row
from slidesparse.report.sources.shapes import wrong_length
from slidesparse.report.tables.columns import M_COLUMN

FOLDER = "tidy"

KEY = {"gpu": str, "cc": int}
TABLES = {
    "kernel": {
        **KEY,
        "dtype": str,
        "model": str,
        "backend": str,
        "sparsity": str,
        "M": int,
        "N": int,
        "K": int,
        "K_expanded": int,
        "latency_us": float,
        "tops": float,
        "eff_tops": float,
        "alg_id": int,
        "split_k": int,
        "workspace": int,
        "alg_count": int,
    },
    "throughput": {
        **KEY,
        "stage": str,
        "dtype": str,
        "model": str,
        "backend": str,
        "sparsity": str,
        "M": int,
        "prompt_len": int,
        "output_len": int,
        "max_num_seqs": int,
        "num_prompts": int,
        "requests_per_s": float,
        "tokens_per_s": float,
        "elapsed_s": float,
        "steps": int,
        "ms_per_step": float,
        "total_tokens": int,
        "source": str,
    },
    "quant_kernels": {
        **KEY,
        "dtype": str,
        "model": str,
        "kernel": str,
        "sparsity": str,
        "M": int,
        "K": int,
        "K_out": int,
        "latency_us": float,
        "ratio_to_memcpy": float,
        "GBps_rw": float,
        "GBps_incl_memset": float,
    },
}
IDENTITY = {
    "kernel": ("dtype", "model", "backend", "sparsity", "M", "N", "K"),
    "throughput": ("stage", "dtype", "model", "backend", "sparsity", "M"),
    "quant_kernels": ("dtype", "model", "kernel", "sparsity", "M"),
}
MEASURED = {
    "kernel": ("M", "N", "K", "K_expanded", "latency_us", "eff_tops"),
    "throughput": ("M", "requests_per_s", "tokens_per_s", "elapsed_s"),
    "quant_kernels": ("M", "K", "latency_us"),
}
"""Columns that every row has. A zero in them means that nothing was measured."""


COUNTS = ("prompt_len", "output_len", "max_num_seqs", "num_prompts", "steps")
"""Columns of throughput.csv that may be empty, and are above zero otherwise."""

LIFT, COPY = "quant_slide", "memcpy"
"""The kernel that is shown, and how the names of those begin that copy the same bytes."""

RATIO = 1e-3
"""Published ratios have four decimals."""

SHOWN, MOST_FAULTS = 5, 20
"""Most rows of one fault that a sentence numbers, and most faults of a table that have a sentence."""


def hardware_keys(root):
    """Hardware keys that have tidy tables below a root, sorted."""
    return sorted({path.name for path in Path(root, FOLDER).glob("*") if HARDWARE.fullmatch(path.name)})


def read(source, hardware):
    """Add the tidy tables of one hardware key to `source`; refused files and rows become sentences in it."""
    for path in sorted(Path(source.root, FOLDER, hardware).glob("*.csv")):
        try:
            names.refuse_unprintable(path, source.root)
            names.refuse_copy(path)
            if path.stem not in TABLES:
                raise RecordError(f"{path} is not read: it is not called {', '.join(TABLES)}")
            table, header = read_table(path, path.stem, hardware)
            said = {names.short_dtype(row["dtype"]) for row in table}, {row["model"] for row in table}
            names.refuse_other_head(path, header, hardware, *said)
            every, table = table, usable(source, path, table, hardware)
        except RecordError as error:
            source.refused.append(str(error))
            continue
        if path.stem == "quant_kernels":
            source.lifts += table
            source.files += [(str(path), len(table))] if table else []
            continue
        if path.stem == "kernel":
            shapes = shapes_of(every)
            source.refused += lacking(path, table, shapes)
            for model, found in shapes.items():
                source.linears.setdefault(model, len(found))
            rows = kernel_rows(table, hardware, origin(header), shapes)
        else:
            rows = throughput_rows(table, hardware, origin(header))
        for row in rows:
            source.announce(row.stage, row.configuration, [row.M])
        for row in every:  # those that are not used were to be there, too
            with suppress(RecordError):
                called = row | named(row)
                configuration = Configuration(row["model"], called["dtype"], called["backend"], called["sparsity"])
                source.announce(row.get("stage", "kernel"), configuration, [row["M"]])
        source.add(TIDY, rows, path)


def read_table(path, name, hardware):
    """(rows, leading lines as a dictionary) of one file. Raises RecordError if it is damaged or of other hardware."""
    table, header = read_csv(path, TABLES[name])
    if not table:
        raise RecordError(f"{path} is truncated: it holds no rows")
    refuse_duplicates(path, table, IDENTITY[name])
    refuse_zeros(path, table, MEASURED[name])
    gpu, cc, *_ = parse(hardware)
    for number, row in enumerate(table, start=1):
        empty = [column for column in dict.fromkeys((*KEY, *IDENTITY[name], *MEASURED[name])) if row[column] is None]
        if empty:
            raise RecordError(f"{path} is damaged: row {number} has no usable {', '.join(empty)}")
        if (row["gpu"] != gpu and gpu_model(row["gpu"]) != gpu_model(gpu)) or row["cc"] != cc:
            raise RecordError(f"{path} does not belong there: row {number} is of {row['gpu']} cc{row['cc']}")
    wrong = wrong_capability(hardware)
    if wrong:
        raise RecordError(f"{path} does not belong there: {wrong}")
    return table, header


def usable(source, path, table, hardware):
    """The rows whose names are known and whose columns agree, in our names. One sentence tells each fault of others."""
    good, faults, seen = [], {}, set()
    rare = rare_shapes(table) if path.stem == "kernel" else set()
    for number, row in enumerate(table, start=1):
        try:
            low = [column for column in MEASURED[path.stem] if row[column] < 0]
            if low:
                raise RecordError(f"it has {low[0]} = {row[low[0]]}")
            row = row | named(row)
            names.refuse_unable(hardware, [row["dtype"]])
            key = tuple(row[column] for column in IDENTITY[path.stem])
            if key in seen:
                raise RecordError("the same configuration stands above under another name of its pattern or type")
            wrong = WRONG[path.stem](row)
            if path.stem == "quant_kernels":
                wrong = wrong or wrong_ratio(row, table)
            if wrong:
                raise RecordError(f"it contradicts itself: {wrong}")
            if path.stem == "kernel" and (row["model"], row["N"], row["K"]) in rare:
                raise RecordError(f"most configurations lack the shape N={row['N']} K={row['K']}")
        except RecordError as error:
            faults.setdefault(str(error), []).append(number)
            continue
        seen.add(key)
        good.append(row)
    for fault, numbers in list(faults.items())[:MOST_FAULTS]:
        which = f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:SHOWN]))}"
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        source.refused.append(f"{path}: {which}{more} not used: {fault}")
    if len(faults) > MOST_FAULTS:
        n = sum(len(numbers) for numbers in list(faults.values())[MOST_FAULTS:])
        source.refused.append(f"{path}: {n} more rows not used, for {len(faults) - MOST_FAULTS} more reasons")
    return good


def wrong_throughput(row):
    """How a row of throughput.csv contradicts itself, or None."""
    low = [name for name in COUNTS if row[name] is not None and row[name] <= 0]
    if low:
        return f"it has {low[0]} = {row[low[0]]}"
    return contradiction(row["stage"], in_columns(row)) or wrong_step(row)


def wrong_kernel(row):
    """How a row of kernel.csv contradicts itself, or None."""
    wrong = wrong_operations(row, "latency_us", "eff_tops") or wrong_tops(row)
    return wrong or wrong_length(row["sparsity"], row["K"], row["K_expanded"], "K_expanded")


def wrong_lift(row):
    """How a row of quant_kernels.csv contradicts itself, or None. Raises RecordError for a kernel that is not shown."""
    if row["kernel"] != LIFT and not row["kernel"].startswith(COPY):
        raise RecordError(f"the kernel {row['kernel']!r:.80} is neither {LIFT} nor a {COPY}")
    low = [name for name in ("ratio_to_memcpy", "GBps_rw", "GBps_incl_memset") if (row[name] or 1) <= 0]
    low += ["ratio_to_memcpy"] if row["ratio_to_memcpy"] == 0 else []
    if low:
        return f"it has {low[0]} = {row[low[0]]}"
    return wrong_length(row["sparsity"], row["K"], row["K_out"], "K_out")


def wrong_ratio(row, table):
    """How the ratio of a lift to a copy contradicts the copy's row in its table; None if it does not."""
    copies = [each for each in table if each["kernel"].startswith(COPY)]
    copies = [each for each in copies if all(each[name] == row[name] for name in ("model", "M"))]
    copies = [each for each in copies if names.short_dtype(each["dtype"]) == row["dtype"]]
    follows = [row["latency_us"] / each["latency_us"] for each in copies if each["latency_us"]]
    said = row["ratio_to_memcpy"]
    if row["kernel"] != LIFT or said is None or not follows:
        return None
    if any(abs(said - each) <= RATIO * (1 + each) for each in follows):
        return None
    return f"it has ratio_to_memcpy = {said:g}, but {follows[0]:.4g} follows from the copy's row"


WRONG = {"throughput": wrong_throughput, "kernel": wrong_kernel, "quant_kernels": wrong_lift}
"""Table -> what tells how its rows contradict themselves."""


def rare_shapes(table):
    """(model, N, K) that less than half of a model's configurations and M have."""
    groups, found = {}, Counter()
    for row in table:
        groups.setdefault(row["model"], set()).add((row["dtype"], row["backend"], row["sparsity"], row["M"]))
        found[row["model"], row["N"], row["K"]] += 1
    return {shape for shape, n in found.items() if 2 * n < len(groups[shape[0]])}


def shapes_of(table):
    """model -> (N, K) of its linears, also of rows that are not used, without those that few configurations have."""
    shapes, rare = {}, rare_shapes(table)
    for row in table:
        if (row["model"], row["N"], row["K"]) not in rare:
            shapes.setdefault(row["model"], set()).add((row["N"], row["K"]))
    return shapes


def lacking(path, table, shapes):
    """Sentences on configurations of kernel.csv that lack a shape at an M at which they have others."""
    there = {}
    for row in table:
        where = row["model"], row["dtype"], row["backend"], row["sparsity"], row["M"]
        there.setdefault(where, set()).add((row["N"], row["K"]))
    sentences = []
    for (model, dtype, backend, sparsity, M), found in there.items():
        gone = sorted(shapes[model] - found)
        if gone:
            which = ", ".join(f"N={N} K={K}" for N, K in gone[:SHOWN])
            sentences.append(f"{path}: {model} {dtype} {backend}/{sparsity} M={M} lacks {which}: it counts in no sum")
    return sentences[:SHOWN] + ([f"{path}: {len(sentences) - SHOWN} more lack shapes"] if sentences[SHOWN:] else [])


def named(row):
    """The type, backend and pattern of a row in our names. Raises RecordError for an unknown one, and stage."""
    if row.get("stage", "prefill") not in M_COLUMN:
        raise RecordError(f"the stage {row['stage']!r:.80} is neither prefill nor decode")
    if "backend" not in row:
        return {"dtype": names.dtype(row["dtype"]), "sparsity": names.pattern(row["sparsity"])}
    columns = ("dtype", "backend", "sparsity")
    return dict(zip(columns, names.configured(*(row[column] for column in columns)), strict=True))


def kernel_rows(table, hardware, provenance, shapes):
    """Rows of kernel.csv. The names of linears follow from their shapes, as `shapes_of` gives them."""
    linears_of = {model: names.linears(sorted(shape)) for model, shape in shapes.items()}
    rows = []
    for row in table:
        split = "" if row["split_k"] is None else f"/split {row['split_k']}"
        values = {
            "N": row["N"],
            "K": row["K"],
            "K_slid": row["K_expanded"],
            "alg_count": row["alg_count"],
            "alg_id": f"{row['alg_id']}{split}",
            "latency_us": row["latency_us"],
            "effective_tops": row["eff_tops"],
            "caches": "hot",
        }
        configuration = Configuration(row["model"], row["dtype"], row["backend"], row["sparsity"])
        linear = linears_of[row["model"]][row["N"], row["K"]]
        rows.append(Row(hardware, "kernel", configuration, row["M"], "ok", values, provenance, linear))
    return rows


def throughput_rows(table, hardware, provenance):
    """Rows of throughput.csv, in the columns of the published layout."""
    rows = []
    for row in table:
        configuration = Configuration(row["model"], row["dtype"], row["backend"], row["sparsity"])
        rows.append(Row(hardware, row["stage"], configuration, row["M"], "ok", in_columns(row), provenance))
    return rows


def in_columns(row):
    """A row of throughput.csv in the columns of the published layout. Its steps of decode were not counted."""
    same = ("prompt_len", "max_num_seqs", "num_prompts", "requests_per_s", "tokens_per_s")
    values = {name: row[name] for name in same} | {M_COLUMN[row["stage"]]: row["M"], "elapsed_time_s": row["elapsed_s"]}
    return values | ({"N_prefill": row["steps"]} if row["stage"] == "prefill" else {"output_len": row["output_len"]})
