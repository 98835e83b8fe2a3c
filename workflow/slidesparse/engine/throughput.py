"""The protocol of a prefill or decode point: repeats of steps of exactly M, until they agree; and its columns.

A run queues its requests while the engine holds still, lets it run until they are done, and takes the time between the
ends of steps. A repeat is a stretch of a run, and its figure the mean of its steps. Between runs the clock and the
energy counter are read; after them, in a run of its own, what the GPU does in a step is recorded.
"""

import time
from math import ceil
from statistics import mean, median

from slidesparse.errors import MeasurementError
from slidesparse.machine import hardware, provenance
from slidesparse.timing import breakdown
from slidesparse.timing.protocol import summarize

LEAST_S = 1.0
"""Seconds that the timed steps of a point take together, if `max_repeats` allows: energy counters tick in tenths."""

LONG_S, FEWEST = 1.0, 4
"""Seconds of steps after which a repeat of a prefill point may end, and steps that it makes in any case: at a power
limit the clock swings with a period of a second."""

SHORT_S = 0.25
"""Seconds that a repeat of prefill steps on a GPU takes at least, so that five exceed LEAST_S."""

SETTLE_S = 1.25
"""Seconds of prefill steps on a GPU that are not counted at the start of a run: one that stood still exceeds its power
limit for three quarters of a second, and is held below it for a third."""

FILLING, EMPTYING = 2, 2
"""Steps at the ends of a run of prefill that are not counted: the host tells of the first ones late, for it prepares
others meanwhile, and of the last ones in time."""

PROFILED = {"prefill": 4, "decode": 8}
"""Steps whose kernels are recorded."""


def split(M, cap):
    """Prompt lengths of one prefill step: M tokens in as few prompts of at most `cap` as can be, equally long."""
    count = ceil(M / cap)
    return [M // count + (i < M % count) for i in range(count)]


def prefill(engine, M, parameters):
    """Results of a prefill point: repeats of engine steps of exactly M prompt tokens, one output token each.

    A repeat has `steps` steps, fewer of long ones, and on a GPU more of short ones. `min_repeats` of them follow each
    other in one run, with no pause between them; the columns of the published protocol are of whole runs.
    """
    lengths = split(M, parameters["prompt_cap"])
    limits = (M, engine.size.sequences)  # those of the step before are there still
    deadline = time.monotonic() + parameters["time_limit_s"]

    def run(count, **profile):
        return engine.run(lengths * count, 1, limits, deadline, **profile)

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
        return run(settling + PROFILED["prefill"] + EMPTYING, profile=(settling, PROFILED["prefill"]))

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
        middle = max(2, output_len // 2)  # with as much in the cache as the median step has
        return engine.run(
            lengths, middle + PROFILED["decode"] + 2, limits, deadline, profile=(middle, PROFILED["decode"])
        )

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
    """What both stages report: repeats until their means agree, then the profile of a step.

    repeats(n): makes a run of at most n repeats; returns it, and the seconds of each one's steps. The columns of the
    published protocol are of all runs together; its tokens are those of prompts and outputs.
    """
    machine = hardware.detect()
    before, energy, clocks = provenance.state(machine), provenance.energy_j(machine), []
    seconds, means, elapsed, steps, modes = [], [], 0.0, [], set()
    while len(means) < parameters["max_repeats"]:
        taken, times = repeats(min(parameters["min_repeats"], parameters["max_repeats"] - len(means)))
        seconds += [sample for repeat in times for sample in repeat]
        means += map(mean, times)
        elapsed += taken.elapsed_s
        steps += taken.steps
        modes |= set(taken.modes)
        clocks.append(engine.ask("state").get("clock_mhz"))
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
        "clock_mhz": None if None in clocks else sum(clocks) / len(clocks),
        "energy_j_per_token": None if energy_reason else (after - energy) / sum(tokens for tokens, _ in steps),
        "energy_reason": energy_reason,
        "state": {"before": before, "after": provenance.state(machine)},
        **_profile(engine, machine, profiled, step["median_s"]),
        **engine.describe(M),
    }


def _no_energy(machine, before, after, seconds):
    """Why the energy of a point is not known, or None."""
    if before is None or after is None:
        return f"{machine.name} has no energy counter that can be read"
    return None if seconds >= LEAST_S else f"the timed steps took {seconds:.2f} s, too short for the energy counter"


def _profile(engine, machine, profiled, wall_s):
    """breakdown.of_step of a step, or why there is none."""
    if not machine.gpu:
        return {"breakdown_reason": "no GPU"}
    profile = profiled().profile
    if not profile["steps"] or not profile["launches"]:
        return {"breakdown_reason": "the profiler recorded no kernels"}
    return breakdown.of_step(profile, wall_s)
