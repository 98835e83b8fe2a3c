"""Columns of our CSVs. Published columns come first, so that old and new files can be compared; ours follow."""

import re

from slidesparse.plan.backends import BACKENDS, PEERS

CUBLASLT = "cublaslt"
"""The dense library whose ratios have columns of their own, `speedup_cublaslt…`, beside those of the fastest one."""

STEADY = {
    "step_ms": float,
    "step_ms_p5": float,
    "step_ms_p95": float,
    "step_ms_ci_low": float,
    "step_ms_ci_high": float,
    "step_ms_ci_coverage": float,
    "samples": int,
    "steady_tokens_per_s": float,
}
"""Time of a step. Its median and the ends of its interval (…_ci_…) are those of `repeats` repeats, each the mean of its
steps. `samples` counts single steps, of which p5 and p95 are. The coverage is the probability with which the interval
covers the median, between 0 and 1; it is missing for an old point without samples, whose interval is nominally one of
95 %."""

STEP = {
    "repeats": int,
    "tokens_min": int,
    "tokens_max": int,
    "sequences_min": int,
    "sequences_max": int,
    "gpu_step_ms": float,
    "gpu_step_ms_ci_low": float,
    "gpu_step_ms_ci_high": float,
    "gpu_step_ms_ci_coverage": float,
    "gemm_ms": float,
    "attention_ms": float,
    "fused_ms": float,
    "rest_ms": float,
    "idle_ms": float,
    "launches": float,
    "host_bound": bool,
    "power_capped": bool,
    "graph_mode": str,
    "own_process": bool,
    "num_splits": int,
    "sparse_linears": int,
    "variant": str,
    "least_gpu_variant": str,
    "least_gpu_step_ms": float,
    "clock_mhz": float,
    "energy_j_per_token": float,
    "energy_reason": str,
    "peak_memory_bytes": int,
    "weight_bytes": int,
    "engine_start_s": float,
}
"""How a step of an engine ran. Its parts are GPU time; idle is wall time minus GPU time. GPU time has an interval where
several windows of steps were profiled. host_bound: the step is longer than the GPU's work by more than noise explains.
power_capped: the GPU was at its power limit before or after the timed steps. clock_mhz is read 0.2 ms after the load
has ended, so it is not the clock of the steps and no report shows it. sparse_linears counts the linears of a layer that
ran sparse kernels; `auto` may have chosen dense ones for all of them. Stock vLLM also has the variant with the least
GPU time. By wall time another variant may be the fastest."""

TAIL = {
    "status": str,
    "reason": str,
    "utc": str,
    "seconds": float,
    "git_commit": str,
    "git_dirty": bool,
    "request_digest": str,
    "protocol": int,
    "gpu_name": str,
    "gpu_uuid": str,
    "driver": str,
    "power_limit_w": float,
    "torch": str,
    "vllm": str,
}
WORKLOAD = {"prompt_len": int, "max_num_seqs": int, "num_prompts": int}
RATES = {"requests_per_s": float, "tokens_per_s": float, "elapsed_time_s": float}

PUBLISHED = {
    "prefill": {"M_prefill": int, **WORKLOAD, "N_prefill": int, **RATES},
    "decode": {"M_decode": int, **WORKLOAD, "N_decode": int, "output_len": int, **RATES},
}
LIBRARIES = tuple(PEERS["gpu"])
"""Dense rivals whose whole linears (quantise, product, both scales) take turns with those of a kernel point."""

RIVALS = tuple(
    f"{name}{suffix}" for name in LIBRARIES for suffix in ("", "_int32") if not suffix or BACKENDS[name].int32
)
"""Dense rivals that take turns with a kernel point, one for each output type: INT32 if named, else BF16."""

