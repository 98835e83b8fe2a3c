"""The GPU backends on a GPU: every algorithm against the float64 product, graphs, compilation, measuring."""

import json

import pytest
import torch

from gpus import need
from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm import dense
from slidesparse.kernel import point
from slidesparse.kernel.products import Problem, Product, Weight
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.prune import prune
from slidesparse.sparsity.quantize import quantize_per_token, store_as
from slidesparse.sparsity.slide import lift, slide
from slidesparse.tuning import search

pytestmark = pytest.mark.gpu

RUNS = [("cublaslt", "dense"), ("cutlass", "dense"), ("torch", "dense"), ("cusparselt", "2_4"), ("cusparselt", "2_8")]
RUNS += [("ternary", "dense"), ("cutlass_sparse", "2_4"), ("cutlass_sparse", "2_8")]
PARAMETERS = {"warmup_s": 0.01, "min_samples": 10, "max_samples": 50, "relative_ci": 0.01, "time_limit_s": 0.1}
LINEARS = [{"name": "o", "N": 2560, "K": 2560}]


def product(backend, sparsity, dtype, output=None, M=64, N=512, K=384, sets=1 << 30):
    weight = Weight("o", N, K, dtype, Pattern(sparsity), "cuda")
    return Product(Problem(weight, M), backend, output, 1 << 20, sets)


@pytest.mark.parametrize("sparsity", ["2_4", "2_6", "2_8", "2_16", "2_inf"])
@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_codes_are_pruned_slid_and_lifted_on_the_gpu_as_on_the_cpu(sparsity, dtype):
    pattern, generator = Pattern(sparsity), torch.Generator().manual_seed(1)
    latent = torch.randn(64, 200, generator=generator)
    codes = torch.randint(-1, 2, (64, 200), generator=generator).to(torch.int8)
    x, _ = quantize_per_token(torch.randn(16, 200, generator=generator), dtype)
    pruned, changed = prune(codes, latent, pattern)
    on_gpu, changed_on_gpu = prune(codes.cuda(), latent.cuda(), pattern)
    assert torch.equal(on_gpu.cpu(), pruned) and changed == changed_on_gpu
    slid = store_as(slide(pruned, pattern), dtype)
    assert torch.equal(store_as(slide(on_gpu, pattern), dtype).cpu().view(torch.int8), slid.view(torch.int8))
    assert torch.equal(lift(x.cuda(), pattern).cpu().view(torch.int8), lift(x, pattern).view(torch.int8))


@pytest.mark.parametrize("M", [16, 64, 1024])
@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize(("name", "sparsity"), RUNS)
def test_every_algorithm_is_right(name, sparsity, dtype, M):
    if name == "torch" and dtype == "INT8":
        M = max(M, 32)  # torch._int_mm takes no fewer
    need(name, dtype)
    backend = gemm.backend(name)
    for output in backend.outputs(dtype):
        done = product(backend, sparsity, dtype, output, M)
        right, wrong = search._verified(done, done.algorithms())
        assert right and not wrong, [reason for _, reason in wrong][:3]


def test_one_factor_for_each_output_channel():
    done = product(gemm.backend("cusparselt"), "2_8", "INT8")
    factors = torch.linspace(0.5, 2, done.N, device="cuda")
    expected = done.problem.reference * factors
    for algorithm in done.algorithms():
        out = done.backend.matmul(done.operand, done.inputs[0], algorithm.id, channel_scale=factors)
        assert (out.double() - expected).norm() < 4e-3 * expected.norm()


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_torchs_own_binding_agrees(dtype):
    done = product(gemm.backend("cusparselt"), "2_4", dtype)
    codes = store_as(done.problem.weight.codes, dtype)
    theirs = torch._cslt_sparse_mm(
        torch._cslt_compress(codes), done.problem.x.t(), out_dtype=torch.bfloat16, transpose_result=True
    )
    ours = done.backend.matmul(done.operand, done.problem.x)
    theirs = theirs if theirs.shape == ours.shape else theirs.t()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["cublaslt", "cusparselt", "cutlass_sparse", "ternary"])
def test_rows_that_tensor_cores_do_not_take_are_added(name):
    need(name)
    backend = gemm.backend(name)
    done = product(backend, "2_8" if backend.sparse else "dense", "INT8", "INT32", M=5)
    out = backend.matmul(done.operand, done.inputs[0], output="INT32")
    assert torch.equal(out.double(), done.problem.reference)


