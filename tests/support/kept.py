"""Figures of the kept points and their ratios, without the report's code: what its sentences are held against."""

import json
import math
import tarfile
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

from places import ROOT

DENSE, MODEL = ("cublaslt", "cutlass"), "BitNet-2B-synthetic"
H200, H100 = "H200_cc90_py312_cu130_x86_64", "H100_cc90_py312_cu130_x86_64"


@cache
def points(key):
    """(stage, dtype, backend, sparsity, M) -> the kept point."""
    found = {}
    with tarfile.open(ROOT / "resources" / "measured" / key / "points.tar.xz") as archive:
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
    """A figure or ratio with the half-width of its interval (relative, None if unknown), its GPU and why it is out."""

    def __init__(self, value, spread, gpu="", out=""):
        self.value, self.spread, self.gpu, self.out = value, spread, gpu, out

    def over(self, other):
        spread = None if None in (self.spread, other.spread) else math.hypot(self.spread, other.spread)
        across = "⇄" if self.gpu != other.gpu else ""
        return Figure(self.value / other.value, spread, across, self.out or other.out)

    @property
    def verdict(self):
        if self.spread is None or self.gpu == "⇄":
            return "unknown"
        low, high = self.value * (1 - self.spread), self.value * (1 + self.spread)
        return "even" if low <= 1 <= high else "faster" if self.value > 1 else "slower"

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
        return Figure(min(times, default=results["gpu_step_ms"]), None, gpu, out)
    wall = results["step_s"]["median"]
    low, high = ends(results["repeats_s"], wall)
    reasons = [results["state"][when].get("throttle_reasons") for when in ("before", "after")]
    excess = 1e3 * (wall - (high - low) / 2) - 1.02 * results["gpu_step_ms"]
    late = results["host_bound"] or (None not in reasons and not any(r & 4 for r in reasons) and excess > 0)
    return Figure(1e3 * wall, (high - low) / 2 / wall, gpu, out or ("bound by the host" if late else ""))


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
    """(ratio, own µs, rival's µs) of a layer's products, or whole linears, in turn: cublaslt, best or whole."""
    mine, theirs, half = 0, 0, []
    for gemm in points(key)["kernel", dtype, "cusparselt", sparsity, M]["results"]["gemms"]:
        peers, own = [peer for peer in gemm["peers"] if peer.get("speedup")], gemm
        if rival == "whole":
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
        us = time / middle if rival == "best" else 1e6 * own["cold"]["median_s"]
        mine, theirs, half = mine + us, theirs + time, [*half, (high - low) / 2 * us]
    return Figure(theirs / mine, math.hypot(*half) / theirs), mine, theirs


def changed(dtype, sparsity):
    """Percent of the weights that pruning changed."""
    manifest = ROOT / "resources" / "measured" / "checkpoints" / MODEL / dtype / f"{sparsity}.json"
    item = json.loads(manifest.read_text())
    return "0" if sparsity == "dense" else rounded(100 * item["changed"] / item["weights"], 1)


def named(column):
    backend, _, pattern = column.partition("/")
    return pattern.replace("_", ":") + (" auto" if backend == "auto" else "")


def order(text):
    pattern, _, backend = text.partition(" ")
    return int(pattern[2:]), backend


def two(value):
    return rounded(value, 2)


def span(values):
    low, high = two(min(values)), two(max(values))
    return low if low == high else f"{low} to {high}"
