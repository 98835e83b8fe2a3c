"""What families of GPUs can do."""

import pytest

from slidesparse.machine import families

RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
A100 = "A100_cc80_py312_cu129_x86_64"
CPU = "cpu-AMD-EPYC_cc0_py311_cu0_x86_64"


@pytest.mark.parametrize("key", [RTX4090, CPU, "B200_cc100_py312_cu130_x86_64", "GB10_cc121_py312_cu130_aarch64"])
@pytest.mark.parametrize("dtype", ["INT8", "FP8"])
def test_supported(key, dtype):
    assert families.supports(key, dtype) is None


@pytest.mark.parametrize(
    ("key", "dtype", "reason"),
    [
        (
            A100,
            "FP8",
            "FP8 cannot run on A100: FP8 (E4M3) tensor cores begin with compute capability 8.9, and it has 8.0",
        ),
        (
            "T4_cc75_py312_cu129_x86_64",
            "INT8",
            "INT8 cannot run on T4: structured sparsity begins with compute capability 8.0, and it has 7.5",
        ),
    ],
)
def test_not_supported(key, dtype, reason):
    assert families.supports(key, dtype) == reason


def test_every_capability_has_one_family_and_known_gpus_have_one():
    capabilities = [cc for family in families.FAMILIES for cc in family.capabilities]
    assert len(capabilities) == len(set(capabilities))
    assert {cc for known in families.GPUS.values() for cc in known} <= set(capabilities)
    assert families.family(0) is None and families.family(999) is None


@pytest.mark.parametrize(
    ("cc", "attention"), [(80, 2), (86, 2), (89, 2), (90, 3), (100, 4), (120, 2), (121, 2), (999, 2), (0, None)]
)
def test_vllm_takes_flash_attention_2_but_on_hopper_and_data_centre_blackwell(cc, attention):
    assert families.attention(cc) == attention
