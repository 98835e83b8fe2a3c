"""The protocol of a prefill or decode point, and its columns: repeats of steps of exactly M, until they agree.

A run queues its requests while the engine holds still. Then the engine runs until they are done. The time between the
ends of steps is taken. A repeat is a part of a run, and its figure is the mean of its steps. The energy counter is read
before the first run and after the last. Further runs record, in several windows, what the GPU does in a step, and its
clock.
"""

import time
from math import ceil
from statistics import mean, median

from slidesparse.errors import MeasurementError
from slidesparse.machine import hardware, provenance
from slidesparse.timing import breakdown
from slidesparse.timing.protocol import summarize

LEAST_S = 1.0
"""Least seconds of a point's timed steps together, if `max_repeats` allows: energy counters tick in tenths of a
second."""

LONG_S, FEWEST = 1.0, 4
"""A repeat of a prefill point may end after LONG_S seconds of steps, but not before FEWEST steps. At a power limit
the clock swings with a period of a second."""

SHORT_S = 0.25
"""Least seconds of a repeat of prefill steps on a GPU. Five repeats then exceed LEAST_S."""

SETTLE_S = 1.25
"""Seconds of prefill steps on a GPU that are not counted at the start of a run. A GPU that stood still exceeds its
power limit for three quarters of a second. It is then held below the limit for a third of a second."""

FILLING, EMPTYING = 2, 2
"""Steps at the start and the end of a prefill run that are not counted. The host reports the first ones late,
because it prepares others meanwhile. It reports the last ones in time."""

PROFILED = {"prefill": 4, "decode": 8}
"""Number of steps of a window, whose kernels are recorded."""

WINDOWS = 5
"""Number of windows: the fewest, and odd, so that one of them is the median."""


