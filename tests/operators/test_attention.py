"""Decode attention: its kernels, interpreted, against float64, and its operator."""

import pytest
import torch

from attention_cases import BLOCK_MAJOR, HEAD_MAJOR, error, exact, filled, queries
from interpreting import checked
from slidesparse.operators.attention import decode_attention, decode_attention_reference

NAN = float("nan")
BORDERS = [1, 15, 16, 17, 0, 32, 33, 65]
ONE, WIDE, SPLIT, MANY = (16, 3, 1, 1), (32, 3, 1, 1), (32, 3, 1, 4), (16, 2, 2, 32)
"""tokens of a tile, tiles in flight, warps, splits"""


def case(lengths, heads, kv_heads, D, cut, block=16, order=BLOCK_MAJOR):
    """Arguments of `interpreted_attention.check`. Slots without a token hold NaN, so that reading one shows."""
    [(keys, values)], lengths, pages = filled(lengths, kv_heads, D, block, order, NAN)
    return queries(len(lengths), heads, D), keys, values, lengths, pages, cut


CASES = {
    "borders": case(BORDERS, 4, 2, 128, ONE),
    "borders, wide tiles": case(BORDERS, 4, 2, 128, WIDE),
    "borders, splits": case([*BORDERS, 64, 129, 200], 4, 1, 128, SPLIT),
    "more splits than tokens": case([1, 0, 63, 64, 65, 300], 2, 1, 64, MANY),
    "one token": case([1], 4, 1, 128, SPLIT),
    "padding only": case([0, 0], 4, 1, 128, SPLIT),
    "small heads": case([1, 40, 0, 70], 4, 2, 64, WIDE),
    "heads before tokens": case([5, 40, 0, 70], 4, 2, 128, SPLIT, order=HEAD_MAJOR),
    "pages of 48 tokens": case([1, 47, 48, 49, 100], 2, 1, 64, WIDE, block=48),
    "pages of 64 tokens": case([1, 63, 64, 65, 150], 2, 1, 64, SPLIT, block=64, order=HEAD_MAJOR),
    "groups of three": case([7, 33], 6, 2, 64, ONE),
    "groups of sixteen": case([7, 33], 16, 1, 64, WIDE),
    "one query for each key": case([7, 33], 3, 3, 64, ONE),
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """{case: what was wrong}."""
    pytest.importorskip("triton", reason="Triton is not installed")
    return checked("interpreted_attention.py", CASES, tmp_path_factory.mktemp("attention"))


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_are_exact_and_write_nothing_else(interpreted, name):
    assert not interpreted[name]


@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_exact(name):
    query, keys, values, lengths, pages, _ = CASES[name]
    scale = keys.shape[3] ** -0.5
    arguments = (query, keys, values, lengths, pages, scale)
    out, right = decode_attention(*arguments), exact(*arguments)
    assert out.dtype == torch.bfloat16 and not out[lengths == 0].any()
    assert not right.any() or error(out, right) < 4e-3


@pytest.mark.parametrize(("M", "splits"), [(1, 32), (8, 8), (16, 4), (32, 2), (64, 1), (512, 1)])
def test_splits_fill_a_gpu_and_depend_on_the_batch_only(M, splits):
    paged = pytest.importorskip("slidesparse.operators.paged", reason="Triton is not installed")
    assert paged.plan(M, 5).splits == splits
    assert M * 5 * splits <= paged.PROGRAMS or splits == 1


def test_the_operator_is_well_formed():
    arguments = (*CASES["borders"][:5], 0.1)
    torch.library.opcheck(torch.ops.slidesparse.decode_attention.default, arguments)
    assert torch.equal(decode_attention(*arguments), decode_attention_reference(*arguments))


def bad_arguments():
    query, keys, values, lengths, pages, _ = CASES["borders"]
    good = [query, keys, values, lengths, pages, 0.1]
    half, odd = keys.float(), torch.zeros(9, 24, 2, 128, dtype=torch.bfloat16)
    heads, small = torch.zeros(9, 16, 3, 128).bfloat16(), torch.zeros(9, 16, 2, 32).bfloat16()
    return {
        "type of a cache": (good[:1] + [half, half] + good[3:], "must be BF16"),
        "caches that differ": (good[:1] + [keys, values[:-1]] + good[3:], "do not fit"),
        "size of pages": (good[:1] + [odd, odd] + good[3:], "in pages of 24 tokens"),
        "heads": (good[:1] + [heads, heads] + good[3:], "4 heads of queries on 3 of keys"),
        "size of heads": (good[:1] + [small, small] + good[3:], "with 32 numbers"),
        "type of queries": ([query.float()] + good[1:], "must be bfloat16"),
        "type of lengths": (good[:3] + [lengths.long()] + good[4:], r"must be \[8\]"),
        "rows of pages": (good[:4] + [pages[:-1]] + good[5:], r"must be \[8\]"),
    }


@pytest.mark.parametrize("name", bad_arguments())
def test_arguments_that_do_not_fit_are_refused(name):
    pytest.importorskip("triton", reason="Triton is not installed")
    arguments, sentence = bad_arguments()[name]
    with pytest.raises(ValueError, match=sentence):
        decode_attention._init_fn(*arguments)  # what runs on a GPU
