"""What failed, is missing, or was measured otherwise is named where a sentence or a verdict depends on it."""

from dataclasses import replace

import pytest

from reports import H200, MACHINE, kernel, step, text_of, unfolded
from slidesparse.plan.key import Configuration
from slidesparse.points.plan import Plan
from slidesparse.report.document.render import to_markdown
from slidesparse.report.sections import comparison
from slidesparse.report.sections.ratios import comparisons
from slidesparse.report.sections.verdict import line_of
from slidesparse.report.sources.rows import OURS, Row, Source
from slidesparse.report.write import analysed, summaries_of

A100, L40S = "A100_cc80_py312_cu129_x86_64", "L40S_cc89_py312_cu130_x86_64"
DENSE, CUTLASS, STOCK = (Configuration("BitNet-2B", "INT8", b, "dense") for b in ("cublaslt", "cutlass", "vllm"))
HALF, EIGHTH, AUTO = (
    Configuration("BitNet-2B", "INT8", *place)
    for place in (("cusparselt", "2_4"), ("cusparselt", "2_8"), ("auto", "2_4"))
)
Ms = (1024, 2048, 4096)


def lost(name, M, status="failed", stage="prefill"):
    """A point without a figure."""
    return Row(H200, stage, name, M, status, {}, MACHINE, reason="why")


def won(Ms=Ms, stage="prefill", gain=1.25):
    """Dense and 2:4 steps."""
    return [step(stage, name, M, M / rate) for M in Ms for name, rate in ((DENSE, 100), (HALF, 100 * gain))]


def on(rows, **provenance):
    """Rows of another machine or protocol."""
    return [replace(row, provenance=row.provenance._replace(**provenance)) for row in rows]


def limited(rows, watts):
    """Rows under a power limit."""
    return [replace(row, values=row.values | {"power_limit_w": watts}) for row in rows]


def plan(rows, *names, stage="prefill", Ms=Ms):
    """A plan of the rows' configurations and of others."""
    return Plan({stage: {name: set(Ms) for name in {*(row.configuration for row in rows), *names}}})


def first(rows, **more):
    """The first screen as Markdown."""
    return text_of(rows, **more).partition("## Does sparsity pay here?\n")[2].partition("\n## ")[0]


def compared(*sides):
    """The comparison of (hardware key, rows, plan)."""
    summaries = []
    for key, rows, *asked in sides:
        source = Source(key, linears={"BitNet-2B": 4}, plan=next(iter(asked), None))
        source.add(OURS, [replace(row, hardware=key) for row in rows])
        summaries += summaries_of(key, [source], analysed([source]))
    return to_markdown(unfolded(comparison.document(summaries)), "en", "comparison")


# A dense engine without a figure


def test_the_comparison_names_dense_engines_without_a_figure():
    rows = won() + [lost(CUTLASS, M) for M in Ms]
    text = compared((A100, rows), (L40S, won(), plan(won(), CUTLASS)))
    head = text.partition("## Conclusions")[0]
    assert "Dense engines without a figure that counts, which may be faster: " in head
    assert "cutlass on A100 (prefill INT8 M=1024, 2048, 4096, failed)" in head
    assert "cutlass on L40S (prefill INT8 M=1024, 2048, 4096, no usable point)" in head
    assert "A100 40.960 ms (cublaslt/dense, without cutlass), L40S 40.960 ms (cublaslt/dense, without cutlass)" in text
    assert "that all have: A100 1.25, L40S 1.25; without cutlass on A100 at M=1024, 2048, 4096 (failed)," in text
    text = compared((A100, won()), (L40S, won()))
    assert "may be faster" not in text and "without cutlass" not in text


