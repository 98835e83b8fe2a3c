"""What the report concludes from its figures, and what it marks or leaves out of it."""

import re
from dataclasses import replace

import synthetic
from reports import DENSE, HARDWARE, MACHINE, PUBLISHED, SLID, SPARSE, kernel, markdown, ours, rows_under, step, text_of
from slidesparse.report.tables.gather import gather_all


def test_a_step_is_held_against_the_kernels_of_the_model_that_has_its_shape():
    """Their points lie under its name: from them come the share of GEMMs, and what arrives of a kernel's speed-up."""
    rows = kernel(DENSE, 64, 25.0) + kernel(SLID, 64, 20.0)
    rows += [step("prefill", name._replace(model="Twin"), 64, ms) for name, ms in ((DENSE, 10.0), (SLID, 9.0))]
    text = text_of(rows, layers={"BitNet-2B": 30}, shapes={"Twin": "BitNet-2B"})
    assert rows_under(text, "prefill Twin INT8, estimated GEMM share of a step (%)") == [["64", "30.0", "26.7"]]
    over = "Twin INT8 at M=64, over cublaslt/dense: speed-up of the GEMMs"
    assert re.search(over + ".*: cusparselt/2_8 1.25 and 1.11", text)
    apart = text_of(rows, layers={"BitNet-2B": 30})
    assert "estimated GEMM share" not in apart and "speed-up of the GEMMs" not in apart


def test_kernels_and_prefill_are_held_against_the_fastest_dense_products_of_the_same_type():
    """cuBLASLt's INT8 products are INT32: over them a product in INT32 says nothing of a model that runs BF16 ones."""
    cutlass = DENSE._replace(backend="cutlass")
    ends = {"speedup_best_dense_ci_low": 1.35, "speedup_best_dense_ci_high": 1.37}
    rivals = {"output": "BF16", "latency_int32_us": 12.0, "cublaslt_int32_us": 13.7, "best_dense_us": 13.6}
    rows = kernel(DENSE, 64, 13.7, output="INT32") + kernel(SLID, 64, 10.0, **rivals, speedup_best_dense=1.36, **ends)
    rows += [step("prefill", name, 64, ms) for name, ms in ((DENSE, 13.4), (cutlass, 12.6), (SLID, 10.0))]
    expected = "INT8 at M=64, over the fastest dense backend of each M: speed-up of the GEMMs (cold) and of prefill"
    assert expected + " (steady-state step time): cusparselt/2_8 1.36 and 1.26." in text_of(rows)
    alone = text_of(
        rows + kernel(cutlass, 64, 13.0, output="BF16")
    )  # as its engine is: in no turn with sparse products
    assert expected + " (steady-state step time): cusparselt/2_8 1.30 and 1.26." in alone


def test_what_the_host_bounds_is_marked_and_nothing_is_concluded_from_it():
    """A step that waits for the host says what the host did: 8.0 against 5.2 ms is none of the kernels' doing."""

    def rows(late):
        values = {"gpu_step_ms": 4.1, "host_bound": late}
        return [
            step("decode", DENSE, 256, 8.0, **values),
            step("decode", SLID, 256, 5.2, **values),
            step("decode", DENSE, 512, 9.0, gpu_step_ms=9.0, host_bound=False),
            step("decode", SLID, 512, 10.0, gpu_step_ms=9.9, host_bound=False),
        ]

    over = "decode BitNet-2B INT8, steady-state step time, over cublaslt/dense"
    text = text_of(rows(True))
    assert [row[1].split(" ")[0] for row in rows_under(text, over)[:2]] == ["1.54", "0.90"]
    assert [" †" in row[1] for row in rows_under(text, over)[:2]] == [True, False]
    assert "† marks ratios of which a side is bound by the host" in text
    assert over + ": most at M=512 with cusparselt/2_8, 0.90" in text
    assert (
        "decode BitNet-2B INT8, GPU time of a step, over cublaslt/dense: most at M=256 with cusparselt/2_8, 1.00"
        in text
    )
    both = rows(True)[:2]
    assert over + ": bound by the host at every M, so it says nothing of the kernels." in text_of(both)
    assert "†" not in text_of(rows(False)) and over + ": most at M=256 with cusparselt/2_8, 1.54" in text_of(
        rows(False)
    )


def test_types_are_compared_by_steps_and_decode_by_the_time_of_the_gpu():
    other = DENSE._replace(dtype="FP8")
    rows = [step("prefill", name, 512, ms) for name, ms in ((DENSE, 11.0), (other, 10.0))]
    rows += [step("decode", name, 64, ms, gpu_step_ms=gpu) for name, ms, gpu in ((DENSE, 8.0, 4.0), (other, 12.0, 3.2))]
    text = text_of(rows)
    assert "prefill BitNet-2B cublaslt/dense: FP8 is faster than INT8 in steady-state step time, 1.10 times" in text
    assert "decode BitNet-2B cublaslt/dense: FP8 is faster than INT8 in GPU time of a step, 1.25 times" in text


def test_conclusions_from_two_gpus_are_marked():
    other, names = DENSE._replace(dtype="FP8"), (DENSE, DENSE._replace(backend="cusparselt", sparsity="2_4"))
    rows = [step("prefill", name, 512, ms) for name, ms in zip((*names, other), (11.0, 10.0, 10.0), strict=True)]
    note = "- ⇄ marks ratios of points that two GPUs measured"
    for gpus, gain, types in (
        ("aaa", "1.10 (", "1.100 (M=512)."),
        ("aab", "1.10 (", "1.100 ⇄ (M=512)."),
        ("aba", "1.10 ⇄ (", "1.100 (M=512)."),
    ):
        text = text_of(
            [replace(row, provenance=MACHINE._replace(gpu_uuid=gpu)) for row, gpu in zip(rows, gpus, strict=True)]
        )
        assert f"most at M=512 with cusparselt/2_4, {gain}" in text
        assert types in text
        assert text.count(note) == (gpus != "aaa")


def test_conclusions_come_from_the_figures(tmp_path):
    text, _ = markdown(PUBLISHED)
    assert "most at M=4096 with cusparselt/2_4, 1.43 (67,510 against 47,154 tokens/s)" in text
    assert "1.035 (M=512), 1.000 (M=1024), 0.990 (M=2048), 0.978 (M=4096), 0.901 (M=8192)" in text
    decode = next(line for line in text.splitlines() if line.startswith("- decode BitNet-2B cublaslt/dense: FP8 is"))
    assert decode.startswith("- decode BitNet-2B cublaslt/dense: FP8 is faster than INT8 in tokens/s, 1.05 times")
    root = ours(tmp_path / "results")
    synthetic.write(root, "prefill", (512, 1024), 0.024, place=SPARSE)
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    assert "at none: cusparselt/2_8" in text
    assert "FP8 is" not in text
