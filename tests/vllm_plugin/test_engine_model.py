"""The vLLM plugin on a CPU: the model is BitNet, and a slid checkpoint computes what its dense form computes."""

import pytest
import torch

from engines import LINEARS
from slidesparse import models
from slidesparse.files import read_json, write_json
from slidesparse.models import bitnet, checkpoints
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.slide import unslide
from slidesparse.tuning.choices import SCHEMA

pytest_plugins = ["engines"]
pytestmark = pytest.mark.engine


@pytest.mark.parametrize("sparsity", ["2_4", "2_6", "2_8", "2_10"])
def test_sparse_and_dense_pruned_engines_agree(checkpoint, engine, sparsity, observed):
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


def test_fp8_sparse_and_dense_pruned_engines_agree(checkpoint, engine, observed):
    directory = checkpoint("FP8", "2_8")
    sparse, _ = observed(engine(directory, "reference"))
    dense, _ = observed(engine(directory, "onednn"))
    assert sparse.std() >= 1
    assert (sparse - dense).abs().max() <= 0.1  # float32 sums in another order now and then round BF16 otherwise


def methods(engine, layer):
    """{linear: its quantisation method} of a layer."""
    return {name: engine.model.get_submodule(f"model.layers.{layer}.{name}").quant_method for name in LINEARS}


@pytest.mark.parametrize(("dtype", "error"), [("INT8", 1e-2), ("FP8", 0.1)])
def test_an_engine_that_chooses_its_kernels_computes_what_one_kernel_does(
    checkpoint, engine, choices, dtype, error, observed
):
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


def test_kernels_with_and_without_scales_in_the_epilogue_stand_side_by_side(
    checkpoint, engine, choices, monkeypatch, observed
):
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
    from slidesparse.files import sha256_file

    top = [{"algorithm": 1, "workspace": 0}]
    found = [{"N": N, "K_slid": K, "M": 32, "output": "INT32", "top": top} for N, K in LINEARS.values()]
    version = gemm.backend("onednn").version()
    write_json(tmp_path / "onednn.json", {"library": version, "quantize_lift": [], "entries": found})
    made_from = {"onednn.json": sha256_file(tmp_path / "onednn.json")}
    entries = [{"N": N, "K": K, "M": 64, "backend": "onednn", "algorithm": None} for N, K in LINEARS.values()]
    tables = {"onednn": "onednn.json"}
    path = tmp_path / "choices.json"
    write_json(path, {"schema": SCHEMA, "made_from": made_from, "tables": tables, "entries": entries})
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
        if bitnet.LINEAR.fullmatch(name):
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
def test_the_model_is_bitnet(checkpoint, engine, sparsity, observed):
    from slidesparse.engine.engine import prompt

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
    from slidesparse.engine.engine import prompt

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
