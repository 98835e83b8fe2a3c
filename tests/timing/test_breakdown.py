"""What a GPU did in a step: kernels by name and part, from what a profiler records."""

import pytest

from slidesparse.timing import breakdown


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sm90_xmma_sparse_gemm_i8bf16_i8i32_f32_tn_n_tilesize128x192x128_cgasize2x1x1_warpgroupsize1x1x1", "gemm"),
        ("nvjet_sm90_qqtst_128x256_128x4_2x1_v_bz_coopA_bias_TNT", "gemm"),
        ("void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int, int, int>>", "gemm"),
        (
            "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::Mainloop>>",
            "attention",
        ),
        ("void flash::prepare_varlen_num_blocks_kernel<1, true>(int, int)", "attention"),
        ("_norm", "fused"),
        ("_rope", "fused"),
        ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16>", "fused"),
        ("void vllm::dynamic_scaled_int8_quant_kernel<c10::BFloat16, float, 256>", "fused"),
        ("triton_red_fused__to_copy_add_mul_pow_rsqrt_3", "fused"),
        ("_prepare_pos_seq_lens_kernel", "rest"),
        ("Memset (Device)", "rest"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>>", "rest"),
    ],
)
def test_a_kernel_belongs_to_a_part(name, part):
    assert breakdown.part(name) == part


def test_time_in_which_several_kernels_ran_counts_once():
    events = [(130, 20, "_norm"), (0, 100, "nvjet"), (90, 30, "_norm"), (95, 10, "Memset (Device)")]
    found = breakdown.attributed(events)
    assert found == {
        "launches": 4,
        "gpu_ns": 140,
        "kernels": [["nvjet", 1, 100], ["_norm", 2, 40], ["Memset (Device)", 1, 0]],
    }


def test_a_step_is_the_share_of_one_in_the_window():
    kernels = [["nvjet", 8, 6_000_000], ["_norm", 4, 2_000_000], ["_rope", 4, 1_000_000], ["flash_fwd", 4, 1_000_000]]
    profile = {"steps": 4, "launches": 20, "gpu_ns": 10_000_000, "kernels": kernels}
    step = breakdown.of_step(profile, 0.0028)
    assert {name: value for name, value in step.items() if name != "kernels"} == {
        "gpu_step_ms": 2.5,
        "fused_ms": 0.75,
        "attention_ms": 0.25,
        "gemm_ms": 1.5,
        "rest_ms": 0.0,
        "idle_ms": pytest.approx(0.3),
        "host_bound": True,
        "launches": 5,
    }
    assert step["kernels"][0] == {"name": "nvjet", "part": "gemm", "count": 2, "ms": 1.5}
    assert not breakdown.of_step(profile, 0.0026)["host_bound"]


def test_a_point_has_the_breakdown_of_its_median_window_and_all_times():
    windows = [
        {"clock_mhz": clock, "steps": 2, "launches": 2, "gpu_ns": ns, "kernels": [["nvjet", 2, ns]]}
        for clock, ns in ((1900.0, 6_000_000), (1500.0, 5_000_000), (1700.0, 9_000_000))
    ]
    step = breakdown.of_windows(windows, 0.004)
    assert step["gpu_steps_ms"] == [3.0, 2.5, 4.5]
    assert step["gpu_step_ms"] == step["gemm_ms"] == 3.0
    assert step["clock_mhz"] == 1700.0


@pytest.mark.parametrize(
    ("before", "after", "whose"),
    [
        ("flash::FwdSm90", "_norm", "attention"),  # FlashAttention 3 with a schedule that was made ahead
        ("_rope", "flash::FwdSm90", "attention"),
        ("_norm", "sm90_xmma_sparse_gemm", "gemm"),  # its workspace
        ("sm90_xmma_sparse_gemm", "_norm", "rest"),
    ],
)
@pytest.mark.parametrize(
    "clear", ["void at::native::vectorized_elementwise_kernel<4, FillFunctor<int>>", "Memset (Device)"]
)
def test_what_clears_memory_belongs_to_whom_it_serves(before, after, whose, clear):
    found = breakdown.attributed([(9, 1, after), (0, 5, before), (6, 2, clear)])
    assert found["launches"] == 3 and found["gpu_ns"] == 8
    name = next(name for name, *_ in found["kernels"] if clear in name)
    assert breakdown.part(name) == whose


def test_what_clears_memory_for_several_is_told_apart():
    clear = "Memset (Device)"
    found = breakdown.attributed([(0, 2, clear), (2, 5, "flash::FwdSm90"), (8, 1, "_norm"), (10, 3, clear)])
    assert sorted(found["kernels"]) == [
        [clear, 1, 3],
        ["_norm", 1, 1],
        ["attention: " + clear, 1, 2],
        ["flash::FwdSm90", 1, 5],
    ]
