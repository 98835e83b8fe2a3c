"""Whether a point agrees with itself: what follows from other figures of the same point must be what follows.

A schema knows the form of a figure and its bounds. It does not know that an interval holds its median, or that tokens a
second are M over the time of a step.
"""

import math
from datetime import datetime

from slidesparse.machine import naming
from slidesparse.plan.backends import BACKENDS
from slidesparse.sparsity.patterns import Pattern

SAMPLED = {"kernel": 5, "prefill": 9, "decode": 7}
"""The first protocol of each stage whose points keep all samples, and whose steps are medians of means of repeats."""

RELATIVE = 1e-6
"""How much a figure may differ from what others say, relatively: floats are stored as they are."""

ROUNDED_US = 2e-3
"""How much a statistic of samples may differ from the stored one, in microseconds: samples have three decimals."""

ROUNDED_PARTS = 1e-3
"""How much the parts of a step may differ from its GPU time, relatively: kernels may overlap."""

ROUNDED_RATIO = 2e-3
"""How much the median of ratios of samples may differ from the stored one, relatively."""


def contradiction(point):
    """What of a valid point contradicts the rest of it, as a sentence without a full stop; None if nothing does."""
    if point["status"] == "out_of_memory" and naming.parse(point["key"]["hardware"]).processor == "cpu":
        return "out of memory is no result on a CPU"
    if point["status"] != "ok":  # stock vLLM's point says what became of its variants
        more = point["results"].keys() - {"variants"}
        return f"its status is {point['status']}, but it has results" if more else None
    key, results = point["key"], point["results"]
    if not naming.is_of(key["hardware"], point["hardware"].get("key", key["hardware"])):
        return f"it was measured on {point['hardware']['key']}"
    if not _is_time(point["run"]["utc"]):
        return f"its time, {point['run']['utc']}, is none"
    if key["stage"] == "quality":
        return next(filter(None, _quality(key, results)), None)
    sampled = point["request"]["protocol"] >= SAMPLED[key["stage"]]
    check = _kernel if key["stage"] == "kernel" else _throughput
    return next(filter(None, check(key, results, sampled)), None)


def _is_time(text):
    """Whether a text is a time that the calendar has."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")) is not None
    except ValueError:
        return False


def _kernel(key, results, sampled):
    """sampled: whether its protocol is one of `SAMPLED` or a later one; earlier ones kept less."""
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
                    yield _ordered(f"{name}: {what}, {statistic}", product[statistic])
            if "samples_us" in product:
                yield _summarises(f"{name}: {what}", product["cold"], product["samples_us"], 1e6, ROUNDED_US)
            elif sampled:
                yield f"{name}: {what} has no samples"
        yield from _speedups(name, gemm)


def _products(gemm):
    """(what it is, its block) of a linear's own product and of all that were measured beside it."""
    yield "the product", gemm
    for block in ("other_outputs", "peers", "whole"):
        for product in gemm.get(block, ()):
            yield f"{block} {product.get('backend', '')}".strip(), product


def _speedups(name, gemm):
    """Sentences on speed-ups that the samples do not show: statistics of paired ratios, rival over own."""
    own = {product["output"]: product for product in (gemm, *gemm.get("other_outputs", ()))}
    pairs = [(peer, own.get(peer["output"])) for peer in gemm.get("peers", ())]
    first, *others = gemm.get("whole", ()) or (None,)
    pairs += [(other, first) for other in others]
    for rival, ours in pairs:
        said = rival.get("speedup")
        if said and ours and "samples_us" in rival and "samples_us" in ours:
            ratios = [theirs / mine for theirs, mine in zip(rival["samples_us"], ours["samples_us"], strict=False)]
            what = f"{name}: the speed-up over {rival.get('backend')}"
            yield _summarises(what, said, ratios, 1, ROUNDED_RATIO * said["median"])


def _throughput(key, results, sampled):
    """sampled: whether its protocol is one of `SAMPLED` or a later one; earlier ones took the median of all steps."""
    step, repeats, samples = (results.get(name) for name in ("step_s", "repeats_s", "samples_s"))
    if step:
        yield _ordered("step_s", step, percentiles_of_median=False)
        yield _same("steady_tokens_per_s", results.get("steady_tokens_per_s"), key["M"] / step["median"])
        if sampled and repeats:
            yield _summarises("step_s", {"median": step["median"], **_ends(step, "ci")}, repeats, 1, 0, len(repeats))
        if sampled and samples:
            yield _summarises("step_s", _ends(step, "p"), samples, 1, 1e-8, step["n"])
        elif sampled:
            yield "step_s has no samples"
    elif sampled:
        yield "it has no step_s"
    parts = [results.get(f"{part}_ms") for part in ("gemm", "attention", "fused", "rest")]
    if results.get("gpu_step_ms") and None not in parts:
        yield _same("gpu_step_ms", results["gpu_step_ms"], sum(parts), ROUNDED_PARTS)
    if results.get("gpu_steps_ms"):
        yield _same("gpu_step_ms", results.get("gpu_step_ms") or 0, _summary(results["gpu_steps_ms"])["median"])
    requests, tokens, elapsed = (results.get(name) for name in ("requests_per_s", "tokens_per_s", "elapsed_s"))
    if requests and tokens:
        lengths = results.get("prompt_lens") or [results["prompt_len"]]
        yield _same("tokens_per_s", tokens, requests * (sum(lengths) / len(lengths) + results["output_len"]))
    if requests and elapsed:
        yield _same("requests_per_s", requests, results["num_prompts"] / elapsed)
    for name in ("tokens", "sequences"):
        if results.get(name) and results[name][0] > results[name][1]:
            yield f"{name}: the smallest, {results[name][0]}, exceeds the largest, {results[name][1]}"
    yield _other_backend(key, results.get("linears") or {})


