"""Tuning and measuring a kernel point on the CPU backends, with dense rivals in turn."""

import gc
import json
import weakref

import pytest
import torch

from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.kernel import point
from slidesparse.kernel.products import Linear, Problem, Product, Weight
from slidesparse.plan.key import Key
from slidesparse.points import request
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import quantize_per_token
from slidesparse.timing import protocol
from slidesparse.tuning import search
from slidesparse.tuning.table import Table, to_csv
from slidesparse.worker import handlers, resident

PARAMETERS = {"warmup_s": 0.001, "min_samples": 3, "max_samples": 5, "relative_ci": 0.5, "time_limit_s": 0.05}
REQUEST = {"sparsity": "2_8", "linears": [{"name": "o", "N": 64, "K": 96}], "parameters": PARAMETERS}


@pytest.mark.parametrize(("dtype", "output"), [("INT8", "INT32"), ("FP8", "FP32")])
def test_a_point_names_its_rivals_and_the_paired_speedup(tmp_path, dtype, output):
    request = REQUEST | {"backend": "reference", "dtype": dtype}
    table = point.tune(request | {"M": [16, 32]})
    assert [entry["M"] for entry in table["entries"]] == [16, 32]
    path = tmp_path / "2_8.json"
    path.write_text(json.dumps(table))
    results = point.measure(
        request | {"M": 16, "tuning": str(path), "peers": {"onednn": None, "cublaslt": None, "absent": None}}
    )
    (found,) = results["gemms"]
    assert found["output"] == output and found["exact"] == (dtype == "INT8") or found["error_max_abs"] < 1
    assert found["cold"]["n"] == found["peers"][0]["cold"]["n"] and found["hot"]["n"] >= 3
    (rival,) = found["peers"]
    assert rival["backend"] == "onednn" and rival["speedup"]["n"] == found["cold"]["n"]
    assert set(results["peers_missing"]) == {"cublaslt", "absent"}
    assert [linear["backend"] for linear in found["whole"]] == ["reference", "onednn"]
    assert found["whole"][0]["cold"]["n"] == found["whole"][1]["speedup"]["n"] == len(found["whole"][1]["samples_us"])
    json.dumps(results, allow_nan=False)


def test_an_algorithm_that_is_wrong_here_gives_way_to_the_next_best(tmp_path, monkeypatch):
    request = REQUEST | {"backend": "reference", "dtype": "INT8", "M": [16]}
    tables = {name: tmp_path / f"{name}.json" for name in ("reference", "onednn")}
    for name, path in tables.items():
        table = point.tune(request | {"backend": name, "sparsity": "2_8" if name == "reference" else "dense"})
        table["entries"][0]["top"].sort(key=lambda found: found["algorithm"])
        path.write_text(json.dumps(table))
    onednn = gemm.backend("onednn")
    multiply = type(onednn).matmul

    def wrong(self, operand, x, algorithm=None, output=None, out=None):
        product = multiply(self, operand, x, algorithm, output, out)
        return product.add_(1) if algorithm == 0 else product

    monkeypatch.setattr(type(onednn), "matmul", wrong)
    peers = {"onednn": str(tables["onednn"])}
    results = point.measure(request | {"M": 16, "tuning": str(tables["reference"]), "peers": peers})
    (rival,) = results["gemms"][0]["peers"]
    assert rival["algorithm"] == 1 and results["gemms"][0]["wrong"] == []
    assert [found["algorithm"] for found in rival["wrong"]] == [0] and "is wrong by" in rival["wrong"][0]["reason"]
    assert not results["peers_missing"]


def test_after_sparse_products_on_a_gpu_a_dense_point_gets_a_new_process(tmp_path, monkeypatch):
    """Its products would be up to 4 % slower there; a search only compares, and sparse points have that anywhere."""
    requests = {}
    for backend, sparsity in (("reference", "2_8"), ("onednn", "dense")):
        request = REQUEST | {"stage": "tune", "backend": backend, "sparsity": sparsity, "dtype": "INT8"}
        path = tmp_path / f"{backend}.json"
        path.write_text(json.dumps(handlers.kernel(request | {"M": [16]})))
        requests[backend] = request | {"M": 16, "tuning": str(path)}
    sparse, dense = requests.values()
    handlers.kernel(sparse | {"stage": "kernel"})
    handlers.kernel(dense | {"stage": "kernel"})  # on a CPU nothing is left behind
    monkeypatch.setitem(handlers._process, "sparse", True)
    handlers.kernel(sparse | {"stage": "kernel"})
    handlers.kernel(dense | {"M": [16]})
    with pytest.raises(resident.Replace):
        handlers.kernel(dense | {"stage": "kernel"})


@pytest.mark.parametrize(
    ("key", "asks"), [("H100_cc90_py312_cu130_x86_64", True), ("cpu-x_cc0_py311_cu0_x86_64", False)]
)
def test_only_dense_kernel_points_of_a_gpu_ask_for_a_process(tmp_path, key, asks):
    """What others were measured by stays valid, and a CPU's dense points have no such process."""
    basis = tmp_path / "shape.json"
    basis.write_text("{}")
    requests = {}
    for configuration in ("cublaslt/dense", "cusparselt/2_8"):
        path = f"{key}/kernel/BitNet-2B/INT8/{configuration}/M64.json"
        requests[configuration] = request.request(Key.of(path), PARAMETERS, basis)
    assert ("process" in requests["cublaslt/dense"]) == asks
    assert "process" not in requests["cusparselt/2_8"]


