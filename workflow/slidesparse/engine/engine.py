"""A vLLM engine whose M is set per measurement: one load serves every prefill and decode point of a configuration.

M is the number of tokens of a prefill step, or of sequences of a decode step.
"""

import gc
import math
import time
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from slidesparse.engine import throughput
from slidesparse.engine.quality import states
from slidesparse.engine.size import Size
from slidesparse.errors import MeasurementError, OutOfMemoryError, SlideSparseError
from slidesparse.files import read_json, sha256_file
from slidesparse.machine import families, memory
from slidesparse.models import checkpoints
from slidesparse.plan import stock
from slidesparse.plan.backends import BACKENDS
from slidesparse.tuning.choices import Choices

BLOCK = {"cpu": 128, "cuda": 16}
"""Tokens that a block of the KV cache holds by default."""

OURS = {"cuda": stock.Variant("FULL", 1, False), "cpu": stock.Variant("NONE", 1, False)}
"""Settings of our own engines."""


class Run(NamedTuple):
    """What one run of the engine recorded."""

    seconds: list
    """between the ends of steps"""
    steps: list
    """(tokens, sequences) that each carried"""
    modes: list
    """CUDA graph mode of each; empty on a CPU"""
    elapsed_s: float
    """from the first request to the last token"""
    profiles: list
    """of the windows of steps that were to be recorded (vllm_plugin.probe)"""


