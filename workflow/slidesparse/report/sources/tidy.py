"""Published figures that exist only as tidy tables: `{root}/tidy/{hardware}/{kernel,throughput,quant_kernels}.csv`.

Leading lines `# key: value` name the GPU, torch, driver and source of all rows. The page resources/published/README.md
says where the tables come from, and what is missing in them.
"""

import os
from contextlib import suppress
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.machine.families import wrong_capability
from slidesparse.plan.key import Configuration
from slidesparse.points.strict import read_csv
from slidesparse.report.sources import names
from slidesparse.report.sources.published import FAILED_SAID, origin
from slidesparse.report.sources.rows import HARDWARE, TIDY, Row
from slidesparse.report.sources.tidy_rows import SHOWN, TABLES, in_columns, named, rare_shapes, usable

FOLDER = "tidy"


def hardware_keys(root):
    """Hardware keys that have tidy tables below a root, sorted."""
    folders = Path(root, FOLDER).glob("*")
    return sorted({path.name for path in folders if HARDWARE.fullmatch(path.name) and os.path.isdir(path)})


def read(source, hardware):
    """Add the tidy tables of one hardware key to `source`; refused files and rows become sentences in it."""
    for path in sorted(Path(source.root, FOLDER, hardware).glob("*.csv")):
        try:
            names.refuse_unprintable(path, source.root)
            names.refuse_copy(path)
            if path.stem not in TABLES:
                raise RecordError(f"{path} is not read: it is not called {', '.join(TABLES)}")
            texts, header = read_table(path, path.stem, hardware)
            said = {names.short_dtype(row["dtype"] or "") for row in texts}, {row["model"] for row in texts}
            names.refuse_other_head(path, header, hardware, *({*each} - {"", None} for each in said))
            table, every = usable(source, path, texts, hardware)
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
    """(rows of texts, leading lines as a dictionary) of one file. Raises RecordError if it is damaged as a whole."""
    wrong = wrong_capability(hardware)
    if wrong:
        raise RecordError(f"{path} does not belong there: {wrong}")
    table, header = read_csv(path, dict.fromkeys(TABLES[name], str))
    if not table:
        raise RecordError(f"{path} is truncated: it holds no rows")
    return table, header


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
            "latency_us": None if row["failed"] else row["latency_us"],
            "effective_tops": None if row["failed"] else row["eff_tops"],
            "caches": "hot",
        }
        configuration = Configuration(row["model"], row["dtype"], row["backend"], row["sparsity"])
        linear = linears_of[row["model"]][row["N"], row["K"]]
        rows.append(
            Row(hardware, "kernel", configuration, row["M"], status_of(row), values, provenance, linear, reason_of(row))
        )
    return rows


def throughput_rows(table, hardware, provenance):
    """Rows of throughput.csv, in the columns of the published layout."""
    rows = []
    for row in table:
        configuration = Configuration(row["model"], row["dtype"], row["backend"], row["sparsity"])
        values, status = in_columns(row), status_of(row)
        rows.append(
            Row(hardware, row["stage"], configuration, row["M"], status, values, provenance, reason=reason_of(row))
        )
    return rows


def status_of(row):
    """Status of a usable row: failed if the file says so."""
    return "failed" if row["failed"] else "ok"


def reason_of(row):
    """Why a usable row has no figures; empty if it has them."""
    return FAILED_SAID if row["failed"] else ""
