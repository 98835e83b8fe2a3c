"""The GEMM backends of a CPU: dense and sparse give the same product, from what each stores."""

from pathlib import Path

import pytest
import torch

from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.plan.backends import BACKENDS
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.prune import prune
from slidesparse.sparsity.quantize import quantize_per_token, store_as
from slidesparse.sparsity.slide import lift, slide

ON_CPU = [name for name, backend in BACKENDS.items() if backend.module and backend.processor == "cpu"]


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize("sparsity", ["2_4", "2_6", "2_8", "2_10", "2_16", "2_inf"])
@pytest.mark.parametrize("M", [1, 17, 64])
def test_backends_give_the_same_product(dtype, sparsity, M):
    pattern, (N, K) = Pattern(sparsity), (48, 100)
    generator = torch.Generator().manual_seed(M)
    latent = torch.randn(N, K, generator=generator)
    codes, _ = prune(latent.sign().to(torch.int8), latent, pattern)
    x, _ = quantize_per_token(torch.randn(M, K, generator=generator), dtype)
    expected = x.double() @ codes.double().T
    for backend in map(gemm.backend, ON_CPU):
        weight, inputs = (slide(codes, pattern), lift(x, pattern)) if backend.sparse else (codes, x)
        operand = backend.prepare(store_as(weight, dtype))
        assert (operand.N, operand.dtype) == (N, x.dtype)
        for algorithm in backend.algorithms(operand, M):
            product = backend.matmul(operand, inputs, algorithm.id)
            assert product.is_contiguous() and product.shape == (M, N)
            out = torch.empty_like(product)
            backend.matmul(operand, inputs, algorithm.id, out=out)
            assert torch.equal(out, product)
            if dtype == "INT8":
                assert product.dtype == torch.int32
                assert torch.equal(product.double(), expected), (backend.name, algorithm)
            else:
                assert product.dtype == torch.float32
                assert torch.allclose(product.double(), expected, rtol=1e-5, atol=1e-2)


def test_the_sparse_backend_stores_values_and_metadata_only():
    pattern = Pattern("2_8")
    operand = gemm.backend("reference").prepare(slide(torch.zeros(32, 256, dtype=torch.int8), pattern))
    assert operand.bytes == 32 * (384 // 2 + 384 // 8)  # 0.625 N K'


def test_sums_that_float32_cannot_hold_are_refused():
    codes = torch.zeros(1, 4096, dtype=torch.int8)
    codes[:, 0::4] = codes[:, 1::4] = 127
    with pytest.raises(MeasurementError, match="2\\^24"):
        gemm.backend("reference").prepare(codes)


def test_an_unknown_backend_is_named():
    with pytest.raises(MeasurementError, match="abacus"):
        gemm.backend("abacus")


def test_a_backend_that_lacks_a_method_cannot_be_imported():
    with pytest.raises(TypeError, match="lacks device, matmul, which a backend must have"):

        class Half(gemm.Backend):
            name, sparse = "half", False

            def version(self):
                return "1"

            def outputs(self, dtype):
                return ("INT32",)

            def prepare(self, codes):
                return codes

            def algorithms(self, operand, M, output=None):
                return []


@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if backend.module])
def test_every_backend_of_the_table_has_its_module(name):
    path = Path(gemm.__file__).with_name(f"{BACKENDS[name].module}.py")
    assert f'name = "{name}"' in path.read_text()