@pytest.mark.parametrize("name", ["cublaslt", "cusparselt", "cutlass_sparse", "ternary"])
def test_products_can_be_captured_and_compiled(name):
    need(name)
    backend = gemm.backend(name)
    done = product(backend, "2_8" if backend.sparse else "dense", "INT8", "INT32")
    x = done.inputs[0].clone()

    def doubled(x):
        return backend.matmul(done.operand, x, output="INT32") * 2

    expected = done.problem.reference * 2
    assert torch.equal(doubled(x).double(), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = doubled(x)
    x.copy_(-x)
    graph.replay()
    assert torch.equal(out.double(), -expected)
    assert torch.equal(torch.compile(doubled, fullgraph=True)(x).double(), -expected)


def test_scales_of_ones_are_not_made_in_the_memory_of_a_graph():
    """Graphs share their memory, so a replay of another would write to them."""
    with pytest.raises(RuntimeError, match="before it is captured"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        dense.ones(3, 4099, torch.device("cuda"))
    assert dense.ones(3, 4099, torch.device("cuda")).eq(1).all()


def test_errors_are_sentences():
    backend = gemm.backend("cusparselt")
    with pytest.raises(MeasurementError, match="not 2:4"):
        backend.prepare(torch.ones(64, 128, dtype=torch.int8))
    done = product(backend, "2_8", "INT8")
    with pytest.raises(MeasurementError, match="cusparseLt.* for M=64 N=512 .* INT8 to BF16: "):
        done.verify("999:1")


def test_the_compressed_form_does_not_depend_on_the_machine_state():
    codes = slide(product(gemm.backend("cusparselt"), "2_8", "INT8").problem.weight.codes, Pattern("2_8"))
    backend = gemm.backend("cusparselt")
    assert torch.equal(backend.prepare(codes).compressed, backend.prepare(codes).compressed)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bfloat16])
def test_errors_of_a_product_are_measured_exactly(dtype):
    from slidesparse.timing import cuda_tools

    reference = torch.randint(-1000, 1000, (300, 400), device="cuda").double()
    out = reference.to(dtype)
    out[7, 9] += 64
    difference = out.double() - reference
    ((norm, largest),) = cuda_tools.errors([out], reference)
    assert norm == pytest.approx(difference.norm().item()) and largest == difference.abs().max().item()
    if dtype == torch.bfloat16:
        out[1, 1] = float("nan")
        assert cuda_tools.errors([out], reference) == [(float("inf"), float("inf"))]


def test_a_sample_is_the_time_of_one_call():
    from slidesparse.timing import cuda

    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    sampler = cuda.Replays(lambda i: target.copy_(source), 1)
    seconds = sorted(sampler()() for _ in range(9))[4]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(50):
        target.copy_(source)
    end.record()
    end.synchronize()
    assert seconds == pytest.approx(start.elapsed_time(end) / 50 / 1e3, rel=0.1)


def test_kernels_have_names():
    done = product(gemm.backend("cusparselt"), "2_8", "INT8")
    assert any("gemm" in name for name in done.kernels(done.algorithms()[0].id))


@pytest.mark.parametrize(
    ("name", "dtype", "sparsity"),
    [
        ("cublaslt", "FP8", "dense"),
        ("cusparselt", "INT8", "2_8"),
        ("cutlass_sparse", "FP8", "2_8"),
        ("torch", "FP8", "2_8"),
        ("ternary", "INT8", "dense"),
    ],
)
def test_a_search_and_a_point(name, dtype, sparsity, tmp_path):
    need(name, dtype)
    request = {"backend": name, "dtype": dtype, "sparsity": sparsity, "linears": LINEARS, "parameters": PARAMETERS}
    table = point.tune(request | {"M": [64, 128]})
    assert not any(entry["wrong"] for entry in table["entries"])
    assert all(entry["top"][0]["kernels"] for entry in table["entries"])
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    peers = {"cublaslt": None, "cutlass": None} if name == "cusparselt" else {}
    results = point.measure(request | {"M": 64, "tuning": str(path), "peers": peers})
    (found,) = results["gemms"]
    assert found["cold"]["median_s"] > 0 and found["hot"]["median_s"] > 0
    assert {peer["backend"] for peer in found["peers"]} | set(results["peers_missing"]) == set(peers)
    assert json.dumps(results)
