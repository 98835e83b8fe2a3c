"""What a GPU did in an interval: its kernels by name, and the parts of a step that they belong to."""

import re
from statistics import median, median_low

PARTS = {
    "fused": r"^_(norm|rope|quantize_lift|scale)\b|reshape_and_cache|triton_(poi|red|per)\w*_fused|rms_norm|"
    r"scaled_(int8|fp8)_quant|rotary|act_and_mul",
    "attention": r"flash|fmha|attention",
    "gemm": r"gemm|gemv|nvjet|cublas|cutlass|splitk",
}
"""part -> pattern of its kernels' names; the first match decides. `fused` is everything between a block's products
and its attention, ours, vLLM's or a compiler's: norms, activations, quantising, rotation, filling the cache."""

LISTED = 24
"""Number of kernels that a point names."""

CLEARS = re.compile("FillFunctor|Memset")
"""Pattern of the names of kernels that clear a counter or a workspace for their neighbour."""


def attributed(events):
    """{launches, gpu_ns, kernels} of (start in ns, duration in ns, name) events, in any order.

    gpu_ns: nanoseconds in which at least one kernel ran.
    kernels: [[name, count, ns]], the longest first. Where several ran at once, the time belongs to the one that began
    first. So the times add up to gpu_ns. If a kernel clears memory for a neighbour, the neighbour's part stands in
    front of its name.
    """
    kernels, until, events = {}, 0, sorted(events)
    names = ["", *(name for _, _, name in events), ""]
    for (start, duration, name), before, after in zip(events, names, names[2:], strict=False):
        end = start + duration
        whose = _served(before, after) if CLEARS.search(name) else None
        name = f"{whose}: {name}" if whose else name
        count, ns = kernels.get(name, (0, 0))
        kernels[name] = (count + 1, ns + max(0, end - max(start, until)))
        until = max(until, end)
    listed = sorted(([name, *counts] for name, counts in kernels.items()), key=lambda kernel: -kernel[2])
    return {"launches": len(events), "gpu_ns": sum(ns for _, _, ns in listed), "kernels": listed}


def _served(before, after):
    """The part for which a kernel between two others clears memory, or None.

    FlashAttention 3 clears its tile counter after each kernel that was given its schedule, and before all others
    (hopper/flash_api.cpp). GEMM libraries clear a workspace before some kernels.
    """
    if "attention" in (part(before), part(after)):
        return "attention"
    return "gemm" if part(after) == "gemm" else None


def part(name):
    """The part of a step that a kernel belongs to: fused, attention, gemm or rest."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name, re.IGNORECASE)), "rest")


def of_windows(profiles, wall_s):
    """Breakdown of one step from the profiles of an odd number of windows, and its wall time in seconds.

    `of_step` of the window of the median GPU time, and {gpu_steps_ms: GPU time of a step in each window, clock_mhz: the
    median of the clocks}.
    """
    times = [profile["gpu_ns"] / profile["steps"] / 1e6 for profile in profiles]
    typical = profiles[times.index(median_low(times))]
    clock = median(profile["clock_mhz"] for profile in profiles)
    return of_step(typical, wall_s) | {"gpu_steps_ms": times, "clock_mhz": clock}


def of_step(profile, wall_s):
    """Breakdown of one step from a profile ({steps, launches, gpu_ns, kernels}) and its wall time in seconds.

    {gpu_step_ms, gemm_ms, attention_ms, fused_ms, rest_ms, idle_ms (wall - GPU), host_bound (wall > 1.1 GPU), launches,
    kernels: [{name, part, count, ms}]}, all per step. Gathering marks more steps as bound by the host.
    """
    steps, times = profile["steps"], dict.fromkeys((*PARTS, "rest"), 0)
    for name, _, ns in profile["kernels"]:
        times[part(name)] += ns
    gpu = profile["gpu_ns"] / steps / 1e6
    return {
        "gpu_step_ms": gpu,
        **{f"{part}_ms": ns / steps / 1e6 for part, ns in times.items()},
        "idle_ms": max(0.0, wall_s * 1e3 - gpu),
        "host_bound": wall_s * 1e3 > 1.1 * gpu,
        "launches": profile["launches"] / steps,
        "kernels": [
            {"name": name[:160], "part": part(name), "count": count / steps, "ms": ns / steps / 1e6}
            for name, count, ns in profile["kernels"][:LISTED]
        ],
    }
