"""Which rows of a tidy table are used, and what is wrong with the others: one bad row costs itself alone."""

from collections import Counter

from slidesparse.errors import RecordError
from slidesparse.machine.naming import gpu_model, parse
from slidesparse.points.strict import values
from slidesparse.report.sources import names
from slidesparse.report.sources.agree import contradiction as wrong_columns
from slidesparse.report.sources.agree import wrong_operations, wrong_step, wrong_tops
from slidesparse.report.sources.published import FAILED
from slidesparse.report.sources.shapes import wrong_length
from slidesparse.report.tables.columns import M_COLUMN

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

FIGURES = {"kernel": ("latency_us", "eff_tops"), "throughput": ("requests_per_s", "tokens_per_s", "elapsed_s")}
"""Columns of which one holds -1 in the row of a measurement that failed."""

RATIO = 1e-3
"""Published ratios have four decimals."""

SHOWN, MOST_FAULTS = 5, 20
"""Most rows of one fault that a sentence numbers, and most faults of a table that have a sentence."""


def usable(source, path, table, hardware):
    """(the rows that are used, in our names; all rows that say what they are of). table: rows of texts.

    One sentence in `source` tells each fault of others, with the numbers of their rows.
    """
    rows = [values(row, TABLES[path.stem]) for row in table]
    every = [row for row, _ in rows if not stranger(row, path.stem, hardware)]
    rare = rare_shapes(every) if path.stem == "kernel" else set()
    good, faults = {}, {}
    for number, (row, fault) in enumerate(rows, start=1):
        try:
            if fault:
                raise RecordError(fault)
            good[number] = checked(row, path.stem, hardware, every, rare)
        except RecordError as error:
            faults.setdefault(str(error), []).append(number)
    for fault, numbers in repeats(good, path.stem):
        faults.setdefault(fault, []).extend(numbers)
        good = {number: row for number, row in good.items() if number not in numbers}
    source.refused += [f"{path}: {sentence}" for sentence in told(faults)]
    return [*good.values()], every


def checked(row, name, hardware, every, rare):
    """A row in our names. Raises RecordError if it cannot be used.

    every: the rows that say what they are of. rare: what `rare_shapes` gives of them.
    """
    wrong = stranger(row, name, hardware)
    if wrong:
        raise RecordError(wrong)
    refuse_unmeasured(row, name)
    row = row | named(row) | {"failed": has_failed(row, name)}
    names.refuse_unable(hardware, [row["dtype"]])
    contradiction = None if row["failed"] else WRONG[name](row)
    if name == "quant_kernels":
        contradiction = contradiction or wrong_ratio(row, every)
    if contradiction:
        raise RecordError(f"it contradicts itself: {contradiction}")
    if name == "kernel" and (row["model"], row["N"], row["K"]) in rare:
        raise RecordError(f"most configurations lack the shape N={row['N']} K={row['K']}")
    return row


def repeats(good, name):
    """[(what is wrong, numbers of the rows)] of usable rows for one configuration: which is right is not known."""
    groups = {}
    for number, row in good.items():
        groups.setdefault(tuple(row[column] for column in IDENTITY[name]), []).append(number)
    return [
        (
            f"the table holds {len(numbers)} rows for"
            f" {', '.join(f'{column}={value}' for column, value in zip(IDENTITY[name], key, strict=True))}",
            numbers,
        )
        for key, numbers in groups.items()
        if len(numbers) > 1
    ]


def told(faults):
    """Sentences on faults. faults: what is wrong -> numbers of the rows."""
    sentences = []
    for fault, numbers in list(faults.items())[:MOST_FAULTS]:
        which = f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:SHOWN]))}"
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        sentences.append(f"{which}{more} not used: {fault}")
    if len(faults) > MOST_FAULTS:
        n = sum(len(numbers) for numbers in list(faults.values())[MOST_FAULTS:])
        sentences.append(f"{n} more rows not used, for {len(faults) - MOST_FAULTS} more reasons")
    return sentences


def stranger(row, name, hardware):
    """Why a row does not say of what it is, or is of another GPU; None if it says so and is of this one."""
    empty = [column for column in dict.fromkeys((*KEY, *IDENTITY[name])) if row[column] is None]
    if empty:
        return f"it has no usable {', '.join(empty)}"
    gpu, cc, *_ = parse(hardware)
    if (row["gpu"] != gpu and gpu_model(row["gpu"]) != gpu_model(gpu)) or row["cc"] != cc:
        return f"it is of {row['gpu']} cc{row['cc']}"
    sizes = [column for column in ("M", "N", "K") if column in IDENTITY[name] and row[column] <= 0]
    return f"it has {sizes[0]} = {row[sizes[0]]}" if sizes else None


def has_failed(row, name):
    """Whether a row is that of a measurement that failed."""
    return any(row[column] == FAILED for column in FIGURES.get(name, ()))


def refuse_unmeasured(row, name):
    """Raise RecordError if a row lacks a figure, or has one that nobody can have measured."""
    empty = [column for column in MEASURED[name] if row[column] is None]
    if empty:
        raise RecordError(f"it has no usable {', '.join(empty)}")
    zeros = [column for column in MEASURED[name] if row[column] == 0]
    if zeros:
        raise RecordError(f"it has {', '.join(zeros)} = 0, as after a dry run: nobody measured it")
    low = [column for column in MEASURED[name] if row[column] < 0 and row[column] != (has_failed(row, name) and FAILED)]
    if low:
        raise RecordError(f"it has {low[0]} = {row[low[0]]}")


def wrong_throughput(row):
    """How a row of throughput.csv contradicts itself, or None."""
    low = [name for name in COUNTS if row[name] is not None and row[name] <= 0]
    if low:
        return f"it has {low[0]} = {row[low[0]]}"
    if row["stage"] == "prefill" and row["output_len"] not in (None, 1):
        return f"M={row['M']} has output_len = {row['output_len']}, but in prefill a request has one token of output"
    return wrong_columns(row["stage"], in_columns(row)) or wrong_step(row)


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


def named(row):
    """The type, backend and pattern of a row in our names. Raises RecordError for an unknown one, and stage."""
    if row.get("stage", "prefill") not in M_COLUMN:
        raise RecordError(f"the stage {row['stage']!r:.80} is neither prefill nor decode")
    if "backend" not in row:
        return {"dtype": names.dtype(row["dtype"]), "sparsity": names.pattern(row["sparsity"])}
    columns = ("dtype", "backend", "sparsity")
    return dict(zip(columns, names.configured(*(row[column] for column in columns)), strict=True))


def in_columns(row):
    """A row of throughput.csv in the columns of the published layout. Its steps of decode were not counted."""
    same = ("prompt_len", "max_num_seqs", "num_prompts", "requests_per_s", "tokens_per_s")
    values = {name: row[name] for name in same} | {M_COLUMN[row["stage"]]: row["M"], "elapsed_time_s": row["elapsed_s"]}
    return values | ({"N_prefill": row["steps"]} if row["stage"] == "prefill" else {"output_len": row["output_len"]})
