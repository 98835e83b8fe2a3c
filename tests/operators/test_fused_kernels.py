"""The fused operators: their kernels, interpreted, against the references, and these against BitNet's own layers."""

import itertools

import pytest
import torch

from fused_cases import norm_arguments, rope_arguments
from interpreting import DTYPES, LIFTED, checked
from slidesparse.operators import fused
from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.quantize import LARGEST, SMALLEST_AMAX
from slidesparse.sparsity.slide import source

QUANTIZING = ["norm_quantize", "add_norm_quantize", "relu2_mul_norm_quantize"]
SCALED = QUANTIZING[1:]
"""Those whose input may be INT32."""

SHAPES = [
    # M, K, configuration: warps, words read at once
    (7, 260, (1, 64)),
    (1, 96, (2, 64)),
    (7, 37, (1, 32)),
    (2, 130, (2, 32)),
    (1, 1, (1, 32)),
]

CASES = {
    f"{name}-{pattern}-{dtype}-{M}x{K}": (name, norm_arguments(name, M, K, pattern, dtype), launch)
    for name, (pattern, dtype), (M, K, launch) in itertools.product(QUANTIZING, LIFTED, SHAPES[:4])
    if K not in (96, 130) or pattern in ("dense", "2_6")
} | {
    f"{name}-{K}-wide{wide}-scaled{scaled}": (
        name,
        norm_arguments(name, M, K, "2_8", "INT8", wide=wide, is_scaled=scaled),
        launch,
    )
    for name, (M, K, launch) in itertools.product([*QUANTIZING, "add_norm"], SHAPES)
    for wide, scaled in [(False, False), (True, True)]
}
CASES |= {
    f"{name}-{pattern}-{dtype}-{M}x{K}-int32": (
        name,
        norm_arguments(name, M, K, pattern, dtype, wide=dtype == "FP8", int32=True),
        launch,
    )
    for name, (M, K, launch) in itertools.product([*SCALED, "add_norm"], SHAPES)
    for pattern, dtype in [("dense", "INT8"), ("2_6", "FP8")]
}
CASES |= {
    f"{'rope_scale_cache' if cache else 'rope_scale'}-{heads}-{kv_heads}-{D}-{dtype}-scaled{scaled}-int32{int32}": (
        "rope_scale_cache" if cache else "rope_scale",
        rope_arguments(6, heads, kv_heads, D, dtype=dtype, is_scaled=scaled, cache=cache, int32=int32),
        None,
    )
    for cache, (heads, kv_heads, D) in itertools.product([False, True], [(4, 1, 128), (3, 2, 24)])
    for dtype, scaled, int32 in [
        (torch.float32, True, False),
        (torch.bfloat16, True, False),
        (torch.bfloat16, False, False),
        (torch.bfloat16, True, True),
        (torch.float32, True, True),
    ]
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """{case: what was wrong}."""
    pytest.importorskip("triton", reason="Triton is not installed")
    return checked("interpreted_fused_kernels.py", CASES, tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_agrees_with_the_reference_and_writes_nothing_else(interpreted, case):
    assert not interpreted[case]


CALLS = [
    *((name, norm_arguments(name, 5, 64, "2_8", dtype)) for name in QUANTIZING for dtype in DTYPES),
    ("add_norm", norm_arguments("add_norm", 5, 64, "dense", "INT8", is_scaled=False)),
    ("rope_scale", rope_arguments(5, 4, 1, 16)),
    ("rope_scale_cache", rope_arguments(5, 4, 1, 16, cache=True)),
    *((name, norm_arguments(name, 5, 64, "dense", "INT8", int32=True)) for name in [*SCALED, "add_norm"]),
    ("rope_scale", rope_arguments(5, 4, 1, 16, int32=True)),
    ("rope_scale_cache", rope_arguments(5, 4, 1, 16, cache=True, int32=True)),
]


@pytest.mark.parametrize(
    ("name", "arguments"), CALLS, ids=[f"{name}-{arguments[0].dtype}" for name, arguments in CALLS]
)
def test_operators_are_well_formed_and_trace_in_one_graph(name, arguments):
    torch.library.opcheck(getattr(torch.ops.slidesparse, name).default, arguments)
    operator = getattr(fused, name)
    torch._dynamo.reset()
    traced = torch.compile(lambda *given: operator(*given), fullgraph=True, backend="aot_eager")
    for one, other in zip(outputs(traced(*arguments)), outputs(operator(*arguments)), strict=True):
        assert torch.equal(one.view(torch.int8), other.view(torch.int8))


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def normalised(values, gamma, eps):
    """RMSNorm as the model's own, in float64."""
    return values / (values.square().mean(-1, keepdim=True) + eps).sqrt() * gamma.double()


def assert_codes_stand_for(codes, scales, y, pattern, dtype):
    """codes * scales is y [M, K] in window order, within half a step of the codes and float32's own error."""
    padded = torch.nn.functional.pad(y, (0, 1))[:, source(Pattern(pattern), y.shape[1])]
    error = (codes.double() * scales.double()[:, None] - padded).abs()
    if dtype == "INT8":
        step = scales.double()[:, None]
    else:  # three bits of mantissa, and subnormals in steps of 2^-9
        step = torch.maximum(padded.abs() * 2**-3, scales.double()[:, None] * 2**-9)
    assert (error <= step * 0.5001 + 1e-5 * padded.abs()).all()
    largest = codes.double().abs().amax(-1)
    assert (largest == LARGEST[dtype]).all()


@pytest.mark.parametrize(("pattern", "dtype"), [*itertools.product(["dense", "2_4", "2_6", "2_8", "2_inf"], DTYPES)])
def test_codes_and_scales_stand_for_the_models_norms(pattern, dtype):
    M, K, eps = 6, 320, 1e-5
    x, gamma, *_ = norm_arguments("norm_quantize", M, K, pattern, dtype)
    codes, scales = fused.norm_quantize(x, gamma, eps, pattern, dtype)
    assert_codes_stand_for(codes, scales, normalised(x.double(), gamma, eps), pattern, dtype)

    x, token, weight, residual, gamma, *_ = norm_arguments("add_norm_quantize", M, K, pattern, dtype, wide=True)
    total, codes, scales = fused.add_norm_quantize(x, token, weight, residual, gamma, eps, pattern, dtype)
    exact = residual.double() + x.double() * token.double()[:, None] * weight.double()
    assert ((total.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
    assert_codes_stand_for(codes, scales, normalised(total.double(), gamma, eps), pattern, dtype)
    y = normalised(total.double(), gamma, eps)
    normed = fused.add_norm(x, token, weight, residual, gamma, eps)
    assert ((normed.double() - y).abs() <= y.abs() * 2**-8).all()

    x, token, weight, gamma, *_ = norm_arguments("relu2_mul_norm_quantize", M, K, pattern, dtype)
    codes, scales = fused.relu2_mul_norm_quantize(x, token, weight, gamma, eps, pattern, dtype)
    gate, up = (x.double() * token.double()[:, None]).chunk(2, dim=-1)
    y = normalised((gate * weight[0].double()).relu().square() * up * weight[1].double(), gamma, eps)
    assert_codes_stand_for(codes, scales, y, pattern, dtype)


def test_the_scale_of_a_token_passes_through_a_norm_up_to_eps():
    """With eps 0, accumulators and values have the same codes and scales: powers of two make it exact."""
    x, token, weight, gamma, *_ = norm_arguments("relu2_mul_norm_quantize", 4, 64, "2_8", "INT8")
    scaled = fused.relu2_mul_norm_quantize(x, torch.full_like(token, 0.25), torch.ones(2), gamma, 0.0, "2_8", "INT8")
    plain = fused.relu2_mul_norm_quantize(x, None, None, gamma, 0.0, "2_8", "INT8")
    assert torch.equal(scaled[0], plain[0]) and torch.equal(scaled[1], plain[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", QUANTIZING)
def test_rows_of_zeros_and_rows_that_are_not_finite(name, dtype):
    """They are defined, and leave the other rows as they are."""
    *total, codes, scales = getattr(fused, name)(*norm_arguments(name, 9, 64, "2_8", dtype))
    smallest = torch.tensor(SMALLEST_AMAX) / (torch.tensor(LARGEST[dtype]) * torch.tensor(1e-5).sqrt())
    assert scales[1] == smallest
    broken = [2, 3] if name == "norm_quantize" else [2, 3, 6]
    if name.startswith("relu2"):
        broken.remove(3)  # the infinity stands in up, where its gate may be closed
    assert not scales[broken].isfinite().any()
    assert not codes.view(torch.int8)[[1, *broken]].any()
    assert scales[[0, 4, 7, 8]].isfinite().all() and codes.view(torch.int8)[[0, 7, 8]].any(-1).all()


@pytest.mark.parametrize("name", [*SCALED, "add_norm", "rope_scale", "rope_scale_cache"])
def test_int32_accumulators_are_what_bf16_ones_are_and_need_scales(name):
    if name.startswith("rope"):
        arguments = rope_arguments(5, 4, 1, 16, cache=name == "rope_scale_cache", int32=True)
    else:
        arguments = norm_arguments(name, 9, 64, "2_8", "INT8", int32=True)
    operator = getattr(fused, name)
    rounded = [arguments[0].bfloat16(), *arguments[1:]]
    assert (rounded[0].long() != arguments[0]).any()
    for one, other in zip(outputs(operator(*arguments)), outputs(operator(*rounded)), strict=True):
        assert torch.equal(one.view(torch.int8), other.view(torch.int8))
    with pytest.raises(ValueError, match="INT32 accumulators need scales"):
        operator._init_fn(arguments[0], None, None, *arguments[3:])  # what runs on a GPU


def test_rotation_is_transformers():
    modeling = pytest.importorskip("transformers.models.bitnet.modeling_bitnet")
    M, heads, kv_heads, D = 6, 4, 2, 128
    arguments = rope_arguments(M, heads, kv_heads, D)
    qkv, token, weight, positions, table = arguments[:5]
    query, key, value = fused.rope_scale(*arguments)
    parts = (qkv.float() * token[:, None]).view(M, heads + 2 * kv_heads, D).split([heads, kv_heads, kv_heads], dim=1)
    parts = [part * factor for part, factor in zip(parts, weight, strict=True)]
    cosine, sine = (half.repeat(1, 2) for half in table[positions].chunk(2, dim=-1))
    rotated = modeling.apply_rotary_pos_emb(*parts[:2], cosine, sine)
    for got, expected in zip((query, key, value), (*rotated, parts[2]), strict=True):
        expected = expected.reshape(M, -1)
        assert ((got.float() - expected).abs() <= expected.abs() * 2**-8 + 1e-5 * expected.abs().max()).all()


def test_the_cache_holds_what_rope_scale_returns():
    arguments = rope_arguments(6, 4, 2, 16, cache=True)
    key_cache, value_cache, slots = arguments[7:]
    query, key, value = fused.rope_scale(*arguments[:7])
    assert torch.equal(fused.rope_scale_cache(*arguments), query)
    stored = torch.zeros(len(key_cache) * 16, dtype=torch.bool)
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            stored[slot] = True
            assert torch.equal(key_cache.flatten(0, 1)[slot].flatten(), key[token])
            assert torch.equal(value_cache.flatten(0, 1)[slot].flatten(), value[token])
    assert not key_cache.flatten(0, 1)[~stored].any() and not value_cache.flatten(0, 1)[~stored].any()
