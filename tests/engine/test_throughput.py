"""What a point makes of the times of steps, told by an engine that stands in for one on a GPU under a power limit."""

from types import SimpleNamespace

import pytest

from slidesparse.engine import throughput
from slidesparse.engine.engine import Run

PARAMETERS = {"steps": 24, "prompt_cap": 1024, "warmup_steps": 8, "relative_ci": 0.01, "time_limit_s": 60}
PARAMETERS |= {"min_repeats": 5, "max_repeats": 10}
DECODE = {"prompt_len": 16, "output_len": 5, "warmup_steps": 1, "relative_ci": 0.01, "time_limit_s": 60}
DECODE |= {"min_repeats": 5, "max_repeats": 6}


class Limited:
    """Steps of 40 ms for the first three quarters of a second of a run, of 50 ms for the next third, of 45 ms then, all
    `pace` times as long; `late` seconds pass before one is told of, except at the end of a run."""

    device, size = "cuda", SimpleNamespace(sequences=64)

    def __init__(self, late=0.0, pace=lambda run: 1.0):
        self.late, self.pace, self.runs, self.windows = late, pace, [], []

    def run(self, lengths, output_len, limits, deadline, windows=()):
        count = len(lengths) * sum(lengths[:1]) // limits[0] if output_len == 1 else output_len
        ends, pace = [0.0], self.pace(len(self.runs))
        for _ in range(count):
            ends.append(ends[-1] + pace * (0.040 if ends[-1] < 0.75 else 0.050 if ends[-1] < 1.1 else 0.045))
        told = [end + self.late * (0 < i < count - 1) for i, end in enumerate(ends)]
        seconds = [after - before for before, after in zip(told, told[1:], strict=False)]
        tokens = limits if output_len == 1 else (limits[1], limits[1])
        steps = [(limits[0], limits[1] if output_len > 1 else 8)] + [(tokens[0], tokens[1])] * (count - 1)
        self.runs.append(count)
        return Run(seconds, steps, ["FULL"] * count, told[-1], [self.profile(count, *window) for window in windows])

    def profile(self, steps, begin, recorded):
        """Each window finds a GPU that is slower than before, at a lower clock."""
        self.windows.append((steps, begin, recorded))
        times = 10**6 * (len(self.windows) + 20)
        kernels = [["nvjet", 1, times]]
        return {"clock_mhz": 2000.0 - times / 10**5, "steps": 1, "launches": 1, "gpu_ns": times, "kernels": kernels}

    def describe(self, M):
        return {}


def test_prefill_is_the_pace_that_lasts():
    engine = Limited(late=0.015)
    point = throughput.prefill(engine, 8192, PARAMETERS)
    assert point["repeats_s"] == pytest.approx([0.045] * 5)
    assert point["step_s"]["median"] == pytest.approx(0.045)
    assert point["step_s"]["n"] == 5 * 24
    assert point["steps"] == engine.runs[1]  # one run held all five


def test_repeats_of_long_steps_are_short_and_those_of_short_ones_long_enough():
    point = throughput.prefill(Limited(pace=lambda run: 2.0), 32768, PARAMETERS)
    assert point["step_s"]["n"] == 5 * 13  # a second each
    engine = Limited(pace=lambda run: 0.1)
    point = throughput.prefill(engine, 512, PARAMETERS)
    assert sum(point["samples_s"]) >= throughput.LEAST_S and point["steps"] == engine.runs[1]


def test_a_repeat_is_the_mean_of_its_steps():
    """A host that tells of an end late makes one step long and the next ones short; their sum is right."""

    class Uneven(Limited):
        def run(self, *arguments, **settings):
            taken = super().run(*arguments, **settings)
            return taken._replace(seconds=[0.030 if i % 3 else 0.075 for i in range(len(taken.seconds))])

    point = throughput.prefill(Uneven(), 8192, PARAMETERS | {"steps": 12})
    assert point["repeats_s"] == pytest.approx([0.045] * 5)
    assert point["step_s"]["median"] == pytest.approx(0.045)
    assert point["steady_tokens_per_s"] == pytest.approx(8192 / 0.045)
    assert point["step_s"]["p5"] == pytest.approx(0.030)


def test_repeats_are_added_until_they_agree():
    uneven = Limited(pace=lambda run: 1.0 + 0.2 * (run % 2))
    point = throughput.decode(uneven, 64, DECODE)
    assert len(point["repeats_s"]) == 6
    point = throughput.decode(Limited(pace=lambda run: 2.0), 64, DECODE | {"output_len": 9})
    assert len(point["repeats_s"]) == 5 and point["num_prompts"] == 5 * 64


def test_on_a_gpu_a_step_has_an_interval_of_five_windows():
    """GPU time, parts and clock are of the median window; no window is in the steps of the clock's figure."""
    for stage, M, parameters in (("prefill", 8192, PARAMETERS), ("decode", 64, DECODE | {"output_len": 40})):
        engine = Limited()
        point = getattr(throughput, stage)(engine, M, parameters)
        assert len(point["gpu_steps_ms"]) == 5 <= len(engine.windows)
        assert point["gpu_step_ms"] == sorted(point["gpu_steps_ms"])[2] == point["gemm_ms"]
        for steps, begin, count in engine.windows:
            assert count == throughput.PROFILED[stage] and 0 < begin < begin + count < steps
        assert point["clock_mhz"] == 2000 - 10 * point["gpu_step_ms"]
    spans = [range(begin, begin + count) for _, begin, count in engine.windows]
    assert all(span == spans[0] for span in spans)  # a decode's windows see caches of one length