class Engine:
    """One checkpoint on one backend, which may be a variant of stock vLLM (`stock.VARIANTS`).

    `size` bounds every later M. A larger M needs a new engine.
    """

    def __init__(self, checkpoint, backend, tuning, size):
        import torch
        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        from slidesparse import vllm_plugin

        vllm_plugin.register()
        self.size, self.backend = size, backend
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cpu":
            attend_without_tiles()
        self.variant = stock.VARIANTS.get(backend, OURS[self.device])
        largest = math.inf if backend not in stock.VARIANTS else stock.LARGEST_STOCK_GRAPH
        self.graphs = [] if self.variant.graphs == "NONE" else [step for step in size.graphs if step[0] <= largest]
        """(tokens, sequences) of the steps that are to run as CUDA graphs."""
        config = read_json(Path(checkpoint) / "config.json")
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        token_bytes = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
        block = BLOCK[self.device]
        default = torch.get_default_dtype()
        begin = time.monotonic()
        try:
            self.llm = LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(checkpoint),
                    dtype="bfloat16",
                    seed=0,
                    skip_tokenizer_init=True,
                    enable_prefix_caching=False,
                    max_model_len=size.model_len,
                    max_num_batched_tokens=max(size.tokens, size.model_len),
                    max_num_seqs=size.sequences,
                    kv_cache_memory_bytes=size.blocks(block) * block * token_bytes,
                    disable_log_stats=True,
                    worker_extension_cls="slidesparse.vllm_plugin.probe.Probe",
                    **self._running(tuning),
                ),
                UsageContext.LLM_CLASS,
                enable_multiprocessing=self.variant.own_process,
            )
        finally:
            torch.set_default_dtype(default)  # vLLM does not restore it when loading fails
        self.start_s = time.monotonic() - begin
        self.vocabulary = config["vocab_size"]
        self._prompts = 0

    def _running(self, tuning):
        """How steps run: ours as the planned CUDA graphs, with nothing compiled; stock vLLM as its variant says."""
        scheduler = "AsyncRecordingScheduler" if self.device == "cuda" else "RecordingScheduler"
        running = {
            "scheduler_cls": f"slidesparse.vllm_plugin.scheduler.{scheduler}",
            "async_scheduling": self.device == "cuda",
        }
        if self.variant.graphs == "NONE":
            running["enforce_eager"] = True
        else:
            running["gpu_memory_utilization"] = 0.01  # all sizes are given: this only refuses GPUs that are not empty
            sizes = sorted({tokens for tokens, _ in self.graphs})
            running["compilation_config"] = {
                "cudagraph_mode": self.variant.graphs if sizes else "NONE",
                "cudagraph_capture_sizes": sizes,
            }
            running["attention_config"] = {"flash_attn_max_num_splits_for_cuda_graph": self.variant.num_splits}
        if self.backend in stock.VARIANTS:
            return running
        if "compilation_config" in running:
            running["compilation_config"]["mode"] = 0
            if families.attention(_capability()) == 4:
                running["attention_config"]["backend"] = "FLASH_ATTN"  # FlashInfer has no full graphs of prefill
        chosen = {"backend": self.backend, "tuning": str(tuning) if tuning else None, "graphs": self.graphs}
        method = states.UNQUANTISED if self.backend == states.UNQUANTISED else "slidesparse"
        return running | {"quantization": method, "additional_config": {"slidesparse": chosen}}

    @property
    def model(self):
        """The torch module that runs, for tests that look inside."""
        return self.llm.engine_core.engine_core.model_executor.driver_worker.worker.model_runner.get_model()

    def ask(self, name, *arguments):
        """Call a method of vllm_plugin.probe.Probe and return its answer."""
        return self.llm.collective_rpc(f"slidesparse_{name}", args=arguments)[0]

    def close(self):
        """Free the engine's memory.

        A compiled model of stock vLLM holds itself by a hook in torch, so that its weights would stay.
        """
        from vllm.compilation.wrapper import TorchCompileWithNoGuardsWrapper

        if not self.variant.own_process:
            for module in self.model.modules():
                if isinstance(module, TorchCompileWithNoGuardsWrapper):
                    module.cleanup()
        self.llm.engine_core.shutdown()
        del self.llm
        _free()

    def run(self, prompts, output_len, limits, deadline, windows=()):
        """Run one request per prompt, each for `output_len` tokens, until all are done; returns a Run.

        prompts: lists of tokens, or lengths of prompts of fixed pseudo-random tokens.
        limits: most (tokens, sequences) of a step.
        windows: (steps before the window, its steps) of each window to be recorded, ascending and apart.
        Raises MeasurementError at the deadline (time.monotonic), and if a step did not run as planned.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(max_tokens=output_len, ignore_eos=True, detokenize=False, temperature=0.0)
        sampling.output_kind = RequestOutputKind.FINAL_ONLY  # as vLLM's own LLM.generate
        prompts = [
            TokensPrompt(prompt_token_ids=each if isinstance(each, list) else prompt(number, each, self.vocabulary))
            for number, each in enumerate(prompts, self._prompts)
        ]
        self.ask("limit", 0, 0)
        self.ask("taken")
        begin = time.perf_counter()
        for tokens in prompts:
            self.llm.add_request(str(self._prompts), tokens, sampling)
            self._prompts += 1
        ends, profiles = [time.perf_counter()], []
        first, last = {begin for begin, _ in windows}, {begin + count for begin, count in windows}
        self.ask("limit", *limits)
        while self.llm.has_unfinished_requests():
            if self._step():
                ends.append(time.perf_counter())
                if len(ends) - 1 in first:
                    self.ask("profile", True)
                elif len(ends) - 1 in last:
                    profiles.append(self.ask("profile", False))
            if time.monotonic() > deadline:
                self.llm.abort_request(list(self.llm.output_processor.request_states), internal=True)
                raise MeasurementError(f"the time limit ended the measurement after {len(ends) - 1} steps; raise it")
        steps, modes = self.ask("taken")
        seconds = [after - before for before, after in pairwise(ends)]
        if len(steps) != len(seconds):
            raise MeasurementError(f"{len(seconds)} engine steps carried {len(steps)} batches; the timing is not exact")
        if self.device == "cuda" and len(modes) != len(steps):
            raise MeasurementError(
                f"{len(steps)} engine steps told {len(modes)} CUDA graph modes: how they ran is unknown"
            )
        self._check(steps, modes)
        return Run(seconds, steps, modes, ends[-1] - begin, profiles)

    def _step(self):
        """Like LLMEngine.step, but returns whether a batch has ended.

        LLMEngine.step returns outputs of requests, and a request has one only when it is done. So this reads the
        outputs of the engine core. No batch has ended if vLLM only queued one. Outputs of an aborted run do not count
        either. An engine in its own process may deliver them late.
        """
        outputs = self.llm.engine_core.get_output()
        ended = any(one.request_id in self.llm.output_processor.request_states for one in outputs.outputs)
        processed = self.llm.output_processor.process_outputs(
            outputs.outputs, engine_core_timestamp=outputs.timestamp, iteration_stats=None
        )
        self.llm.engine_core.abort_requests(processed.reqs_to_abort)
        return ended

    def _check(self, steps, modes):
        """Raise MeasurementError if a step ran without its planned CUDA graph, or with a graph that was not planned."""
        for step, mode in zip(steps, modes or len(steps) * ["NONE"], strict=True):
            planned = tuple(step) in self.graphs
            if self.backend in stock.VARIANTS:  # these pad a step to the next captured size
                planned = step[0] <= max((tokens for tokens, _ in self.graphs), default=0)
            if planned != (mode != "NONE"):
                raise MeasurementError(
                    f"a step of {step[0]} tokens and {step[1]} sequences ran with the CUDA graph mode {mode}, where one"
                    f" was {'' if planned else 'not '}planned"
                )

    def describe(self, M):
        """How points of this engine were measured: what ran at M, and what the engine is."""
        return self.ask("model", M) | {
            "own_process": self.variant.own_process,
            "num_splits": self.variant.num_splits if self.device == "cuda" else None,
            "peak_memory_bytes": self.ask("memory"),
            "engine_start_s": self.start_s,
        }


def prompt(number, length, vocabulary):
    """The `number`-th prompt: `length` pseudo-random token ids, the same in every run."""
    state, tokens = number + 1, []
    for _ in range(length):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)  # Knuth's MMIX generator
        tokens.append((state >> 33) % (vocabulary - 2))  # the last two are bos and eos in BitNet-tiny
    return tokens


_kept = {"key": None, "engine": None}

_too_large = {}
"""key: the sizes whose engines did not fit into the memory of this process' GPU."""


