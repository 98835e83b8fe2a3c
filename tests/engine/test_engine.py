"""Engines on a CPU as they are measured: exact steps, time and memory limits, stock vLLM, and what is refused."""

import json
import math
import weakref

import pytest
import torch

from slidesparse.engine import throughput
from slidesparse.errors import ConfigurationError, HardwareError, MeasurementError, OutOfMemoryError
from slidesparse.files import write_json
from slidesparse.plan import stock

pytest_plugins = ["engines"]
pytestmark = pytest.mark.engine

REPEATS = {"warmup_steps": 1, "min_repeats": 2, "max_repeats": 2, "relative_ci": 0.01, "time_limit_s": 120}
PREFILL = REPEATS | {"steps": 4, "prompt_cap": 32}
DECODE = REPEATS | {"prompt_len": 16, "output_len": 8}


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_stock_vllm_runs_the_dense_checkpoint(checkpoint, engine, dtype, observed):
    """With its own compressed-tensors kernels, to the same logits."""
    directory = checkpoint(dtype, "dense")
    ours, _ = observed(engine(directory, "onednn"))
    stock = engine(directory, "vllm-eager")
    assert stock.llm.vllm_config.model_config.quantization == "compressed-tensors"
    theirs, accumulators = observed(stock)
    assert not accumulators
    # Their kernels round activations elsewhere, so that codes differ by one step here and there: FP8 has larger ones.
    assert (ours - theirs).std() <= (0.05 if dtype == "INT8" else 0.1) * theirs.std()


def test_a_closed_engine_leaves_nothing_of_a_compiled_model_behind(checkpoint, monkeypatch):
    from slidesparse.engine.engine import Engine, Size

    running = Engine._running

    def compiled(self, tuning):
        settings = running(self, tuning)
        del settings["enforce_eager"]
        return settings | {"compilation_config": {"mode": 2, "backend": "eager"}}

    monkeypatch.setattr(Engine, "_running", compiled)
    made = Engine(checkpoint("INT8", "dense"), "vllm-eager", None, Size(32, 2, 33, ((2, 33),), ()))
    made.run([32], 1, (32, 2), math.inf)
    weight = weakref.ref(next(made.model.parameters()))
    made.close()
    assert weight() is None


def test_what_an_aborted_run_left_is_no_step(checkpoint, engine, monkeypatch):
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

    made = engine(checkpoint("INT8", "dense"), "onednn")
    core = made.llm.engine_core
    take, late = (
        core.get_output,
        [EngineCoreOutputs(outputs=[EngineCoreOutput(request_id="aborted", new_token_ids=[1])])],
    )
    monkeypatch.setattr(core, "get_output", lambda: late.pop() if late else take())
    taken = made.run([32] * 8, 1, (128, 4), math.inf)
    assert taken.steps == [[128, 4]] * 2 and len(taken.seconds) == 2


def test_the_next_engine_of_a_process_captures_into_a_new_pool(checkpoint, monkeypatch):
    from vllm.platforms import current_platform

    from slidesparse.engine.engine import Engine, Size

    platform = type(current_platform)
    monkeypatch.setattr(platform, "_global_graph_pool", "held by a tensor that outlives the engine")
    Engine(checkpoint("INT8", "dense"), "onednn", None, Size(32, 2, 33, ((2, 33),), ())).close()
    assert platform._global_graph_pool is None


def test_stock_vllm_in_a_process_of_its_own_is_measured_alike(checkpoint, engine, monkeypatch):
    monkeypatch.setitem(stock.VARIANTS, "vllm-eager", stock.Variant("NONE", 1, own_process=True))
    made = engine(checkpoint("INT8", "dense"), "vllm-eager")
    with pytest.raises(AttributeError):
        made.model  # noqa: B018  (it is elsewhere)
    prefill = throughput.prefill(made, 128, PREFILL)
    assert prefill["tokens"] == [128, 128] and prefill["sequences"] == [4, 4]
    assert prefill["own_process"] is True
    decode = throughput.decode(made, 8, DECODE)
    assert decode["tokens"] == decode["sequences"] == [8, 8]
    with pytest.raises(MeasurementError, match="time limit"):
        throughput.prefill(made, 64, PREFILL | {"time_limit_s": 0})
    assert throughput.prefill(made, 64, PREFILL)["tokens"] == [64, 64]