def test_a_gpu_none_of_whose_dense_engines_counts_is_named():
    late = [replace(row, values=row.values | {"host_bound": True}) for row in won()]
    third = "B200_cc100_py312_cu129_x86_64"
    text = compared((A100, won()), (L40S, won()), (third, late))
    said = [line for line in text.splitlines() if "fastest dense engine, steady-state step time at M=4096" in line]
    assert len(said) == 1 and "; none of these M counts on B200." in said[0]
    text = compared((A100, won()), (L40S, won()), (third, [lost(DENSE, M) for M in Ms]))
    assert "; none of these M counts on B200." in text
    half = [row for row in won() if row.configuration == HALF]
    text = compared((A100, won()), (L40S, won()), (third, half, plan(won())))
    assert "; none of these M counts on B200." in text
    assert "none of these" not in compared((A100, won()), (L40S, won()), (third, half))


def test_the_last_line_of_a_run_names_a_dense_engine_without_a_figure():
    source = Source("results", rows=[*won(), lost(CUTLASS, 4096)])
    best = step("prefill", HALF, 4096, 4096 / 140)
    source.rows = [row for row in source.rows if (row.configuration, row.M) != (HALF, 4096)] + [best]
    assert line_of(source, comparisons(source)).endswith(" over cublaslt/dense at M=4096, without cutlass")


def test_a_dense_kernel_without_a_figure_is_named():
    rows = kernel(DENSE, 64, 10.0) + kernel(HALF, 64, 8.0) + [lost(CUTLASS, 64, stage="kernel")]
    assert "(32.0 against 40.0 µs), without cutlass (failed) there." in text_of(rows)


def test_a_dense_kernel_of_other_outputs_is_no_rival_and_is_named():
    rows = kernel(DENSE, 64, 5.0, output="INT32") + kernel(CUTLASS, 64, 10.0, output="BF16")
    text = text_of(rows + kernel(HALF, 64, 8.0, output="BF16"))
    assert "1.25 at M=64 with cusparselt/2_4 (32.0 against 40.0 µs), without cublaslt (other outputs) there." in text
    assert "Dense backends without a figure here, which may be faster: cublaslt at M=64 (other outputs)." in text


def test_a_span_of_ratios_of_two_gpus_is_marked():
    one, other = won(Ms[:2]), won(Ms[2:])
    rows = on(one, gpu_uuid="a") + on(other, gpu_uuid="a")
    rows += [step("prefill", EIGHTH, M, M / 90) for M in Ms]
    rows = [replace(row, provenance=row.provenance._replace(gpu_uuid="a")) for row in rows]
    at = next(i for i, row in enumerate(rows) if (row.configuration, row.M) == (EIGHTH, 1024))
    rows[at] = replace(rows[at], provenance=rows[at].provenance._replace(gpu_uuid="b"))
    text = text_of(rows)
    assert "2:8 loses, 0.90 ⇄ (slower in 2 of 3 ratios)" in text
    assert "| cusparselt/2_8 | 0.90 ⇄ | 0.90 ⇄ | 0.90 ⇄ |" in text


def test_a_dense_engine_of_another_protocol_is_named_where_stock_is_the_denominator():
    """Stock and CUTLASS have an earlier protocol: cuBLASLt can be held against the sparse ones only."""
    rows = won() + on([step("prefill", STOCK, M, M / 80) for M in Ms], protocol="6")
    rows += on([step("prefill", CUTLASS, M, M / 90) for M in Ms], protocol="6")
    text = first(rows)
    assert "over stock vLLM: prefill, by the clock, INT8 1.13, at some M without cublaslt." in text
    assert "cutlass INT8 at M=1024, 2048, 4096 (measured otherwise)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| dense |")]
    assert "| 1.13 † |" in row
    assert "prefill INT8 2:4 over stock vLLM (the denominator was measured otherwise)" in text


def test_the_table_of_gains_names_dense_engines_without_a_figure():
    rows = won() + [step("prefill", STOCK, M, M / 80) for M in Ms] + [lost(CUTLASS, M) for M in Ms]
    gains = text_of(rows).partition("from stock vLLM to sparse")[2].partition("| M |")[0]
    assert "without a figure here, which may be faster: cutlass at M=1024, 2048, 4096 (failed)." in gains


