"""The quantise and lift kernel writes the reference's bytes, each once: interpreted on CPUs, and on GPUs."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch

from interpreting import DTYPES, LIFTED, PATTERNS
from places import SUPPORT
from slidesparse import operators
from slidesparse.errors import RecordError
from slidesparse.operators import launches
from slidesparse.operators.launches import Launch
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import LARGEST, quantize_per_token
from slidesparse.sparsity.slide import lift

SHAPES = [
    # M, K, configuration: warps, words read at once
    (5, 260, (1, 64)),
    (2, 96, (2, 64)),
    (5, 37, (1, 32)),
    (2, 130, (4, 32)),
    (1, 1, (2, 64)),
    (1, 1424, (1, 128)),
]


def activations(M, K, device="cpu", seed=0):
    """BF16 rows of very different amplitudes; rows of zeros, NaN, infinity, and next to nothing if there are enough."""
    generator = torch.Generator(device).manual_seed(seed)
    amplitude = torch.exp(4 * torch.randn(M, 1, generator=generator, device=device))
    x = (torch.randn(M, K, generator=generator, device=device) * amplitude).bfloat16()
    if M > 4:
        x[1] = 0
        x[2, K // 2] = float("nan")
        x[3, K - 1] = float("-inf")
        x[4] *= 1e-12
    return x


def extremes(exponent, below, device="cpu"):
    """128 rows: for each significand of a largest magnitude of this exponent, every BF16 magnitude down to `below`."""
    top = (exponent << 7) + torch.arange(128, dtype=torch.int16, device=device)
    first = max(0, exponent - below) << 7
    every = torch.arange(first, (exponent + 1) << 7, dtype=torch.int16, device=device)
    rows = torch.minimum(every.expand(128, -1), top[:, None])
    return torch.cat((rows, rows | -32768), 1).view(torch.bfloat16)


CASES = {
    f"{pattern}-{dtype}-{M}x{K}": (activations(M, K), pattern, dtype, launch)
    for (pattern, dtype), (M, K, launch) in itertools.product(LIFTED, SHAPES)
} | {
    # INT8 codes are zero from eight exponents below the largest on; 94 is where the smallest amplitude takes over.
    f"dense-{dtype}-exponent{exponent}": (extremes(exponent, 9), "dense", dtype, (4, 512))
    for dtype, exponent in [("INT8", 0), ("INT8", 94), ("INT8", 127), ("INT8", 254), ("FP8", 127)]
}


PRODUCT = torch.randint(-(10**6), 10**6, (3, 2050), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
SCALING = {
    f"scaling-{product.dtype}-{'token' if token else ''}-{'channel' if channel else ''}": (
        product,
        torch.linspace(0.5, 2, 3)[:, None] if token else None,
        torch.linspace(0.1, 1, 2050) if channel else None,
    )
    for product in (PRODUCT, PRODUCT.bfloat16(), PRODUCT.float())
    for token, channel in itertools.product((True, False), repeat=2)
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """{case: what was wrong}."""
    path = tmp_path_factory.mktemp("kernels") / "cases.pt"
    torch.save((list(CASES.values()), list(SCALING.values())), path)
    script = SUPPORT / "interpreted_kernels.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, script, path], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    return dict(zip([*CASES, *SCALING], found["cases"] + found["scaling"], strict=True))


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_writes_every_byte_of_the_reference_once(interpreted, case):
    assert interpreted[case] == {"codes": 0, "scales": 0, "written": 0}


@pytest.mark.parametrize("case", SCALING)
def test_interpreted_pass_applies_the_scales_that_are_given(interpreted, case):
    assert interpreted[case] == {"values": 0, "written": 0}


@pytest.mark.parametrize(("name", "dtype"), [*itertools.product(["dense", "2_8", "2_inf"], DTYPES)])
def test_operator_on_a_cpu_is_the_reference(name, dtype):
    x = activations(3, 200)
    codes, scale = operators.quantize(x, name, dtype)
    expected, factor = quantize_per_token(x, dtype)
    assert torch.equal(codes.view(torch.int8), lift(expected, Pattern(name)).view(torch.int8))
    assert torch.equal(scale, factor[:, 0])
    torch.library.opcheck(torch.ops.slidesparse.quantize_lift.default, (x, name, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_zeros_and_rows_that_are_not_finite(dtype):
    """They are defined, and leave the other rows as they are."""
    x = activations(7, 64)
    codes, scale = operators.quantize(x, "2_8", dtype)
    assert scale[1] == torch.tensor(1e-10) / torch.tensor(LARGEST[dtype])
    assert scale[2].isnan() and scale[3] == float("inf")
    assert not codes.view(torch.int8)[1:4].any()
    others = [0, 4, 5, 6]
    alone, factor = operators.quantize(x[others], "2_8", dtype)
    assert torch.equal(codes.view(torch.int8)[others], alone.view(torch.int8)) and torch.equal(scale[others], factor)


def test_operator_compiles_in_one_graph():
    compiled = torch.compile(
        lambda x: operators.quantize(x, "2_8", "INT8")[0].sum(-1), fullgraph=True, backend="aot_eager"
    )
    x = activations(4, 64)
    assert torch.equal(compiled(x), operators.quantize(x, "2_8", "INT8")[0].sum(-1))


@pytest.fixture
def no_tables(monkeypatch):
    monkeypatch.setattr(launches, "_tuned", {})


def test_configurations_are_looked_up_by_rows(no_tables, tmp_path):
    entries = [{"M": M, "configuration": [warps, 128]} for M, warps in ((1024, 4), (64, 8), (4096, 2))]
    table = {"schema": 1, "K": 2560, "pattern": "2_8", "dtype": "INT8", "entries": entries}
    launches.write_tables(tmp_path / "tables.json", [table])
    launches.read_tables(tmp_path / "tables.json")
    warps = {M: launches.look_up(M, 2560, "2_8", "INT8").warps for M in (1, 64, 65, 1024, 4096, 99999)}
    assert warps == {1: 8, 64: 8, 65: 4, 1024: 4, 4096: 2, 99999: 2}
    assert launches.look_up(64, 2560, "2_8", "FP8") == launches.default(2560)


@pytest.mark.parametrize("content", ["", "[{}]", "[3]", '[{"schema": 2}]'])
def test_damaged_tables_are_refused(no_tables, tmp_path, content):
    (tmp_path / "tables.json").write_text(content)
    with pytest.raises(RecordError):
        launches.read_tables(tmp_path / "tables.json")


@pytest.mark.parametrize("K", [1, 37, 256, 2560, 6912, 8192])
def test_candidates_are_configurations_that_can_be_cut(K):
    found = launches.launches_for(K)
    assert found and all(min(one) >= 1 and not any(n & (n - 1) for n in one) for one in found)
    assert launches.default(K) in found


def test_defaults_are_what_was_fastest_on_an_h200():
    assert launches.default(2560) == (4, 128) and launches.default(6912) == (8, 256)


def same(x, name, dtype, launch=None):
    """Whether the GPU writes the reference's bytes over poisoned outputs."""
    expected, factor = operators.reference(x, name, dtype)
    codes, scale = torch.empty_like(expected), torch.full_like(factor, -1)
    codes.view(torch.uint8).fill_(0x55)
    operators.run(x, name, dtype, codes, scale, launch)
    right = torch.equal(codes.view(torch.uint8), expected.view(torch.uint8))
    return right and torch.equal(scale.nan_to_num(nan=-1), factor.nan_to_num(nan=-1))


