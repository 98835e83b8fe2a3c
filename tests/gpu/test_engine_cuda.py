"""The vLLM plugin on a GPU: what runs in a step, with which CUDA graphs, to which logits."""

import pytest
import torch

import flash
from gpu_engines import DECODE, PREFILL, logits
from gpus import need
from slidesparse.engine import throughput
from slidesparse.errors import MeasurementError
from slidesparse.files import write_json
from slidesparse.plan import stock
from slidesparse.plan.backends import BACKENDS
from slidesparse.tuning.choices import SCHEMA

pytestmark = [pytest.mark.gpu, pytest.mark.engine]


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize("backend", ["cublaslt", "cusparselt", "cutlass_sparse"])
def test_steps_are_graphs_of_four_products_a_block_and_what_is_between(checkpoint, engine, backend, dtype):
    need(backend, dtype)
    sparsity = "2_8" if BACKENDS[backend].sparse else "dense"
    made = engine(checkpoint(dtype, sparsity), backend, ("prefill", 512), ("decode", 32))
    prefill = throughput.prefill(made, 512, PREFILL)
    assert prefill["graph_mode"] == "FULL" and prefill["graph_sizes"] == [32, 512]
    assert prefill["tokens"] == [512, 512] and prefill["sequences"] == [2, 2]
    decode = throughput.decode(made, 32, DECODE)
    assert decode["graph_mode"] == "FULL" and decode["sequences"] == [32, 32]
    for point in (prefill, decode):
        counts = {}
        for kernel in point["kernels"]:
            counts[kernel["part"]] = counts.get(kernel["part"], 0) + kernel["count"]
            assert not any(word in kernel["name"].lower() for word in ("quant", "dequant")), kernel
        print(backend, dtype, {kernel["name"][:60]: kernel["count"] for kernel in point["kernels"]})
        ours = [kernel["count"] for kernel in point["kernels"] if kernel["name"] == "_decode_attention"]
        assert ours == ([2] if point is decode else [])
        assert counts["fused"] == 2 * 5 + 1  # rope and four norms a block, and one in front of the first
        assert counts["gemm"] >= 2 * 4 + 1  # and the output head
        assert point["gpu_step_ms"] > 0 and point["launches"] < 70
        print([round(ms, 4) for ms in point["gpu_steps_ms"]], point["clock_mhz"])
        assert len(point["gpu_steps_ms"]) == 5
        assert point["clock_mhz"] > 200 and point["peak_memory_bytes"] > point["weight_bytes"] > 0


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_dense_and_sparse_engines_have_the_same_logits(checkpoint, engine, dtype):
    directory = checkpoint(dtype, "2_8")
    sparse = logits(engine(directory, "cusparselt", ("prefill", 512)))
    dense = logits(engine(directory, "cublaslt", ("prefill", 512)))
    assert sparse.std() >= 0.5
    if dtype == "INT8":  # exact sums, rounded alike
        assert torch.equal(sparse, dense)
    else:  # partial sums of E4M3 are rounded in the tensor cores, each library in its order
        assert (sparse - dense).norm() <= 0.1 * dense.norm()


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_an_engine_whose_products_are_scaled_has_the_same_logits(checkpoint, engine, dtype):
    need("cutlass_sparse")
    directory = checkpoint(dtype, "2_8")
    scaled, plain = (
        logits(engine(directory, name, ("prefill", 512), ("decode", 32))) for name in ("cutlass_sparse", "cusparselt")
    )
    assert plain.std() >= 0.5 and (scaled - plain).norm() <= 0.1 * plain.norm()


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_an_engine_that_chooses_its_kernels_runs_them_in_graphs(checkpoint, engine, tmp_path, dtype):
    shapes = {"qkv": (1024, 512), "o": (512, 512), "gate_up": (2816, 512), "down": (512, 1408)}
    chosen = {
        32: dict.fromkeys(shapes, "cutlass"),
        512: dict(zip(shapes, ("cusparselt", "cublaslt", "cutlass", "cusparselt"), strict=True)),
    }
    entries = [
        {"linear": name, "N": N, "K": K, "M": M, "backend": chosen[M][name], "algorithm": None}
        for M in chosen
        for name, (N, K) in shapes.items()
    ]
    tables = dict.fromkeys(("cublaslt", "cutlass", "cusparselt"))
    path = tmp_path / "2_8.json"
    write_json(path, {"schema": SCHEMA, "made_from": {}, "tables": tables, "entries": entries})
    directory = checkpoint(dtype, "2_8")
    auto = engine(directory, "auto", ("prefill", 512), ("decode", 32), tuning=path)
    mixed = logits(auto)  # the first run of an engine: prompts are numbered
    for point, M in ((throughput.prefill(auto, 512, PREFILL), 512), (throughput.decode(auto, 32, DECODE), 32)):
        assert point["graph_mode"] == "FULL"
        assert {name: choice["backend"] for name, choice in point["linears"].items()} == chosen[M]
    one = logits(engine(directory, "cusparselt", ("prefill", 512)))
    assert (mixed - one).norm() <= 0.1 * one.norm()


