"""Points as a measurement would write them, for the tests of gathering and reporting."""

import json
import math

from slidesparse.files import digest as digest_of
from slidesparse.files import write_json
from slidesparse.plan import prompts
from slidesparse.plan.backends import BACKENDS
from slidesparse.plan.key import is_pattern
from slidesparse.sparsity.patterns import Pattern

HARDWARE = "RTX4090_cc89_py312_cu129_x86_64"
LINEARS = {"qkv": (3840, 2560), "o": (2560, 2560), "gate_up": (13824, 2560), "down": (2560, 6912)}


def path(root, stage, M, backend="cublaslt", sparsity="dense", dtype="INT8", model="BitNet-2B", hardware=HARDWARE):
    """Where a point belongs. M may have a prompt behind it: "8192-prompt2048"."""
    return root / hardware / stage / model / dtype / backend / sparsity / f"M{M}.json"


def seconds_of(value, suffix=""):
    """Statistics of one measured time."""
    names = ("median", "p5", "p95", "ci_low", "ci_high")
    return {name + suffix: value * factor for name, factor in zip(names, (1, 0.9, 1.2, 0.99, 1.01), strict=True)} | {
        "n": 100
    }


def results(stage, M, step_s, sparsity="dense", linears=None, prompt=None):
    """Results of an ok point whose step (kernel: largest product) takes `step_s` seconds. prompt: M by default."""
    if stage == "kernel":
        pattern = Pattern(sparsity)
        return {
            "zero_rate": 0.42,
            "gemms": [
                {
                    "name": name,
                    "N": N,
                    "K": K,
                    "K_slid": pattern.K_slid(K),
                    "algorithm": 3,
                    "algorithms": 5,
                    "output": "INT32",
                    "error_max_abs": 0.0,
                    "exact": True,
                    "cold": seconds_of(step_s, "_s"),
                    "samples_us": samples_of(1e6 * step_s),
                    "hot": seconds_of(step_s / 2, "_s"),
                    "effective_tops": 2 * M * N * K / step_s / 1e12,
                }
                for name, (N, K) in (linears or LINEARS).items()
            ],
        }
    if stage == "quality":
        return scores(M, "R" if sparsity == "dense" else "dense")
    prefill = stage == "prefill"
    steps = 128 if prefill else 256
    sequences = (M // (prompt or M) or 1) if prefill else M
    requests, prompt_len, output_len = (128 * sequences, M // sequences, 1) if prefill else (M, 16, 256)
    elapsed = steps * step_s
    return {
        "prompt_len": prompt_len,
        "max_num_seqs": sequences,
        "num_prompts": requests,
        "steps": steps,
        "output_len": output_len,
        "requests_per_s": requests / elapsed,
        "tokens_per_s": requests * (prompt_len + output_len) / elapsed,
        "elapsed_s": elapsed,
        "step_s": seconds_of(step_s),
        "steady_tokens_per_s": M / step_s,
        "samples_s": samples_of(step_s),
    }


def scores(M, reference, nats=1.0, extra=0.1, divergence=0.05, agreeing=0.9):
    """Results of a quality point of 4 windows, all alike, of a text with two bytes a token; figures are of a token."""

    def estimate(value):
        ends = {"ci_low": value - abs(value) / 100, "ci_high": value + abs(value) / 100}
        return {"value": value, **ends}

    bits = 2 * math.log(2)
    sums = {"bytes": 2, "nats": nats, "reference_nats": nats - extra, "divergence": divergence, "agreeing": agreeing}
    return {
        "reference": reference,
        "tokens": M,
        "context": M // 4,
        "bytes": 2 * M,
        "vocabulary": 320,
        "bits_per_byte": estimate(nats / bits),
        "perplexity": estimate(math.exp(nats)),
        "reference_bits_per_byte": estimate((nats - extra) / bits),
        "reference_perplexity": estimate(math.exp(nats - extra)),
        "extra_bits_per_byte": estimate(extra / bits),
        "divergence": estimate(divergence),
        "divergence_p99": estimate(10 * divergence),
        "top1_agreement": estimate(agreeing),
        "blocks": {name: [M / 4 * value] * 4 for name, value in sums.items()},
        "scoring_s": 1.5,
    }


SHARES = [*[0.9] * 6, *[0.95] * 33, 0.99, 0.99, *[0.995] * 8, 1, 1, *[1.005] * 9, 1.01, *[1.05] * 33, *[1.2] * 6]
"""Samples, in medians, of which `seconds_of` has the statistics."""


def samples_of(value):
    """One hundred samples of one measured time."""
    return [value * share for share in SHARES]


def slid(key):
    """The pattern in which a point's weights are slid: dense for a dense backend."""
    known = BACKENDS.get(key["backend"])
    return key["sparsity"] if known and known.sparse and is_pattern(key["sparsity"]) else "dense"


def gpu_name(hardware):
    """The full name of the GPU of a hardware key."""
    gpu = hardware.partition("_cc")[0]
    return {"RTX4090": "NVIDIA GeForce RTX 4090"}.get(gpu, f"NVIDIA {gpu}")


def point(file, step_s=0.01, driver="580.95", commit="a" * 40, digest="0" * 64, seconds=2.5, protocol=1):
    """The point that belongs at `file`."""
    names = ("hardware", "stage", "model", "dtype", "backend", "sparsity")
    M, prompt = prompts.read(file.stem[1:])
    prompt = None if prompt == prompts.USUAL else prompt
    key = dict(zip(names, file.parts[-7:-1], strict=True)) | {"M": M} | ({"prompt": prompt} if prompt else {})
    return {
        "schema": 1,
        "key": key,
        "status": "ok",
        "reason": None,
        "request": {"digest": digest, "protocol": protocol, "parameters": {}, "checkpoint": None, "tuning": None},
        "results": results(key["stage"], M, step_s, slid(key), prompt=prompt),
        "hardware": {"name": gpu_name(key["hardware"]), "driver": driver},
        "software": {"torch": "2.11.0", "vllm": "0.26.0"},
        "run": {
            "utc": f"2026-03-05T10:{key['M'] % 60:02}:00Z",
            "seconds": seconds,
            "argv": ["measure_point.py"],
            "git": {"commit": commit, "dirty": False},
            "resident": True,
        },
    }


def out_of_memory(file):
    """A point that ran out of memory."""
    return point(file) | {"status": "out_of_memory", "reason": "20 GiB asked for, 3 GiB free", "results": {}}


def write(root, stage, Ms, step_s=0.01, *, place=None, **properties):
    """Write ok points of one configuration (`place`: arguments of `path`); returns their paths."""
    files = [path(root, stage, M, **(place or {})) for M in Ms]
    for file in files:
        write_json(file, point(file, step_s, **properties))
    return files


def own_digest(path):
    """Give a point the digest of the request that it keeps (as in `points/request.py`), and return it."""
    made = json.loads(path.read_text())
    said = made["request"]
    asked = {"key": made["key"], "basis": said["checkpoint"]}
    asked |= {name: said[name] for name in ("protocol", "parameters", "tuning")}
    said["digest"] = digest_of(asked)
    write_json(path, made)
    return said["digest"]


def plan(root, points, left_out=(), parameters=None, hardware=HARDWARE, shapes=None):
    """Write plan.json, from [(stage, model, dtype, backend, sparsity, M)], [{"dtype", "reason"}] and {model: model}."""
    entries = {}
    for stage, *names, M in points:
        entries.setdefault(stage, {}).setdefault("/".join(names), []).append(M)
    content = {"points": entries, "left_out": list(left_out), "parameters": parameters or {}, "shapes": shapes or {}}
    write_json(root / hardware / "plan.json", content)