def test_of_several_dense_engines_those_that_were_measured_alike_are_rivals():
    torch = DENSE._replace(backend="torch")
    rows = won() + [step("prefill", torch, M, M / 115) for M in Ms]
    rows += on([step("prefill", CUTLASS, M, M / 200) for M in Ms], protocol="6")
    text = first(rows)
    assert "Times as fast as the fastest dense engine (cublaslt, torch), for" in text
    assert "2:4 pays, from M=1024 on, 1.09 times as fast" in text
    assert "which may be faster: cutlass INT8 at M=1024, 2048, 4096 (measured otherwise)." in text


def test_each_pattern_has_the_rivals_that_were_measured_as_it_was():
    """2:8 and cuBLASLt have another power limit than 2:4 and CUTLASS: each is rival of one."""
    rows = limited([step("prefill", name, 1024, ms) for name, ms in ((DENSE, 9.0), (EIGHTH, 10.0))], 400.0)
    rows += limited([step("prefill", name, 1024, ms) for name, ms in ((CUTLASS, 10.0), (HALF, 8.0))], 700.0)
    text = first(rows)
    assert "2:4 pays, from M=1024 on, 1.25 times as fast; 2:8 loses." in text
    assert "cublaslt INT8 at M=1024 (measured otherwise); cutlass INT8 at M=1024 (measured otherwise)." in text


def test_engines_of_one_stage_are_not_those_of_another():
    rows = won() + [step("prefill", CUTLASS, M, M / 110) for M in Ms] + won((64, 128), "decode")
    assert "the fastest dense engine (prefill: cublaslt, cutlass; decode: cublaslt), for M" in first(rows)
    fp8 = [replace(row, configuration=row.configuration._replace(dtype="FP8")) for row in won()]
    rows = won() + [step("prefill", CUTLASS, M, M / 110) for M in Ms] + fp8
    assert "the fastest dense engine (prefill INT8: cublaslt, cutlass; prefill FP8: cublaslt), for M" in first(rows)


# A pattern without a figure


@pytest.mark.parametrize(
    ("status", "word"), [("failed", "failed"), ("out_of_memory", "out of memory"), ("planned", "no usable point")]
)
def test_a_pattern_without_any_point_has_a_row_a_word_and_a_reason(status, word):
    rows = won()
    more = [lost(EIGHTH, M, status) for M in Ms] if status != "planned" else []
    text = first(rows + more, plan=plan(rows, EIGHTH))
    assert "2:4 pays, from M=1024 on, 1.25 times as fast; 2:8 unknown." in text
    assert f"2:8 unknown, without any ratio ({word})" in text
    assert f"| 2:8 | — | {word} |" in text
    assert f"\nWithout a ratio: prefill INT8 2:8 ({word}).\n" in text
    assert "2:8 unknown, without any ratio (failed at M=1024, no usable point at M=2048, 4096)" in first(
        rows + [lost(EIGHTH, 1024)]
    )
    text = compared((A100, rows + more, plan(rows, EIGHTH)), (L40S, won()))
    assert "2:8 unknown on A100" in text
    (row, other) = [line for line in text.splitlines() if line.startswith(("| A100 | BitNet", "| L40S | BitNet"))]
    assert f"| 1.25 pays from 1024 | {word} |" in row and row != other and "| 1.25 pays from 1024 | — |" in other


def test_a_pattern_that_a_stage_neither_has_nor_plans_says_so():
    rows = won() + [step("prefill", EIGHTH, M, M / 90) for M in Ms] + won((64, 128), "decode")
    assert "Without a ratio: decode INT8 2:8 (neither measured nor planned)." in first(rows)
    assert "Without a ratio" not in first(won())


def test_stock_that_failed_has_a_row_and_a_reason():
    rows = won() + [lost(STOCK, M) for M in Ms]
    text = first(rows)
    assert "| stock vLLM | — |" in text
    assert "Without a ratio: prefill INT8 stock vLLM (failed)." in text


