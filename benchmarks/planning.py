"""Time and peak memory of planning with `snakemake --dry-run`, for sweeps of 500 to 50,000 points. Needs no GPU.

    python benchmarks/planning.py                 # all sweeps; --points 5000 for one

A sweep is both dtypes of one model on one GPU. Each dtype has 21 kernel, 21 prefill and 21 decode configurations, with
as many M as the sweep takes. It is planned as a whole, and for one of its points. Sweeps of up to --done points are
also planned with all outputs present.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import yaml

from slidesparse.files import write_atomic, write_json
from slidesparse.models import describe
from slidesparse.plan import matrix
from slidesparse.plan.table import Table
from slidesparse.points import request
from slidesparse.report.tables.columns import COLUMNS, M_COLUMN
from slidesparse.tuning.table import to_csv

ROOT = Path(__file__).parents[1]
KEY = "H200_cc90_py312_cu130_x86_64"
PATTERNS = [f"2_{L}" for L in range(4, 44, 2)]
RECORD = """
include: "Snakefile"


onstart:
    for job in workflow.dag.jobs:
        workflow.async_run(workflow.persistence.finished(job))
    os._exit(0)
"""
"""A Snakefile that records all jobs as finished and runs none. Making 5,000 points, or --touch, takes an hour."""

SIZE = 20_000
"""Bytes of a point's results."""

CONFIGURATIONS = 2 * 3 * (1 + len(PATTERNS))


def sweep(points):
    """A configuration with about `points` points, which replaces keys of config.yaml."""
    count = max(1, round(points / CONFIGURATIONS))
    stage = {"M": [16 * i for i in range(1, 1 + count)], "sparsity": PATTERNS}
    return {"hardware": KEY, "kernel": stage, "decode": stage, "prefill": stage | {"M": [1024 * M for M in stage["M"]]}}


def call(directory, *arguments):
    """(wall seconds, seconds of the processor, peak GiB) of one call of Snakemake."""
    command = [sys.executable, "-m", "snakemake", "--configfile", "sweep.yaml", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            output.seek(0)
            sys.exit(output.read()[-4000:])
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def finish(directory, points, config):
    """Make every output, with the heads and the sizes of real ones, and let Snakemake record it as made."""
    results = directory / "results"
    table = Table(config, root=results)
    table.write_plans()
    for model in config["models"]:
        write_json(results / "models" / model / "manifest.json", {})
        write_json(results / "models" / model / "shape.json", describe(model, json.loads(table.entry(model))))
    for language in config["report"]["languages"]:
        for place in (results / KEY / f"report.{language}", results / f"comparison.{language}"):
            for suffix in (".md", ".html"):
                write_atomic(place.with_name(place.name + suffix), "")
    for folder in (results / KEY / "report", results / "comparison"):
        write_atomic(folder / "contents.csv", "")
    write_atomic(results / KEY / "tasks.csv", "")
    tune = table.plans[KEY]["tune"]["M"], table.plans[KEY]["measure"]["tune"]
    for key in points:
        if key.stage != "kernel":
            write_json(key.basis(results), {})
        tuning = Path(key.tuning(results))
        if not tuning.exists():
            linears = request.linears(results / "models" / key.model / "shape.json")
            top = [{"algorithm": i, "name": f"{i}", "latency_us": 1.0, "workspace": 0, "kernels": []} for i in range(3)]
            entries = [
                each | {"K_slid": each["K"], "M": M, "output": "BF16", "top": top} for each in linears for M in tune[0]
            ]
            content = {"schema": 3, "request": request.of_table(tuning, linears, *tune), "entries": entries}
            write_json(tuning, content)
            write_atomic(tuning.with_suffix(".csv"), to_csv(content))
    rows = defaultdict(list)
    for key in points:
        asked = request.request(key, *table.asked(key))
        point = {
            "schema": 1,
            "key": key._asdict(),
            "status": "ok",
            "reason": None,
            "request": asked,
            "results": "0" * SIZE,
        }
        write_json(key.path(results), point)
        row = {M_COLUMN[key.stage]: key.M, "request_digest": asked["digest"]}
        rows[key.stage, key.csv(results)] += [row] * (len(linears) if key.stage == "kernel" else 1)
    for (stage, csv), lines in rows.items():
        cells = [",".join(str(line.get(column, "0.1234567891")) for column in COLUMNS[stage]) for line in lines]
        write_atomic(csv, "\n".join([",".join(COLUMNS[stage]), *cells, ""]))
    (directory / "record.smk").write_text(RECORD)
    call(directory, "--snakefile", "record.smk", "--forceall", "--cores", "1", "--", "all")


def measure(directory, points, done):
    """Print the figures of one sweep. If `done`, also print those with all outputs present."""
    for name in ("Snakefile", "workflow", "config", "profiles", "resources/published"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (directory / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, directory / name)
    config = sweep(points)
    (directory / "sweep.yaml").write_text(yaml.safe_dump(config))
    plain = yaml.safe_load((ROOT / "config" / "config.yaml").read_text()) | config
    full = matrix.validated(plain)
    keys = matrix.matrix(full, KEY)
    asked = {"everything": "all", "one point": keys[-1].path("results")}
    for what, target in asked.items():
        show(keys, what, *call(directory, "--dry-run", "--quiet", "all", "--", target))
    if done:
        finish(directory, keys, full)
        show(keys, "all there", *call(directory, "--dry-run", "--quiet", "all", "--", "all"))


def show(keys, what, seconds, processor, gib):
    print(f"{len(keys):>7}  {what:<11}{seconds:8.1f}{processor:11.1f}{gib:7.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[500, 5000, 50000])
    parser.add_argument("--done", type=int, default=5000, metavar="POINTS", help="largest sweep whose outputs are made")
    arguments = parser.parse_args()
    print(" points  planned     seconds  processor    GiB")
    for points in arguments.points:
        with tempfile.TemporaryDirectory() as directory:
            measure(Path(directory), points, points <= arguments.done)


if __name__ == "__main__":
    main()
