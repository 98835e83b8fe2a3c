"""The vLLM plugin on a CPU: the model is BitNet, and a slid checkpoint computes what its dense form computes."""

import math
import weakref

import pytest
import torch

from slidesparse import checkpoints, handlers, models, stock, throughput
from slidesparse.errors import ConfigurationError, HardwareError, MeasurementError, OutOfMemoryError
from slidesparse.files import read_json, write_json
from slidesparse.patterns import Pattern
from slidesparse.slide import unslide
from tiny import ENTRY

pytestmark = pytest.mark.engine

REPEATS = {"warmup_steps": 1, "min_repeats": 2, "max_repeats": 2, "relative_ci": 0.01, "time_limit_s": 120}
PREFILL = REPEATS | {"steps": 4, "prompt_cap": 32}
DECODE = REPEATS | {"prompt_len": 16, "output_len": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    handlers.prepare_environment()
    return tmp_path_factory.mktemp("resources")


@pytest.fixture(scope="module")
def model(root):
    return models.fetch("BitNet-tiny", ENTRY, root, root / "models.lock.json")


@pytest.fixture(scope="module")
def checkpoint(root, model):
    made = {}

    def make(dtype, sparsity):
        if (dtype, sparsity) not in made:
            made[dtype, sparsity] = checkpoints.convert(model, dtype, sparsity, root, progress=False)
        return checkpoints.directory(made[dtype, sparsity], root)

    make.manifests = made
    return make


@pytest.fixture
def engine():
    """Makes engines, and closes them."""
    from slidesparse.engine import Engine, Size

    open_engines = []

    def make(directory, backend, size=None, tuning=None):
        size = size or Size(128, 8, 48, ((8, 48),), ())
        open_engines.append(Engine(directory, backend, tuning, size))
        return open_engines[-1]

    yield make
    for made in open_engines:
        made.close()


def observed(engine, M=128):
    """Logits of the last token of 8 prompts in steps of M tokens, and the accumulators of every linear's first call."""
    logits, accumulators = [], {}
    compute = engine.model.compute_logits

    def record_logits(hidden):
        logits.append(compute(hidden))
        return logits[-1]

    engine.model.compute_logits = record_logits
    for name, module in engine.model.named_modules():
        method = getattr(module, "quant_method", None)
        if hasattr(method, "multiply"):

            def record(codes, scale, name=name, multiply=method.multiply):
                result = multiply(codes, scale)
                accumulators.setdefault(name, result[0].clone())
                return result

            method.multiply = record
    engine.run([16] * 8, 1, (M, 8), math.inf)
    return torch.cat(logits).float(), accumulators


@pytest.mark.parametrize("sparsity", ["2_4", "2_6", "2_8", "2_10"])
def test_sparse_and_dense_pruned_engines_agree(checkpoint, engine, sparsity):
    directory = checkpoint("INT8", sparsity)
    sparse, sparse_accumulators = observed(engine(directory, "reference"))
    dense, dense_accumulators = observed(engine(directory, "onednn"))
    assert sparse.shape == (8, 512)
    assert sparse.std() >= 1
    assert (sparse - dense).abs().max() <= 1e-2
    assert len(sparse_accumulators) == 8  # four linears in each of two layers
    for name, accumulators in sparse_accumulators.items():
        assert accumulators.dtype == torch.int32
        assert torch.equal(accumulators, dense_accumulators[name]), name


def test_fp8_sparse_and_dense_pruned_engines_agree(checkpoint, engine):
    directory = checkpoint("FP8", "2_8")
    sparse, _ = observed(engine(directory, "reference"))
    dense, _ = observed(engine(directory, "onednn"))
    assert sparse.std() >= 1
    assert (sparse - dense).abs().max() <= 0.1  # float32 sums in another order now and then round BF16 otherwise


LINEARS = {
    "self_attn.qkv_proj": (512, 256),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_up_proj": (1376, 256),
    "mlp.down_proj": (256, 688),
}
"""Linears of a layer of BitNet-tiny and their N and K."""


def methods(engine, layer):
    """{linear: its quantisation method} of a layer."""
    return {name: engine.model.get_submodule(f"model.layers.{layer}.{name}").quant_method for name in LINEARS}


@pytest.fixture
def choices(tmp_path):
    """A file of choices: reference for two linears and onednn for the others at M up to 16, the reverse above."""
    from slidesparse.files import write_json

    entries = [
        {
            "N": N,
            "K": K,
            "M": M,
            "backend": ("reference", "onednn")[(i + late) % 2],
            "algorithm": 1 if N == 512 else None,
        }
        for late, M in enumerate((16, 32))
        for i, (N, K) in enumerate(LINEARS.values())
    ]
    tables = {"onednn": None, "reference": None}
    path = tmp_path / "2_8.json"
    write_json(path, {"schema": 1, "made_from": {}, "tables": tables, "entries": entries})
    return path


@pytest.mark.parametrize(("dtype", "error"), [("INT8", 1e-2), ("FP8", 0.1)])
def test_an_engine_that_chooses_its_kernels_computes_what_one_kernel_does(checkpoint, engine, choices, dtype, error):
    directory = checkpoint(dtype, "2_8")
    auto, one = engine(directory, "auto", tuning=choices), engine(directory, "reference")
    linears = methods(auto, 1)
    chosen = {M: [linear.choice(M)["backend"] for linear in linears.values()] for M in (1, 16, 17, 128)}
    assert chosen[1] == chosen[16] == ["reference", "onednn", "reference", "onednn"]
    assert chosen[17] == chosen[128] == ["onednn", "reference", "onednn", "reference"]
    assert linears["self_attn.qkv_proj"].choice(16) == {"backend": "reference", "algorithm": 1, "tuned": True}
    assert linears["self_attn.o_proj"].choice(16) == {"backend": "onednn", "algorithm": None, "tuned": False}
    for M in (16, 128):
        logits, accumulators = observed(auto, M)
        expected, same = observed(one, M)
        assert logits.shape == (8, 512) and logits.std() >= 1
        assert (logits - expected).abs().max() <= error
        for name, found in accumulators.items():
            assert len(found) == M
            assert dtype == "FP8" or torch.equal(found, same[name]), (name, M)


def test_kernels_with_and_without_scales_in_the_epilogue_stand_side_by_side(checkpoint, engine, choices, monkeypatch):
    """As CUTLASS, which needs a GPU, beside a sparse kernel."""
    from slidesparse import gemm
    from slidesparse.gemm import onednn

    class Scaled(onednn.Backend):
        def scales(self, dtype):
            return ("token", "channel")

        def matmul(self, operand, x, algorithm=None, token_scale=None, channel_scale=None):
            assert token_scale.shape == (len(x), 1) and channel_scale.shape == (operand.N,)
            return (super().matmul(operand, x, algorithm) * token_scale * channel_scale).to(torch.bfloat16)

    directory, find = checkpoint("INT8", "2_8"), gemm.backend
    expected, _ = observed(engine(directory, "reference"))
    monkeypatch.setattr(gemm, "backend", lambda name: Scaled() if name == "onednn" else find(name))
    logits, products = observed(engine(directory, "auto", tuning=choices))
    types = [products[f"model.layers.0.{name}"].dtype for name in LINEARS]
    assert types == [torch.bfloat16, torch.int32, torch.bfloat16, torch.int32]
    assert (logits - expected).std() <= 0.05 * expected.std()


def test_choices_name_algorithms_of_tuning_tables(checkpoint, engine, tmp_path):
    """The table of a backend beside the choices says which algorithm serves an M, or none."""
    from slidesparse import gemm
    from slidesparse.files import sha256_file, write_json

    top = [{"algorithm": 1, "workspace": 0}]
    found = [{"N": N, "K_slid": K, "M": 32, "output": "INT32", "top": top} for N, K in LINEARS.values()]
    version = gemm.backend("onednn").version()
    write_json(tmp_path / "onednn.json", {"library": version, "quantize_lift": [], "entries": found})
    made_from = {"onednn.json": sha256_file(tmp_path / "onednn.json")}
    entries = [{"N": N, "K": K, "M": 64, "backend": "onednn", "algorithm": None} for N, K in LINEARS.values()]
    tables = {"onednn": "onednn.json"}
    path = tmp_path / "choices.json"
    write_json(path, {"schema": 1, "made_from": made_from, "tables": tables, "entries": entries})
    made = engine(checkpoint("INT8", "2_8"), "auto", tuning=path)
    for linear in methods(made, 0).values():
        assert [linear.choice(M)["algorithm"] for M in (1, 32, 33)] == [1, 1, None]
        assert [linear.choice(M)["tuned"] for M in (1, 32, 33)] == [True, True, False]


def transformers_logits(directory, dtype, sparsity):
    """Last-token logits of the same prompts from transformers' BitNetForCausalLM on dequantised weights."""
    from transformers import BitNetConfig, BitNetForCausalLM

    config = read_json(directory / "config.json")
    config.pop("quantization_config")
    reference = BitNetForCausalLM(BitNetConfig(**config)).to(torch.float32).eval()
    state = {}
    for name in reference.state_dict():
        if checkpoints.LINEAR.fullmatch(name):
            codes = checkpoints.read_tensor(directory, name)
            K = reference.state_dict()[name].shape[1]
            dense = unslide(codes.view(torch.int8), Pattern(sparsity), K).view(codes.dtype)
            state[name] = dense.float() * checkpoints.read_tensor(directory, f"{name}_scale")
        elif name == "lm_head.weight":
            state[name] = checkpoints.read_tensor(directory, "model.embed_tokens.weight").float()
        else:
            state[name] = checkpoints.read_tensor(directory, name).float()
    reference.load_state_dict(state)
    return reference


@pytest.mark.parametrize("sparsity", ["dense", "2_8"])
def test_the_model_is_bitnet(checkpoint, engine, sparsity):
    from slidesparse.engine import prompt

    directory = checkpoint("INT8", sparsity)
    ours, _ = observed(engine(directory, "reference" if sparsity != "dense" else "onednn"))
    reference = transformers_logits(directory, "INT8", sparsity)
    tokens = torch.tensor([prompt(number, 16, 512) for number in range(8)])
    with torch.no_grad():
        theirs = reference(tokens).logits[:, -1]
    # Theirs is float32 without quantised activations; what is left is W8A8's and BF16's rounding.
    both = torch.stack([ours.flatten(), theirs.flatten()])
    assert torch.corrcoef(both)[0, 1] >= 0.995
    assert (ours - theirs).std() <= 0.1 * theirs.std()


def unquantised_logprobs(directory, dtype, prompts):
    """Log-probabilities of all tokens after each prompt, of our class without quantisation, in vLLM."""
    import gc

    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.distributed import cleanup_dist_env_and_memory

    from slidesparse import vllm_plugin

    vllm_plugin.register()
    ours = LLM(
        str(directory),
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype=dtype,
        max_model_len=48,
        kv_cache_memory_bytes=1 << 24,
        max_logprobs=512,
    )
    outputs = ours.generate(
        [TokensPrompt(prompt_token_ids=one) for one in prompts],
        SamplingParams(max_tokens=1, logprobs=512, detokenize=False),
        use_tqdm=False,
    )
    del ours
    cleanup_dist_env_and_memory()
    gc.collect()
    return torch.tensor([[o.outputs[0].logprobs[0][token].logprob for token in range(512)] for o in outputs])


def transformers_logprobs(directory, dtype, prompts):
    from transformers import BitNetForCausalLM

    reference = BitNetForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        return reference(torch.tensor(prompts)).logits[:, -1].float().log_softmax(-1)


@pytest.fixture(scope="module")
def prompts():
    from slidesparse.engine import prompt

    return [prompt(number, 16, 512) for number in range(8)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_unquantised_class_has_transformers_logprobs(root, model, prompts, dtype):
    """In BF16 it is as far from the exact ones as transformers' own BF16 is."""
    directory = models.ensure(model, root)
    exact = transformers_logprobs(directory, "float32", prompts)
    error = (unquantised_logprobs(directory, dtype, prompts) - exact).abs()
    if dtype == "float32":
        assert error.max() <= 1e-3
    else:
        theirs = (transformers_logprobs(directory, dtype, prompts) - exact).abs()
        assert error.max() <= 1.5 * theirs.max() and error.mean() <= 1.2 * theirs.mean()


def test_the_class_has_transformers_logprobs_in_bf16_where_logits_are_small(tmp_path, model, root, prompts):
    """With transformers' own initialisation logits are below 1 and BF16's rounding is small beside 0.02."""
    from transformers import BitNetConfig, BitNetForCausalLM, set_seed

    set_seed(1)
    described = read_json(models.ensure(model, root) / "config.json")
    config = BitNetConfig(**described)
    BitNetForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    ours = unquantised_logprobs(tmp_path, "bfloat16", prompts)
    assert (ours - transformers_logprobs(tmp_path, "bfloat16", prompts)).abs().max() <= 0.02


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_stock_vllm_runs_the_dense_checkpoint(checkpoint, engine, dtype):
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
    from slidesparse.engine import Engine, Size

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
    assert prefill["prompt_lens"] == [32] * 4 and prefill["num_prompts"] == 32
    assert prefill["step_s"]["n"] == len(prefill["samples_s"]) == prefill["steps"] == 8
    assert len(prefill["repeats_s"]) == 2
    decode = throughput.decode(made, 8, DECODE)
    assert decode["tokens"] == decode["sequences"] == [8, 8]
    assert decode["step_s"]["n"] == 14  # the first of 8 output tokens comes with the prompts, in each of two repeats
    assert decode["tokens_per_s"] * decode["elapsed_s"] == pytest.approx(2 * 8 * (16 + 8))
    again = throughput.prefill(made, 32, PREFILL)  # a smaller M on the same engine
    assert again["tokens"] == [32, 32] and again["max_num_seqs"] == 1


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
    from slidesparse import engine as engines

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


@pytest.mark.parametrize("cause", [torch.OutOfMemoryError("CUDA out of memory. Tried …"), ValueError("something else")])
def test_an_engine_in_a_process_of_its_own_without_memory_is_a_result(checkpoint, root, monkeypatch, tmp_path, cause):
    """It says only that it ended; the same engine in this process says why."""
    from slidesparse import engine as engines

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

    monkeypatch.setattr(vllm_plugin, "vllm_version", lambda: "0.19.1")
    with pytest.raises(HardwareError, match=r"0\.26 to 0\.27 and this is 0\.19\.1"):
        vllm_plugin.register()
