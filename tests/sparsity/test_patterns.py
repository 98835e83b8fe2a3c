"""The arithmetic of patterns, against the tables of the paper and against brute force."""

import pytest

from slidesparse.sparsity.patterns import Pattern

ALL = [f"2_{L}" for L in range(4, 18, 2)] + ["2_inf"]


@pytest.mark.parametrize(
    ("name", "K", "K_slid"),
    [
        ("dense", 2560, 2560),
        ("2_4", 2560, 2560),
        ("2_6", 2560, 3456),  # 427 groups of 2 windows = 3416, up to a multiple of 128
        ("2_8", 2560, 3840),
        ("2_10", 2560, 4096),
        ("2_inf", 2560, 5120),
        ("2_4", 6912, 6912),
        ("2_6", 6912, 9216),
        ("2_8", 6912, 10368),
        ("2_inf", 6912, 13824),
        ("2_8", 100, 256),  # 13 groups of 3 windows = 156
    ],
)
def test_expanded_length(name, K, K_slid):
    assert Pattern(name).K_slid(K) == K_slid


@pytest.mark.parametrize(
    ("name", "bound"), [("2_4", 2.0), ("2_6", 1.5), ("2_8", 4 / 3), ("2_10", 1.25), ("2_inf", 1.0)]
)
def test_bound(name, bound):
    assert Pattern(name).bound == pytest.approx(bound)


@pytest.mark.parametrize("name", ALL)
def test_every_input_is_read_by_a_window_of_its_group(name):
    pattern, K = Pattern(name), 96
    starts = pattern.window_starts(K)
    groups, length = pattern.groups(K)
    assert len(starts) == groups * pattern.windows(K) == len(set(starts))
    read = {start + lane for start in starts for lane in range(4)}
    assert read >= set(range(groups * length))
    if pattern.L:
        assert all(start // length == (start + 3) // length for start in starts)


@pytest.mark.parametrize("name", ["2_4", "2_8", "2_12", "2_16", "2_inf"])
def test_even_windows_are_the_row_itself(name):
    starts = Pattern(name).window_starts(96)
    assert starts[:24] == list(range(0, 96, 4))


@pytest.mark.parametrize("name", ["2_5", "2_2", "2_0", "3_8", "2_08", "28", "2:8", "", "2_-4"])
def test_impossible_patterns_are_refused(name):
    with pytest.raises(ValueError, match="even L"):
        Pattern(name)