def test_a_cell_with_missing_M_is_marked():
    rows = won() + [step("prefill", EIGHTH, M, M / 90) for M in Ms[:2]] + [lost(EIGHTH, 4096)]
    assert "| 2:8 | 0.90 † | loses |" in first(rows)
    assert "| 0.90 † loses |" in compared((A100, rows))


def test_an_engine_of_auto_with_dense_kernels_alone_is_no_pattern():
    rows = won() + [step("prefill", AUTO, M, M / 110, sparse_linears=0) for M in Ms]
    text = first(rows)
    assert "auto" not in text.partition("Times as fast")[0] and "2:4 auto" not in text


def test_a_sparse_figure_of_auto_without_a_denominator_is_told():
    dense, ran = [step("decode", DENSE, M, 9) for M in (64, 128)], {32: 4, 64: 0}
    auto = [step("decode", AUTO, M, 8, sparse_linears=ran[M]) for M in ran]
    half = [step("decode", HALF, M, 7) for M in (64, 128)]
    text = first(dense + half + auto)
    assert "2:4 auto unknown, without any ratio (the denominator has no figure at M=32" in text
    assert "only dense kernels ran at M=64" in text


def test_what_is_planned_and_not_begun_is_named():
    fp8 = [name._replace(dtype="FP8") for name in (DENSE, HALF)]
    asked = plan(won(), *fp8).points | {"decode": {DENSE: {64}, HALF: {64}}}
    assert "Planned, and without a usable point: BitNet-2B FP8 prefill; BitNet-2B INT8 decode." in first(
        won(), plan=Plan(asked)
    )


def test_a_type_whose_patterns_are_planned_only_is_named():
    fp8 = [replace(row, configuration=row.configuration._replace(dtype="FP8")) for row in won()]
    rows = won() + [row for row in fp8 if row.configuration.sparsity == "dense"]
    text = text_of(rows, plan=plan(won() + fp8))
    assert "No sparse engine could be held against a dense one in prefill FP8: “All speed-ups” says why." in text
    assert "prefill BitNet-2B FP8: no speed-up over dense, because no sparse one gave a figure." in text


def test_each_pattern_has_its_own_M_and_reasons():
    rows = won() + [step("prefill", EIGHTH, M, M / 90) for M in Ms] + [lost(HALF, 8192), lost(EIGHTH, 8192)]
    rows += [lost(EIGHTH, 16384, "out_of_memory"), step("prefill", HALF, 16384, 60.0)]
    rows += [step("prefill", DENSE, M, M / 100) for M in (8192, 16384)]
    for row in rows:
        row.values["host_bound"] = row.configuration == HALF and row.M == 1024
    text = first(rows)
    assert (
        "left out 2:4 at M=1024 (bound by the host): 1.25 there; left out 2:4 at M=16384 (above the bound): 2.73 there"
        in text
    )
    assert "no ratio of 2:4, 2:8 at M=8192 (failed); no ratio of 2:8 at M=16384 (out of memory)." in text


def test_a_stage_without_any_ratio_is_named_in_the_comparison():
    rows = won() + [lost(name, 64, stage="decode") for name in (DENSE, HALF)]
    text = compared((A100, rows), (L40S, won() + won((64,), "decode")))
    assert "No sparse engine could be held against a dense one on A100 (decode BitNet-2B INT8)." in text


# Kernels and prefill at one M, two types


@pytest.mark.parametrize("case", ["failed", "out_of_memory", "missing", "disqualified"])
def test_kernels_and_prefill_at_an_M_name_what_has_no_ratio_there(case):
    rows = [row for name, us in ((DENSE, 25.0), (HALF, 20.0), (EIGHTH, 24.0)) for row in kernel(name, 4096, us)]
    rows += won() + [step("prefill", EIGHTH, M, M / 105) for M in Ms[:2]]
    if case == "disqualified":
        rows.append(step("prefill", EIGHTH, 4096, 40.0, tokens_min=1, tokens_max=4096))
    elif case != "missing":
        rows.append(lost(EIGHTH, 4096, case))
    why = {"missing": "no usable point", "disqualified": "not M tokens a step"}.get(case, case.replace("_", " "))
    assert f"cusparselt/2_4 1.25 and 1.25; left out cusparselt/2_8 ({why})." in text_of(rows)


