"""The kernels that the backend auto runs: chosen by what whole linears cost, and looked up by shape and M."""

import json
import sys
from pathlib import Path

import pytest

import synthetic
from slidesparse.errors import RecordError
from slidesparse.files import sha256_file, write_json
from slidesparse.plan import backends, matrix
from slidesparse.plan.key import Key
from slidesparse.points import request
from slidesparse.points.choose_kernels import choose
from slidesparse.tuning.choices import Choices

PARAMETERS = {"warmup_s": 1}
DENSE = ["cublaslt", "cutlass", "torch"]
MODEL, QKV = "BitNet-2B", synthetic.LINEARS["qkv"]
CPU = "cpu-AMD-EPYC_cc0_py311_cu0_x86_64"


class Results:
    """Results with kernel points of one pattern, as a run of the kernel stage leaves them."""

    def __init__(self, directory, dtype="INT8", hardware=synthetic.HARDWARE, sparsity="2_8"):
        self.root, self.dtype, self.hardware = directory / "results", dtype, hardware
        self.place = {"dtype": dtype, "hardware": hardware}
        self.candidates = matrix.auto_backends(self.root, hardware, MODEL, dtype, sparsity, DENSE)
        self.output = self.root / hardware / "tuning" / MODEL / dtype / "auto" / f"{sparsity}.json"
        self.shape = self.root / "models" / MODEL / "shape.json"
        write_json(self.shape, {"linears": []})
        for backend, table in self.candidates.items():
            if table:
                write_json(Path(table), {"library": backend})
        self.points = []

    def point(self, M, times, backend="cusparselt", sparsity="2_8", memory=True):
        """Write the kernel point of a backend; times: {linear: {backend: microseconds of its whole linear}}."""
        path = synthetic.path(self.root, "kernel", M, backend, sparsity, **self.place)
        table = self.root / self.hardware / "tuning" / MODEL / self.dtype / backend / f"{sparsity}.json"
        peers = backends.peers(self.root, self.hardware, MODEL, self.dtype, backend)
        asked = request.request(Key.of(path), PARAMETERS, self.shape, table, peers)
        content = synthetic.point(path) if memory else synthetic.out_of_memory(path)
        if memory:
            gemms = {gemm["name"]: gemm for gemm in content["results"]["gemms"]}
            content["results"]["gemms"] = [gemms[name] | measured(wholes) for name, wholes in times.items()]
        write_json(path, content | {"request": asked})
        self.points.append(path)
        return path

    def chosen(self):
        """The content of the choices."""
        choose(self.output, self.points, self.candidates, PARAMETERS)
        return json.loads(self.output.read_text())

    def backends(self):
        """{(linear, M): backend that was chosen}."""
        return {(entry["linear"], entry["M"]): entry["backend"] for entry in self.chosen()["entries"]}


def measured(wholes):
    """The parts of a linear in a kernel point: the first of `wholes` is its own backend, the others are peers."""
    rows, peers = [], []
    for name, us in wholes.items():
        us, folded = us if isinstance(us, tuple) else (us, None)
        scales = "in the epilogue" if name in ("cutlass", "torch", "cutlass_sparse") else "a pass of their own"
        taken = {"cold": synthetic.seconds_of(us / 1e6, "_s"), "samples_us": synthetic.samples_of(us)}
        row = {"backend": name, "output": "BF16", "scales": scales, **taken}
        rows.append(row | ({"folded": synthetic.seconds_of(folded / 1e6, "_s")} if folded else {}))
        product = {"output": "BF16", "algorithm": f"{name}'s", "error_max_abs": 0.0, "exact": True}
        peers.append({"backend": name, **product, **taken})
    return {"whole": rows, "peers": peers[1:]}


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path)


