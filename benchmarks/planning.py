"""Time and peak memory of planning with `snakemake --dry-run`, for sweeps of 500 to 50,000 points. Needs no GPU.

    python benchmarks/planning.py                 # all sweeps; --points 5000 for one

A sweep is both dtypes of one model on one GPU. Each dtype has 21 kernel, 21 prefill and 21 decode configurations, with
as many M as the sweep takes. It is planned as a whole, and for one of its points. Sweeps of up to --done points are
also planned with all outputs present.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from slidesparse.plan import matrix as configuration

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

CONFIGURATIONS = 2 * 3 * (1 + len(PATTERNS))


def sweep(points):
    """A configuration with about `points` points, which replaces keys of config.yaml."""
    count = max(1, round(points / CONFIGURATIONS))
    stage = {"M": [16 * i for i in range(1, 1 + count)], "sparsity": PATTERNS}
    return {"hardware": KEY, "kernel": stage, "decode": stage, "prefill": stage | {"M": [1024 * M for M in stage["M"]]}}


def call(directory, *arguments):
    """(wall seconds, seconds of the processor, peak GiB) of one call of Snakemake."""
    command = [sys.executable, "-m", "snakemake", "--configfile", "sweep.yaml", *arguments]
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            output.seek(0)
            sys.exit(output.read()[-4000:])
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def finish(directory, points, models):
    """Make every output, without real content, and let Snakemake record it as made."""
    results = directory / "results"
    files = [results / "models" / model / name for model in models for name in ("manifest.json", "shape.json")]
    files += [results / KEY / name for name in ("report.md", "tasks.csv")]
    for key in points:
        table = Path(key.tuning(results))
        files += [table, table.with_suffix(".csv"), *map(Path, (key.path(results), key.csv(results)))]
        files.append(results / "checkpoints" / key.model / key.dtype / f"{key.sparsity}.json")
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
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
    full = configuration.validated(plain)
    matrix = configuration.matrix(full, KEY)
    asked = {"everything": "all", "one point": matrix[-1].path("results")}
    for what, target in asked.items():
        show(matrix, what, *call(directory, "--dry-run", "--quiet", "all", "--", target))
    if done:
        finish(directory, matrix, full["models"])
        show(matrix, "all there", *call(directory, "--dry-run", "--quiet", "all", "--", "all"))


def show(matrix, what, seconds, processor, gib):
    print(f"{len(matrix):>7}  {what:<11}{seconds:8.1f}{processor:11.1f}{gib:7.2f}", flush=True)


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
