"""Decode attention on a GPU: against float64, and against FlashAttention as vLLM calls it, from one captured graph."""

import pytest
import torch

from attention_cases import BLOCK_MAJOR, HEAD_MAJOR, error, exact, filled, queries
from flash import Flash
from slidesparse.operators.attention import decode_attention

pytest.importorskip("triton", reason="Triton is not installed")
from slidesparse.operators import paged  # noqa: E402

pytestmark = pytest.mark.gpu
NAN = float("nan")
RAGGED = [1, 0, 15, 16, 17, 31, 32, 33, 64, 65, 128, 129, 160, 161, 1000, 2100]


def wrong(lengths, heads=20, kv_heads=5, D=128, block=16, order=BLOCK_MAJOR):
    """What is wrong with the operator at these lengths, where slots without a token hold NaN; or None."""
    [(keys, values)], lengths, pages = filled(lengths, kv_heads, D, block, order, NAN, "cuda")
    query = queries(len(lengths), heads, D, "cuda")
    out = decode_attention(query, keys, values, lengths, pages, D**-0.5)
    right = exact(query, keys, values, lengths, pages, D**-0.5)
    if out[lengths == 0].any():
        return "a row of padding is not zero"
    far = error(out, right)
    return None if far < 4e-3 else f"error {far}"


@pytest.mark.parametrize("order", [BLOCK_MAJOR, HEAD_MAJOR])
@pytest.mark.parametrize("M", [1, 2, 4, 8, 16, 32, 64, 128, 512])
def test_ragged_lengths_are_exact_in_every_plan(M, order):
    lengths = (RAGGED * (M // 16 + 1))[-M:]
    assert not wrong(lengths, order=order)


@pytest.mark.parametrize(
    "cut", [(tile, 3, warps, splits) for tile in (16, 32) for warps in (1, 2) for splits in (1, 8)]
)
def test_every_way_to_cut_the_work_is_exact(cut, monkeypatch):
    monkeypatch.setattr(paged, "plan", lambda M, kv_heads: paged.Plan(*cut))
    assert not wrong(RAGGED)


@pytest.mark.parametrize("M", [3, 80])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "D", "block"),
    [(4, 2, 128, 16), (8, 8, 64, 16), (16, 1, 128, 32), (12, 4, 64, 48), (28, 4, 128, 64), (32, 2, 64, 128)],
)
def test_other_heads_and_pages_are_exact(heads, kv_heads, D, block, M):
    assert not wrong((RAGGED * 5)[-M:], heads, kv_heads, D, block)


@pytest.mark.parametrize("M", [1, 16, 64, 256])
def test_one_graph_serves_all_lengths_as_exactly_as_flash_attention(M):
    """Both are captured once. Then lengths change in place, as between steps of an engine."""
    longest, scale = 4096, 128**-0.5
    [(keys, values)], lengths, pages = filled([longest] * M, device="cuda")
    query, theirs = queries(M, device="cuda"), torch.empty(M, 2560, dtype=torch.bfloat16, device="cuda")
    flash = Flash(lengths, pages, 20, 5, 128, 16, longest)
    decode_attention(query, keys, values, lengths, pages, scale)
    flash(query, keys, values, theirs)
    torch.cuda.synchronize()
    graph, other = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours = decode_attention(query, keys, values, lengths, pages, scale)
    with torch.cuda.graph(other):
        flash(query, keys, values, theirs)
    rows = range(0, M, max(1, M // 8))
    ragged = torch.randint(1, 4001, (M,), generator=torch.Generator().manual_seed(1)).int()
    for now in (144, 2048, 4000, 1, ragged, 144):
        lengths.copy_(torch.full((M,), now) if isinstance(now, int) else now)
        flash.schedule()
        ours.fill_(NAN)
        theirs.fill_(NAN)
        graph.replay()
        other.replay()
        right = exact(query, keys, values, lengths, pages, scale, rows)
        errors = [error(out[list(rows)], right) for out in (ours, theirs)]
        print(M, now if isinstance(now, int) else "ragged", errors)
        assert errors[0] < 1.25 * errors[1] + 1e-4
        assert (ours.float() - theirs.float()).abs().max() <= 0.02 * theirs.float().abs().max()


def test_more_than_two_gib_of_a_cache_are_reached():
    """Offsets exceed 32 bits."""
    keys, values = torch.zeros(60000, 16, 5, 256, dtype=torch.bfloat16, device="cuda").split(128, dim=-1)
    pages = torch.tensor([[59999, 3]], dtype=torch.int32, device="cuda")
    lengths = torch.tensor([20], dtype=torch.int32, device="cuda")
    for page in (59999, 3):
        keys[page].normal_()
        values[page].normal_()
    assert keys[59999].storage_offset() > 2**31 // 2
    query = queries(1, device="cuda")
    out = decode_attention(query, keys, values, lengths, pages, 0.1)
    assert error(out, exact(query, keys, values, lengths, pages, 0.1)) < 4e-3