def is_sparse(request):
    """Whether the engine for a request has sparse products: of its backend, or of one that was chosen for `auto`."""
    name = request["backend"]
    run = Choices(request["tuning"]).tables if name == "auto" else [name]
    return any(BACKENDS[backend].sparse for backend in run if backend in BACKENDS)


def measure(request):
    """Results of one prefill or decode point; keeps its engine for the next point of the same configuration.

    For a quality point, the hidden states of its windows (quality.states.of).

    request: stage, M, parameters, manifest (path), tuning (path or None), backend, root; perhaps others. A quality
    point also has its windows.
    others: [[stage, M, parameters], …], further points that the same engine should be able to serve, if it fits
    (`_sizes`). Raises OutOfMemoryError if an engine for this point alone does not fit.
    """
    manifest = read_json(request["manifest"])
    *larger, alone = _sizes(request)
    key = _key(request, manifest)
    for size in (*larger, alone):
        if size != alone and any(size.union(other) == size for other in _too_large.get(key, ())):
            continue
        try:
            return _measure(request, manifest, alone, size)
        except Exception as error:
            reason = _full(request, manifest, alone, size, error)
        # Here the error is gone, and with it the frames of what was begun, which hold memory.
        _discard()
        _too_large.setdefault(key, []).append(size)
    raise OutOfMemoryError(reason)


def _sizes(request):
    """Sizes of engines that measure a point, in the order in which they are tried.

    The first is for all other points, too. Then come engines for points of this stage, each without the largest M of
    the one before. The last is for the point alone.
    """
    alone = together = Size.of(request["stage"], request["M"], request["parameters"])
    of_stage = {}
    for stage, M, parameters in request.get("others", ()):
        size = Size.of(stage, M, parameters)
        together = together.union(size)
        if stage == request["stage"]:
            of_stage[M] = size
    sizes = [together]
    for most in sorted(of_stage, reverse=True):
        if most >= request["M"]:
            within = (size for M, size in of_stage.items() if most >= M)
            sizes.append(reduce(Size.union, within, alone))
    return list(dict.fromkeys([*sizes, alone]))


def _full(request, manifest, alone, size, error):
    """What was short of memory when an engine ended with `error`. Raises `error` if it was something else.

    An engine in a process of its own reports only that it has ended. So the same engine measures the point again in
    this process.
    """
    if memory.is_full(error):
        return memory.told(error)
    twin = stock.in_process(request["backend"])
    if twin is None or isinstance(error, SlideSparseError):
        raise error
    _discard()
    try:
        _measure(request | {"backend": twin}, manifest, alone, size)
    except Exception as again:
        if not memory.is_full(again):
            raise
        return memory.told(again)
    _discard()
    raise error


def _key(request, manifest):
    """What engines of one configuration share."""
    tuning = request["tuning"]
    return checkpoints.content_digest(manifest), request["backend"], tuning and sha256_file(tuning)


def _measure(request, manifest, needed, size):
    """Results of a point that needs an engine of size `needed`. If the kept one does not serve, makes one of `size`."""
    key = _key(request, manifest)
    if _kept["key"] != key or _kept["engine"].size.union(needed) != _kept["engine"].size:
        close()
        directory = checkpoints.ensure(manifest, request["root"])
        _kept["engine"] = Engine(directory, request["backend"], request["tuning"], size)
        _kept["key"] = key
    if request["stage"] == "quality":
        return states.of(_kept["engine"], request["windows"], request["parameters"]["time_limit_s"])
    stages = {"prefill": throughput.prefill, "decode": throughput.decode}
    return stages[request["stage"]](_kept["engine"], request["M"], request["parameters"])


def close():
    """Free the engine that `measure` keeps."""
    engine, _kept["engine"], _kept["key"] = _kept["engine"], None, None
    if engine:
        engine.close()


def _discard():
    """Free the engine that `measure` keeps, if any, and what is left of one that failed."""
    close()
    _free()


def _capability():
    """Compute capability of the GPU, times ten."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def attend_without_tiles():
    """Let vLLM's attention on CPUs use vectors where it would use tiles (AMX).

    That of 0.32 dies of SIGILL on some CPUs, at a tile that is not configured; why it is not is unknown. It asks torch
    whether the CPU has tiles.
    """
    import torch

    torch.cpu._is_amx_tile_supported = lambda: False


def _free():
    """Free what an engine held that was closed or could not be made.

    The next engine gets a new pool for its CUDA graphs. vLLM keeps one pool for all engines of a process. If anything
    still holds memory of it without a graph, capturing into it fails.
    """
    import torch
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.platforms import current_platform

    type(current_platform)._global_graph_pool = None
    cleanup_dist_env_and_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