def _quality(key, results):
    """Figures of a text are those of the sums over its windows."""
    blocks, tokens, own = results["blocks"], results["tokens"], results["reference"]
    windows = tokens / results["context"]
    for name, sums in blocks.items():
        if len(sums) != windows:
            yield f"blocks: {name} has {len(sums)} windows, but {tokens} tokens are {windows:g}"
    if tokens != key["M"]:
        yield f"tokens is {tokens}, but M is {key['M']}"
    if own != ("R" if key["sparsity"] == "dense" else "dense"):
        yield f"reference is {own}, with which {key['sparsity']} is not compared"
    sums = {name: math.fsum(values) for name, values in blocks.items()}
    yield _same("bytes", results["bytes"], sums["bytes"])
    bits = math.log(2) * results["bytes"]
    for name, part in (("", "nats"), ("reference_", "reference_nats")):
        yield _same(f"{name}bits_per_byte", results[f"{name}bits_per_byte"]["value"], sums[part] / bits)
        yield _same(f"{name}perplexity", results[f"{name}perplexity"]["value"], math.exp(sums[part] / tokens))
    for name, part in (("divergence", "divergence"), ("top1_agreement", "agreeing")):
        yield _same(name, results[name]["value"], sums[part] / tokens)
    extra = results["bits_per_byte"]["value"] - results["reference_bits_per_byte"]["value"]
    if abs(results["extra_bits_per_byte"]["value"] - extra) > RELATIVE * results["bits_per_byte"]["value"]:
        yield f"extra_bits_per_byte is {results['extra_bits_per_byte']['value']:g}, but {extra:g} follows"
    for name, found in results.items():
        if isinstance(found, dict) and found.get("ci_low") is not None:
            low, value, high = found["ci_low"], found["value"], found["ci_high"]
            if not low <= value <= high:
                yield f"{name}: {value:g} lies outside {low:g} to {high:g}"
    yield _other_backend(key, results.get("linears") or {})


def _other_backend(key, linears):
    """A sentence if a linear of an engine ran on a backend that the engine does not have."""
    if key["backend"] == "auto":
        own = {name for name, backend in BACKENDS.items() if backend.module}
    else:
        own = {key["backend"]} & BACKENDS.keys()
    for name, ran in linears.items():
        if ran["backend"] not in own:
            return f"linears: {name} ran on {ran['backend']}, which is no backend of {key['backend']}"
    return None


def _ends(block, kind):
    return {name: value for name, value in block.items() if name.startswith(kind)}


def _ordered(what, block, percentiles_of_median=True):
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


def _summarises(what, block, samples, unit, rounded, n=None):
    """A sentence if statistics are not those of their samples, which are stored in 1/`unit` and `rounded`."""
    n = block.get("n") if n is None else n
    if len(samples) != n:
        return f"{what}: {n} samples are said, but {len(samples)} are there"
    figures = {name.removesuffix("_s"): value for name, value in block.items()}
    for name, follows in _summary(samples).items():
        if name in figures and abs(unit * figures[name] - follows) > rounded + RELATIVE * follows:
            return f"{what}: {name} is {unit * figures[name]:g}, but {follows:g} by its samples"
    return None


def _summary(samples):
    """The statistics of samples as `timing.protocol.summarize` makes them, without NumPy."""
    ordered, n = sorted(samples), len(samples)
    half = 0.98 * math.sqrt(n)

    def percentile(share):
        at = share * (n - 1)
        low = math.floor(at)
        high = min(low + 1, n - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (at - low)

    return {
        "median": percentile(0.5),
        "p5": percentile(0.05),
        "p95": percentile(0.95),
        "ci_low": ordered[max(0, math.floor(n / 2 - half))],
        "ci_high": ordered[min(n - 1, math.ceil(n / 2 + half))],
    }


def _same(what, said, follows, tolerance=RELATIVE):
    if said is None or math.isclose(said, follows, rel_tol=tolerance):
        return None
    return f"{what} is {said:g}, but {follows:g} follows from the point's other figures"
