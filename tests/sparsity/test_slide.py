"""Pruning and sliding lose nothing: lift(x) @ slide(w).T == x @ w.T, in integers, for every pattern."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesparse.sparsity.patterns import Pattern
from slidesparse.sparsity.prune import prune, violations
from slidesparse.sparsity.quantize import DTYPES, absmean_scale, quantize_per_token, store_as, ternary
from slidesparse.sparsity.slide import compress, decompress, lanes, lift, slide, unslide

PATTERNS = [f"2_{L}" for L in range(4, 18, 2)] + ["2_inf"]


def pruned(N, K, pattern, seed, values=3):
    """Random Z:L codes [N, K] in -values//2 … values//2 and the latent weights they were pruned by."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(N, K, generator=generator)
    codes = torch.randint(-(values // 2), values // 2 + 1, (N, K), generator=generator).to(torch.int8)
    return prune(codes, latent, pattern)[0]


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=30, deadline=None)
@given(
    N=st.integers(1, 9),
    K=st.integers(1, 150),
    M=st.integers(1, 5),
    values=st.sampled_from([3, 255]),
    seed=st.integers(0, 2**31),
)
def test_sliding_is_lossless(name, N, K, M, values, seed):
    pattern = Pattern(name)
    w = pruned(N, K, pattern, seed, values)
    slid = slide(w, pattern)
    x = torch.randint(-127, 128, (M, K), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    assert slid.shape == (N, pattern.K_slid(K))
    assert torch.equal(lift(x, pattern).long() @ slid.long().T, x.long() @ w.long().T)
    assert ((slid.view(N, -1, 4) != 0).sum(-1) <= 2).all()
    assert torch.equal(unslide(slid, pattern, K), w)
    values_kept, metadata = compress(slid)
    assert values_kept.shape == (N, slid.shape[1] // 2) and metadata.shape == (N, slid.shape[1] // 8)
    assert torch.equal(decompress(values_kept, metadata), slid)
    columns = lanes(metadata).view(N, -1, 2)
    assert (columns[..., 0] < columns[..., 1]).all()


@pytest.mark.parametrize("L", [4, 6, 8, 10])
def test_every_filling_of_a_group_fits(L):
    pattern = Pattern(f"2_{L}")
    rows = [row for row in itertools.product((0, 1), repeat=L) if sum(row) <= L - 2]
    w = torch.tensor(rows, dtype=torch.int8) * torch.arange(1, L + 1, dtype=torch.int8)
    slid = slide(w, pattern)
    assert torch.equal(unslide(slid, pattern, L), w)
    # Brute force: every non-zero weight stands once, in a window that reads its input.
    starts = pattern.window_starts(L)
    for row, out in zip(w.tolist(), slid.tolist(), strict=True):
        stands = [(start + lane, out[4 * i + lane]) for i, start in enumerate(starts) for lane in range(4)]
        assert sorted(pair for pair in stands if pair[1]) == sorted((i, v) for i, v in enumerate(row) if v)


def test_the_default_dtype_does_not_matter():
    """vLLM sets another one while it loads a model, and weights may have to be made again then."""
    pattern, w = Pattern("2_8"), pruned(4, 64, Pattern("2_8"), 1)
    expected = slide(w, pattern)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert torch.equal(slide(w, pattern), expected)
    finally:
        torch.set_default_dtype(before)


def test_worked_example():
    slid = slide(torch.tensor([[1, 2, 3, 0, 0, 6]], dtype=torch.int8), Pattern("2_6"))
    assert slid[0, :8].tolist() == [1, 2, 0, 0, 3, 0, 0, 6]
    assert not slid[0, 8:].any()


def test_an_overfull_group_is_refused():
    with pytest.raises(ValueError, match="fewer than 2 zeros"):
        slide(torch.ones(1, 8, dtype=torch.int8), Pattern("2_8"))
    with pytest.raises(ValueError, match="more than two"):
        compress(torch.ones(1, 8, dtype=torch.int8))


def test_lift_keeps_fp8_codes():
    x = torch.randn(3, 64).to(torch.float8_e4m3fn)
    lifted = lift(x, Pattern("2_8"))
    assert lifted.dtype == torch.float8_e4m3fn
    assert torch.equal(lifted[:, :64].view(torch.int8), x.view(torch.int8))


def expected_pruning(codes, latent, L):
    """The rule in words: per group, ternary zeros first, then the smallest |latent|, ties by position."""
    rows = []
    for code, master in zip(codes.tolist(), latent.tolist(), strict=True):
        row = list(code)
        for start in range(0, len(row), L):
            group = range(start, min(start + L, len(row)))
            order = sorted(group, key=lambda i: (code[i] != 0, abs(master[i]), i))
            for i in order[: max(0, 2 - (start + L - len(row) if start + L > len(row) else 0))]:
                row[i] = 0
        rows.append(row)
    return rows


@pytest.mark.parametrize("name", PATTERNS[:-1])
@settings(max_examples=15, deadline=None)
@given(K=st.integers(1, 60), seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.bfloat16, torch.float32]))
def test_pruning_takes_what_matters_least(name, K, seed, dtype):
    pattern = Pattern(name)
    generator = torch.Generator().manual_seed(seed)
    latent = (torch.randint(-4, 5, (4, K), generator=generator) / 4).to(dtype)  # many ties
    codes = torch.randint(-1, 2, (4, K), generator=generator).to(torch.int8)
    result, changed = prune(codes, latent, pattern)
    assert result.tolist() == expected_pruning(codes, latent, pattern.L)
    assert violations(result, pattern) == 0
    assert changed == int((codes != result).sum())


def test_absmean_ternary():
    w = torch.tensor([[0.5, -1.5, 1.0, 0.0]]).bfloat16()
    s = absmean_scale(w)
    assert s == pytest.approx(1 / 0.75)
    assert ternary(w, s).tolist() == [[1, -1, 1, 0]]
    half = torch.tensor([[2.0, 2.0, 1.0, -1.0, 0.0, 0.0]])  # mean 1: 1.0 * s = 1, and 0.5 would round to even, 0
    assert ternary(half / 2, 1.0).tolist() == [[1, 1, 0, 0, 0, 0]]
    assert absmean_scale(torch.zeros(2, 2)) == pytest.approx(1e5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_damaged_matrix_is_refused(bad):
    from slidesparse.errors import CheckpointError

    with pytest.raises(CheckpointError, match="NaN or infinity"):
        absmean_scale(torch.tensor([[1.0, bad]]))


@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_stored_codes(dtype):
    codes = torch.tensor([[-1, 0, 1]], dtype=torch.int8)
    assert store_as(codes, dtype).dtype == DTYPES[dtype]
    assert store_as(codes, dtype).float().tolist() == [[-1.0, 0.0, 1.0]]


@pytest.mark.parametrize(("dtype", "largest"), [("INT8", 127), ("FP8", 448)])
def test_per_token_quantisation(dtype, largest):
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]).bfloat16()
    codes, scale = quantize_per_token(x, dtype)
    assert codes[0].float().abs().max() == largest
    assert scale.shape == (2, 1) and scale[0].item() == pytest.approx(2 / largest)
    assert not codes[1].float().any() and scale[1].item() > 0
    assert torch.allclose(codes.float() * scale, x.float(), rtol=0.07, atol=2 / largest)
