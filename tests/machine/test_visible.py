"""Which GPUs CUDA shows, as CUDA_VISIBLE_DEVICES says."""

import pytest

from slidesparse.machine import visible


@pytest.mark.parametrize(
    ("setting", "positions"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2", [2]),
        ("2,0", [2, 0]),
        (" 1 , 2", [1, 2]),
        ("1,7,0", [1]),
        ("GPU-bb", [1]),
        ("GPU-bb11,GPU-aa00", [1, 0]),
        ("GPU-", []),
        ("GPU-zz,0", []),
        ("MIG-cc", [2]),
        ("all", []),
        ("gpu-aa00", []),
        ("MIG-GPU-aa00/1/0", []),
        ("3", []),
    ],
)
def test_cuda_visible_devices(setting, positions):
    assert visible.visible(setting, ["GPU-aa00", "GPU-bb11", "MIG-cc22"]) == positions


@pytest.mark.parametrize(("setting", "positions"), [(None, [2, 0, 1]), ("0", [2]), ("1,0", [0, 2]), ("GPU-aa", [0])])
def test_numbers_are_those_of_cuda_where_it_counts_the_fastest_first(setting, positions):
    assert visible.visible(setting, ["GPU-aa00", "GPU-bb11", "GPU-cc22"], [2, 0, 1]) == positions


def test_vendors_of_graphics_cards(tmp_path):
    for card, vendor in (("card0", "0x1002"), ("card1", "0x8086"), ("card2", "0x1a03")):
        (tmp_path / card / "device").mkdir(parents=True)
        (tmp_path / card / "device" / "vendor").write_text(f"{vendor}\n")
    assert visible._vendors(tmp_path) == ["AMD", "Intel"]
