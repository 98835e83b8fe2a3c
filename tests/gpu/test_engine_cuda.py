"""The vLLM plugin on a GPU: what runs in a step, with which CUDA graphs, to which logits."""

import math

import pytest
import torch

from slidesparse import models
from slidesparse.engine import throughput
from slidesparse.errors import MeasurementError
from slidesparse.files import write_json
from slidesparse.models import checkpoints
from slidesparse.plan import stock
from slidesparse.tuning.choices import SCHEMA
from slidesparse.worker import handlers

pytestmark = [pytest.mark.gpu, pytest.mark.engine]

ENTRY = {
    "source": "generated",
    "seed": 7,
    "shape": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}
REPEATS = {"warmup_steps": 2, "min_repeats": 2, "max_repeats": 2, "relative_ci": 0.5, "time_limit_s": 120}
PREFILL = REPEATS | {"steps": 8, "prompt_cap": 256}
DECODE = REPEATS | {"prompt_len": 16, "output_len": 32}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    handlers.prepare_environment()
    root = tmp_path_factory.mktemp("resources")
    model, made = models.fetch("BitNet-small", ENTRY, root, root / "models.lock.json"), {}

    def make(dtype, sparsity):
        if (dtype, sparsity) not in made:
            made[dtype, sparsity] = checkpoints.convert(model, dtype, sparsity, root, progress=False)
        return checkpoints.directory(made[dtype, sparsity], root)

    return make


@pytest.fixture
def engine():
    """Makes engines that can measure the points given, and closes them."""
    from slidesparse.engine.engine import Engine, Size

    made = []

    def make(directory, backend, *points, graphs=True, tuning=None):
        sizes = [Size.of(stage, M, PREFILL if stage == "prefill" else DECODE) for stage, M in points]
        size = sizes[0]
        for other in sizes[1:]:
            size = size.union(other)
        made.append(Engine(directory, backend, tuning, size if graphs else size._replace(graphs=())))
        return made[-1]

    yield make
    for one in made:
        one.close()


def logits(engine, lengths=(64,) * 4):
    """Last-token logits of prompts that run in one step."""
    found, compute = [], engine.model.compute_logits

    def record(hidden):
        found.append(compute(hidden))
        return found[-1]

    engine.model.compute_logits = record
    engine.run(list(lengths), 1, (sum(lengths), len(lengths)), math.inf)
    engine.model.compute_logits = compute
    return torch.cat(found).float().cpu()


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize("backend", ["cublaslt", "cusparselt"])
def test_steps_are_graphs_of_four_products_a_block_and_what_is_between(checkpoint, engine, backend, dtype):
    sparsity = "2_8" if backend == "cusparselt" else "dense"
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
        assert counts["fused"] == 2 * 5 + 1  # rope and four norms a block, and one in front of the first
        assert counts["gemm"] >= 2 * 4 + 1  # and the output head
        assert point["gpu_step_ms"] > 0 and point["launches"] < 70
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


def test_graphs_compute_what_steps_without_them_compute(checkpoint, engine):
    directory, lengths = checkpoint("INT8", "dense"), (256, 256)
    replayed = logits(engine(directory, "cublaslt", ("prefill", 512)), lengths)
    eager = logits(engine(directory, "cublaslt", ("prefill", 512), graphs=False), lengths)
    assert eager.std() >= 0.5
    assert (replayed - eager).abs().max() <= 0.05
    difference = (replayed.log_softmax(-1) - eager.log_softmax(-1)).abs().max().item()
    print("largest difference of log-probabilities", difference)
    assert difference <= 1e-2


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
    assert prefill["graph_mode"] == ("FULL" if "full" in variant else "PIECEWISE")
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
