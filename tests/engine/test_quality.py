"""Quality points of BitNet-small on a CPU, against the same text in transformers' own BitNet, in float32."""

import math
from functools import partial

import pytest
import torch
import yaml
from torch.nn import functional as F

from places import ROOT
from slidesparse import models
from slidesparse.errors import MeasurementError
from slidesparse.files import sha256_file, write_json
from slidesparse.models import bitnet, checkpoints
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.prune import prune
from slidesparse.sparsity.quantize import absmean_scale, quantize_per_token, ternary
from slidesparse.worker import handlers

pytestmark = pytest.mark.engine

TEXT = ROOT / "resources" / "text" / "held_out.txt"
TOKENS, CONTEXT = 2048, 256


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    handlers.prepare_environment()
    yield tmp_path_factory.mktemp("resources")
    handlers.close()


@pytest.fixture(scope="module")
def model(root):
    entry = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["registry"]["BitNet-small"]
    return models.fetch("BitNet-small", entry | {"path": str(ROOT / entry["path"])}, root, root / "models.lock.json")


@pytest.fixture(scope="module")
def point(root, model, tmp_path_factory):
    """Makes the results of points, as a worker does."""
    manifests = tmp_path_factory.mktemp("results")

    def make(dtype, sparsity, text=TEXT, sha256=None):
        path = manifests / dtype / f"{sparsity}.json"
        for name in {sparsity, "dense"}:
            if not path.with_stem(name).exists():
                made = checkpoints.convert(model, dtype, name, root, progress=False)
                write_json(path.with_stem(name), made)
        request = {"hardware": "cpu", "stage": "quality", "model": "BitNet-small", "dtype": dtype, "M": TOKENS}
        request |= {"sparsity": sparsity, "backend": "onednn" if sparsity == "dense" else "reference", "tuning": None}
        request |= {"parameters": {"text": str(text), "context": CONTEXT, "time_limit_s": 600}, "root": root}
        request["parameters"]["sha256"] = sha256 or sha256_file(TEXT)
        return handlers.engine(request | {"manifest": path, "peers": {} if sparsity == "dense" else {"onednn": None}})

    return make


@pytest.fixture(scope="module")
def plain(model):
    """Log-probabilities [windows, CONTEXT, vocabulary] and targets, by transformers' BitNet with plain linears.

    sparsity: of the weights, which are ternary weights times their scale. dtype: of the inputs of linears, or None for
    inputs that are not quantised. between: of what lies between linears, which themselves compute in float32.
    """
    from transformers import BitNetConfig, BitNetForCausalLM

    source = ROOT / "resources" / "trained" / "BitNet-small"
    config = BitNetConfig.from_pretrained(source)
    made = BitNetForCausalLM(config).eval()
    stored = {name: checkpoints.read_tensor(source, name) for name, _, _ in bitnet.tensors(config.to_dict())}
    text = TEXT.read_bytes()  # a token is a byte
    count = TOKENS // CONTEXT
    firsts = [i * (len(text) - CONTEXT) // (count - 1) for i in range(count)]
    targets = torch.tensor([list(text[first : first + CONTEXT]) for first in firsts])
    inputs = F.pad(targets[:, :-1], (1, 0), value=config.bos_token_id)

    def weight(name, pattern):
        latent = stored[f"{name}.weight"]
        scale = absmean_scale(latent)
        return prune(ternary(latent, scale), latent, pattern)[0].float() / scale

    @torch.inference_mode()
    def run(sparsity, dtype=None, between=torch.bfloat16):
        made.float().load_state_dict({name: latent.float() for name, latent in stored.items()}, strict=False)
        made.model.to(between)

        def multiply(name, x):
            x = x.float()
            if dtype and name != "lm_head":
                codes, scale = quantize_per_token(x.flatten(0, -2), dtype)
                x = (codes.float() * scale).view(x.shape)
            return F.linear(x, exact[name]).to(torch.float32 if name == "lm_head" else between)

        exact = {name: weight(name, Pattern(sparsity)) for name in linears}
        exact["lm_head"] = stored["model.embed_tokens.weight"].float()
        for name in exact:
            made.get_submodule(name).forward = partial(multiply, name)
        return made(inputs).logits.log_softmax(-1), targets

    linears = [name.removesuffix(".weight") for name in stored if bitnet.LINEAR.fullmatch(name)]
    return run


def perplexity(logs, targets):
    return math.exp(-logs.gather(-1, targets[..., None]).mean())


def divergence(reference, own):
    return (reference.exp() * (reference - own)).sum(-1).mean().item()


def test_scores_are_those_of_another_implementation(point, plain):
    dense, pruned = point("INT8", "dense"), point("INT8", "2_8")
    R, W8A8, less = plain("dense"), plain("dense", "INT8"), plain("2_8", "INT8")
    exact = plain("dense", between=torch.float32)
    assert dense["reference"] == "R" and pruned["reference"] == "dense"
    assert dense["reference_perplexity"]["value"] == pytest.approx(perplexity(*exact), rel=0.005)
    assert dense["perplexity"]["value"] == pytest.approx(perplexity(*W8A8), rel=0.005)
    assert pruned["perplexity"]["value"] == pytest.approx(perplexity(*less), rel=0.005)
    for found, expected in ((dense, divergence(R[0], W8A8[0])), (pruned, divergence(W8A8[0], less[0]))):
        assert found["divergence"]["ci_low"] <= expected <= found["divergence"]["ci_high"], (
            found["divergence"],
            expected,
        )
    assert pruned["reference_perplexity"] == dense["perplexity"]
    assert pruned["extra_bits_per_byte"]["ci_low"] > 0
    assert dense["linears"]["qkv"]["backend"] == "onednn" and pruned["linears"]["qkv"]["backend"] == "reference"


def test_a_text_that_was_changed_since_it_was_planned_is_refused(point):
    with pytest.raises(MeasurementError, match="is not the text that was planned: run again"):
        point("INT8", "dense", sha256="0" * 64)
    with pytest.raises(MeasurementError, match="quality.text is .*none, which cannot be read"):
        point("INT8", "dense", text=TEXT.with_name("none"))
