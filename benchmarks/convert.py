"""Time and peak memory of converting a synthetic checkpoint of BitNet-2B's full shape, against the published 44-64 s.

    python benchmarks/convert.py --directory /some/disk --dtypes INT8 FP8 --sparsity 2_4 2_8

The model is generated once, below --directory (4.8 GB). For each dtype and pattern a process of its own converts it and
prints one line.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import yaml

from slidesparse import models

ROOT = Path(__file__).parents[1]


def convert(directory, dtype, sparsity):
    from slidesparse.models import checkpoints

    manifest = json.loads((directory / "manifest.json").read_text())
    models.ensure(manifest, directory)  # verified beforehand, so that only the conversion is timed
    start = time.perf_counter()
    made = checkpoints.convert(manifest, dtype, sparsity, directory)
    seconds = time.perf_counter() - start
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(file["size"] for file in made["files"].values()) / 1e9
    changed = 100 * made["changed"] / made["weights"]
    print(f"{dtype:5}{sparsity:>7}{seconds:8.1f} s{gib:7.2f} GiB peak{size:7.2f} GB{changed:8.2f} % of weights pruned")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--dtypes", nargs="+", default=["INT8", "FP8"])
    parser.add_argument("--sparsity", nargs="+", default=["dense", "2_4", "2_6", "2_8", "2_10"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return convert(arguments.directory, arguments.dtypes[0], arguments.sparsity[0])
    shape = yaml.safe_load((ROOT / "config/config.yaml").read_text())["registry"]["BitNet-2B"]["shape"]
    manifest = models.fetch("BitNet-2B", {"source": "generated", "seed": 1, "shape": shape}, arguments.directory)
    (arguments.directory / "manifest.json").write_text(json.dumps(manifest))
    for dtype in arguments.dtypes:
        for sparsity in arguments.sparsity:
            command = [sys.executable, __file__, "--one", "--directory", str(arguments.directory)]
            subprocess.run([*command, "--dtypes", dtype, "--sparsity", sparsity], check=True)


if __name__ == "__main__":
    main()
