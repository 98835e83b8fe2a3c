"""How far two result trees agree: in medians, and in paired ratios of the kernel stage.

    python benchmarks/repeatability.py results repeated/results

For every M it prints the share of figures that differ by at most 3 %, and the median, 95th percentile and largest
difference. Both trees hold gathered CSVs. Figures that only one of them has are counted and left out.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import median

from slidesparse.plan.backends import STAGES
from slidesparse.report.tables.columns import LIBRARIES, M_COLUMN, RIVALS

KINDS = {
    "cold": ("latency_us", "latency_int32_us", *(f"{name}_us" for name in RIVALS)),
    "hot": ("latency_hot_us",),
    "whole linear": ("linear_us", "linear_folded_us", *(f"{name}_linear_us" for name in LIBRARIES)),
    "paired ratio": ("speedup_best_dense", "speedup_cublaslt", "speedup_linear"),
    "step": ("step_ms",),
    "GPU time of a step": ("gpu_step_ms",),
}
CLOSE = 0.03


def figures(root):
    """{(hardware, stage and configuration, M, linear, column): value} of every CSV of points below a result tree."""
    found = {}
    for path in (path for stage in STAGES for path in Path(root).glob(f"*/{stage}/*/*/*/*/*.csv")):
        with path.open() as stream:
            for row in csv.DictReader(stream):
                for column in (column for columns in KINDS.values() for column in columns):
                    if row.get(column):
                        M = int(row[M_COLUMN[path.parts[-6]]])
                        found[path.parts[-7:-1], M, row.get("linear"), column] = float(row[column])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    one, other = figures(arguments.first), figures(arguments.second)
    both = one.keys() & other.keys()
    kinds = {column: kind for kind, columns in KINDS.items() for column in columns}
    differences = defaultdict(list)
    for key in both:
        difference = abs(one[key] / other[key] - 1)
        for M in (key[1], "all"):
            differences[kinds[key[3]], M].append(difference)
    print(f"{len(both)} figures in both, {len(one.keys() ^ other.keys())} in one only")
    print(f"{'figure':>18} {'M':>6} {'number':>7} {'within 3 %':>11} {'median':>8} {'p95':>8} {'largest':>8}")
    for kind in KINDS:
        for M in [*sorted({M for k, M in differences if k == kind and M != "all"}), "all"]:
            found = sorted(differences[kind, M])
            if found:
                share = sum(difference <= CLOSE for difference in found) / len(found)
                tail = (median(found), found[int(0.95 * len(found))], found[-1])
                print(f"{kind:>18} {M:>6} {len(found):>7} {share:>10.1%}", *(f"{value:>8.2%}" for value in tail))


if __name__ == "__main__":
    main()