def test_kernels_and_prefill_at_an_M_name_larger_M_that_do_not_count():
    rows = [row for M in Ms for name, us in ((DENSE, 25.0), (HALF, 20.0)) for row in kernel(name, M, us)]
    rows += won(Ms[:2]) + [lost(name, 4096) for name in (DENSE, HALF)]
    assert "INT8 at M=2048, over cublaslt/dense" in text_of(rows)
    assert "cusparselt/2_4 1.25 and 1.25; left out M=4096 (no ratio counts in both)." in text_of(rows)


def test_kernels_and_prefill_over_two_denominators_name_both():
    rows = kernel(DENSE, 4096, 25.0) + kernel(CUTLASS, 4096, 22.0) + kernel(HALF, 4096, 20.0)
    rows += [row for row in won() if row.configuration == HALF]
    rows += [step("prefill", CUTLASS, M, M / 100) for M in Ms]
    said = "INT8 at M=4096, over cublaslt/dense and cutlass/dense: speed-up of the GEMMs (cold) and of prefill"
    assert said in text_of(rows)


def test_kernels_and_prefill_name_rivals_without_a_figure():
    rows = kernel(DENSE, 4096, 25.0) + kernel(CUTLASS, 4096, 22.0) + kernel(HALF, 4096, 20.0) + won()
    rows += [step("prefill", CUTLASS, 1024, 9.0), lost(CUTLASS, 4096)]
    assert "cusparselt/2_4 1.10 and 1.25; without cutlass (prefill, failed)." in text_of(rows)


def test_types_without_an_engine_of_the_best_library_of_each_linear_are_named():
    rows = won() + [step("prefill", CUTLASS, M, M / 110) for M in Ms]
    rows += [replace(row, configuration=row.configuration._replace(dtype="FP8")) for row in rows]
    assert "prefill: the fastest dense engine has one library" in text_of(rows)
    rows += [step("prefill", DENSE._replace(backend="auto"), M, M / 115) for M in Ms]
    assert "prefill BitNet-2B FP8: the fastest dense engine has one library" in text_of(rows)


def test_the_conclusions_table_counts_missing_M():
    rows = won() + [step("prefill", EIGHTH, M, M / 90) for M in Ms[:2]] + [lost(EIGHTH, 4096)]
    text = text_of(rows + [lost(HALF._replace(sparsity="2_6"), M) for M in Ms])
    assert "| cusparselt/2_8 | 0.90 | 0.90 | 0.90 | 1.33 | 0 | 0 | 2 | 0 | 1 |" in text
    assert "| cusparselt/2_6 | — | — | — | 1.50 | 0 | 0 | 0 | 0 | 3 |" in text


def test_a_gpu_without_the_shortest_pattern_is_in_the_headline():
    other = [row for row in won() if row.configuration == DENSE] + [step("prefill", EIGHTH, M, M / 90) for M in Ms]
    text = compared((A100, won()), (L40S, other))
    assert "Prefill: 2:4 pays on A100 (M≥1024); 2:4 neither measured nor planned on L40S." in text


def test_kernels_beside_prefill_that_the_host_bounds_are_no_sentence():
    rows = kernel(DENSE, 4096, 25.0) + kernel(HALF, 4096, 20.0)
    rows += [replace(row, values=row.values | {"host_bound": True}) for row in won()]
    assert "speed-up of the GEMMs" not in text_of(rows)


def test_types_count_M_that_one_of_them_lacks():
    other = DENSE._replace(dtype="FP8")
    rows = [step("prefill", DENSE, M, M / 100) for M in Ms] + [step("prefill", other, 1024, 8.0), lost(other, 2048)]
    assert "of 3 M: faster at 1, without a figure of both 2;" in text_of(rows)


# Sides and GPUs that are not alike