def test_each_linear_gets_the_fastest_kernel_of_each_M(results):
    results.point(64, {"qkv": {"cusparselt": 30, "cublaslt": 20, "cutlass": 25}, "o": {"cusparselt": 4, "cublaslt": 6}})
    results.point(512, {"qkv": {"cusparselt": 30, "cublaslt": 40, "cutlass": 29}, "o": {"cusparselt": 9, "cutlass": 8}})
    assert results.backends() == {
        ("qkv", 64): "cublaslt",
        ("qkv", 512): "cutlass",
        ("o", 64): "cusparselt",
        ("o", 512): "cutlass",
    }
    entry = next(entry for entry in results.chosen()["entries"] if (entry["linear"], entry["M"]) == ("qkv", 512))
    assert (entry["N"], entry["K"]) == QKV
    assert list(entry["us"].items()) == [("cutlass", 29.0), ("cusparselt", 30.0), ("cublaslt", 40.0)]
    assert entry["algorithm"] == "cutlass's"  # which has no table


def test_choices_are_written_again_for_another_content_alone(results):
    """Not for a point or a table that an editor wrote again, nor for the digest that earlier choices lack."""
    results.point(64, {"qkv": {"cusparselt": 20, "cublaslt": 30}})
    made = results.chosen()
    bare = {name: value for name, value in made.items() if name != "sha256"}
    write_json(results.output, bare)
    for path in [*results.points, *filter(None, results.candidates.values())]:
        Path(path).write_bytes(Path(path).read_bytes().replace(b"\n", b"\r\n"))
    assert results.chosen() == bare
    assert Choices(results.output).tables
    write_json(results.output, bare | {"sparse_gain": 9.0})
    assert results.chosen() == made


def test_a_dense_checkpoint_gets_the_fastest_dense_kernels(tmp_path):
    results = Results(tmp_path, sparsity="dense")
    times = {"qkv": {"cublaslt": 20, "cutlass": 25, "torch": 30}, "o": {"cublaslt": 6, "cutlass": 5, "torch": 4}}
    results.point(64, times, backend="cublaslt", sparsity="dense")
    assert results.backends() == {("qkv", 64): "cublaslt", ("o", 64): "cutlass"}  # INT8 of torch is cuBLASLt's


def test_a_pass_that_the_fused_consumer_spares_does_not_count(results):
    """Of 10 µs that the sparse linear spends on its scales 8 are for copying; a dense product spares as many."""
    results.point(64, {"qkv": {"cusparselt": (30, 22), "cublaslt": 31, "cutlass": 22.5}})
    (entry,) = results.chosen()["entries"]
    assert entry["us"] == {"cusparselt": 22.0, "cutlass": 22.5, "cublaslt": 23.0}
    assert entry["algorithm"] is None  # which its tuning table knows


@pytest.mark.parametrize(("sparse_us", "chosen"), [(19, "cublaslt"), (17, "cusparselt")])
def test_sparse_kernels_must_gain_enough_to_be_worth_the_clock_that_they_cost_everywhere(results, sparse_us, chosen):
    """A process that runs one keeps a lower clock: 30 of 31 µs at one of two M are 1.6 %, 28 are 5 %."""
    results.point(64, {"qkv": {"cusparselt": sparse_us, "cublaslt": 20}, "o": {"cusparselt": 12, "cublaslt": 11}})
    results.point(512, {"qkv": {"cusparselt": 40, "cublaslt": 30}, "o": {"cusparselt": 12, "cublaslt": 11}})
    assert results.backends() == {
        ("qkv", 64): chosen,
        ("o", 64): "cublaslt",
        ("qkv", 512): "cublaslt",
        ("o", 512): "cublaslt",
    }
    assert results.chosen()["sparse_gain"] == round((31 / (sparse_us + 11)) ** 0.5, 4)
    assert list(results.chosen()["entries"][2]["us"]) == ["cusparselt", "cublaslt"]  # as they were measured


def test_without_a_dense_kernel_somewhere_sparse_ones_need_no_gain(results):
    results.point(64, {"qkv": {"cusparselt": 30}, "o": {"cusparselt": 12, "cublaslt": 11}})
    assert results.backends() == {("qkv", 64): "cusparselt", ("o", 64): "cublaslt"}
    assert results.chosen()["sparse_gain"] is None


