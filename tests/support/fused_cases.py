"""Arguments for the fused operators of `slidesparse.operators.fused`, and what sets two results apart.

Two results of one operator agree when all codes, sums, queries, keys and values are equal bit for bit (a NaN is a NaN),
scales are within SCALE_ULP units in the last place, and BF16 norms within one in at most one place of a thousand.
"""

import torch

SCALE_ULP = 6
"""On a GPU squares are summed in another order and the root is approximate: about a unit each, and three roundings.
Among 16384 tokens of 6912 values a scale was five away."""


def accumulators(M, N, device="cpu", seed=0, int32=False):
    """Accumulators [M, N] of INT8 products, and the scale of a token [M] that turns them into numbers around 1.

    BF16, or (`int32`) INT32 and as large as makes float32 round many of them.
    """
    generator = torch.Generator(device).manual_seed(seed)
    deviation = torch.exp(torch.randn(M, 1, generator=generator, device=device) + 6)
    numbers = torch.randn(M, N, generator=generator, device=device) * deviation
    token_scale = torch.rand(M, generator=generator, device=device) / 100 + 1e-3
    if int32:
        low = torch.randint(2**15, (M, N), generator=generator, device=device)
        return ((numbers.long() << 15) + low).clamp(-(2**31), 2**31 - 1).int(), token_scale / 2**15
    return numbers.round().bfloat16(), token_scale


def norm_arguments(name, M, K, pattern, dtype, device="cpu", wide=False, is_scaled=True, seed=0, int32=False):
    """Arguments of a norm operator, whose weight is float32 if `wide`.

    From seven rows on, rows 1 to 6 are zeros, hold a NaN, an infinity, next to nothing, numbers whose squares overflow,
    and a token scale that is NaN. INT32 accumulators have an infinite token scale instead of the NaN, and the smallest
    and largest number and (for one matrix) sums that show how float32 rounds, instead of the infinity.
    """
    x, token_scale = accumulators(M, 2 * K if name.startswith("relu2") else K, device, seed, int32)
    if name == "norm_quantize":
        x = (x.float() * token_scale[:, None]).bfloat16()
    generator = torch.Generator(device).manual_seed(seed + 1)
    token_scale[0] /= 16  # brings relu(gate)² * up near the root of eps, which a norm's scale otherwise does not show
    residual = torch.randn(M, K, generator=generator, device=device).bfloat16()
    gamma = torch.randn(K, generator=generator, device=device) / 4 + 1
    gamma = gamma if wide else gamma.bfloat16()
    if M >= 7:
        x[1], residual[1] = 0, 0
        residual[4] = residual[4] * 1e-14
        token_scale[6] = float("nan")
        if int32:
            x[3] = 2**24 + torch.arange(x.shape[1], device=device)
            residual[3] = -(2**24)
            x[3, 0], x[3, K - 1] = -(2**31), 2**31 - 1
            token_scale[2], token_scale[3] = float("inf"), 1 / torch.tensor(0.7)
            token_scale[4], token_scale[5] = token_scale[4] * 1e-14, token_scale[5] * 1e25
        else:
            x[2, K // 2] = float("nan")
            x[3, K - 1] = float("-inf")
            x[4], x[5] = x[4] * 1e-14, x[5] * 1e25
    weight_scale = torch.tensor([0.7, 1.3][: len(x[0]) // K], device=device)
    scales = [token_scale, weight_scale] if is_scaled else [None, None]
    coding = [pattern, dtype]
    return {
        "norm_quantize": [x, gamma, 1e-5, *coding],
        "add_norm_quantize": [x, *scales, residual, gamma, 1e-5, *coding],
        "add_norm": [x, *scales, residual, gamma, 1e-5],
        "relu2_mul_norm_quantize": [x, *scales, gamma, 1e-5, *coding],
    }[name]


def angles(positions, D, dtype=torch.float32, device="cpu"):
    """Cosines and sines [positions, D] of the rotary embedding with base 500000, as vLLM keeps them."""
    frequency = 500000.0 ** (-torch.arange(0, D, 2, device=device) / D)
    angle = torch.arange(positions, device=device)[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), -1).to(dtype)


def rope_arguments(
    M, heads, kv_heads, D, device="cpu", dtype=torch.float32, is_scaled=True, cache=False, seed=0, int32=False
):
    """Arguments of `rope_scale`, or of `rope_scale_cache`, where two tokens of five or more have no slot."""
    qkv, token_scale = accumulators(M, (heads + 2 * kv_heads) * D, device, seed, int32)
    generator = torch.Generator(device).manual_seed(seed + 1)
    positions = torch.randint(100, (M,), generator=generator, device=device)
    weight_scale = torch.tensor([0.5, 1.5, 1.1], device=device)
    scales = [token_scale, weight_scale] if is_scaled else [None, None]
    arguments = [qkv, *scales, positions, angles(100, D, dtype, device), heads, kv_heads]
    if cache:
        size = 16
        blocks = M // size + 2
        pages = torch.zeros(2, blocks, size, kv_heads, D, device=device, dtype=torch.bfloat16)
        slots = torch.randperm(blocks * size, generator=generator, device=device)[:M]
        if M >= 5:
            slots[2] = -1
            slots = slots[:-1]
        arguments += [pages[0], pages[1], slots]
    return arguments


def ulp(a, b):
    """Units in the last place between positive numbers of one type, elementwise; NaN and NaN have none between them."""
    whole = {2: torch.int16, 4: torch.int32}[a.element_size()]
    far = (a.view(whole).long() - b.view(whole).long()).abs()
    return far.masked_fill(a.isnan() & b.isnan(), 0)


def differences(name, got, expected):
    """{number of the output: what is wrong with it}."""
    wrong = {}
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype:
            wrong[i] = f"{list(one.shape)} {one.dtype}, not {list(other.shape)} {other.dtype}"
        elif one.dtype == torch.float32:
            if ulp(one, other).max() > SCALE_ULP:
                wrong[i] = f"a scale is {ulp(one, other).max()} ulp away"
        elif one.dtype == torch.bfloat16:
            far = ulp(one, other)
            if far.max() > (name == "add_norm") or far.count_nonzero() > 1e-3 * far.numel():
                wrong[i] = f"{far.count_nonzero()} BF16 differ by up to {far.max()} ulp"
        elif count := int((one.view(torch.int8) != other.view(torch.int8)).sum()):
            wrong[i] = f"{count} codes differ"
    return wrong