def test_sides_under_unlike_power_limits_are_not_divided():
    rows = [row for row in won() if row.configuration == DENSE]
    half = [row for row in won() if row.configuration == HALF]
    assert "2:4 pays" in first(limited(rows + half, 700.0))
    text = text_of(limited(rows, 700.0) + limited(half, 450.0))
    assert "2:4 pays" not in text and "No sparse engine could be held against a dense one" in text
    assert "left out are 3 ratios of points that differ in hardware name, driver, versions, protocol, power" in text


def test_gpus_with_unlike_versions_or_power_limits_are_told_where_they_are_divided():
    one = limited(on(won(), vllm="0.26.0", torch="2.11.0", protocol="9"), 400.0)
    other = limited(on(won(), vllm="0.33.0", torch="2.11.0", protocol="9"), 350.0)
    text = compared((A100, one), (L40S, other))
    ways = "(A100 CUDA 12.9, power limit 400 W, vLLM 0.26.0; L40S CUDA 13.0, power limit 350 W, vLLM 0.33.0)"
    assert f"times as fast as L40S, measured in unlike ways {ways}." in text
    assert f"- Measured with unlike versions or power limits: {ways[1:-1]}." in text
    assert "| A100 | BitNet-2B | protocol 9, CUDA 12.9, power limit 400 W, vLLM 0.26.0 |" in text
    assert "unlike" not in compared((A100, one), (L40S.replace("cu130", "cu129"), one))


def test_M_of_one_gpu_alone_are_told_where_gpus_are_divided():
    text = compared((A100, won()), (L40S.replace("cu130", "cu129"), won(Ms[:2])))
    assert "at M=2048: A100 20.480 ms (cublaslt/dense), L40S 20.480 ms (cublaslt/dense); A100 is 1.00 times as" in text
    assert "times as fast as L40S; not on all, so left out: A100 M=4096." in text
    assert "that all have: A100 1.25, L40S 1.25; not on all, so left out: A100 M=4096." in text


def test_a_mean_of_two_gpus_is_marked():
    rows = on(won(), gpu_uuid="a")
    fp8 = [replace(row, configuration=row.configuration._replace(dtype="FP8")) for row in on(won(), gpu_uuid="b")]
    assert "geometric mean of those that count 1.00 ⇄: 1.000 ⇄ (M=1024)" in text_of(rows + fp8)
    half = [row for row in on(won(), gpu_uuid="b") if row.configuration == HALF]
    rows = [row for row in rows if row.configuration == DENSE] + half
    assert "| 1.25 ⇄ | 1.25 ⇄ | 1.25 ⇄ | 1.25 ⇄ |" in compared((A100, rows), (L40S, rows))


def test_a_gpu_of_unknown_versions_hides_no_unlike_ones_of_two_others():
    third = "B200_cc100_py312_cu129_x86_64"
    mine, other = on(limited(won(), 400.0), torch="2.9", protocol="9"), on(limited(won(), 700.0), torch="2.10")
    text = compared((A100, mine), (third, other), (L40S, on(won(), torch="")))
    said = (
        "A100 CUDA 12.9, power limit 400 W, torch 2.9; B200 CUDA 12.9, power limit 700 W, torch 2.10; L40S CUDA 13.0."
    )
    assert f"Measured with unlike versions or power limits: {said}" in text
    assert "| A100 | BitNet-2B | protocol 9, CUDA 12.9, power limit 400 W, torch 2.9 |" in text


def test_a_gpu_without_a_ratio_of_a_pattern_is_named_beside_its_mean():
    third = "B200_cc100_py312_cu129_x86_64"
    both = [*won(), *(step("prefill", EIGHTH, M, M / 90) for M in Ms)]
    text = compared((A100, both), (L40S, both), (third, [*won(), *(lost(EIGHTH, M) for M in Ms)]))
    (said,) = [line for line in text.splitlines() if "cusparselt/2_8, steady" in line and "geometric mean" in line]
    assert said.endswith("over 3 of the 3 M that these have: A100 0.90, L40S 0.90. None of these M counts for B200.")