def test_an_engine_of_ternary_weights_computes_what_int8_does_in_a_quarter_of_the_memory(checkpoint, engine):
    directory = checkpoint("INT8", "dense")
    packed = engine(directory, "ternary", ("prefill", 512), ("decode", 32))
    found = logits(packed)
    expected = logits(whole := engine(directory, "cublaslt", ("prefill", 512), ("decode", 32)))
    assert found.std() >= 0.5 and (found - expected).norm() <= 0.1 * expected.norm()
    points = [throughput.decode(made, 32, DECODE) for made in (packed, whole)]
    assert points[0]["graph_mode"] == "FULL" and points[0]["weight_bytes"] == points[1]["weight_bytes"] / 4
    parts = {kernel["part"] for kernel in points[0]["kernels"] if "ternary" in kernel["name"]}
    assert parts == {"gemm"}


def test_graphs_compute_what_steps_without_them_compute(checkpoint, engine):
    directory, lengths = checkpoint("INT8", "dense"), (256, 256)
    replayed = logits(engine(directory, "cublaslt", ("prefill", 512)), lengths)
    eager = logits(engine(directory, "cublaslt", ("prefill", 512), graphs=False), lengths)
    assert eager.std() >= 0.5
    assert (replayed - eager).abs().max() <= 0.05
    difference = (replayed.log_softmax(-1) - eager.log_softmax(-1)).abs().max().item()
    print("largest difference of log-probabilities", difference)
    assert difference <= 1e-2


@pytest.mark.parametrize("M", [2, 32, 96])
def test_decodes_in_a_graph_compute_what_they_compute_without(checkpoint, engine, M):
    directory, prompts = checkpoint("INT8", "dense"), [16] * M
    replayed = logits(engine(directory, "cublaslt", ("decode", M)), prompts, 2)
    eager = logits(engine(directory, "cublaslt", ("decode", M), graphs=False), prompts, 2)
    assert len(eager) == M and eager.std() >= 0.5
    assert (replayed.log_softmax(-1) - eager.log_softmax(-1)).abs().max() <= 1e-2


def test_a_step_without_its_graph_is_no_point(checkpoint, engine):
    made = engine(checkpoint("INT8", "dense"), "cublaslt", ("prefill", 512))
    made.graphs.append((256, 1))
    with pytest.raises(MeasurementError, match="of 256 tokens and 1 sequences ran with the CUDA graph mode NONE"):
        throughput.prefill(made, 256, PREFILL)


@pytest.mark.parametrize("variant", ["vllm-full-32", "vllm-piecewise-1", "vllm-piecewise-32-own"])
def test_stock_vllm_is_measured_in_its_modes(checkpoint, engine, variant):
    points = [("prefill", 512)] + ([] if "full" in variant else [("decode", 32)])
    made = engine(checkpoint("INT8", "dense"), variant, *points)
    prefill = throughput.prefill(made, 512, PREFILL)
    full = "full" in variant and flash.version() != 2  # vLLM makes no full graphs of prefill with FlashAttention 2
    assert prefill["graph_mode"] == ("FULL" if full else "PIECEWISE")
    assert prefill["own_process"] == stock.VARIANTS[variant].own_process
    print(variant, {kernel["name"][:60]: kernel["count"] for kernel in prefill["kernels"]})
    if len(points) > 1:
        assert throughput.decode(made, 32, DECODE)["graph_mode"] == "FULL"


def test_ten_engines_after_one_another_do_not_grow(checkpoint):
    """Ours, and stock vLLM's compiled one, in one process."""
    from slidesparse.engine.engine import Engine, Size

    directory, used = checkpoint("INT8", "dense"), []
    for number in range(10):
        backend = "vllm-piecewise-1" if number % 3 == 0 else "cublaslt"
        made = Engine(directory, backend, None, Size.of("decode", 8, DECODE))
        throughput.decode(made, 8, DECODE)
        made.close()
        del made
        free, total = torch.cuda.mem_get_info()
        used.append((total - free) >> 20)
    print("MiB in use after each engine", used)
    assert used[9] <= used[3] + 32  # after both kinds were there twice