def test_every_step_carries_exactly_M(checkpoint, engine):
    made = engine(checkpoint("INT8", "dense"), "onednn")
    prefill = throughput.prefill(made, 128, PREFILL)
    assert prefill["tokens"] == [128, 128] and prefill["sequences"] == [4, 4]
    assert prefill["step_s"]["n"] == len(prefill["samples_s"]) == 8 and len(prefill["repeats_s"]) == 2
    # the columns of the published protocol are of the whole run, its first two and last two steps among it
    assert prefill["prompt_lens"] == [32] * 4 and prefill["steps"] == 12 and prefill["num_prompts"] == 48
    assert prefill["tokens_per_s"] * prefill["elapsed_s"] == pytest.approx(12 * (128 + 4))
    assert prefill["elapsed_s"] > sum(prefill["samples_s"])
    decode = throughput.decode(made, 8, DECODE)
    assert decode["tokens"] == decode["sequences"] == [8, 8]
    assert decode["step_s"]["n"] == 14  # the first of 8 output tokens comes with the prompts, in each of two repeats
    assert decode["tokens_per_s"] * decode["elapsed_s"] == pytest.approx(2 * 8 * (16 + 8))
    again = throughput.prefill(made, 32, PREFILL)  # a smaller M on the same engine
    assert again["tokens"] == [32, 32] and again["max_num_seqs"] == 1


def test_a_repeat_of_long_steps_has_fewer(checkpoint, engine, monkeypatch):
    monkeypatch.setattr(throughput, "LONG_S", 0.0)
    made = engine(checkpoint("INT8", "dense"), "onednn")
    assert throughput.prefill(made, 64, PREFILL | {"steps": 12})["step_s"]["n"] == 2 * throughput.FEWEST
    assert throughput.prefill(made, 64, PREFILL | {"steps": 3})["step_s"]["n"] == 2 * 3


def test_a_point_says_how_it_was_measured(checkpoint, engine):
    made = engine(checkpoint("INT8", "2_8"), "reference")
    point = throughput.prefill(made, 64, PREFILL)
    assert point["graph_mode"] == "eager" and point["own_process"] is False
    assert point["breakdown_reason"] == "no GPU"
    assert point["energy_j_per_token"] is None and "no energy counter" in point["energy_reason"]
    assert point["weight_bytes"] > 100_000
    heuristic = {"backend": "reference", "algorithm": None, "tuned": False}
    assert point["linears"] == dict.fromkeys(("qkv", "o", "gate_up", "down"), heuristic)


def test_a_point_beyond_its_time_limit_ends_and_leaves_the_engine_usable(checkpoint, engine):
    made = engine(checkpoint("INT8", "dense"), "onednn")
    with pytest.raises(MeasurementError, match="time limit"):
        throughput.prefill(made, 64, PREFILL | {"time_limit_s": 0})
    assert throughput.prefill(made, 64, PREFILL)["tokens"] == [64, 64]


def test_a_point_that_fits_only_without_its_neighbours_is_measured_without_them(
    checkpoint, root, monkeypatch, tmp_path
):
    from slidesparse.engine import engine as engines

    checkpoint("INT8", "dense")
    made, whole = [], engines.Engine

    def fits_up_to_64_tokens(directory, backend, tuning, size):
        made.append(size.tokens)
        if size.tokens > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return whole(directory, backend, tuning, size)

    monkeypatch.setattr(engines, "Engine", fits_up_to_64_tokens)
    manifest = tmp_path / "dense.json"
    write_json(manifest, checkpoint.manifests["INT8", "dense"])
    request = {"stage": "prefill", "M": 64, "parameters": PREFILL, "manifest": manifest, "tuning": None}
    request |= {"backend": "onednn", "root": root, "others": [["prefill", 64, PREFILL], ["prefill", 128, PREFILL]]}
    try:
        assert engines.measure(request)["tokens"] == [64, 64]
        assert made == [128, 64]
        with pytest.raises(OutOfMemoryError, match="^CUDA out of memory$"):
            engines.measure(request | {"M": 128})
        assert engines.measure(request)["tokens"] == [64, 64]
    finally:
        engines.close()


