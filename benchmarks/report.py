"""Time and memory of writing the reports of many GPUs, from CSVs of our layout with made-up figures.

It first writes every report in every form and language from nothing. It then repeats this with one CSV changed, and
with nothing changed.
"""

import argparse
import csv
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slidesparse.report.tables.columns import COLUMNS, M_COLUMN, cell
from slidesparse.sparsity.patterns import Pattern

PROGRAM = Path(__file__).parents[1] / "workflow" / "scripts" / "write_reports.py"
LINEARS = {"qkv": (3840, 2560), "o": (2560, 2560), "gate_up": (13824, 2560), "down": (2560, 6912)}
THROUGHPUT = ("2_4", "2_6", "2_8", "2_10")
KERNEL = (*THROUGHPUT, "2_12", "2_14", "2_16", "2_inf")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--gpus", type=int, default=20)
parser.add_argument("--points", type=int, default=2500, help="of each GPU, about")
parser.add_argument("--processes", type=int, default=2)
parser.add_argument("--languages", nargs="+", default=["en", "zh"])


def write_gpu(root, number, points):
    """CSVs of one GPU: 18 kernel, 10 prefill and 10 decode configurations; returns the number of points."""
    hardware = f"GPU{number}_cc{90 + number}_py312_cu130_x86_64"
    count = 0
    for stage, patterns in (("kernel", KERNEL), ("prefill", THROUGHPUT), ("decode", THROUGHPUT)):
        for dtype in ("INT8", "FP8"):
            for backend, sparsity in (("cublaslt", "dense"), *(("cusparselt", pattern) for pattern in patterns)):
                Ms = [64 * (i + 1) for i in range(points // 38)]
                folder = root / hardware / stage / "BitNet-2B" / dtype / backend / sparsity
                folder.mkdir(parents=True)
                with open(folder / f"BitNet-2B-{dtype}_{stage}.csv", "w", encoding="utf-8", newline="") as stream:
                    writer = csv.writer(stream, lineterminator="\n")
                    writer.writerow(COLUMNS[stage])
                    for M in Ms:
                        for row in rows(stage, M, sparsity, number):
                            writer.writerow(cell(row.get(column)) for column in COLUMNS[stage])
                count += len(Ms)
    return count


def rows(stage, M, sparsity, number):
    """Rows of one point."""
    gain = math.sqrt(Pattern(sparsity).bound)
    common = {"status": "ok", "utc": "2026-03-05T10:00:00Z", "seconds": 2.0, "git_commit": "a" * 40, "git_dirty": False}
    common |= {"request_digest": "0" * 64, "protocol": 1, "gpu_name": f"NVIDIA GPU {number}", "driver": "580.1"}
    common |= {"torch": "2.11.0", "vllm": "0.26.0", M_COLUMN[stage]: M, "samples": 100}
    if stage != "kernel":
        step = (5 + M / 100 / (1 + number / 10)) / gain
        rate = 1000 * M / step
        tokens = M + (256 if stage == "decode" else 1)  # of a request
        elapsed = 128 * tokens / rate
        return [
            common
            | {
                "prompt_len": M,
                "max_num_seqs": 1,
                "num_prompts": 128,
                "N_prefill": 128,
                "N_decode": 256,
                "output_len": 256,
            }
            | {"requests_per_s": 128 / elapsed, "tokens_per_s": rate, "elapsed_time_s": elapsed, "step_ms": step}
            | {"step_ms_ci_low": 0.99 * step, "step_ms_ci_high": 1.01 * step, "steady_tokens_per_s": rate}
        ]
    found = []
    for linear, (N, K) in LINEARS.items():
        us = (4 + 2 * M * N * K / 4e8 / (1 + number / 10)) / gain
        dense = us * gain
        found.append(
            common
            | {
                "N": N,
                "K": K,
                "linear": linear,
                "K_slid": Pattern(sparsity).K_slid(K),
                "alg_count": 20,
                "alg_id": str(M % 7),
            }
            | {
                "latency_us": us,
                "latency_us_ci_low": 0.99 * us,
                "latency_us_ci_high": 1.01 * us,
                "latency_hot_us": 0.8 * us,
            }
            | {"effective_tops": 2 * M * N * K / us / 1e6, "output": "BF16", "exact": False, "error_max_abs": 0.5}
            | {"cublaslt_us": dense, "best_dense": "cublaslt", "best_dense_us": dense, "speedup_best_dense": gain}
            | {"speedup_best_dense_ci_low": 0.99 * gain, "speedup_best_dense_ci_high": 1.01 * gain}
        )
    return found


def measured(root, languages, processes):
    """Seconds of one call of the program on a root."""
    begin = time.perf_counter()
    command = [sys.executable, PROGRAM, "--results", root, "--sources", root, "--languages", *languages]
    command += ["--processes", processes]
    subprocess.run([str(part) for part in command], check=True)
    return time.perf_counter() - begin


def main(arguments):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "results")
        count = sum(write_gpu(root, number, arguments.points) for number in range(arguments.gpus))
        size = sum(file.stat().st_size for file in root.rglob("*.csv"))
        print(f"{count} points of {arguments.gpus} GPUs, {size / 1e6:.0f} MB")
        print(f"from nothing      {measured(root, arguments.languages, arguments.processes):6.1f} s")
        changed = next(root.glob("GPU0_*/prefill/*/INT8/cublaslt/dense/*.csv"))
        changed.write_text("\n".join(changed.read_text().splitlines()[:-1]) + "\n")
        print(f"one CSV changed   {measured(root, arguments.languages, arguments.processes):6.1f} s")
        print(f"nothing changed   {measured(root, arguments.languages, arguments.processes):6.1f} s")
        size = sum(file.stat().st_size for file in root.rglob("*") if file.suffix in (".html", ".md", ".svg", ".png"))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"largest process   {peak:6.0f} MiB; reports and figures {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main(parser.parse_args())
