"""The ternary kernels give the exact sums, whatever the shape and the cut: interpreted on CPUs."""

import re

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from interpreting import checked
from slidesparse import gemm
from slidesparse.errors import HardwareError
from slidesparse.gemm import ternary_kernels
from slidesparse.gemm.ternary_kernels import Gpu, Tile

MODEL = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]
H200, RTX4090, A100 = Gpu(132, 227 << 10, True), Gpu(128, 99 << 10, False), Gpu(108, 163 << 10, False)

REFUSED = ["not -1, 0 or 1", "INT8 activations only", "INT8 activations only", "'12:1' is no tile"]
SHAPES = [
    # M, N, K, tile
    (1, 1, 1, "16x8x32:1:3:1"),
    (1, 48, 128, "16x8x32:1:3:1"),
    (3, 17, 16, "32x16x64:2:3:1"),
    (5, 33, 100, "32x8x32:2:4:2"),
    (16, 64, 256, "64x16x64:4:4:1"),
    (16, 64, 512, "64x16x32:4:4:4"),
    (17, 65, 144, "64x16x32:4:3:1"),
    (17, 70, 336, "32x32x32:2:3:3"),
    (33, 31, 2567, "16x32x128:1:3:5"),
    (64, 128, 192, "128x64x64:8:3:1"),
    (65, 129, 528, "64x64x64:4:3:2"),
    (130, 40, 80, "64x128x64:4:3:1"),
    (2, 600, 64, "64x16x32:4:3:8"),
]
CASES = {}
for M, N, K, tile in SHAPES:
    generator = torch.Generator().manual_seed(M * N * K)
    x = torch.randint(-127, 128, (M, K), generator=generator, dtype=torch.int8)
    codes = torch.randint(-1, 2, (N, K), generator=generator, dtype=torch.int8)
    scales = (torch.rand(M, 1, generator=generator) + 0.5, torch.rand(N, generator=generator) + 0.5)
    CASES[f"{M}x{N}x{K}"] = (x, codes, tile, None, False)
    CASES[f"{M}x{N}x{K} scaled"] = (x, codes, tile, scales)
    CASES[f"{M}x{N}x{K} joined"] = (x, codes, tile, None, True)
largest = torch.full((2, 6912), -127, dtype=torch.int8)
CASES["largest sums"] = (largest, torch.ones(16, 6912, dtype=torch.int8), "16x8x128:1:3:1")
KERNELS = list(CASES)
CASES["stages"] = ("stages", 48, 96, 16)
CASES["refusals"] = ("refusals",)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return checked("interpreted_ternary.py", CASES, tmp_path_factory.mktemp("ternary"))


@pytest.mark.parametrize("case", KERNELS)
def test_every_sum_is_exact_and_written_once(found, case):
    assert not found[case]


def test_the_backend_is_tuned_and_measured_like_others(found):
    said = found["stages"]
    assert said["wrong"] == 0 and said["exact"] == {"BF16": False, "INT32": True}
    assert all("channels, " in name for name in said["names"]) and said["peers"] == ["onednn"]
    assert said["scales"]["ternary"] == "in the epilogue" and said["library"].startswith("ternary kernels 2, Triton")


def test_what_the_backend_cannot_take_is_refused_in_a_sentence(found):
    *said, bytes, product = found["refusals"]
    assert [re.search(wanted, each) is not None for wanted, each in zip(REFUSED, said, strict=True)] == [True] * 4, said
    assert bytes == 4 * 16 and product == [[64] * 4] * 2


@pytest.mark.parametrize("gpu", [H200, RTX4090, A100], ids=["H200", "RTX4090", "A100"])
@pytest.mark.parametrize("M", [1, 7, 16, 17, 64, 128, 256, 4096, 32768])
@pytest.mark.parametrize(("N", "K"), [*MODEL, (33, 80), (1, 1)])
def test_tiles_fit_into_a_gpu_and_leave_no_part_of_k_empty(N, K, M, gpu):
    found = ternary_kernels.tiles(M, N, K, gpu)
    assert found and len(set(found)) == len(found)
    for tile in found:
        assert Tile.of(tile.id) == tile and tile.shared(gpu.hopper) <= gpu.shared
        steps = -(-ternary_kernels.quarter(K) // tile.depth)
        assert (tile.splits - 1) * -(-steps // tile.splits) < steps
        assert tile.workspace(M, N) == (4 * tile.splits * M * N if tile.splits > 1 else 0)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize(("capability", "product"), [(80, "mma.sync.aligned.m16n8k32"), (90, "wgmma.mma_async")])
def test_it_compiles_for_gpus_into_products_of_codes_expanded_in_registers(
    capability, product, splits, tmp_path, monkeypatch
):
    """Without a GPU. The interpreter does not see the inline assembly, the layouts and the asynchronous loads."""
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    tile = Tile(64, 64, 64, 4, 3, splits)
    constants, _ = ternary_kernels.settings(64, 128, 512, tile, tile.joined(capability == 90))
    warps, pointers = constants.pop("num_warps"), dict.fromkeys(("x", "packed"), "*i8") | {"out": "*bf16"}
    pointers |= dict.fromkeys(("parts", "counters"), "*i8" if splits == 1 else "*i32")
    types = pointers | dict.fromkeys(("token_scale", "channel_scale"), "*fp32") | dict.fromkeys("MNKQ", "i32")
    types |= {"tiles": "i32"} | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(types) if i < 11 and name != "M"}
    source = ASTSource(ternary_kernels._ternary_gemm, types, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    loop = made.asm["ttgir"].partition("scf.for")[2].partition("scf.yield")[0]
    assert "async_copy_global_to_local" in loop and "convert_layout" not in loop
    assert made.asm["ptx"].count(product) >= 4 and ".local" not in made.asm["ptx"]
    assert made.asm["ptx"].count("atom.global.gpu.acq_rel.add") == (splits > 1)
    assert f"{0xC0C0C0C0 - (1 << 32)}" in made.asm["ptx"] or "0xC0C0C0C0" in made.asm["ptx"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(HardwareError, match="backend ternary needs a GPU"):
        gemm.backend("ternary").version()


@pytest.mark.parametrize("id", ["", 3, None, "64x16x128:4:5", "64x16x128:4:5:0", "64x16x128:4:5:2;"])
def test_what_is_no_tile_is_refused(id):
    with pytest.raises(ValueError, match="is no tile of the ternary kernel"):
        Tile.of(id)
