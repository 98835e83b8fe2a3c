"""The backend cutlass_sparse without a GPU: its form of a weight, and its calls, of kernels that run on the host."""

import json
import re
import subprocess

import pytest
import torch

from places import SUPPORT
from slidesparse import gemm
from slidesparse.errors import HardwareError, MeasurementError
from slidesparse.gemm import build, cutlass_sparse, library
from slidesparse.kernel import point
from slidesparse.kernel.products import Linear, Problem, Product, Weight
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.slide import slide

PARAMETERS = {"warmup_s": 0.0, "min_samples": 1, "max_samples": 2, "relative_ci": 1.0, "time_limit_s": 0.01}
LARGE = "128x256:2x1:Cooperative"
M, N, K = 5, 72, 256


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The library with the kernels that run on the host."""
    made = tmp_path_factory.mktemp("cutlass") / "host.so"
    kernels, own = SUPPORT / "vendor" / "cutlass_kernels.cpp", build.SOURCES / "cutlass_sparse"
    nvcc, headers = build.find_nvcc(), build.HEADERS["cutlass_sparse"]
    version = build.find_header("cutlass/version.h", headers["cutlass/version.h"], 13, nvcc)
    folders = [build.SOURCES / "common", own, kernels.parent, version.parents[1]]
    command = [nvcc, *build.FLAGS, *build.LINKED, *(f"-I{folder}" for folder in folders)]
    subprocess.run([*command, own / "menu.cpp", kernels, "-o", made], check=True)
    runtime = library.find_vendor("cutlass_sparse", 13)
    return library.Library("cutlass_sparse", made, runtime, dict(cutlass_sparse.SIGNATURES))


@pytest.fixture
def backend(host, monkeypatch):
    monkeypatch.setattr(cutlass_sparse, "library", lambda: host)
    monkeypatch.setattr(cutlass_sparse.Backend, "device", "cpu")
    return gemm.backend("cutlass_sparse")


def product(backend, dtype, output=None, m=M, pattern="2_4"):
    return Product(Problem(Weight("o", N, K, dtype, Pattern(pattern), "cpu"), m), backend, output)


def unpacked(packed, N, K):
    """The codes [N, K] of packed bytes, read one by one where csrc/cutlass_sparse/menu.h says that they lie."""
    rows, codes = -(-N // 64) * 64, torch.zeros(N, K, dtype=torch.uint8)
    values, metadata = packed[: N * K // 2].tolist(), packed[N * K // 2 :].tolist()
    for n in range(N):
        for i in range(K // 2):
            k, kept = i // 2 * 4, i % 2
            byte = metadata[(k // 128 * rows + n) * 16 + k % 128 // 8]
            codes[n, k + (byte >> (4 * (k // 4 % 2) + 2 * kept) & 3)] = values[n * K // 2 + i]
    return codes.view(torch.int8)


@pytest.mark.parametrize("at_once", [1 << 26, 20 * K])
def test_a_weight_is_packed_where_the_kernels_read_it(at_once, monkeypatch):
    monkeypatch.setattr(cutlass_sparse, "_BYTES", at_once)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-127, 128, (N, K), generator=generator).to(torch.int8)
    codes[::3] *= (torch.rand(len(codes[::3]), K, generator=generator) < 0.2).to(torch.int8)
    order = torch.rand(N, K // 4, 4, generator=generator).argsort(-1)
    codes = (codes.view(N, -1, 4) * (order < 2)).view(N, K)
    packed = cutlass_sparse.pack(codes)
    assert torch.equal(unpacked(packed, N, K), codes)
    assert packed.numel() == N * K // 2 + 128 * K // 8
    places = packed[N * K // 2 :].view(K // 128, 128, 16)
    first, second = places[:, :N] & 3, places[:, :N] >> 2 & 3
    assert (first < second).all() and not places[:, N:].any()  # the only order that sparse tensor cores know


@pytest.mark.parametrize("pattern", ["2_4", "2_8", "2_inf"])
@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_products_are_right_with_and_without_scales(backend, dtype, pattern):
    for output in backend.outputs(dtype):
        done = product(backend, dtype, output, pattern=pattern)
        worst, exact = done.verify(done.algorithms()[0].id)
        assert exact if output == "INT32" else worst >= 0
        assert torch.equal(backend.matmul(done.operand, done.inputs[0], output=output), done.outputs[0])
    linear = Linear(product(backend, dtype, pattern=pattern), LARGE)  # which checks it
    assert not linear.passes and linear.epilogue == ("token", "channel")


def test_one_scale_alone_is_applied(backend):
    done = product(backend, "INT8")
    tokens, channels = torch.rand(M, 1) + 0.5, torch.rand(N) + 0.5
    for scales in ({"token_scale": tokens}, {"channel_scale": channels}):
        expected = (done.problem.reference * next(iter(scales.values()))).bfloat16()
        found = backend.matmul(done.operand, done.inputs[0], **scales)
        assert ((found - expected).abs() <= expected.abs() / 128).all()


def test_the_menu_begins_with_the_largest_tile(backend):
    operand = product(backend, "INT8").operand
    names = {one.id: one.name for one in backend.algorithms(operand, M)}
    assert list(names) == [LARGE, "128x128:2x1:Pingpong"]
    assert names[LARGE] == "128 channels, 256 tokens, clusters of 2 x 1, cooperative"
    assert [one.id for one in backend.algorithms(operand, M, "INT32")] == [LARGE]
    assert backend.workspace(operand, M, LARGE) == 0
    assert re.fullmatch(rf"CUTLASS \d+\.\d+\.\d+, kernels {cutlass_sparse.VERSION}", backend.version())


def test_no_rows_are_no_product(backend):
    done = product(backend, "INT8")
    assert backend.matmul(done.operand, done.inputs[0][:0]).shape == (0, N)


def test_what_it_cannot_multiply_is_refused_in_a_sentence(backend):
    for shape in ((N + 4, K), (N, K + 64)):
        with pytest.raises(MeasurementError, match=r"N in multiples of 8 and K of 128, .* N=\d+ K=\d+: use cusparselt"):
            backend.prepare(torch.zeros(shape, dtype=torch.int8))
    with pytest.raises(MeasurementError, match="window of four holds more than two .*prune and slide"):
        backend.prepare(torch.ones(N, K, dtype=torch.int8))
    done = product(backend, "INT8")
    for output in ("BF16", "INT32"):
        with pytest.raises(MeasurementError, match=f"'12:1' is no kernel .* INT8 to {output}, which has 128x256:2x1"):
            backend.matmul(done.operand, done.inputs[0], "12:1", output)
    wide = cutlass_sparse.Operand(done.operand.packed, 1 << 21, K, torch.int8)
    with pytest.raises(MeasurementError, match="^stand-in for M=1 N=2097152 .* BF16: no kernel is that wide"):
        backend.workspace(wide, M, LARGE)


def test_the_operator_can_be_traced(backend):
    done = product(backend, "INT8", "INT32")
    arguments = (done.inputs[0], done.operand.packed, N, "INT32", "", None, None)
    operator = torch.ops.slidesparse.cutlass_sparse_mm
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_it_is_tuned_and_measured_like_others(backend, tmp_path):
    linears = [{"name": "o", "N": N, "K": K}]
    request = {"backend": backend.name, "dtype": "INT8", "sparsity": "2_8", "linears": linears}
    request["parameters"] = PARAMETERS
    table = point.tune(request | {"M": [M]})
    assert [len(entry["top"]) for entry in table["entries"]] == [2, 1]
    assert not any(entry["wrong"] for entry in table["entries"])
    path = tmp_path / "2_8.json"
    path.write_text(json.dumps(table))
    results = point.measure(request | {"M": M, "tuning": str(path), "peers": {"onednn": None}})
    (linear,) = results["gemms"]
    assert [whole["scales"] for whole in linear["whole"]] == ["in the epilogue", "a pass of their own"]
    assert [other["exact"] for other in linear["other_outputs"]] == [True]


def test_a_slid_weight_is_five_eighths_of_its_codes(backend):
    codes = slide(torch.zeros(64, 512, dtype=torch.int8), Pattern("2_4"))
    operand = backend.prepare(codes)
    assert operand.bytes == 64 * 512 * 5 // 8 and torch.equal(operand.clone().packed, operand.packed)


def test_its_kernels_are_for_hopper_alone(tmp_path):
    with pytest.raises(HardwareError, match="csrc/cutlass_sparse has kernels for compute capability 9.0 only"):
        build.build("cutlass_sparse", 89, tmp_path / "made.so")
