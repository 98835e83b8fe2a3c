"""The GPU backends without a GPU: csrc/ compiled by nvcc, beside stand-ins for vendors (tests/support/vendor)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from places import SUPPORT
from slidesparse import gemm
from slidesparse.errors import HardwareError, MeasurementError, RecordError
from slidesparse.files import sha256_file
from slidesparse.gemm import build, cublaslt, cusparselt, dense, library
from slidesparse.kernel.products import Problem, Product, Weight
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import DTYPES
from slidesparse.timing.protocol import Stopping
from slidesparse.tuning import search
from slidesparse.tuning.table import Table, to_csv

VENDOR = SUPPORT / "vendor"
FILES = {"cublaslt": VENDOR / "cublasLt.cpp", "cusparselt": VENDOR / "cusparseLt.cpp"}
COMPILED = {"cublaslt": 130100, "cusparselt": 800}
FEW = Stopping(warmup_s=0, min_samples=1, max_samples=2, relative_ci=1.0, time_limit_s=0.1)
M, N, K = 16, 64, 128


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """compiled(library, version): paths of our library and of a vendor library of that version."""
    directory = tmp_path_factory.mktemp("csrc")
    ours = {}

    def make(name, version=None):
        version = version or COMPILED[name]
        vendor = directory / f"{name}-{version}.so"
        if not vendor.exists():
            command = [build.find_nvcc(), *build.FLAGS, *build.LINKED, FILES[name], "-o", vendor]
            command += [
                f"-DSTAND_IN_VERSION={version}",
                "-Xcompiler",
                "-fvisibility=default",
                "-I",
                VENDOR / "include",
                "-I",
                VENDOR,
            ]
            subprocess.run(list(map(str, command)), check=True)
        if name not in ours:
            ours[name] = directory / "resources" / f"libslidesparse_{name}.so"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(build, "wheel_folders", lambda: [VENDOR])
                record = build.build(name, 90, ours[name])
            assert record == json.loads(ours[name].with_suffix(".json").read_text())
        return ours[name], vendor

    return make


@pytest.fixture
def backend(compiled, monkeypatch):
    """backend(name): the backend on the host."""

    def make(name):
        module = {"cublaslt": cublaslt, "cusparselt": cusparselt}[name]
        loaded = library.Library(name, *compiled(name), dict(module.SIGNATURES))
        monkeypatch.setattr(module, "library", lambda: loaded)
        for cached in ("_workspace", "_default"):
            getattr(module, cached, module._workspace).cache_clear()
        monkeypatch.setattr(module.Backend, "device", "cpu")
        return gemm.backend(name)

    return make


def product(backend, dtype, output=None, m=M):
    pattern = Pattern("2_8" if backend.sparse else "dense")
    return Product(Problem(Weight("o", N, K, dtype, pattern, "cpu"), m), backend, output)


# Building and loading.


def test_a_record_says_what_a_library_is_made_of(compiled):
    ours, _ = compiled("cublaslt")
    record = json.loads(ours.with_suffix(".json").read_text())
    assert record["headers"] == "13.1.0" and record["cc"] == 90 and record["nvcc"][0].isdigit()
    assert library._is_current("cublaslt", ours)


def test_a_library_that_somebody_else_compiled_is_not_loaded(compiled, tmp_path, monkeypatch):
    """It would run their code when it is loaded; a record beside it is theirs, too."""
    ours, _ = compiled("cublaslt")
    theirs = tmp_path / ours.name
    theirs.write_bytes(ours.read_bytes() + b"\0")
    record = json.loads(ours.with_suffix(".json").read_text()) | {"sha256": sha256_file(theirs)}
    theirs.with_suffix(".json").write_text(json.dumps(record))
    assert not library._is_current("cublaslt", theirs)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user's"))
    assert not library._is_current("cublaslt", ours)


@pytest.mark.parametrize(("name", "version", "shown"), [("cusparselt", 701, "0.7.1"), ("cublaslt", 130002, "13.0.2")])
def test_another_version_than_the_compiled_one_is_refused(compiled, name, version, shown):
    ours, vendor = compiled(name, version)
    code = f"from slidesparse.gemm.library import Library; Library({name!r}, {str(ours)!r}, {str(vendor)!r}, {{}})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # one vendor in one process
    sentence = ended.stderr.splitlines()[-1]
    assert "HardwareError" in sentence and f"and {shown} is installed" in sentence


@pytest.mark.parametrize("missing", ["vendor", "ours"])
def test_a_library_that_cannot_be_loaded(compiled, tmp_path, missing):
    ours, vendor = compiled("cublaslt")
    paths = (ours, tmp_path / "none.so") if missing == "vendor" else (tmp_path / "none.so", vendor)
    with pytest.raises(HardwareError, match="none.so.*(install nvidia-cublas|delete it to build it again)"):
        library.Library("cublaslt", *paths, {})


def test_without_a_gpu_a_backend_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HardwareError, match="backend cusparselt needs an NVIDIA GPU"):
        gemm.backend("cusparselt").version()


def nowhere(monkeypatch, path=""):
    """No nvcc but in `path`, no wheels."""
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(build, "wheel_folders", list)
    access = os.access
    monkeypatch.setattr(os, "access", lambda file, mode: access(file, mode) and "/usr/local/cuda" not in str(file))


def test_a_missing_nvcc(monkeypatch, tmp_path):
    nowhere(monkeypatch)
    with pytest.raises(HardwareError, match="nvcc was not found .* install the CUDA toolkit"):
        build.build("cublaslt", 90, tmp_path / "made.so")


def fake_nvcc(directory, answer):
    """An nvcc that tells a version and otherwise runs `answer`."""
    nvcc = directory / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "release 12.9, V12.9.1" && exit\n{answer}\n')
    nvcc.chmod(0o755)
    return nvcc.parent


def test_a_missing_header_names_its_package(monkeypatch, tmp_path):
    nowhere(monkeypatch, fake_nvcc(tmp_path, "exit 1"))
    with pytest.raises(HardwareError, match="header cusparseLt.h .* install nvidia-cusparselt for CUDA 12"):
        build.build("cusparselt", 90, tmp_path / "made.so", cuda=12)


def test_what_does_not_compile_is_one_sentence(monkeypatch, tmp_path):
    nowhere(monkeypatch, fake_nvcc(tmp_path, 'echo "note"; echo "plan.cpp(3): error: no" >&2; exit 2'))
    monkeypatch.setattr(build, "find_header", lambda name, *_: VENDOR / "include" / "cublasLt.h")
    with pytest.raises(
        MeasurementError, match=r"csrc/cublaslt does not compile with nvcc 12.9.1 .*plan.cpp\(3\): error"
    ):
        build.build("cublaslt", 90, tmp_path / "made.so")
    assert not (tmp_path / "made.so").exists()


def test_nvcc_that_does_not_answer(monkeypatch, tmp_path):
    nowhere(monkeypatch, fake_nvcc(tmp_path, ""))
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(HardwareError, match="does not tell its version"):
        build.build("cublaslt", 90, tmp_path / "made.so")


def test_headers_of_the_asked_cuda_come_first(monkeypatch, tmp_path):
    for name in ("cu12", "cu13", "cusparselt"):
        (tmp_path / name / "include").mkdir(parents=True)
        (tmp_path / name / "include" / "cublasLt.h").touch()
    monkeypatch.setattr(build, "wheel_folders", lambda: sorted(tmp_path.iterdir()))
    for cuda in (12, 13):
        assert build.find_header("cublasLt.h", "nvidia-cublas", cuda, Path("/bin/nvcc")).parts[-3] == f"cu{cuda}"


# Multiplying.


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
@pytest.mark.parametrize("name", ["cublaslt", "cusparselt"])
def test_products_are_right(backend, name, dtype):
    chosen = backend(name)
    for output in chosen.outputs(dtype):
        done = product(chosen, dtype, output)
        worst, exact = done.verify(done.algorithms()[0].id)
        assert exact if output == "INT32" else worst >= 0
        out = chosen.matmul(done.operand, done.inputs[0], output=output)
        assert torch.equal(out, done.outputs[0])


def test_sparse_products_take_one_factor_for_each_output_channel(backend):
    done = product(backend("cusparselt"), "INT8")
    factors = torch.linspace(0.5, 2, N)
    out = done.backend.matmul(done.operand, done.inputs[0], channel_scale=factors)
    assert torch.equal(out, (done.problem.reference * factors).bfloat16())
    fp8 = product(done.backend, "FP8")
    with pytest.raises(MeasurementError, match=r"ALPHA_VECTOR_SCALING\) for M=16 N=64 .* E4M3 to BF16: NOT_SUPPORTED"):
        done.backend.matmul(fp8.operand, fp8.inputs[0], channel_scale=factors)


@pytest.mark.parametrize("name", ["cublaslt", "cusparselt"])
def test_rows_that_tensor_cores_do_not_take_are_added(backend, name):
    chosen = backend(name)
    done = product(chosen, "INT8", "INT32", m=5)
    out = chosen.matmul(done.operand, done.inputs[0], output="INT32")
    assert out.shape == (5, N) and torch.equal(out.double(), done.problem.reference)


@pytest.mark.parametrize("name", ["cublaslt", "cusparselt"])
def test_operators_can_be_traced(backend, name):
    chosen = backend(name)
    done = product(chosen, "INT8", "INT32")
    if name == "cublaslt":
        arguments = (done.inputs[0], done.operand.weight, "INT32", "")
    else:
        arguments = (done.inputs[0], done.operand.compressed, N, "INT32", "", None)
    operator = getattr(torch.ops.slidesparse, f"{name}_mm")
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_a_weight_that_is_not_2_4_is_refused(backend):
    with pytest.raises(MeasurementError, match="N=64 K=128 is not 2:4"):
        backend("cusparselt").prepare(torch.ones(N, K, dtype=torch.int8))


def test_a_status_is_a_sentence_with_call_shape_and_reason(backend):
    chosen = backend("cublaslt")
    odd = chosen.prepare(torch.ones(N, 126, dtype=torch.int8))
    with pytest.raises(
        MeasurementError, match="^cublasLtMatrixLayoutCreate for M=16 N=64 K=126 INT8 to INT32: INVALID"
    ):
        chosen.algorithms(odd, M)
    for algorithm in ("", "7", "AAAA", "!"):
        with pytest.raises(MeasurementError, match="is no algorithm of cuBLASLt"):
            chosen.workspace(odd, M, algorithm or ":fast")
    with pytest.raises(MeasurementError, match="is no algorithm of cuSPARSELt"):
        cusparselt._decoded("12")
    with pytest.raises(MeasurementError, match="^cusparseLtMatmulAlgSetAttribute.CONFIG_ID. .* INVALID_VALUE"):
        product(backend("cusparselt"), "INT8").verify("9:1")


def test_too_little_workspace_is_refused(backend):
    done = product(backend("cusparselt"), "INT8")
    shape = library.problem(M, N, done.K_slid, torch.int8, "BF16")
    pointers = [done.operand.compressed.data_ptr(), done.inputs[0].data_ptr(), done.outputs[0].data_ptr()]
    with pytest.raises(MeasurementError, match="needs 16000 bytes of workspace and was given 10"):
        cusparselt.library().call("matmul", shape, 0, -1, *pointers, None, None, 10, None)


@pytest.mark.parametrize(("name", "most"), [("cublaslt", 1024), ("cusparselt", 256)])
def test_plans_are_kept_up_to_a_bound(backend, name, most):
    chosen = backend(name)
    operand = product(chosen, "INT8").operand
    algorithm = chosen.algorithms(operand, M)[0].id
    for m in range(16, 16 * (most + 10), 16):
        chosen.workspace(operand, m, algorithm)
    module = {"cublaslt": cublaslt, "cusparselt": cusparselt}[name]
    assert module.library().plans() == most


# Enumerating, searching, looking up.


def test_every_configuration_is_listed_once(backend):
    chosen = backend("cublaslt")
    int8 = chosen.algorithms(product(chosen, "INT8").operand, M)
    # id 7: 3 of (tile, stages), 2 options, 2 swizzles, 3 clusters; id 9: 2 options, whole or 8 splits in 2 schemes.
    assert len(int8) == len({one.id for one in int8}) == 3 * 2 * 2 * 3 + 2 * (1 + 8 * 2)
    assert int8[0].name == "id 7, tile 1, stages 1, split_k 1"
    assert {one.workspace for one in int8} == {0} | {split * M * N * 4 for split in (2, 3, 4, 6, 8, 12, 16)}
    fp8 = chosen.algorithms(product(chosen, "FP8").operand, M)
    assert len(fp8) == 2 * len(int8) and sum(one.id.endswith(":fast") for one in fp8) == len(int8)


def test_idle_multiprocessors_decide_whether_k_is_split(backend):
    chosen = backend("cublaslt")
    listed = chosen.algorithms(product(chosen, "INT8").operand, 256)  # more than one wave
    assert sum(one.workspace > 0 for one in listed) == 1  # the heuristic's own


def test_the_default_comes_first_and_what_is_refused_is_not_listed(backend):
    chosen = backend("cusparselt")
    listed = [one.id for one in chosen.algorithms(product(chosen, "INT8").operand, M)]
    assert listed == ["1:1", "0:1", "0:-1", "1:-1", "2:1"]


def test_a_search_excludes_and_names_what_is_wrong(backend):
    chosen = backend("cublaslt")
    table = search.search(chosen, [product(chosen, "INT8")], FEW)
    (entry,) = table["entries"]
    assert table["library"] == "cuBLASLt 13.1.0" and entry["algorithms"] == 70 and len(entry["top"]) == search.TOP
    assert len(entry["wrong"]) == 17 and "wrong by" in entry["wrong"][0]["reason"]
    assert entry["default_us"] > 0 and entry["library"] is None
    assert to_csv(table).count("\n") == 1 + search.TOP


def test_a_search_sets_the_librarys_own_beside_it(backend):
    chosen = backend("cusparselt")
    (entry,) = search.search(chosen, [product(chosen, "FP8")], FEW)["entries"]
    assert entry["default"] == "1:1" and entry["library"] == "2:1" and entry["library_us"] > 0
    assert entry["default_us"] >= 0.99 * entry["top"][0]["latency_us"] > 0


def table(backend, rows):
    """A table of one shape: {M: [(algorithm, workspace it was tuned with)]}."""
    entries = [
        {
            "N": N,
            "K_slid": 256,
            "M": m,
            "output": "BF16",
            "top": [{"algorithm": id, "workspace": workspace} for id, workspace in top],
        }
        for m, top in rows.items()
    ]
    return {"library": backend.version(), "entries": entries, "quantize_lift": []}


def test_look_up_takes_the_exact_m_or_the_next_larger(backend):
    chosen = backend("cusparselt")
    operand = chosen.prepare(torch.zeros(N, 256, dtype=torch.int8))
    found = Table(table(chosen, {64: [("0:1", 0)], 32: [("2:1", 0)]}))
    assert [found.algorithm(chosen, operand, m, "BF16") for m in (16, 32, 33, 64, 65)] == [
        "2:1",
        "2:1",
        "0:1",
        "0:1",
        None,
    ]
    assert found.algorithm(chosen, operand, 32, "INT32") is None


def test_look_up_never_goes_beyond_the_tuned_workspace(backend):
    chosen = backend("cusparselt")
    operand = chosen.prepare(torch.zeros(N, 256, dtype=torch.int8))
    rows = {32: [("0:-1", 31_000), ("2:-1", 1 << 30), ("1:1", 0)], 64: [("0:-1", 1000)]}  # 0:-1 takes 1000 bytes a row
    found = Table(table(chosen, rows))
    assert found.algorithm(chosen, operand, 32, "BF16") == "1:1"  # 2:-1 cannot do the product
    assert found.algorithm(chosen, operand, 16, "BF16") == "0:-1"
    assert found.algorithm(chosen, operand, 64, "BF16") is None


def test_a_table_of_another_library_version_is_refused(backend, tmp_path):
    chosen = backend("cusparselt")
    path = tmp_path / "2_8.json"
    path.write_text(json.dumps(table(chosen, {64: []}) | {"library": "cuSPARSELt 0.8.1"}))
    with pytest.raises(RecordError, match="tuned with cuSPARSELt 0.8.1 and this is cuSPARSELt 0.8.0"):
        Table.read(path, chosen.version())


def test_the_operand_types_are_those_of_the_checkpoints():
    assert set(DTYPES.values()) == set(library.TYPES) - {"INT32", "BF16"}


def test_scales_of_ones_share_a_tensor_that_stays_and_can_be_traced():
    """A captured graph reads them later, so none of many sizes may drop another's."""
    first = dense.ones(3, 5, torch.device("cpu"))
    for M in range(1, 400):
        assert dense.ones(M, 1, torch.device("cpu")).shape == (M, 1)
    again = dense.ones(5, 3, torch.device("cpu"))
    assert first.data_ptr() == again.data_ptr() and first.eq(1).all() and again.eq(1).all()
    traced = torch.compile(lambda x: x * dense.ones(len(x), 1, x.device), fullgraph=True, backend="eager")
    assert torch.equal(traced(first), first)
