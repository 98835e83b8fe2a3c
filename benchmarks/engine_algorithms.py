"""Is the algorithm that is fastest alone also the fastest inside the model? Prefill steps with each stored algorithm.

    python3 benchmarks/engine_algorithms.py results/checkpoints/BitNet-2B-synthetic/INT8/2_4.json cusparselt \\
        results/KEY/tuning/BitNet-2B/INT8/cusparselt/2_4.json --m 1024 --linears o down

The tuning table holds three algorithms for each of these linears at M. An engine is made for the first, second and
third of them. Each prints its step, the GPU's time in the step and in its products, and the products' kernels with mean
times.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

from slidesparse.engine import throughput
from slidesparse.files import read_json, write_json
from slidesparse.models import checkpoints
from slidesparse.worker import handlers

PARAMETERS = {"steps": 24, "prompt_cap": 1024, "warmup_steps": 8, "min_repeats": 5, "max_repeats": 10}
PARAMETERS |= {"relative_ci": 0.01, "time_limit_s": 120}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("manifest", type=Path, help="of the checkpoint, results/checkpoints/MODEL/DTYPE/SPARSITY.json")
parser.add_argument("backend")
parser.add_argument("table", type=Path, help="its tuning table")
parser.add_argument("--m", type=int, required=True, help="tokens of a step")
parser.add_argument("--linears", nargs="+", default=["qkv", "o", "gate_up", "down"], help="whose algorithm changes")
parser.add_argument("--resources", default="resources")


def led_by(table, linears, M, rank):
    """(the table with the algorithm of `rank` first for some linears at M, {linear: its id})."""
    changed, chosen = copy.deepcopy(table), {}
    for entry in changed["entries"]:
        if entry["M"] == M and entry["linear"] in linears and rank < len(entry["top"]):
            entry["top"].insert(0, entry["top"].pop(rank))
            chosen.setdefault(entry["linear"], entry["top"][0]["algorithm"])
    return changed, chosen


def measured(directory, backend, table, M):
    """Results of a prefill point on a new engine."""
    from slidesparse.engine.engine import Engine, Size

    engine = Engine(directory, backend, table, Size.of("prefill", M, PARAMETERS))
    try:
        return throughput.prefill(engine, M, PARAMETERS)
    finally:
        engine.close()


def main():
    arguments = parser.parse_args()
    handlers.prepare_environment()
    directory = checkpoints.ensure(read_json(arguments.manifest), arguments.resources)
    table = read_json(arguments.table)
    with tempfile.TemporaryDirectory() as scratch:
        for rank in range(3):
            changed, chosen = led_by(table, arguments.linears, arguments.m, rank)
            if not chosen:
                break
            path = Path(scratch, f"{rank}.json")
            write_json(path, changed)
            found = measured(directory, arguments.backend, path, arguments.m)
            times = {name: found.get(name) for name in ("gpu_step_ms", "gemm_ms")}
            print(json.dumps({"rank": rank + 1, "chosen": chosen, "step_ms": 1e3 * found["step_s"]["median"]} | times))
            for kernel in (kernel for kernel in found.get("kernels", ()) if kernel["part"] == "gemm"):
                print(
                    f"  {kernel['count']:5.0f} x {1e3 * kernel['ms'] / kernel['count']:7.2f} us  {kernel['name'][:120]}"
                )


if __name__ == "__main__":
    main()
