"""The ternary kernels on a GPU: exact sums on the models' shapes and on odd ones, whatever the cut."""

import pytest
import torch

from slidesparse import gemm
from slidesparse.gemm.ternary_kernels import ALSO, SHAPES, Tile

pytestmark = pytest.mark.gpu

MODELS = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912), (1024, 512), (2816, 512), (512, 1408)]
ODD = [(1, 1, 1), (3, 17, 16), (5, 33, 100), (16, 40, 144), (17, 65, 336), (33, 31, 2567), (64, 127, 2560)]
ODD += [(65, 129, 528), (129, 1, 64), (257, 70, 208), (300, 2560, 6912), (511, 3, 80)]


@pytest.fixture(scope="module")
def backend():
    return gemm.backend("ternary")


def operands(M, N, K):
    """(activations, codes, their exact product) on the GPU."""
    generator = torch.Generator("cuda").manual_seed(M * N + K)
    x = torch.randint(-127, 128, (M, K), generator=generator, device="cuda", dtype=torch.int8)
    codes = torch.randint(-1, 2, (N, K), generator=generator, device="cuda", dtype=torch.int8)
    return x, codes, x.double() @ codes.double().t()


def check(backend, operand, x, expected, algorithm=None):
    """INT32 equals the exact sums bit for bit; BF16 has both scales, and is rounded once."""
    M, N = expected.shape
    sums = backend.matmul(operand, x, algorithm, "INT32")
    assert torch.equal(sums.double(), expected), algorithm
    scales = torch.rand(M, 1, device="cuda") + 0.5, torch.rand(N, device="cuda") + 0.5
    y = backend.matmul(operand, x, algorithm, "BF16", token_scale=scales[0], channel_scale=scales[1])
    scaled = expected * scales[0].double() * scales[1].double()
    assert ((y.double() - scaled).abs() <= scaled.abs() / 255).all(), algorithm


@pytest.mark.parametrize("M", [1, 16, 17, 64, 128, 300, 2048])
@pytest.mark.parametrize(("N", "K"), MODELS)
def test_the_default_is_exact_on_the_models_shapes(backend, N, K, M):
    x, codes, expected = operands(M, N, K)
    operand = backend.prepare(codes)
    assert operand.bytes == N * K / 4
    check(backend, operand, x, expected)


@pytest.mark.parametrize("M", [1, 16, 64, 256])
@pytest.mark.parametrize(("N", "K"), [(2560, 2560), (2560, 6912)])
def test_every_cut_is_exact(backend, N, K, M):
    x, codes, expected = operands(M, N, K)
    operand = backend.prepare(codes)
    backend.compile_ahead([(N, K, M)])
    for algorithm in backend.algorithms(operand, M):
        check(backend, operand, x, expected, algorithm.id)


@pytest.mark.parametrize(("M", "N", "K"), ODD)
def test_odd_shapes_are_exact(backend, M, N, K):
    x, codes, expected = operands(M, N, K)
    operand = backend.prepare(codes)
    for tokens in {min(SHAPES), 16, 64} | ALSO.keys():
        channels, warps = SHAPES[tokens][0]
        for splits in (1, 3):
            check(backend, operand, x, expected, Tile(channels, tokens, 64, warps, 3, splits).id)


def test_the_largest_sums_are_exact(backend):
    x = torch.full((16, 6912), -127, dtype=torch.int8, device="cuda")
    operand = backend.prepare(torch.ones(64, 6912, dtype=torch.int8, device="cuda"))
    assert (backend.matmul(operand, x, output="INT32") == -127 * 6912).all()


def test_an_m_smaller_than_the_tuned_one_uses_its_cut(backend):
    x, codes, expected = operands(64, 512, 1024)
    operand = backend.prepare(codes)
    for algorithm in backend.algorithms(operand, 64)[:8]:
        for M in (1, 33):
            check(backend, operand, x[:M], expected[:M], algorithm.id)
