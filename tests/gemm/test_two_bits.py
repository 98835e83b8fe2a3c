"""Ternary codes in two bits: every code comes back, and lies in the bits that the kernel reads."""

import pytest
import torch

from slidesparse.gemm.two_bits import FACTOR, pack, quarter, unpack


def codes(N, K):
    return torch.randint(-1, 2, (N, K), generator=torch.Generator().manual_seed(N * K), dtype=torch.int8)


@pytest.mark.parametrize("K", [1, 15, 16, 63, 64, 65, 100, 128, 200, 2560, 6912])
@pytest.mark.parametrize("N", [1, 7, 48])
def test_codes_come_back_from_a_quarter_of_the_bytes(N, K):
    given = codes(N, K)
    packed = pack(given)
    assert packed.shape == (N, quarter(K)) and packed.dtype == torch.uint8 and packed.is_contiguous()
    assert quarter(K) % 16 == 0 and K <= 4 * quarter(K) < K + 64
    assert torch.equal(unpack(packed, K), given)


@pytest.mark.parametrize("K", [64, 100, 2560])
def test_a_shift_and_a_mask_give_neighbouring_codes_of_a_quarter(K):
    given, Q = codes(8, K), quarter(K)
    words = pack(given).view(torch.int32)
    whole = torch.nn.functional.pad(given, (0, 4 * Q - K))
    for i in range(4):
        bytes = ((words << (6 - 2 * i)) & torch.tensor(0xC0C0C0C0 - (1 << 32), dtype=torch.int32)).view(torch.int8)
        assert torch.equal(bytes, FACTOR * whole[:, i * Q : (i + 1) * Q])


@pytest.mark.parametrize("code", [-2, 2, 127, -128])
def test_other_codes_are_refused(code):
    given = codes(3, 40)
    given[2, 39] = code
    with pytest.raises(ValueError, match="two bits"):
        pack(given)
