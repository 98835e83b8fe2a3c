"""Whether a point agrees with itself: what follows from other figures of the same point must be what follows.

A schema knows the form of a figure and its bounds. It does not know that an interval holds its median, or that tokens a
second are M over the time of a step.
"""

import math
from statistics import median, median_high, median_low

from slidesparse.plan.backends import BACKENDS
from slidesparse.points.request import PROTOCOL
from slidesparse.sparsity.patterns import Pattern

RELATIVE = 1e-6
"""How much a figure may differ from what others say, relatively: floats are stored as they are."""

ROUNDED_US = 2e-3
"""How much the median of samples may differ from the stored one, in microseconds: samples have three decimals."""


def contradiction(point):
    """What of a valid point contradicts the rest of it, as a sentence without a full stop; None if nothing does."""
    if point["status"] != "ok":
        return None
    key, results = point["key"], point["results"]
    if key["stage"] == "kernel":
        return next(filter(None, _kernel(key, results)), None)
    today = point["request"]["protocol"] == PROTOCOL[key["stage"]]
    return next(filter(None, _throughput(key, results, today)), None)


def _kernel(key, results):
    sparse = key["backend"] in BACKENDS and BACKENDS[key["backend"]].sparse
    for gemm in results["gemms"]:
        name = gemm["name"]
        slid = Pattern(key["sparsity"]).K_slid(gemm["K"]) if sparse else gemm["K"]
        if gemm["K_slid"] != slid:
            yield f"{name}: K' is {gemm['K_slid']}, but {key['sparsity']} makes {slid} of {gemm['K']}"
        operations = 2 * key["M"] * gemm["N"] * gemm["K"]
        yield _same(f"{name}: effective_tops", gemm["effective_tops"], operations / gemm["cold"]["median_s"] / 1e12)
        for what, product in _products(gemm):
            for statistic in ("cold", "hot", "folded", "speedup"):
                if product.get(statistic):
                    yield _statistics(f"{name}: {what}, {statistic}", product[statistic])
            if "samples_us" in product:
                yield _samples(f"{name}: {what}", product["samples_us"], product["cold"])


def _products(gemm):
    """(what it is, its block) of a linear's own product and of all that were measured beside it."""
    yield "the product", gemm
    for block in ("other_outputs", "peers", "whole"):
        for product in gemm.get(block, ()):
            yield f"{block} {product.get('backend', '')}".strip(), product


def _throughput(key, results, today):
    """today: whether today's protocol measured it; earlier ones took the median of all steps."""
    step = results.get("step_s")
    if step:
        yield _statistics("step_s", step, percentiles_of_median=False)
        yield _same("steady_tokens_per_s", results.get("steady_tokens_per_s"), key["M"] / step["median"])
        repeats = results.get("repeats_s")
        if today and repeats and not median_low(repeats) <= step["median"] <= median_high(repeats):
            yield f"step_s: the median is {step['median']:g}, but that of the repeats is {median(repeats):g}"
        if results.get("samples_s") and len(results["samples_s"]) != step["n"]:
            yield f"step_s has {step['n']} samples, but {len(results['samples_s'])} are there"
    requests, tokens, elapsed = (results.get(name) for name in ("requests_per_s", "tokens_per_s", "elapsed_s"))
    if requests and tokens:
        yield _same("tokens_per_s", tokens, requests * (results["prompt_len"] + results["output_len"]))
    if requests and elapsed:
        yield _same("requests_per_s", requests, results["num_prompts"] / elapsed)
    for name in ("tokens", "sequences"):
        if results.get(name) and results[name][0] > results[name][1]:
            yield f"{name}: the smallest, {results[name][0]}, exceeds the largest, {results[name][1]}"


def _statistics(what, block, percentiles_of_median=True):
    """A sentence if a median lies outside its interval or its percentiles, or these are the wrong way round."""
    figures = {name.removesuffix("_s"): value for name, value in block.items()}
    middle, ends = figures["median"], [("ci_low", "ci_high")]
    if percentiles_of_median:
        ends.append(("p5", "p95"))
    elif figures["p5"] > figures["p95"]:
        return f"{what}: p5 {figures['p5']:g} exceeds p95 {figures['p95']:g}"
    for low, high in ends:
        if not figures[low] <= middle <= figures[high]:
            return f"{what}: the median {middle:g} lies outside {low} {figures[low]:g} to {high} {figures[high]:g}"
    return None


def _samples(what, samples_us, cold):
    if len(samples_us) != cold["n"]:
        return f"{what}: {cold['n']} samples are said, but {len(samples_us)} are there"
    middle, said = median(samples_us), 1e6 * cold["median_s"]
    if abs(middle - said) > ROUNDED_US + RELATIVE * said:
        return f"{what}: the median is {said:.3f} µs, but that of its samples is {middle:.3f} µs"
    return None


def _same(what, said, follows):
    if said is None or math.isclose(said, follows, rel_tol=RELATIVE):
        return None
    return f"{what} is {said:g}, but {follows:g} follows from the point's other figures"
