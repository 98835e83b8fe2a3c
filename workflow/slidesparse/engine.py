"""A vLLM engine whose M is set per measurement: one load serves every prefill and decode point of a configuration."""

import gc
import time
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import NamedTuple

from slidesparse import checkpoints
from slidesparse.errors import MeasurementError
from slidesparse.files import read_json, sha256_file
from slidesparse.timing import summarize

BLOCK = {"cpu": 128, "cuda": 16}
"""Tokens that a block of the KV cache holds by default."""

LARGEST_GRAPH = 8192
"""Tokens of the largest step that is captured as a CUDA graph; starting a larger one costs less than it takes."""


class Engine:
    """One checkpoint on one backend, in this process. `size` bounds every later M; more needs a new engine."""

    def __init__(self, checkpoint, backend, tuning, size):
        import torch
        from vllm import LLM

        from slidesparse import vllm_plugin

        vllm_plugin.register()
        self.size = size
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        config = read_json(Path(checkpoint) / "config.json")
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        token_bytes = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
        block = BLOCK[self.device]
        blocks = max(steps * (model_len // block + 1) for steps, model_len in size.cached) + size.model_len // block + 2
        chosen = {"backend": backend, "tuning": str(tuning) if tuning else None}
        default = torch.get_default_dtype()
        try:
            self.llm = LLM(
                model=str(checkpoint),
                quantization="slidesparse",
                additional_config={"slidesparse": chosen | {"graphs": size.graphs}},
                dtype="bfloat16",
                seed=0,
                skip_tokenizer_init=True,
                enable_prefix_caching=False,
                max_model_len=size.model_len,
                max_num_batched_tokens=max(size.tokens, size.model_len),
                max_num_seqs=size.sequences,
                kv_cache_memory_bytes=blocks * block * token_bytes,
                disable_log_stats=True,
                **self._running(size),
            )
        finally:
            torch.set_default_dtype(default)  # vLLM leaves its own behind when loading fails
        core = self.llm.llm_engine.engine_core.engine_core
        self.scheduler = core.scheduler
        self.worker = core.model_executor.driver_worker.worker
        self.vocabulary = config["vocab_size"]
        self._prompts = 0

    def _running(self, size):
        """How steps run: on a GPU planned ahead and as CUDA graphs, nothing compiled by vLLM."""
        scheduler = "slidesparse.vllm_plugin.scheduler."
        if self.device == "cpu":
            return {
                "enforce_eager": True,
                "async_scheduling": False,
                "scheduler_cls": scheduler + "RecordingScheduler",
            }
        from slidesparse.vllm_plugin import graphs

        graphs.install()
        sizes = sorted({tokens for tokens, _ in size.graphs})
        return {
            "compilation_config": {"mode": 0, "cudagraph_mode": "FULL", "cudagraph_capture_sizes": sizes},
            "attention_config": {"flash_attn_max_num_splits_for_cuda_graph": 1},
            "async_scheduling": True,
            "scheduler_cls": scheduler + "AsyncRecordingScheduler",
        }

    @property
    def model(self):
        """The torch module that runs, for tests that look inside."""
        return self.worker.model_runner.model

    def close(self):
        """Free the engine's memory."""
        from vllm.distributed import cleanup_dist_env_and_memory

        del self.llm, self.scheduler, self.worker
        cleanup_dist_env_and_memory()
        gc.collect()

    def submit(self, lengths, output_len):
        """Queue one request per prompt length, of fixed pseudo-random tokens, each for `output_len` tokens."""
        from vllm import SamplingParams, TokensPrompt

        sampling = SamplingParams(max_tokens=output_len, ignore_eos=True, detokenize=False, temperature=0.0)
        for length in lengths:
            tokens = prompt(self._prompts, length, self.vocabulary)
            self.llm.llm_engine.add_request(str(self._prompts), TokensPrompt(prompt_token_ids=tokens), sampling)
            self._prompts += 1

    def run(self, deadline):
        """Step until nothing is left. Returns (seconds between the ends of steps, what every step carried).

        Raises MeasurementError at the deadline, and if a step ran in another way than planned.
        """
        self.scheduler.steps.clear()
        manager = getattr(self.worker.model_runner, "cudagraph_manager", None)
        if manager:
            manager.dispatched.clear()
        engine, ends = self.llm.llm_engine, [time.perf_counter()]
        while engine.has_unfinished_requests():
            if engine.step():
                ends.append(time.perf_counter())
            if time.monotonic() > deadline:
                engine.abort_request(list(self.scheduler.requests), internal=True)
                raise MeasurementError(f"the time limit ended the measurement after {len(ends) - 1} steps; raise it")
        seconds = [end - begin for begin, end in pairwise(ends)]
        steps = list(self.scheduler.steps)
        if len(steps) != len(seconds):
            raise MeasurementError(f"{len(seconds)} engine steps carried {len(steps)} batches; the timing is not exact")
        if manager:
            planned = [tuple(shape) for shape in self.size.graphs]
            expected = ["FULL" if (step.tokens, step.sequences) in planned else "NONE" for step in steps]
            if manager.dispatched != expected:
                raise MeasurementError(
                    f"steps ran with CUDA graphs of the modes {sorted(set(manager.dispatched))} where"
                    f" {sorted(set(expected))} were planned"
                )
        return seconds, steps

    def prefill(self, M, parameters):
        """Results of a prefill point: `steps` engine steps of exactly M prompt tokens each, one output token."""
        lengths = split(M, parameters["prompt_cap"])
        self.scheduler.limit(M, self.size.sequences)  # those of the step before are still there when one is planned
        deadline = time.monotonic() + parameters["time_limit_s"]
        self.submit(lengths * parameters["warmup_steps"], 1)
        self.run(deadline)
        start = time.perf_counter()
        self.submit(lengths * parameters["steps"], 1)
        seconds, steps = self.run(deadline)
        elapsed = time.perf_counter() - start
        carried = sorted({step.tokens for step in steps})
        if carried != [M] or len(steps) != parameters["steps"]:
            raise MeasurementError(f"prefill steps at M={M} carried {carried} tokens in {len(steps)} steps")
        requests = len(lengths) * parameters["steps"]
        return self._results(M, lengths[0], len(lengths), requests, 1, parameters["steps"], elapsed, seconds) | {
            "prompt_lens": lengths,
            "scheduled_tokens": carried,
        }

    def decode(self, M, parameters):
        """Results of a decode point: M sequences from their prompts to `output_len` tokens, all in every step."""
        prompt_len, output_len = parameters["prompt_len"], parameters["output_len"]
        self.scheduler.limit(M * prompt_len, M)
        deadline = time.monotonic() + parameters["time_limit_s"]
        self.submit([prompt_len] * M, 1 + parameters["warmup_steps"])
        self.run(deadline)
        start = time.perf_counter()
        self.submit([prompt_len] * M, output_len)
        seconds, steps = self.run(deadline)
        elapsed = time.perf_counter() - start
        running = sorted({step.sequences for step in steps[1:]})
        prompts = (steps[0].tokens, steps[0].sequences)
        if prompts != (M * prompt_len, M) or running != [M] or len(steps) != output_len:
            raise MeasurementError(
                f"decode at M={M} ran {running} sequences in {len(steps)} steps, the first with {prompts[0]} prompt"
                f" tokens of {prompts[1]} sequences"
            )
        return self._results(M, prompt_len, M, M, output_len, output_len, elapsed, seconds[1:]) | {"running": running}

    @staticmethod
    def _results(M, prompt_len, sequences, requests, output_len, N, elapsed, seconds):
        """The columns of the published protocol (tokens = prompt + output) and the steady-state ones."""
        step = summarize(seconds)
        tokens = requests * output_len + (M * N if output_len == 1 else requests * prompt_len)
        return {
            "prompt_len": prompt_len,
            "max_num_seqs": sequences,
            "num_prompts": requests,
            "steps": N,
            "output_len": output_len,
            "requests_per_s": requests / elapsed,
            "tokens_per_s": tokens / elapsed,
            "elapsed_s": elapsed,
            "step_s": {name.removesuffix("_s"): value for name, value in step.as_dict().items()},
            "steady_tokens_per_s": M / step.median_s,
            "samples_s": seconds,
        }


def prompt(number, length, vocabulary):
    """The `number`-th prompt: `length` pseudo-random token ids, the same in every run."""
    state, tokens = number + 1, []
    for _ in range(length):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)  # Knuth's MMIX generator
        tokens.append((state >> 33) % (vocabulary - 2))  # the last two are bos and eos in BitNet-tiny
    return tokens


def split(M, cap):
    """Prompt lengths of one prefill step: M tokens in as few prompts of at most `cap` as can be, equally long."""
    count = ceil(M / cap)
    return [M // count + (i < M % count) for i in range(count)]


class Size(NamedTuple):
    """What an engine must hold."""

    tokens: int
    """of a step"""
    sequences: int
    """that run at once"""
    model_len: int
    """tokens of a sequence"""
    cached: tuple
    """pairs of sequences and their length that the KV cache must hold, one pair at a time"""
    graphs: tuple
    """pairs of tokens and sequences of the steps that are measured"""

    @classmethod
    def of(cls, stage, M, parameters):
        """The smallest engine that can measure M in `stage`."""
        if stage == "prefill":
            lengths = split(M, parameters["prompt_cap"])
            tokens, sequences, model_len = M, 2 * len(lengths), lengths[0] + 1
            graph = (M, len(lengths))
        else:
            tokens, sequences = M * parameters["prompt_len"], M
            model_len, graph = parameters["prompt_len"] + parameters["output_len"], (M, M)
        graphs = (graph,) if M <= LARGEST_GRAPH else ()
        return cls(tokens, sequences, model_len, ((sequences, model_len),), graphs)

    def union(self, other):
        """The smallest engine that is both."""
        pairs = (tuple(sorted({*mine, *theirs})) for mine, theirs in zip(self[3:], other[3:], strict=True))
        return Size(*map(max, self[:3], other[:3]), *pairs)


_kept = {"key": None, "engine": None}


def measure(request):
    """Results of one prefill or decode point; keeps its engine for the next point of the same configuration.

    request: stage, M, parameters, manifest (path), tuning (path), backend, root; `others`, [[stage, M, parameters], …],
    names further points that the same engine shall be able to serve.
    """
    manifest = read_json(request["manifest"])
    size = Size.of(request["stage"], request["M"], request["parameters"])
    key = (checkpoints.content_digest(manifest), request["backend"], sha256_file(request["tuning"]))
    if _kept["key"] != key or _kept["engine"].size.union(size) != _kept["engine"].size:
        close()
        for point in request.get("others", ()):
            size = size.union(Size.of(*point))
        directory = checkpoints.ensure(manifest, request["root"])
        _kept["engine"] = Engine(directory, request["backend"], request["tuning"], size)
        _kept["key"] = key
    return getattr(_kept["engine"], request["stage"])(request["M"], request["parameters"])


def close():
    """Free the engine that `measure` keeps."""
    engine, _kept["engine"], _kept["key"] = _kept["engine"], None, None
    if engine:
        engine.close()
