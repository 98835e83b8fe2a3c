"""One point of each stage with FlashAttention 2, which vLLM takes on most GPUs, and what such engines compute."""

import json

import pytest
import torch

import flash
from gpu_engines import DECODE, PREFILL, logits
from slidesparse.engine import throughput
from slidesparse.kernel import point
from slidesparse.plan import stock

pytestmark = [pytest.mark.gpu, pytest.mark.engine]


@pytest.fixture(autouse=True)
def flash_attention_2(monkeypatch, flash_attention):
    if reason := flash.lacking(2):
        pytest.skip(reason)
    if flash_attention != 2:
        flash.force(2, monkeypatch)


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_a_point_of_prefill_and_of_decode_are_full_graphs(checkpoint, engine, dtype):
    made = engine(checkpoint(dtype, "2_8"), "cusparselt", ("prefill", 512), ("decode", 32))
    for measure, M, parameters in ((throughput.prefill, 512, PREFILL), (throughput.decode, 32, DECODE)):
        results = measure(made, M, parameters)
        assert results["graph_mode"] == "FULL" and results["tokens"] == [M, M]
        print(dtype, measure.__name__, {kernel["name"][:60]: kernel["count"] for kernel in results["kernels"]})
        attention = [kernel["name"] for kernel in results["kernels"] if kernel["part"] == "attention"]
        assert attention and not [name for name in attention if "sm90" in name.lower()]  # those of version 3


def test_a_point_of_the_kernel_stage(tmp_path):
    """It has no attention. Its products are exact, as before."""
    parameters = {"warmup_s": 0.01, "min_samples": 10, "max_samples": 50, "relative_ci": 0.01, "time_limit_s": 0.1}
    request = {"backend": "cusparselt", "dtype": "INT8", "sparsity": "2_8", "parameters": parameters}
    request["linears"] = [{"name": "o", "N": 2560, "K": 2560}]
    table = point.tune(request | {"M": [64]})
    assert not any(entry["wrong"] for entry in table["entries"])
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    (found,) = point.measure(request | {"M": 64, "tuning": str(path)})["gemms"]
    assert found["cold"]["median_s"] > 0


@pytest.mark.parametrize("lengths", [(256, 256), (64,) * 8, (512,)])
def test_full_graphs_compute_what_steps_without_them_compute(checkpoint, engine, lengths):
    """To 1e-2 in log-probabilities, where FlashAttention 3 is held to the same."""
    directory = checkpoint("INT8", "dense")
    replayed = logits(engine(directory, "cublaslt", ("prefill", 512), prompt_cap=lengths[0]), lengths)
    eager = logits(engine(directory, "cublaslt", ("prefill", 512), graphs=False, prompt_cap=lengths[0]), lengths)
    assert len(eager) == len(lengths) and eager.std() >= 0.5
    assert (replayed.log_softmax(-1) - eager.log_softmax(-1)).abs().max() <= 1e-2


@pytest.mark.parametrize("M", [2, 96])
def test_decodes_in_a_graph_compute_what_they_compute_without(checkpoint, engine, M):
    directory, prompts = checkpoint("INT8", "dense"), [16] * M
    replayed = logits(engine(directory, "cublaslt", ("decode", M)), prompts, 2)
    eager = logits(engine(directory, "cublaslt", ("decode", M), graphs=False), prompts, 2)
    assert len(eager) == M and eager.std() >= 0.5
    assert (replayed.log_softmax(-1) - eager.log_softmax(-1)).abs().max() <= 1e-2


def test_sparse_and_dense_products_are_equal_bit_for_bit(checkpoint, engine):
    directory = checkpoint("INT8", "2_8")
    both = [logits(engine(directory, backend, ("prefill", 512))) for backend in ("cusparselt", "cublaslt")]
    assert torch.equal(*both)


def test_stock_vllm_tells_that_it_made_piecewise_graphs_of_full_ones(checkpoint, engine):
    made = engine(checkpoint("INT8", "dense"), "vllm-full-32", ("prefill", 512))
    mode = throughput.prefill(made, 512, PREFILL)["graph_mode"]
    assert mode == "PIECEWISE" and stock.ran("vllm-full-32", mode) == "vllm-piecewise-32"