@pytest.mark.gpu
@pytest.mark.parametrize("K", [2560, 6912, 37, 130])
@pytest.mark.parametrize(("name", "dtype"), [*itertools.product(PATTERNS, DTYPES)])
def test_gpu_writes_the_bytes_of_the_reference(name, dtype, K):
    for M in (1, 7, 64, 4096):
        assert same(activations(M, K, "cuda", M), name, dtype), M


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_rounds_every_magnitude_as_the_reference_does(dtype):
    wrong = [
        e for e in (0, 1, 20, 92, 93, 94, 95, 127, 200, 253, 254) if not same(extremes(e, 20, "cuda"), "dense", dtype)
    ]
    assert not wrong


@pytest.mark.gpu
def test_gpu_serves_strided_rows_and_more_than_two_gib_of_them():
    x = activations(64, 1024, "cuda")
    assert same(x[:, :512], "2_8", "INT8") and same(x[:, 2:510], "2_8", "INT8") and same(x[:, 1:256], "2_6", "FP8")
    assert same(x.t(), "2_8", "INT8")
    x = torch.zeros(2**31 // 6912 + 8, 6912, device="cuda", dtype=torch.bfloat16)
    x[-1] = activations(1, 6912, "cuda")[0]
    codes, scale = operators.quantize(x, "2_8", "INT8")
    expected, factor = operators.reference(x[-1:], "2_8", "INT8")
    assert torch.equal(codes[-1:], expected) and torch.equal(scale[-1:], factor) and not codes[:-1].any()


@pytest.mark.gpu
def test_gpu_operator_is_captured_and_compiled():
    x = activations(64, 2560, "cuda")
    expected, _ = operators.quantize(x, "2_12", "FP8")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        codes, _ = operators.quantize(x, "2_12", "FP8")
    codes.view(torch.uint8).zero_()
    graph.replay()
    assert torch.equal(codes.view(torch.uint8), expected.view(torch.uint8))
    compiled = torch.compile(lambda x: operators.quantize(2 * x, "2_12", "FP8")[1], fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x).nan_to_num(nan=-1), operators.quantize(2 * x, "2_12", "FP8")[1].nan_to_num(nan=-1))


@pytest.mark.gpu
def test_gpu_tunes():
    from slidesparse.operators import search

    tried = [Launch(1, 128), Launch(4, 128)]
    table = search.tune(512, "2_8", "INT8", Ms=(64,), tried=tried)
    assert table["entries"][0]["configuration"] in [list(one) for one in tried]
