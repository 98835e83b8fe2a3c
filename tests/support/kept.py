"""Figures of the kept points and their ratios, without the report's code: what its sentences are held against."""

import json
import math
import tarfile
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

from places import ROOT

MEASURED = ROOT / "resources" / "measured"
DENSE, MODEL = ("cublaslt", "cutlass"), "BitNet-2B-synthetic"
H200, H100 = "H200_cc90_py312_cu130_x86_64", "H100_cc90_py312_cu130_x86_64"


@cache
def points(key):
    """(stage, dtype, backend, sparsity, M) -> the kept point."""
    found = {}
    with tarfile.open(MEASURED / key / "points.tar.xz") as archive:
        for member in archive:
            if member.isfile() and (point := json.load(archive.extractfile(member)))["status"] == "ok":
                where = point["key"]
                found[where["stage"], where["dtype"], where["backend"], where["sparsity"], where["M"]] = point
    return found


def ends(samples, middle):
    """The interval of a median: ranks l and n-1-l, with the largest l whose coverage is 95 % or more; else all."""
    n, ordered = len(samples), sorted(samples)
    tails = [2 * sum(math.comb(n, i) for i in range(rank + 1)) / 2**n for rank in range(n // 2)] or [1]
    rank = max((rank for rank, tail in enumerate(tails) if tail <= 0.05), default=0)
    return min(ordered[rank], middle), max(ordered[-1 - rank], middle)


def rounded(value, digits):
    return f"{Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,f}"


class Figure:
    """A figure or ratio: half-width of its interval (relative, None if unknown), its GPU, why it is out, its backend.

    A ratio has its sides (rival's, own).
    """

    def __init__(self, value, spread, gpu="", out="", name="", sides=()):
        self.value, self.spread, self.gpu, self.out, self.name, self.sides = value, spread, gpu, out, name, sides

    def over(self, other):
        spread = None if None in (self.spread, other.spread) else math.hypot(self.spread, other.spread)
        across = "⇄" if self.gpu != other.gpu else ""
        return Figure(self.value / other.value, spread, across, self.out or other.out, sides=(self, other))

    @property
    def verdict(self):
        if self.spread is None or self.gpu == "⇄":
            return "unknown"
        low, high = self.value * (1 - self.spread), self.value * (1 + self.spread)
        if low <= 1 <= high:
            return "even" if low >= 0.95 and high <= 1.05 else "unknown"
        return "faster" if self.value > 1 else "slower"

    def text(self, digits=2, interval=True):
        text = rounded(self.value, digits)
        if interval and self.spread is not None:
            low, high = (rounded(self.value * (1 + side * self.spread), digits) for side in (-1, 1))
            text += f" ({low}–{high})"
        return text + (f" {self.gpu}" if self.gpu else "")


def flat(key, stage, dtype, backend, sparsity):
    """M of prefill steps that take no longer than 1.15 times as long for 1.8 times the tokens."""
    Ms = sorted(where[4] for where in points(key) if where[:4] == (stage, dtype, backend, sparsity))
    steps = {M: points(key)[stage, dtype, backend, sparsity, M]["results"]["step_s"]["median"] for M in Ms}
    pairs = [
        (a, b)
        for a, b in zip(Ms, Ms[1:], strict=False)
        if b / a >= 1.8 and steps[b] / steps[a] < 1.15 and stage == "prefill"
    ]
    return {M for pair in pairs for M in pair}


@cache
def engine(key, stage, dtype, backend, sparsity, M, by):
    """Milliseconds of a step by the clock ("step") or of the GPU in it ("gpu")."""
    point = points(key)[stage, dtype, backend, sparsity, M]
    results, gpu = point["results"], point["hardware"].get("uuid", "")
    carried = results["sequences"][0] < M if stage == "decode" else results["tokens"] != [M, M]
    out = "not what M says" if carried else "flat steps" if M in flat(key, stage, dtype, backend, sparsity) else ""
    if by == "gpu":
        times = [each["gpu_step_ms"] for each in results.get("variants", {}).values() if each.get("gpu_step_ms")]
        return Figure(min(times, default=results["gpu_step_ms"]), None, gpu, out, backend)
    wall = results["step_s"]["median"]
    low, high = ends(results["repeats_s"], wall)
    reasons = [results["state"][when].get("throttle_reasons") for when in ("before", "after")]
    excess = 1e3 * (wall - (high - low) / 2) - 1.02 * results["gpu_step_ms"]
    late = results["host_bound"] or (None not in reasons and not any(r & 4 for r in reasons) and excess > 0)
    out = out or ("bound by the host" if late else "")
    return Figure(1e3 * wall, (high - low) / 2 / wall, gpu, out, backend)


@cache
def layer(key, dtype, backend, sparsity, M):
    """(µs of a layer's products, their output type)."""
    point = points(key)["kernel", dtype, backend, sparsity, M]
    gemms, total, half = point["results"]["gemms"], 0, []
    for gemm in gemms:
        middle = 1e6 * gemm["cold"]["median_s"]
        low, high = ends(gemm["samples_us"], middle)
        total, half = total + middle, [*half, (high - low) / 2]
    return Figure(total, math.hypot(*half) / total, point["hardware"].get("uuid", "")), gemms[0]["output"]


@cache
def in_turn(key, dtype, sparsity, M, rival):
    """Ratio of the µs of a layer's products, or whole linears, in turn.

    rival: cublaslt, best, whole, or ours: whole linears of which the sparse ones leave scales to their neighbours.
    """
    mine, theirs, half = 0, 0, []
    for gemm in points(key)["kernel", dtype, "cusparselt", sparsity, M]["results"]["gemms"]:
        peers, own = [peer for peer in gemm["peers"] if peer.get("speedup")], gemm
        if rival in ("whole", "ours"):
            own, *peers = gemm["whole"]
            peer = min(peers, key=lambda each: each["cold"]["median_s"])
        elif rival == "best":
            same = [each for each in peers if each["output"] == gemm["output"]]
            peer = min(same, key=lambda each: each["cold"]["median_s"])
        else:
            peer = next(each for each in peers if each["backend"] == "cublaslt")
            own = next(each for each in (gemm, *gemm["other_outputs"]) if each["output"] == peer["output"])
        middle, time = peer["speedup"]["median"], 1e6 * peer["cold"]["median_s"]
        low, high = ends([b / a for a, b in zip(own["samples_us"], peer["samples_us"], strict=True)], middle)
        us = time / middle if rival == "best" else 1e6 * own["folded" if rival == "ours" else "cold"]["median_s"]
        mine, theirs, half = mine + us, theirs + time, [*half, (high - low) / 2 * us]
    sides = Figure(theirs, None), Figure(mine, None)
    return Figure(theirs / mine, math.hypot(*half) / theirs, sides=sides)


def sparse(key, stage, where):
    """Whether a sparse kernel ran. where: (dtype, backend, sparsity, M)."""
    linears = points(key)[stage, *where]["results"].get("linears", {})
    return where[2] != "dense" and (where[1] != "auto" or any(e["backend"] == "cusparselt" for e in linears.values()))


@cache
def ratios(key, stage, dtype, what, over):
    """{(column, M): ratio} of sparse configurations, as a sentence compares them."""
    found, by = {}, "gpu" if what == "GPU time of a step" else "step"
    for where in [place[1:] for place in points(key) if place[:2] == (stage, dtype)]:
        _, backend, sparsity, M = where
        column = f"{backend}/{sparsity}"
        if not sparse(key, stage, where):
            continue
        if "in turn" in what:
            rival = "whole" if "whole" in what else "cublaslt" if over == "cublaslt" else "best"
            found[column, M] = in_turn(key, dtype, sparsity, M, rival)
            continue
        if stage == "kernel":
            own, kind = layer(key, dtype, backend, sparsity, M)
            dense = {b: layer(key, dtype, b, "dense", M) for b in DENSE if (stage, dtype, b, "dense", M) in points(key)}
            dense = {b: figure for b, (figure, output) in dense.items() if output == kind}
        else:
            own = engine(key, stage, *where, by)
            rivals = ("vllm",) if over.startswith("stock") else DENSE
            dense = {b: engine(key, stage, dtype, b, "dense", M, by) for b in rivals}
        if over == "cublaslt/dense":
            dense = {b: each for b, each in dense.items() if b == "cublaslt"}
        fit = [each for each in dense.values() if each.out in ("", "bound by the host")] or dense.values()
        if fit:
            ratio = min(fit, key=lambda each: each.value).over(own)
            bound = int(sparsity[2:]) / (int(sparsity[2:]) - 2) if sparsity != "2_inf" else 1
            if not over.startswith("stock") and ratio.value * (1 - (ratio.spread or 0)) > bound:
                ratio.out = ratio.out or "above the bound"
            found[column, M] = ratio
    return found
