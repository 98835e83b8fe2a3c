"""The kernels of cutlass_sparse on a GPU: exact on the models' shapes and on odd ones, and nothing else is written."""

import pytest
import torch

from gpus import need
from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm.cutlass_sparse import pack
from slidesparse.kernel.products import Linear, Problem, Product, Weight
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import store_as

pytestmark = pytest.mark.gpu

MODELS = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]
ODD = [(1, 8, 128), (3, 24, 256), (17, 72, 384), (129, 136, 128), (257, 264, 640), (300, 2560, 3840), (511, 8, 1152)]
GUARD = 4096


@pytest.fixture(scope="module")
def backend():
    need("cutlass_sparse")
    return gemm.backend("cutlass_sparse")


def names(backend, dtype, output):
    return [one.id for one in backend.algorithms(backend.prepare(codes(8, 128).to(dtype)), 1, output)]


def codes(N, K, most=1):
    """2:4 codes [N, K] int8 on the GPU: zeros stand anywhere, in some windows more than two."""
    generator = torch.Generator("cuda").manual_seed(N * 1009 + K)
    made = torch.randint(-most, most + 1, (N, K // 4, 4), generator=generator, device="cuda", dtype=torch.int8)
    order = torch.rand(N, K // 4, 4, generator=generator, device="cuda").argsort(-1)
    return (made * (order < 2)).view(N, K)


def activations(M, K, dtype):
    generator = torch.Generator("cuda").manual_seed(M + K)
    x = torch.randint(-127, 128, (M, K), generator=generator, device="cuda", dtype=torch.int8)
    return x if dtype == torch.int8 else (x.float() / 16).to(dtype)


def scales(M, N):
    generator = torch.Generator("cuda").manual_seed(M * N)
    return [torch.rand(shape, generator=generator, device="cuda") + 0.5 for shape in ((M, 1), (N,))]


def guarded(M, N, dtype):
    """(memory, its view [M, N] with GUARD elements before and behind it), all -7."""
    memory = torch.full((M * N + 2 * GUARD,), -7, dtype=dtype, device="cuda")
    return memory, memory[GUARD : GUARD + M * N].view(M, N)


def untouched(memory):
    return bool((memory[:GUARD] == -7).all() and (memory[-GUARD:] == -7).all())


def check_int8(backend, M, N, K, most=1):
    """INT32 sums and scaled BF16 products of every kernel, bit for bit."""
    weight, x = codes(N, K, most), activations(M, K, torch.int8)
    operand, sums = backend.prepare(weight), x.double() @ weight.double().t()
    token, channel = scales(M, N)
    for name in names(backend, torch.int8, "INT32"):
        memory, out = guarded(M, N, torch.int32)
        backend.matmul(operand, x, name, "INT32", out)
        assert torch.equal(out.double(), sums) and untouched(memory), name
    rounded = sums.to(torch.int32).float()
    for name in names(backend, torch.int8, "BF16"):
        for token_scale, channel_scale in ((token, channel), (None, channel), (token, None), (None, None)):
            memory, out = guarded(M, N, torch.bfloat16)
            backend.matmul(operand, x, name, "BF16", out, token_scale, channel_scale)
            expected = rounded if token_scale is None else rounded * token_scale
            expected = expected if channel_scale is None else expected * channel_scale
            assert torch.equal(out, expected.bfloat16()) and untouched(memory), (name, token_scale is None)


@pytest.mark.parametrize("M", [1, 16, 300, 2048])
@pytest.mark.parametrize(("N", "K"), MODELS)
def test_int8_is_exact_on_the_models_shapes(backend, N, K, M):
    check_int8(backend, M, N, K)


@pytest.mark.parametrize(("M", "N", "K"), ODD)
def test_int8_is_exact_on_odd_shapes(backend, M, N, K):
    check_int8(backend, M, N, K, most=127)


@pytest.mark.parametrize("pattern", ["2_4", "2_8", "2_inf"])
@pytest.mark.parametrize("M", [1, 77, 1024])
def test_fp8_is_right_within_rounding(backend, M, pattern):
    for N, K in ((2560, 2560), (136, 2567)):
        done = Product(Problem(Weight("o", N, K, "FP8", Pattern(pattern), "cuda"), M), backend)
        for one in done.algorithms():
            done.verify(one.id)
            Linear(done, one.id)  # which raises an error if the scaled result is wrong


@pytest.mark.parametrize(("M", "N", "K"), ODD)
def test_fp8_of_small_numbers_is_exact_on_odd_shapes(backend, M, N, K):
    """Codes of few bits, whose sums a tensor core does not round; BF16 rounds them once."""
    weight, x = codes(N, K), activations(M, K, torch.int8) // 16
    operand = backend.prepare(store_as(weight, "FP8"))
    sums = x.double() @ weight.double().t()
    for name in names(backend, torch.float8_e4m3fn, "BF16"):
        memory, out = guarded(M, N, torch.bfloat16)
        backend.matmul(operand, x.float().to(torch.float8_e4m3fn), name, "BF16", out)
        assert torch.equal(out, sums.float().bfloat16()) and untouched(memory), name


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_the_same_product_again_and_again_is_the_same(backend, dtype):
    """As a race between loads and products would show."""
    operand, x = backend.prepare(codes(13824, 2560).to(dtype)), activations(4096, 2560, dtype)
    for name in names(backend, dtype, "BF16"):
        first = backend.matmul(operand, x, name)
        assert all(torch.equal(backend.matmul(operand, x, name), first) for _ in range(20)), name


def test_the_largest_sums_are_exact(backend):
    weight = torch.tensor([-127, -127, 0, 0], dtype=torch.int8, device="cuda").repeat(64, 6912 // 4)
    x = torch.full((16, 6912), -127, dtype=torch.int8, device="cuda")
    for name in names(backend, torch.int8, "INT32"):
        assert (backend.matmul(backend.prepare(weight), x, name, "INT32") == 127 * 127 * 3456).all(), name


def test_every_place_of_a_kept_code_is_read(backend):
    """A weight with one 1 in a row, at each entry of a tile in turn: the product is that column of the activations."""
    K = 256
    weight, x = torch.eye(K, dtype=torch.int8, device="cuda"), activations(130, K, torch.int8)
    for name in names(backend, torch.int8, "INT32"):
        assert torch.equal(backend.matmul(backend.prepare(weight), x, name, "INT32"), x.int()), name


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_are_packed_on_the_gpu_as_on_the_cpu(dtype):
    weight = codes(200, 384, 127).to(dtype).view(torch.int8)
    assert torch.equal(pack(weight).cpu(), pack(weight.cpu()))


def test_products_can_be_captured_with_their_scales(backend):
    weight, x = codes(512, 768), activations(100, 768, torch.int8)
    operand, (token, channel) = backend.prepare(weight), scales(100, 512)
    for name in names(backend, torch.int8, "BF16"):
        backend.workspace(operand, 100, name)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = backend.matmul(operand, x, name, token_scale=token, channel_scale=channel)
        x.copy_(-x)
        graph.replay()
        assert torch.equal(out, ((x.double() @ weight.double().t()).float() * token * channel).bfloat16()), name


def test_what_cannot_be_multiplied_is_refused(backend):
    for shape in ((12, 128), (8, 192)):
        with pytest.raises(MeasurementError, match="N in multiples of 8 and K of 128"):
            backend.prepare(torch.zeros(shape, dtype=torch.int8, device="cuda"))
    with pytest.raises(MeasurementError, match="more than two"):
        backend.prepare(torch.ones(8, 128, dtype=torch.int8, device="cuda"))
    operand = backend.prepare(codes(8, 128))
    assert backend.matmul(operand, activations(0, 128, torch.int8)).shape == (0, 8)
    with pytest.raises(MeasurementError, match="is no kernel of backend cutlass_sparse"):
        backend.workspace(operand, 16, "64x64:1x1:Cooperative")
    odd = torch.zeros(129, dtype=torch.int8, device="cuda")[1:].view(1, 128)
    with pytest.raises(MeasurementError, match="at a multiple of 16 bytes"):
        backend.matmul(operand, odd)