def test_of_equally_fast_kernels_the_dense_one_is_chosen(results):
    results.point(64, {"qkv": {"cusparselt": 30, "cutlass": 30, "cublaslt": 30}})
    assert results.backends() == {("qkv", 64): "cublaslt"}


def test_what_an_engine_cannot_run_is_not_chosen(tmp_path):
    """torch's INT8 product is cuBLASLt's."""
    for dtype, chosen in (("INT8", "cutlass"), ("FP8", "torch")):
        results = Results(tmp_path / dtype, dtype)
        results.point(64, {"qkv": {"cusparselt": 30, "cutlass": 20, "torch": 10}})
        assert results.backends() == {("qkv", 64): chosen}


def test_without_peers_dense_points_of_their_own_are_compared(tmp_path):
    results = Results(tmp_path, hardware=CPU)
    assert list(results.candidates) == ["reference", "onednn"]
    assert matrix.compared(CPU, "INT8", "2_8", []) == [("reference", "2_8"), ("onednn", "dense")]
    results.point(16, {"qkv": {"reference": 30}, "o": {"reference": 3}}, "reference", "2_8")
    results.point(16, {"qkv": {"onednn": 20}, "o": {"onednn": 20}}, "onednn", "dense")
    assert results.backends() == {("qkv", 16): "onednn", ("o", 16): "reference"}


@pytest.mark.parametrize("sparsity", ["2_8", "dense"])
def test_ternary_weights_are_chosen_where_they_win_if_they_are_measured(tmp_path, monkeypatch, sparsity):
    monkeypatch.setattr(sys.modules[__name__], "DENSE", [*DENSE, "ternary"])
    results, rival = Results(tmp_path, sparsity=sparsity), "cublaslt" if sparsity == "dense" else "cusparselt"
    assert "ternary" in results.candidates
    assert "ternary" not in matrix.auto_backends("r", synthetic.HARDWARE, MODEL, "FP8", sparsity, DENSE)
    for M, us in ((16, 5), (512, 50)):
        results.point(M, {"qkv": {rival: 30}}, rival, sparsity)
        results.point(M, {"qkv": {"ternary": us}}, "ternary", "dense")
    assert results.backends() == {("qkv", 16): "ternary", ("qkv", 512): rival}
    assert results.chosen()["tables"]["ternary"] == "../ternary/dense.json"


def test_a_second_sparse_backend_is_chosen_where_it_wins_over_folded_scales(tmp_path, monkeypatch):
    assert "cutlass_sparse" not in Results(tmp_path).candidates
    monkeypatch.setattr(sys.modules[__name__], "DENSE", [*DENSE, "cutlass_sparse"])
    results = Results(tmp_path, hardware="H100_cc90_py312_cu130_x86_64")
    for M, us in ((512, 27), (2048, 24)):
        results.point(M, {"qkv": {"cusparselt": (30, 25), "cublaslt": 40}})
        results.point(M, {"qkv": {"cutlass_sparse": us, "cublaslt": 40}}, "cutlass_sparse")
    assert results.backends() == {("qkv", 512): "cusparselt", ("qkv", 2048): "cutlass_sparse"}
    assert results.chosen()["tables"]["cutlass_sparse"] == "../cutlass_sparse/2_8.json"


def test_a_candidate_that_is_missing_at_an_M_is_chosen_at_others(results):
    results.point(64, {"qkv": {"cusparselt": 30, "cublaslt": 20}})
    results.point(512, {"qkv": {"cusparselt": 30, "cublaslt": 20, "cutlass": 10}})
    assert results.backends() == {("qkv", 64): "cublaslt", ("qkv", 512): "cutlass"}


def test_a_point_out_of_memory_is_passed_over(results):
    results.point(64, {"qkv": {"cusparselt": 30, "cublaslt": 20}})
    results.point(512, {}, memory=False)
    assert results.backends() == {("qkv", 64): "cublaslt"}


def test_without_a_measured_kernel_there_is_no_choice(results):
    results.point(64, {}, memory=False)
    with pytest.raises(RecordError, match="no kernel that can be chosen was measured at any M"):
        results.chosen()
    assert not results.output.exists()


