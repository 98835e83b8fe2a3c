"""A point must agree with itself: what follows from its other figures, and from its samples, is what it says."""

import json
import random

import pytest

import synthetic
from slidesparse.errors import RecordError
from slidesparse.files import sealed, write_json
from slidesparse.plan.backends import STAGES
from slidesparse.points import answers
from slidesparse.points.consistent import SAMPLED, _summary, contradiction
from slidesparse.points.request import PROTOCOL
from slidesparse.points.validate import read_point
from slidesparse.timing.protocol import summarize

SLID = {"backend": "cusparselt", "sparsity": "2_8"}


@pytest.fixture
def point(tmp_path):
    """A function that makes a point of today's protocol, and where it lies."""

    def make(stage, **place):
        path = synthetic.path(tmp_path, stage, 64, **place)
        return path, synthetic.point(path, protocol=PROTOCOL[stage])

    return make


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("place", [{}, SLID])
def test_a_point_as_it_is_measured_agrees(point, stage, place):
    assert contradiction(point(stage, **place)[1]) is None


CONTRADICTIONS = {
    "tokens a second": ("decode", ("steady_tokens_per_s",), 2.0, "steady_tokens_per_s"),
    "tokens of the published protocol": ("prefill", ("tokens_per_s",), 1.1, "tokens_per_s"),
    "requests a second": ("decode", ("requests_per_s",), 0.5, "tokens_per_s|requests_per_s"),
    "elapsed time": ("decode", ("elapsed_s",), 3, "requests_per_s"),
    "a median outside its interval": ("prefill", ("step_s", "ci_low"), 1.5, "lies outside"),
    "an interval on one side": ("prefill", ("step_s", "ci_high"), 0.5, "lies outside"),
    "percentiles": ("decode", ("step_s", "p95"), 0.5, "p5 .* exceeds|p95 is"),
    "a number of samples": ("decode", ("step_s", "n"), 2, "samples are said"),
    "K'": ("kernel", ("gemms", 0, "K_slid"), 2, "K' is"),
    "operations a second": ("kernel", ("gemms", 1, "effective_tops"), 1.1, "effective_tops"),
    "a latency": ("kernel", ("gemms", 2, "cold", "median_s"), 1.005, "effective_tops|by its samples"),
    "a percentile of latencies": ("kernel", ("gemms", 3, "cold", "p5_s"), 0.9, "by its samples"),
    "an interval of latencies": ("kernel", ("gemms", 0, "cold", "ci_high_s"), 1.1, "by its samples"),
    "bits per byte": ("quality", ("bits_per_byte", "value"), 1.005, "bits_per_byte is"),
    "a perplexity": ("quality", ("reference_perplexity", "value"), 1.005, "reference_perplexity is"),
    "a difference": ("quality", ("extra_bits_per_byte", "value"), 1.005, "extra_bits_per_byte is"),
    "a divergence": ("quality", ("divergence", "value"), 0.5, "divergence is"),
    "a share": ("quality", ("blocks", "agreeing", 0), 0.5, "top1_agreement is"),
    "bytes of a window": ("quality", ("blocks", "bytes", 1), 2, "bytes is"),
    "a number of windows": ("quality", ("context",), 2, "windows"),
    "a number of tokens": ("quality", ("tokens",), 2, "windows|but M is"),
    "a percentile of divergences": ("quality", ("divergence_p99", "ci_high"), 0.5, "lies outside"),
    "a hot latency": ("kernel", ("gemms", 0, "hot", "median_s"), 5, "lies outside"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_named(point, case):
    stage, (*parents, last), factor, sentence = CONTRADICTIONS[case]
    path, content = point(stage, **SLID)
    block = content["results"]
    for name in parents:
        block = block[name]
    block[last] = type(block[last])(block[last] * factor)
    write_json(path, content)
    with pytest.raises(RecordError, match=f"contradicts itself: .*({sentence})") as error:
        read_point(path)
    assert "\n" not in str(error.value)


def test_a_speed_up_must_be_that_of_the_samples(point):
    path, content = point("kernel", **SLID)
    gemm = content["results"]["gemms"][0]
    ratio = {"median": 2.0, "p5": 2.0, "p95": 2.0, "ci_low": 2.0, "ci_high": 2.0, "n": 100}
    slower = {
        "cold": synthetic.seconds_of(0.02, "_s"),
        "samples_us": synthetic.samples_of(0.02 * 1e6),
        "speedup": ratio,
    }
    gemm["peers"] = [{name: gemm[name] for name in ("output", "algorithm", "error_max_abs", "exact")} | slower]
    gemm["peers"][0]["backend"] = "cublaslt"
    assert contradiction(content) is None
    gemm["peers"][0]["speedup"] = ratio | dict.fromkeys(("median", "p5", "p95", "ci_low", "ci_high"), 2.2)
    assert "the speed-up over cublaslt" in contradiction(content)


def test_a_point_without_memory_has_no_results(point):
    _, content = point("prefill")
    assert "but it has results" in contradiction(content | {"status": "out_of_memory"})


@pytest.mark.parametrize("n", [1, 2, 5, 16, 40, 101])
def test_statistics_are_made_as_when_they_were_measured(n):
    draw = random.Random(n)
    samples = [draw.uniform(1, 2) for _ in range(n)]
    there = summarize(samples).as_dict()
    assert _summary(samples) == pytest.approx({name.removesuffix("_s"): there[name] for name in there if name != "n"})


@pytest.mark.parametrize(
    ("stage", "place", "value"),
    [("prefill", ("gpu_step_ms",), "a"), ("kernel", ("gemms", 0, "folded"), "x"), ("decode", ("repeats_s",), 5)],
)
def test_a_figure_of_the_wrong_type_is_a_sentence(point, stage, place, value):
    path, content = point(stage)
    content["results"] |= {f"{part}_ms": 1.0 for part in ("gemm", "attention", "fused", "rest")}
    block = content["results"]
    for name in place[:-1]:
        block = block[name]
    block[place[-1]] = value
    write_json(path, content)
    with pytest.raises(RecordError, match=f"{path.name} is (damaged|not a valid point): "):
        read_point(path)


@pytest.mark.parametrize("stage", SAMPLED)
def test_points_of_protocols_that_keep_samples_are_held_to_them(tmp_path, stage):
    """Those of an earlier one than today's, too, such as the kept ones."""
    path = synthetic.path(tmp_path, stage, 64)
    content = synthetic.point(path, protocol=SAMPLED[stage])
    assert SAMPLED[stage] <= PROTOCOL[stage] and contradiction(content) is None
    results = content["results"]
    if stage == "kernel":
        del results["gemms"][0]["samples_us"]
    else:
        results["step_s"]["n"] += 1
    assert "samples" in contradiction(content)


def test_prompts_of_unequal_length_are_no_contradiction(tmp_path):
    """1025 tokens in prompts of at most 1024 are prompts of 513 and 512."""
    path = synthetic.path(tmp_path, "prefill", 1025)
    content = synthetic.point(path, protocol=PROTOCOL["prefill"])
    results, rate = content["results"], content["results"]["requests_per_s"]
    results |= {"prompt_len": 513, "prompt_lens": [513, 512], "max_num_seqs": 2, "tokens_per_s": rate * 513.5}
    assert contradiction(content) is None
    results["tokens_per_s"] = rate * 514
    assert "tokens_per_s" in contradiction(content)


def test_the_gpu_time_of_a_step_is_the_median_of_its_windows(point):
    path, content = point("decode")
    for median, windows, agrees in ((8.2, [8.4, 8.2, 8.0], True), (8.4, [8.4, 8.2, 8.0], False), (None, [8.0], False)):
        content["results"] |= {"gpu_steps_ms": windows} | ({"gpu_step_ms": median} if median else {})
        assert (contradiction(content) is None) == agrees
        content["results"].pop("gpu_step_ms", None)
    write_json(path, content | {"results": content["results"] | {"gpu_steps_ms": []}})
    with pytest.raises(RecordError, match="gpu_steps_ms"):
        read_point(path)


@pytest.mark.parametrize(("backend", "ran"), [("cusparselt", "cublaslt"), ("auto", "auto"), ("auto", "x")])
def test_the_linears_of_an_engine_ran_on_its_backends(point, backend, ran):
    content = point("decode", backend=backend, sparsity="2_8")[1]
    content["results"]["linears"] = {"qkv": {"backend": "cusparselt"}, "o": {"backend": "cusparselt"}}
    assert contradiction(content) is None
    content["results"]["linears"]["o"] = {"backend": ran}
    assert contradiction(content) == f"linears: o ran on {ran}, which is no backend of {backend}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["hardware"].update(key="H100_cc90_py312_cu130_x86_64"), "measured on H100_cc90"),
        (lambda p: p["run"].update(utc="9999-99-99T99:99:99Z"), "its time, 9999-99-99T99:99:99Z, is none"),
        (lambda p: p["results"].pop("samples_s"), "step_s has no samples"),
        (lambda p: p["results"].pop("step_s"), "it has no step_s"),
    ],
)
def test_a_point_of_another_machine_time_or_without_its_samples_is_named(point, change, said):
    _, content = point("prefill")
    change(content)
    assert said in contradiction(content)


