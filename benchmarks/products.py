"""Time of products inside the model over their time in the kernel stage: from points alone, without a GPU.

    tar xJf resources/measured/H100_cc90_py312_cu130_x86_64/points.tar.xz -C /tmp/points
    python benchmarks/products.py /tmp/points --tuning resources/measured

For every configuration and M it prints a ratio. This is the time of a layer's products in a profiled step, over the sum
of their cold latencies in the kernel stage. Below the ratios it lists the sparse kernels that take 5 % longer inside
the model. Most ratios are below 1. Activations inside a model are often still in the L2 cache, and the clock differs.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

SLOWER = 1.05


def points(root):
    """{(hardware, stage, model, dtype, backend, sparsity, M): results} of all points below a tree of one model."""
    found = {}
    for path in sorted(Path(root).glob("*/*/*/*/*/*/M*.json")):
        point = json.loads(path.read_text())
        if point.get("status") == "ok":
            found[(*path.parts[-7:-1], point["key"]["M"])] = point["results"]
    return found


def kernels(tuning, hardware, dtype, sparsity):
    """{(linear, M, algorithm): name of the kernel} of cuSPARSELt's BF16 products."""
    named = {}
    for path in Path(tuning).glob(f"{hardware}/tuning/*/{dtype}/cusparselt/{sparsity}.csv"):
        for row in csv.DictReader(path.open()):
            if row["output"] == "BF16":
                named[row["linear"], int(row["M"]), row["algorithm"]] = row["kernels"]
    return named


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="tree of points")
    parser.add_argument("--tuning", type=Path, help="tree of tuning tables, if another one")
    arguments = parser.parse_args()
    known = points(arguments.results)
    measured = {(*key[:1], *key[3:]): results["gemms"] for key, results in known.items() if key[1] == "kernel"}
    ratios, slower = defaultdict(dict), []
    for (hardware, stage, _, dtype, backend, sparsity, M), step in known.items():
        gemms = {gemm["name"]: gemm for gemm in measured.get((hardware, dtype, backend, sparsity, M), ())}
        own = [kernel for kernel in step.get("kernels", ()) if kernel["part"] == "gemm"]
        inside = [kernel for kernel in own if kernel["count"] > 1]  # the product of the output head runs once
        if not gemms or not inside:
            continue
        layers = round(sum(k["count"] for k in inside if "Memset" not in k["name"]) / len(gemms))
        total = 1e6 * sum(gemm["cold"]["median_s"] for gemm in gemms.values())
        ratios[hardware, stage, dtype, backend, sparsity][M] = 1e3 * sum(k["ms"] for k in inside) / layers / total
        named, users = kernels(arguments.tuning or arguments.results, hardware, dtype, sparsity), defaultdict(list)
        for linear, choice in step.get("linears", {}).items():
            users[named.get((linear, M, choice["algorithm"]))].append(linear)
        for kernel in inside:
            linears = next((users[name] for name in users if name and name[:150] == kernel["name"][:150]), None)
            if linears:
                mine = 1e3 * kernel["ms"] / kernel["count"]
                theirs = 1e6 * sum(gemms[linear]["cold"]["median_s"] for linear in linears) / len(linears)
                if mine > SLOWER * theirs:
                    slower.append((mine / theirs, dtype, sparsity, M, "+".join(linears), mine, theirs, kernel["name"]))
    for key, found in ratios.items():
        print("/".join(key), *(f"{M}: {ratio:.3f}" for M, ratio in sorted(found.items())))
    for ratio, dtype, sparsity, M, linears, mine, theirs, name in sorted(slower, reverse=True):
        print(f"{ratio:.2f} {dtype} {sparsity} M={M} {linears}: {mine:.1f} us inside, {theirs:.1f} alone, {name[:120]}")


if __name__ == "__main__":
    main()