@pytest.mark.parametrize(
    "costs",
    [
        {"cusparselt": 30.0, "cutlass": 1e-5},
        {"cusparselt": (100.0, 1.0), "cublaslt": 10.0},
    ],
    ids=["a cost that rounds to zero", "a pass that costs more than a whole linear"],
)
def test_a_linear_that_costs_nothing_is_refused(results, costs):
    """Points of others may say so, and a ratio of such costs is none."""
    results.point(64, {"qkv": costs})
    with pytest.raises(RecordError, match="costs .* µs on"):
        results.chosen()


def test_points_that_do_not_answer_the_present_request_are_refused(results, monkeypatch):
    path = results.point(64, {"qkv": {"cusparselt": 30, "cublaslt": 20}})
    with pytest.raises(RecordError, match="answers another request"):
        choose(results.output, [path], results.candidates, {"warmup_s": 2})
    monkeypatch.setitem(request.PROTOCOL, "kernel", request.PROTOCOL["kernel"] + 1)
    with pytest.raises(RecordError, match=f"{path} answers another request"):
        results.chosen()
    path.write_text("{")
    with pytest.raises(RecordError, match=f"{path} is damaged"):
        results.chosen()


def test_the_same_inputs_give_the_same_bytes_and_are_named(results):
    times = {"qkv": {"cusparselt": 30, "cublaslt": 20}}
    results.point(64, times)
    results.point(512, times)
    content, first = results.chosen(), results.output.read_bytes()
    results.points.reverse()
    results.chosen()
    assert results.output.read_bytes() == first
    assert content["tables"] == {"cusparselt": "../cusparselt/2_8.json", "cublaslt": "../cublaslt/dense.json"} | {
        "cutlass": None
    }
    files = [*results.points, *filter(None, results.candidates.values())]
    place = results.output.parent
    assert {(place / name).resolve(): sha for name, sha in content["made_from"].items()} == {
        Path(file).resolve(): sha256_file(file) for file in files
    }


# Look-up


def test_an_M_that_was_not_measured_is_served_by_the_next_larger_or_the_largest(results):
    results.point(64, {"qkv": {"cusparselt": 30, "cutlass": 20}})
    results.point(512, {"qkv": {"cusparselt": 30, "cublaslt": 20}})
    results.chosen()
    choices = Choices(results.output)
    found = {M: choices.at(*QKV, M)[0] for M in (1, 64, 65, 512, 513, 32768)}
    assert found == {1: "cutlass", 64: "cutlass"} | dict.fromkeys((65, 512, 513, 32768), "cublaslt")
    assert choices.at(*QKV, 64) == ("cutlass", "cutlass's")
    assert choices.backends(*QKV) == ["cublaslt", "cutlass"]
    assert {name: table and table.resolve() for name, table in choices.tables.items()} == {
        "cublaslt": Path(results.candidates["cublaslt"]).resolve(),
        "cutlass": None,
    }
    with pytest.raises(RecordError, match="no choice for a linear of N=2560 K=2560"):
        choices.at(2560, 2560, 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content | {"schema": 99}, "schema 99"),
        (lambda content: content | {"tables": {}}, "KeyError"),
        (lambda content: content | {"entries": [{}]}, "KeyError"),
        (lambda content: [], "TypeError"),
    ],
)
def test_damaged_choices_are_refused(results, change, sentence):
    results.point(64, {"qkv": {"cusparselt": 30, "cublaslt": 20}})
    write_json(results.output, change(results.chosen()))
    with pytest.raises(RecordError, match=f"{results.output} has no choices of kernels .*{sentence}.* delete it"):
        Choices(results.output)


def test_a_table_that_was_made_again_needs_another_choice(results):
    results.point(64, {"qkv": {"cusparselt": 30, "cublaslt": 20}})
    results.chosen()
    write_json(Path(results.candidates["cublaslt"]), {"library": "another"})
    with pytest.raises(RecordError, match="was made from another .*cublaslt/dense.json; delete it to choose again"):
        Choices(results.output)