def split(M, cap):
    """Prompt lengths of one prefill step: M tokens in as few prompts of at most `cap` as possible, of equal length."""
    count = ceil(M / cap)
    return [M // count + (i < M % count) for i in range(count)]


def prefill(engine, M, parameters):
    """Results of a prefill point: repeats of engine steps of exactly M prompt tokens, one output token per prompt.

    A repeat has `steps` steps: fewer if they are long, and on a GPU more if they are short. One run makes `min_repeats`
    repeats, with no pause between them. The columns of the published protocol are of whole runs.
    """
    lengths = split(M, parameters["prompt_cap"])
    limits = (M, engine.size.sequences)  # the sequences of the step before are still there
    deadline = time.monotonic() + parameters["time_limit_s"]

    def run(count, windows=()):
        return engine.run(lengths * count, 1, limits, deadline, windows)

    step = median(run(max(2, parameters["warmup_steps"])).seconds)
    steps = min(parameters["steps"], max(FEWEST, ceil(LONG_S / step)))
    settling = FILLING
    if engine.device == "cuda":
        settling = max(FILLING, ceil(SETTLE_S / step))
        steps = max(steps, ceil(SHORT_S / step))
    made = []

    def repeats(count):
        end = settling + count * steps
        taken = run(end + EMPTYING)
        carried = sorted({tokens for tokens, _ in taken.steps})
        if carried != [M] or len(taken.steps) != end + EMPTYING:
            raise MeasurementError(
                f"prefill steps at M={M} carried {carried} tokens in {len(taken.steps)} steps, not {end + EMPTYING}"
            )
        made.append(len(taken.steps))
        return taken, [taken.seconds[start : start + steps] for start in range(settling, end, steps)]

    def profiled():
        apart = PROFILED["prefill"] + max(FILLING, ceil(SHORT_S / step))  # reading a record lets the GPU stand still
        windows = [(settling + number * apart, PROFILED["prefill"]) for number in range(WINDOWS)]
        return run(sum(windows[-1]) + EMPTYING, windows=windows).profiles

    results = _measured(engine, M, parameters, repeats, profiled)
    requests, tokens = len(lengths) * sum(made), (M + len(lengths)) * sum(made)
    return results | {
        "prompt_len": lengths[0],
        "prompt_lens": lengths,
        "max_num_seqs": len(lengths),
        "num_prompts": requests,
        "steps": sum(made),
        "output_len": 1,
        "requests_per_s": requests / results["elapsed_s"],
        "tokens_per_s": tokens / results["elapsed_s"],
    }


def decode(engine, M, parameters):
    """Results of a decode point: repeats of M sequences from their prompts to `output_len` tokens, M in every step."""
    prompt_len, output_len = parameters["prompt_len"], parameters["output_len"]
    lengths, limits = [prompt_len] * M, (M * prompt_len, M)
    deadline = time.monotonic() + parameters["time_limit_s"]
    engine.run(lengths, 1 + parameters["warmup_steps"], limits, deadline)

    def repeats(_):
        taken = engine.run(lengths, output_len, limits, deadline)
        running = sorted({sequences for _, sequences in taken.steps[1:]})
        if tuple(taken.steps[0]) != (M * prompt_len, M) or running != [M] or len(taken.steps) != output_len:
            raise MeasurementError(
                f"decode at M={M} ran {running} sequences in {len(taken.steps)} steps, the first with"
                f" {taken.steps[0][0]} prompt tokens of {taken.steps[0][1]} sequences"
            )
        return taken._replace(steps=taken.steps[1:], modes=taken.modes[1:]), [taken.seconds[1:]]

    def profiled():
        middle = max(2, output_len // 2)  # the cache is then as full as in the median step
        window, end = (middle, PROFILED["decode"]), middle + PROFILED["decode"] + 2
        return [
            profile for _ in range(WINDOWS) for profile in engine.run(lengths, end, limits, deadline, [window]).profiles
        ]

    results = _measured(engine, M, parameters, repeats, profiled)
    requests, elapsed = M * len(results["repeats_s"]), results["elapsed_s"]
    return results | {
        "prompt_len": prompt_len,
        "max_num_seqs": M,
        "num_prompts": requests,
        "steps": output_len,
        "output_len": output_len,
        "requests_per_s": requests / elapsed,
        "tokens_per_s": requests * (prompt_len + output_len) / elapsed,
    }


def _measured(engine, M, parameters, repeats, profiled):
    """What both stages report: repeats until their means agree, then profiles of a step.

    repeats(n): makes a run of at most n repeats. Returns the run, and for each repeat the seconds of its steps.
    profiled(): makes the runs whose steps are recorded, and returns the profile of each window.

    The columns of the published protocol are of all runs together. Their tokens are prompts and outputs.
    """
    machine = hardware.detect()
    before, energy = provenance.state(machine), provenance.energy_j(machine)
    seconds, means, elapsed, steps, modes = [], [], 0.0, [], set()
    while len(means) < parameters["max_repeats"]:
        taken, times = repeats(min(parameters["min_repeats"], parameters["max_repeats"] - len(means)))
        seconds += [sample for repeat in times for sample in repeat]
        means += map(mean, times)
        elapsed += taken.elapsed_s
        steps += taken.steps
        modes |= set(taken.modes)
        tight = summarize(means).relative_ci <= parameters["relative_ci"] and sum(seconds) >= LEAST_S
        if len(means) >= parameters["min_repeats"] and tight:
            break
    after = provenance.energy_j(machine)
    step, between = summarize(seconds).as_dict(), summarize(means).as_dict()
    step |= {name: between[name] for name in ("median_s", "ci_low_s", "ci_high_s")}  # steps of one repeat are alike
    energy_reason = _no_energy(machine, energy, after, sum(seconds))
    return {
        "step_s": {name.removesuffix("_s"): value for name, value in step.items()},
        "steady_tokens_per_s": M / step["median_s"],
        "repeats_s": means,
        "samples_s": [round(sample, 8) for sample in seconds],
        "elapsed_s": elapsed,
        "tokens": [min(tokens for tokens, _ in steps), max(tokens for tokens, _ in steps)],
        "sequences": [min(sequences for _, sequences in steps), max(sequences for _, sequences in steps)],
        "graph_mode": "+".join(sorted(modes)) or "eager",
        "energy_j_per_token": None if energy_reason else (after - energy) / sum(tokens for tokens, _ in steps),
        "energy_reason": energy_reason,
        "state": {"before": before, "after": provenance.state(machine)},
        **_profile(engine, profiled, step["median_s"]),
        **engine.describe(M),
    }


def _no_energy(machine, before, after, seconds):
    """Why the energy of a point is not known, or None."""
    if before is None or after is None:
        return f"{machine.name} has no energy counter that can be read"
    return None if seconds >= LEAST_S else f"the timed steps took {seconds:.2f} s, too short for the energy counter"


def _profile(engine, profiled, wall_s):
    """The result of `breakdown.of_windows`, or why there is none."""
    if engine.device == "cpu":
        return {"breakdown_reason": "no GPU"}
    profiles = profiled()
    if not all(profile["steps"] and profile["launches"] for profile in profiles):
        return {"breakdown_reason": "the profiler recorded no kernels"}
    return breakdown.of_windows(profiles, wall_s)