COLUMNS = {
    "prefill": {**PUBLISHED["prefill"], "prompt": int, **STEADY, **STEP, **TAIL},
    "decode": {**PUBLISHED["decode"], **STEADY, **STEP, **TAIL},
    "kernel": {
        "M": int,
        "N": int,
        "K": int,
        "linear": str,
        "K_slid": int,
        "alg_count": int,
        "alg_id": str,
        "latency_us": float,
        "latency_us_p5": float,
        "latency_us_p95": float,
        "latency_us_ci_low": float,
        "latency_us_ci_high": float,
        "latency_us_ci_coverage": float,
        "latency_hot_us": float,
        "effective_tops": float,
        "output": str,
        "exact": bool,
        "error_max_abs": float,
        "samples": int,
        "latency_int32_us": float,
        "alg_id_int32": str,
        **{f"{name}_us": float for name in RIVALS},
        "best_dense": str,
        "best_dense_us": float,
        "speedup_best_dense": float,
        "speedup_best_dense_ci_low": float,
        "speedup_best_dense_ci_high": float,
        "best_dense_alg": str,
        "speedup_cublaslt": float,
        "speedup_cublaslt_ci_low": float,
        "speedup_cublaslt_ci_high": float,
        "clock_mhz": float,
        "roofline_us": float,
        "roofline_pct": float,
        "roofline_limit": str,
        "linear_us": float,
        "linear_folded_us": float,
        **{f"{name}_linear_us": float for name in LIBRARIES},
        "best_dense_linear": str,
        "best_dense_linear_us": float,
        "speedup_linear": float,
        "speedup_linear_ci_low": float,
        "speedup_linear_ci_high": float,
        "process": str,
        **TAIL,
    },
}
"""stage -> column -> type. Of a kernel row, latency_us_ci_coverage is the coverage of its paired ratios' intervals as
well, which have as many samples; clock_mhz is the clock under the load, and the roofline's; the roofline is empty where
the GPU's rate is not known."""

ESTIMATES = (
    "bits_per_byte",
    "perplexity",
    "reference_bits_per_byte",
    "reference_perplexity",
    "extra_bits_per_byte",
    "divergence",
    "divergence_p99",
    "top1_agreement",
)
"""Figures of a text, each with the ends of its interval of 95 % (…_ci_low, …_ci_high), by a bootstrap of windows.

extra_bits_per_byte is what the reference does not need. The divergence is KL(reference || checkpoint) of a token, in
nats: its mean, and what 99 % of the tokens do not exceed. The agreement is the share of tokens for which both give the
same token the largest probability."""

COLUMNS["quality"] = {
    "tokens": int,
    "context": int,
    "bytes": int,
    "vocabulary": int,
    "reference": str,
    **{f"{name}{end}": float for name in ESTIMATES for end in ("", "_ci_low", "_ci_high")},
    "scoring_s": float,
    **TAIL,
}

SCORES = {
    "task": str,
    "part": str,
    "metric": str,
    "filter": str,
    "value": float,
    "standard_error": float,
    "higher_is_better": bool,
    "documents": int,
    "shots": int,
    "version": str,
    "lm_eval": str,
    "utc": str,
    "seconds": float,
    "git_commit": str,
    "git_dirty": bool,
    "request_digest": str,
    "protocol": int,
    "gpu_name": str,
    "driver": str,
    "torch": str,
    "vllm": str,
}
"""Columns of a CSV of tasks of the lm-evaluation-harness. A part is the task itself, or one that it consists of."""

TASKS = {
    "task": str,
    "status": str,
    "seconds": float,
    "note": str,
    "items_ok": int,
    "items_failed": int,
    "items_expected": int,
}
"""Columns of tasks.csv."""

M_COLUMN = {"prefill": "M_prefill", "decode": "M_decode", "kernel": "M", "quality": "tokens"}

OTHER_PROMPTS = ("prompt",)
"""The column that a CSV has only if a point of it has another prompt than the usual one (`plan.prompts`)."""

STEPS = {"prefill": ("N_prefill", 128), "decode": ("output_len", 256)}
"""The column for the length of a run, and its value in the published protocol."""

NO_ZERO = re.compile("_us$|speedup|^(least_)?(gpu_)?step_ms|_per_s$|elapsed|effective_tops")
"""Names of columns of times, rates and ratios."""

POSITIVE = {
    stage: (*sizes, *(column for column in columns if NO_ZERO.search(column)))
    for (stage, columns), sizes in zip(
        COLUMNS.items(),
        (
            ("M_prefill", *WORKLOAD, "N_prefill", "prompt"),
            ("M_decode", *WORKLOAD, "N_decode", "output_len"),
            ("M", "N", "K", "K_slid"),
            ("tokens", "context", "bytes", "vocabulary"),
        ),
        strict=True,
    )
}
"""Columns in which a zero means that nothing was measured."""


def cell(value):
    """A value as the text of a CSV cell: ten significant digits, true or false, and empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(value, ".10g")
    return " ".join(str(value).split())