def test_after_sparse_products_on_a_gpu_a_dense_engine_gets_a_new_process(
    checkpoint, choices, root, monkeypatch, tmp_path
):
    """Its clock would stay lower, and a dense engine's figures depend on what was measured before."""
    from slidesparse.engine import engine as engines
    from slidesparse.worker import handlers, resident

    dense_only = tmp_path / "dense_only.json"
    content = json.loads(choices.read_text())
    write_json(dense_only, content | {"entries": [entry | {"backend": "onednn"} for entry in content["entries"]]})

    requests = []
    for sparsity, backend in (("2_8", "reference"), ("dense", "onednn")):
        checkpoint("INT8", sparsity)
        manifest = tmp_path / f"{sparsity}.json"
        write_json(manifest, checkpoint.manifests["INT8", sparsity])
        request = {"stage": "prefill", "M": 32, "parameters": PREFILL, "manifest": manifest, "tuning": None}
        requests.append(request | {"backend": backend, "root": root, "others": []})
    sparse, dense = requests
    try:
        handlers.engine(sparse)
        handlers.engine(dense)  # on a CPU nothing is left behind
        handlers.engine(sparse)
        monkeypatch.setitem(handlers._process, "sparse", True)
        assert handlers.engine(sparse)["tokens"] == [32, 32]
        with pytest.raises(resident.Replace):
            handlers.engine(dense)
        auto = sparse | {"backend": "auto"}
        assert handlers.engine(auto | {"tuning": str(choices)})["tokens"] == [32, 32]  # its clock is low in any process
        with pytest.raises(resident.Replace):
            handlers.engine(auto | {"tuning": str(dense_only)})
    finally:
        engines.close()


@pytest.mark.parametrize("cause", [torch.OutOfMemoryError("CUDA out of memory. Tried …"), ValueError("something else")])
def test_an_engine_in_a_process_of_its_own_without_memory_is_a_result(checkpoint, root, monkeypatch, tmp_path, cause):
    """It says only that it ended; the same engine in this process says why."""
    from slidesparse.engine import engine as engines

    checkpoint("INT8", "dense")
    monkeypatch.setitem(stock.VARIANTS, "vllm-eager-own", stock.Variant("NONE", 1, own_process=True))

    def ends(directory, backend, tuning, size):
        raise RuntimeError("Engine core initialization failed") if backend == "vllm-eager-own" else cause

    monkeypatch.setattr(engines, "Engine", ends)
    manifest = tmp_path / "dense.json"
    write_json(manifest, checkpoint.manifests["INT8", "dense"])
    request = {"stage": "prefill", "M": 64, "parameters": PREFILL, "manifest": manifest, "tuning": None, "root": root}
    expected = OutOfMemoryError if isinstance(cause, torch.OutOfMemoryError) else type(cause)
    with pytest.raises(expected, match="^CUDA out of memory$|something else"):
        engines.measure(request | {"backend": "vllm-eager-own"})


def test_a_sparse_backend_refuses_a_dense_checkpoint(checkpoint, engine):
    with pytest.raises(ConfigurationError, match="needs a slid checkpoint"):
        engine(checkpoint("INT8", "dense"), "reference")
    assert torch.get_default_dtype() == torch.float32  # what failed leaves nothing behind for the next engine


def test_an_untested_vllm_is_refused(monkeypatch):
    from slidesparse import vllm_plugin
    from slidesparse.machine import vllm

    monkeypatch.setattr(vllm, "version", lambda: "0.19.1")
    with pytest.raises(HardwareError, match=r"0\.26 to 0\.33 and this is 0\.19\.1"):
        vllm_plugin.register()


@pytest.mark.parametrize(("capability", "asked"), [(90, None), (89, None), (100, "FLASH_ATTN")])
def test_where_vllm_would_take_flashinfer_our_engines_ask_for_flash_attention(capability, asked, monkeypatch):
    """FlashInfer has no full graphs of prefill."""
    from vllm.config import AttentionConfig

    from slidesparse.engine import engine as engines

    monkeypatch.setattr(engines, "_capability", lambda: capability)
    made = object.__new__(engines.Engine)
    made.device, made.backend, made.variant, made.graphs = "cuda", "cublaslt", engines.OURS["cuda"], [(512, 2)]
    chosen = AttentionConfig(**made._running(None)["attention_config"]).backend
    assert (chosen and chosen.name) == asked
