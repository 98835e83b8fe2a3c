"""The least time of a product by multiplications and by bytes."""

from types import SimpleNamespace

import pytest

from slidesparse.kernel import roofline

H200 = SimpleNamespace(cc=90, sm_count=132, memory_bandwidth=4_917_000_000_000)


def test_published_peaks_follow_from_the_table():
    dense = roofline.least(H200, "FP8", False, 1979e12, 0, 1830)
    assert dense["seconds"] == pytest.approx(1, rel=0.001) and dense["limit"] == "compute"
    a100 = SimpleNamespace(cc=80, sm_count=108, memory_bandwidth=1)
    assert roofline.least(a100, "INT8", True, 1248e12, 0, 1410)["seconds"] == pytest.approx(1, rel=0.001)


def test_few_rows_are_bound_by_bytes():
    operations, moved = 2 * 16 * 2560 * 2560, 2560 * 2560
    found = roofline.least(H200, "INT8", False, operations, moved, 1980)
    assert found == {"seconds": pytest.approx(moved / 4.917e12), "limit": "memory"}


def test_what_is_not_known_is_not_guessed():
    assert roofline.least(SimpleNamespace(cc=0), "INT8", False, 1, 1, None) is None
    assert roofline.least(H200, "INT8", False, 1, 1, None) is None
