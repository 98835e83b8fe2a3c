"""GEMM backends on a CPU, their search, the look-up of what was found, and points measured with it."""

import json

import pytest
import torch

from slidesparse import gemm, kernel_points, tuning
from slidesparse.errors import MeasurementError, RecordError
from slidesparse.patterns import Pattern
from slidesparse.prune import prune
from slidesparse.quantize import quantize_per_token, store_as
from slidesparse.slide import lift, slide

QUICK = {"warmup": 1, "min_samples": 2, "max_samples": 3, "relative_ci": 1.0, "time_limit_s": 0.01}
LINEARS = [{"name": "qkv", "N": 96, "K": 64}, {"name": "down", "N": 64, "K": 100}]


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
    dense, sparse = gemm.backend("onednn"), gemm.backend("reference")
    for backend, weight, inputs in (
        (dense, codes, x),
        (sparse, slide(codes, pattern), lift(x, pattern)),
    ):
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


def request(stage, M, tmp_path, backend="reference", sparsity="2_8", dtype="INT8"):
    return {
        "stage": stage,
        "backend": backend,
        "sparsity": sparsity,
        "dtype": dtype,
        "linears": LINEARS,
        "M": M,
        "parameters": QUICK,
        "tuning": str(tmp_path / "tuning.json"),
    }


@pytest.mark.parametrize(("backend", "sparsity"), [("reference", "2_8"), ("onednn", "dense"), ("onednn", "2_8")])
@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_tune_then_measure(tmp_path, backend, sparsity, dtype):
    table = kernel_points.tune(request("tune", [8, 32], tmp_path, backend, sparsity, dtype))
    (tmp_path / "tuning.json").write_text(json.dumps(table))
    assert [(entry["linear"], entry["M"]) for entry in table["entries"]] == [
        (name, M) for M in (8, 32) for name in ("qkv", "down")
    ]
    found = gemm.backend(backend)
    for entry in table["entries"]:
        assert len(entry["top"]) == min(3, entry["algorithms"]) and not entry["wrong"]
        assert [one["latency_us"] for one in entry["top"]] == sorted(one["latency_us"] for one in entry["top"])
    assert len(tuning.to_csv(table).splitlines()) == 1 + sum(len(entry["top"]) for entry in table["entries"])
    results = kernel_points.measure(request("kernel", 20, tmp_path, backend, sparsity, dtype))
    looked_up = tuning.Table.read(tmp_path / "tuning.json", found.version())
    for result, linear in zip(results["gemms"], LINEARS, strict=True):
        assert (result["name"], result["N"], result["K"]) == (linear["name"], linear["N"], linear["K"])
        assert result["algorithm"] == looked_up.algorithm(linear["N"], result["K_slid"], 32)
        assert result["exact"] is (result["error_max_abs"] == 0) and (dtype == "FP8" or result["exact"])
        assert result["cold"]["n"] >= 2 and result["hot"]["n"] >= 2
        assert result["cold"]["ci_low_s"] <= result["cold"]["median_s"] <= result["cold"]["ci_high_s"]


def entry(M, algorithm):
    top = [{"algorithm": algorithm, "name": "", "latency_us": 1.0}]
    return {"N": 96, "K": 64, "K_slid": 128, "M": M, "top": top}


def test_look_up():
    table = tuning.Table({"library": "x 1", "entries": [entry(64, 7), entry(16, 5), entry(1024, 9)]})
    assert [table.algorithm(96, 128, M) for M in (1, 16, 17, 64, 65, 1024, 1025)] == [5, 5, 7, 7, 9, 9, None]
    assert table.algorithm(96, 64, 16) is None


def test_a_table_of_another_library_version_is_refused(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"library": "x 1", "entries": [entry(64, 7)]}))
    assert tuning.Table.read(path, "x 1").algorithm(96, 128, 64) == 7
    with pytest.raises(RecordError, match=r"tuned with x 1 and this is x 2"):
        tuning.Table.read(path, "x 2")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(RecordError, match="not a tuning table"):
        tuning.Table.read(path, "x 1")


class WrongBackend:
    """The dense backend with a second algorithm that is off by one in one place."""

    sparse = False

    def __init__(self, only_wrong=False):
        self.inner, self.only_wrong = gemm.backend("onednn"), only_wrong
        self.name = "wrong"

    def version(self):
        return "1"

    def prepare(self, codes):
        return self.inner.prepare(codes)

    def algorithms(self, operand, M):
        wrong = gemm.Algorithm(9, "off by one")
        return [wrong] if self.only_wrong else [gemm.Algorithm(0, "right"), wrong]

    def matmul(self, operand, x, algorithm=0, out=None):
        self.inner.matmul(operand, x, 0, out=out)
        if algorithm == 9:
            out[-1, -1] += 1
        return out


def problem(backend):
    return kernel_points.Problem("qkv", 96, 64, 8, "INT8", Pattern("dense"), backend, 1 << 20, 4)


def test_a_wrong_algorithm_is_excluded_and_named():
    from slidesparse.timing import Stopping

    table = tuning.search(WrongBackend(), [problem(WrongBackend())], Stopping(**QUICK))
    assert table["entries"][0]["wrong"] == [9]
    assert [one["algorithm"] for one in table["entries"][0]["top"]] == [0]
    with pytest.raises(MeasurementError, match="no algorithm that multiplies qkv"):
        tuning.search(WrongBackend(only_wrong=True), [problem(WrongBackend(only_wrong=True))], Stopping(**QUICK))
