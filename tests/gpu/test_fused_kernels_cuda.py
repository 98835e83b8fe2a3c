"""The fused kernels on a GPU, at BitNet's shapes, against the references on the same device."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

from slidesparse.kernels import configurations, fused

sys.path.append(str(Path(__file__).parents[1]))
from fused_cases import differences, norm_arguments, rope_arguments  # noqa: E402

pytest.importorskip("triton", reason="Triton is not installed")
from slidesparse.kernels import norms, rope  # noqa: E402

pytestmark = pytest.mark.gpu
TABLES = [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)]

PATTERNS = ["dense", *(f"2_{L}" for L in range(4, 18, 2)), "2_inf"]
DTYPES = ["INT8", "FP8"]
WIDTHS = {"norm_quantize": 2560, "add_norm_quantize": 2560, "relu2_mul_norm_quantize": 6912}


def outputs(result):
    return list(result) if isinstance(result, tuple) else [result]


def wrong(name, arguments):
    """What differs between an operator and its reference; memory that is not written is filled first."""
    caches = [a.clone() for a in arguments[7:9]] if name == "rope_scale_cache" else []
    copied = arguments[:7] + caches + arguments[9:] if caches else arguments
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        got = outputs(getattr(fused, name)(*copied))
    finally:
        torch.use_deterministic_algorithms(False)
    expected = outputs(getattr(fused, f"{name}_reference")(*arguments))
    return differences(name, got + caches, expected + (arguments[7:9] if caches else []))


@pytest.mark.parametrize(("pattern", "dtype"), [*itertools.product(PATTERNS, DTYPES)])
@pytest.mark.parametrize("name", WIDTHS)
def test_norms_agree_with_the_reference(name, pattern, dtype):
    for M in (1, 7, 64, 4096):
        arguments = norm_arguments(name, M, WIDTHS[name], pattern, dtype, "cuda", seed=M)
        assert not wrong(name, arguments), M


@pytest.mark.parametrize(("K", "wide", "is_scaled"), [(2560, True, True), (2560, False, False), (37, True, False)])
@pytest.mark.parametrize("name", [*WIDTHS, "add_norm"])
def test_norms_of_other_arguments_agree(name, K, wide, is_scaled):
    arguments = norm_arguments(name, 64, K, "2_6", "INT8", "cuda", wide=wide, is_scaled=is_scaled)
    assert not wrong(name, arguments)


@pytest.mark.parametrize("name", WIDTHS)
def test_every_candidate_agrees(name, monkeypatch):
    for configuration in configurations.candidates(WIDTHS[name]):
        monkeypatch.setattr(norms, "default", lambda K, configuration=configuration: configuration)
        for pattern in ("2_8", "2_14"):
            assert not wrong(name, norm_arguments(name, 64, WIDTHS[name], pattern, "INT8", "cuda")), configuration


@pytest.mark.parametrize("warps", rope.WARPS)
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    ("dtype", "is_scaled"), [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)]
)
def test_rope_agrees_with_the_reference(cache, dtype, is_scaled, warps, monkeypatch):
    monkeypatch.setitem(rope.launch.__kwdefaults__, "warps", warps)
    for M in (1, 64, 4096):
        arguments = rope_arguments(M, 20, 5, 128, "cuda", dtype, is_scaled, cache, seed=M)
        assert not wrong("rope_scale_cache" if cache else "rope_scale", arguments), M


CALLS = [
    *((name, norm_arguments, (name, 64, 2560, "2_8", "INT8", "cuda")) for name in WIDTHS),
    ("add_norm", norm_arguments, ("add_norm", 64, 2560, "dense", "INT8", "cuda")),
    ("rope_scale", rope_arguments, (64, 20, 5, 128, "cuda")),
    ("rope_scale_cache", rope_arguments, (64, 20, 5, 128, "cuda", torch.bfloat16, True, True)),
]


@pytest.mark.parametrize(("name", "make", "shape"), CALLS, ids=[name for name, *_ in CALLS])
def test_operators_are_captured_and_compiled(name, make, shape):
    arguments = make(*shape)
    operator = getattr(fused, name)
    expected = [out.clone() for out in outputs(operator(*arguments))]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = outputs(operator(*arguments))
    for out in got:
        out.view(torch.uint8).zero_()
    graph.replay()
    torch._dynamo.reset()
    traced = outputs(torch.compile(lambda *given: operator(*given), fullgraph=True)(*arguments))
    for one, other, third in zip(got, expected, traced, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
        assert torch.equal(third.view(torch.uint8), other.view(torch.uint8))


def test_strided_rows_and_more_than_two_gib_of_them():
    x, *scales, residual, gamma, eps, pattern, dtype = norm_arguments(
        "add_norm_quantize", 64, 2560, "2_8", "INT8", "cuda"
    )
    wider = torch.zeros(64, 5120, device="cuda", dtype=torch.bfloat16)
    for columns in (slice(0, 2560), slice(1, 2561)):  # the second does not begin at multiples of 8 bytes
        wider[:, columns] = x
        assert not wrong("add_norm_quantize", [wider[:, columns], *scales, residual, gamma, eps, pattern, dtype])
    M = 2**31 // 13824 + 8
    gate_up, *scales, gamma, eps, _, _ = norm_arguments("relu2_mul_norm_quantize", 8, 6912, "2_8", "INT8", "cuda")
    long = torch.zeros(M, 13824, device="cuda", dtype=torch.bfloat16)
    long[-8:] = gate_up
    token = torch.ones(M, device="cuda")
    token[-8:] = scales[0]
    codes, scale = fused.relu2_mul_norm_quantize(long, token, scales[1], gamma, eps, "2_8", "INT8")
    expected = fused.relu2_mul_norm_quantize_reference(gate_up, *scales, gamma, eps, "2_8", "INT8")
    assert not differences("relu2", [codes[-8:], scale[-8:]], list(expected)) and not codes[:-8].any()


def test_arguments_that_do_not_fit_are_refused():
    x, token, weight, residual, gamma, *rest = norm_arguments("add_norm_quantize", 4, 64, "2_8", "INT8", "cuda")
    for bad in [
        (x[:, :60], token, weight, residual, gamma),
        (x.float(), token, weight, residual, gamma),
        (x, token, None, residual, gamma),
        (x, token[:3], weight, residual, gamma),
        (x, token, weight, residual[:3], gamma),
        (x, token, weight, residual, gamma.double()),
    ]:
        with pytest.raises(ValueError):
            fused.add_norm_quantize(*bad, *rest)
