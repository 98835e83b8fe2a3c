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
    ends = {"speedup_best_dense_ci_low": 1.31, "speedup_best_dense_ci_high": 1.33}
    rivals = {"output": "BF16", "latency_int32_us": 12.0, "cublaslt_int32_us": 13.7, "best_dense_us": 13.2}
    rows = kernel(DENSE, 64, 13.7, output="INT32") + kernel(SLID, 64, 10.0, **rivals, speedup_best_dense=1.32, **ends)
    rows += [step("prefill", name, 64, ms) for name, ms in ((DENSE, 13.4), (cutlass, 12.6), (SLID, 10.0))]
    expected = "INT8 at M=64, over the fastest dense backend of each M: speed-up of the GEMMs (cold) and of prefill"
    assert expected + " (steady-state step time): cusparselt/2_8 1.32 and 1.26." in text_of(rows)
    alone = text_of(
        rows + kernel(cutlass, 64, 13.0, output="BF16")
    )  # as its engine is: in no turn with sparse products
    said = "cusparselt/2_8 1.30 and 1.26; without cublaslt (kernel, other outputs)."
    assert f"{expected} (steady-state step time): {said}" in alone


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
    gpu = over.replace("steady-state step time", "GPU time of a step")
    text = text_of(rows(True))
    assert [row[1].split(" ")[0] for row in rows_under(text, over)[:2]] == ["1.54", "0.90"]
    assert [" †" in row[1] for row in rows_under(text, over)[:2]] == [True, False]
    assert "† marks ratios of which a side is bound by the host: its step is longer than the GPU's work" in text
    assert over + ": the largest ratio is 0.90 (0.89–0.91) at M=512 with cusparselt/2_8" in text
    assert "cusparselt/2_8, of 2 M: slower at 1, left out M=256 (bound by the host)." in text
    table = rows_under(text, "Conclusions")
    assert [row[6:9] + row[10:] for row in table if row[3] == "steady-state step time"] == [
        ["0.90", "0.90", "0.90", "0", "0", "1", "0", "1"]
    ]
    # of GPU times nobody knows the noise, so the clock stands beside the ratio and there is no verdict
    assert (
        gpu + ": the largest ratio is 1.00 at M=256 with cusparselt/2_8 (4.100 against 4.100 ms), by the clock 1.54"
        in text
    )
    assert "cusparselt/2_8, of 2 M: unknown at 2." in text
    both = rows(True)[:2]
    assert over + ": no ratio counts. cusparselt/2_8, of 1 M: left out M=256 (bound by the host)." in text_of(both)
    free = text_of(rows(False))
    assert "† marks ratios" not in free and over + ": the largest ratio is 1.54 (1.52–1.56) at M=256" not in free
    assert "left out M=256 (above the bound)" in free


def test_a_check_takes_a_figure_out_of_every_conclusion():
    """Flat steps, windows of fewer sequences, other numbers of tokens: none may be the largest or count as a win."""
    over = "over cublaslt/dense: the largest ratio is"
    for stage, Ms, more, why in (
        ("prefill", (512, 1024), {}, "flat steps"),
        ("prefill", (512, 2048), {"tokens_min": 511, "tokens_max": 512}, "not M tokens a step"),
        ("decode", (64, 128), {"sequences_min": 60}, "not M sequences at once"),
    ):
        first, second = Ms
        late = 10.1 if why == "flat steps" else 40.0
        rows = [step(stage, DENSE, first, 10.0, **more), step(stage, DENSE, second, late)]
        rows += [step(stage, SLID, first, 8.0), step(stage, SLID, second, late / 1.1)]
        text = text_of(rows)
        left = f"M={first}, {second}" if why == "flat steps" else f"M={first}"
        assert f"left out {left} ({why})" in text
        assert (over in text) == (why != "flat steps")
        if over in text:
            assert f"{over} 1.10 (1.08–1.12) at M={second}" in text


def test_without_an_interval_nothing_is_faster():
    rows = [step("prefill", name, 512, ms, step_ms_ci_low=None) for name, ms in ((DENSE, 12.0), (SLID, 10.0))]
    text = text_of(rows)
    assert "the largest ratio is 1.20 at M=512 with cusparselt/2_8 (10.000 against 12.000 ms)." in text
    assert "cusparselt/2_8, of 1 M: unknown at 1." in text


def test_types_are_compared_by_steps_and_decode_by_the_time_of_the_gpu():
    other = DENSE._replace(dtype="FP8")
    rows = [step("prefill", name, 512, ms) for name, ms in ((DENSE, 11.0), (other, 10.0))]
    rows += [step("decode", name, 64, ms, gpu_step_ms=gpu) for name, ms, gpu in ((DENSE, 8.0, 4.0), (other, 12.0, 3.2))]
    text = text_of(rows)
    assert "prefill BitNet-2B cublaslt/dense: FP8 over INT8 in steady-state step time, of 1 M: faster at 1;" in text
    assert "geometric mean of those that count 1.10: 1.100 (M=512)." in text
    assert "decode BitNet-2B cublaslt/dense: FP8 over INT8 in GPU time of a step, of 1 M: unknown at 1;" in text
    assert "geometric mean of those that count 1.25: 1.250 (M=64)." in text


def test_conclusions_from_two_gpus_are_marked():
    other, names = DENSE._replace(dtype="FP8"), (DENSE, DENSE._replace(backend="cusparselt", sparsity="2_4"))
    rows = [step("prefill", name, 512, ms) for name, ms in zip((*names, other), (11.0, 10.0, 10.0), strict=True)]
    note = "- ⇄ marks ratios of points that two GPUs measured"
    for gpus, gain, types in (
        ("aaa", "1.10 (1.08–1.12) at", "1.100 (M=512)."),
        ("aab", "1.10 (1.08–1.12) at", "1.100 ⇄ (M=512)."),
        ("aba", "1.10 (1.08–1.12) ⇄ at", "1.100 (M=512)."),
    ):
        text = text_of(
            [replace(row, provenance=MACHINE._replace(gpu_uuid=gpu)) for row, gpu in zip(rows, gpus, strict=True)]
        )
        assert f"the largest ratio is {gain} M=512 with cusparselt/2_4" in text
        assert types in text
        assert text.count(note) == (gpus != "aaa")


def test_conclusions_come_from_the_figures(tmp_path):
    text, _ = markdown(PUBLISHED)
    assert "the largest ratio is 1.31 at M=8192 with cusparselt/2_4 (70,299 against 53,580 tokens/s)" in text
    assert "cusparselt/2_4, of 7 M: unknown at 3, left out M=512, 1024, 2048, 4096 (flat steps)" in text
    assert "of those that count 0.90: 0.978 (M=4096), 0.901 (M=8192)" in text
    decode = next(line for line in text.splitlines() if line.startswith("- decode BitNet-2B cublaslt/dense: FP8"))
    assert "of 4 M: unknown at 3, left out 1;" in decode and "M=512" not in decode
    root = ours(tmp_path / "results")
    synthetic.write(root, "prefill", (512, 1024), 0.024, place=SPARSE)
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    assert "cusparselt/2_8, of 2 M: left out M=512, 1024 (flat steps)" in text
    assert "FP8 over" not in text