def made(dtype="INT8", name="onednn", M=16):
    weight = Weight("o", 64, 96, dtype, Pattern("2_8"), "cpu")
    return Product(Problem(weight, M), gemm.backend(name), None, 1 << 20, 4)


def test_linears_that_do_not_fit_together_are_measured_one_by_one(tmp_path, monkeypatch):
    """What was begun for all of them must be gone by then."""
    measured, begun = point._measured, []

    def small(request, linears, *rest):
        gc.collect()
        assert not [held for held in begun if held()]
        if len(linears) > 1:
            operands = torch.nn.Module()
            begun.append(weakref.ref(operands))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return measured(request, linears, *rest)

    linears = [{"name": "o", "N": 64, "K": 96}, {"name": "down", "N": 32, "K": 128}]
    request = REQUEST | {"backend": "reference", "dtype": "INT8", "linears": linears}
    path = tmp_path / "2_8.json"
    path.write_text(json.dumps(point.tune(request | {"M": [16]})))
    request |= {"M": 16, "tuning": str(path)}
    assert point.measure(request)["linears_together"]
    monkeypatch.setattr(point, "_measured", small)
    results = point.measure(request)
    assert not results["linears_together"] and [found["name"] for found in results["gemms"]] == ["o", "down"]


def test_operand_sets_exceed_the_cache_twice_and_are_used_in_turn():
    product = made()
    assert product.sets == len(product.operands) == len(product.inputs) == len(product.outputs) == 4
    assert len({operand.weight.data_ptr() for operand in product.operands}) == 4
    assert product.operands == product.problem.weight.operands(product.backend, 4)


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_a_wrong_product_is_refused(dtype):
    product = made(dtype)
    product.verify(0, product.sets)
    product.outputs[2][3, 4] += 1 if dtype == "INT8" else product.problem.largest
    product.check(2)
    with pytest.raises(MeasurementError, match="onednn: o at M=16 N=64 K=96 .* is wrong by"):
        product.check()
    product.poison()
    with pytest.raises(MeasurementError, match="wrong by"):
        product.check(1)


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize("name", ["onednn", "reference"])
def test_a_whole_linear_quantises_multiplies_and_scales(dtype, name):
    product = made(dtype, name)
    linear = Linear(product, 0)
    problem, weight = product.problem, product.problem.weight
    x, scale = quantize_per_token(problem.activations, dtype)
    expected = (x.double() @ weight.codes.double().t()) * scale.double() * weight.scale.double()
    product.verify(0, product.sets)
    for out in linear.outputs:
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), expected, rtol=8e-3, atol=0)
    for form in (linear.raw, linear.passed):
        form(1)
        product.check()
    linear.check()
    linear.outputs[3] *= 1.02
    with pytest.raises(MeasurementError, match=f"whole linear of backend {name}: o at M=16 .* is wrong by"):
        linear.check()


def test_a_product_that_is_not_a_number_is_refused():
    product = made("FP8")
    product.verify(0)
    product.outputs[0][0, 0] = float("nan")
    with pytest.raises(MeasurementError, match="wrong by"):
        product.check(1)


def test_bf16_products_may_be_wrong_by_their_rounding():
    product = made()
    product.output = "BF16"
    product.outputs = [product.problem.reference.to(torch.bfloat16)]
    product.check(1)
    product.outputs[0][0, 0] += product.problem.largest / 100
    with pytest.raises(MeasurementError, match="largest entry"):
        product.check(1)


@pytest.mark.parametrize("sparsity", ["2_4", "2_6", "2_inf"])
@pytest.mark.parametrize("M", [16, 64, 256])
def test_rounding_leaves_room_for_how_tensor_cores_add_fp8(sparsity, M):
    """A right FP8 product in BF16 errs by up to 3.9e-3 of its largest entry, of 4e-3, if that is a bad one."""
    problem = Problem(Weight("down", 256, 1728, "FP8", Pattern(sparsity), "cpu"), M)
    _, largest, _ = problem.errors([problem.reference.bfloat16()])[0]
    assert largest <= 2.13e-3
    codes, scale = quantize_per_token(problem.activations, "FP8")
    assert torch.equal(codes.float(), problem.x.float()) and torch.equal(scale, problem.scale)


def test_without_an_algorithm_that_is_right_there_is_no_table(monkeypatch):
    product = made()
    monkeypatch.setattr(product, "run", lambda algorithm, i: None)
    with pytest.raises(MeasurementError, match="o has no algorithm whose product is right at any M: .* is wrong by"):
        search.search(product.backend, [product], protocol.Stopping(**PARAMETERS))


def test_an_m_without_an_algorithm_that_is_right_takes_those_of_the_next_larger(monkeypatch):
    small, large = made(), made(M=64)
    monkeypatch.setattr(small, "run", lambda algorithm, i: None)
    content = search.search(small.backend, [small, large], protocol.Stopping(**PARAMETERS))
    first, second = content["entries"]
    assert (first["top"], first["default_us"], first["library_us"]) == ([], None, None)
    assert len(first["wrong"]) == first["algorithms"] and "is wrong by" in first["wrong"][0]["reason"]
    table = Table(content | {"quantize_lift": None})
    assert table.entry(small.N, small.K, 16, small.output) == second
    assert [row.split(",")[4] for row in to_csv(content).splitlines()[1:]] == ["64"] * len(second["top"])


def test_out_of_memory_is_told(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 3 GiB free")

    monkeypatch.setattr(point, "Weight", full)
    with pytest.raises(point.OutOfMemoryError, match="CUDA out of memory"):
        point.tune(REQUEST | {"backend": "onednn", "dtype": "INT8", "M": [16]})