@pytest.mark.parametrize("stage", STAGES)
def test_a_point_that_was_changed_after_it_was_written_is_refused(tmp_path, stage):
    """Also where no other figure depends on what was changed, as with each of these."""
    path = synthetic.path(tmp_path, stage, 64, **SLID)
    content = synthetic.point(path, protocol=PROTOCOL[stage])
    write_json(path, sealed(content))
    assert read_point(path) == sealed(content)
    for change in (
        {"run": content["run"] | {"seconds": 1.5}},
        {"reason": "a reason"},
        {"results": content["results"] | {"a field of nobody's": 1}},
        {"request": content["request"] | {"parameters": {"clock": "ours"}}},
    ):
        write_json(path, sealed(content) | change)
        with pytest.raises(RecordError, match="was changed after it was measured"):
            read_point(path)


def test_a_point_without_a_digest_is_one_of_before_there_were_any(tmp_path):
    path = synthetic.path(tmp_path, "decode", 64)
    content = synthetic.point(path, protocol=PROTOCOL["decode"])
    for utc, good in (("2026-11-29T23:59:59Z", True), ("2026-11-30T00:00:00Z", False)):
        write_json(path, content | {"run": content["run"] | {"utc": utc}})
        if good:
            read_point(path)
        else:
            with pytest.raises(RecordError, match="was changed after it was measured"):
                read_point(path)


@pytest.mark.parametrize(
    "rewritten", [lambda text: text.replace("\n", "\r\n"), lambda text: json.dumps(json.loads(text))]
)
def test_a_point_that_an_editor_wrote_again_answers_as_before(tmp_path, rewritten):
    path = synthetic.path(tmp_path, "decode", 64)
    write_json(path, sealed(synthetic.point(path, protocol=PROTOCOL["decode"])))
    digest = answers.stored_digest(path)
    path.write_text(rewritten(path.read_text()), newline="")
    assert digest and answers.stored_digest(path) == digest
    path.write_text(path.read_text()[:-40])
    assert answers.stored_digest(path) is None
