"""The first screen: whether sparsity pays, for each stage and type, and no more than the figures carry."""

from dataclasses import replace

import pytest

import synthetic
from reports import H200, HARDWARE, PUBLISHED, markdown, ours, text_of, unfolded
from slidesparse.errors import RecordError
from slidesparse.plan.key import Configuration
from slidesparse.points.plan import Plan
from slidesparse.report.document.model import Figure, Table
from slidesparse.report.document.render import to_markdown
from slidesparse.report.sections import comparison
from slidesparse.report.sections.answer import answer_blocks
from slidesparse.report.sections.ratios import comparisons
from slidesparse.report.sections.verdict import line_of
from slidesparse.report.sources import names
from slidesparse.report.sources.rows import Provenance, Row, Source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import analysed, summaries_of

MACHINE = Provenance("NVIDIA H200", "580.95")
CU, CT, ST = ("cublaslt", "dense"), ("cutlass", "dense"), ("vllm", "dense")
SP, S8, AU = ("cusparselt", "2_4"), ("cusparselt", "2_8"), ("auto", "2_4")


def step(stage, place, M, ms, *, dtype="INT8", model="BitNet-2B", noise=0.01, gpu=None, machine=MACHINE, **more):
    """An engine's step of `ms` milliseconds with an interval of ± `noise`; of the GPU it takes `gpu`, or all of it."""
    ends = {"step_ms_ci_low": (1 - noise) * ms, "step_ms_ci_high": (1 + noise) * ms} if noise is not None else {}
    values = {"requests_per_s": 1.0, "tokens_per_s": 1e3 * M / ms, "elapsed_time_s": 1.0, "step_ms": ms, **ends}
    values |= {"gpu_step_ms": ms if gpu is None else gpu} | more
    return Row(H200, stage, Configuration(model, dtype, *place), M, "ok", values, machine)


def screen(rows, **more):
    """The first screen as Markdown."""
    return text_of(rows, **more).partition("## Does sparsity pay here?\n")[2].partition("\n## ")[0]


def failed(stage, place, M):
    """A point that could not be measured."""
    return Row(H200, stage, Configuration("BitNet-2B", "INT8", *place), M, "failed", {}, MACHINE, reason="why")


def across(rows):
    """The comparison of one GPU with itself under another name."""
    source = Source("results", rows=rows)
    return comparison.document(summaries_of(H200, [source], analysed([source])))


def both(stage, dense, sparse, Ms=(1024, 2048, 4096), **more):
    """Rows of cuBLASLt and 2:4, a step for each M."""
    return [
        step(stage, place, M, M / 100 * factor, **more)
        for place, factors in ((CU, dense), (SP, sparse))
        for M, factor in zip(Ms, factors, strict=True)
    ]


@pytest.mark.parametrize(
    ("sparse", "said"),
    [
        ((0.8, 0.8, 0.8), "2:4 pays from M=1024 on, 1.25"),
        ((1.2, 0.8, 0.8), "2:4 pays from M=2048 on, 1.25"),
        ((0.8, 1.2, 0.8), "2:4 pays from M=4096 on, 1.25"),
        ((0.8, 1.0, 1.0), "2:4 even at the largest M that counts, over all of them 1.00 to 1.25"),
        ((0.8, 1.25, 1.25), "2:4 loses, 0.80 to 1.25 (slower in 2 of 3 ratios)"),
    ],
)
def test_a_word_goes_by_the_largest_M_and_says_from_which_on(sparse, said):
    assert f"- Prefill INT8, by the clock: {said}." in screen(both("prefill", (1, 1, 1), sparse))


LARGER = {
    "left out": (both("prefill", (1, 1, 1), (0.7, 0.7, 0.7))[:-1], [step("prefill", SP, 4096, 28, host_bound=True)]),
    "no dense": (both("prefill", (1, 1, 1), (0.7, 0.7, 0.7)), []),
    "dense ran": (
        both("prefill", (1, 1, 1), (0.7, 0.7, 0.7))[:3],
        [step("prefill", AU, M, M / 140, sparse_linears=4 * (M < 4096)) for M in (1024, 2048, 4096)],
    ),
    "failed": (both("prefill", (1, 1, 1), (0.7, 0.7, 0.7))[:-1], [failed("prefill", SP, 4096)]),
    "other driver": (
        both("prefill", (1, 1, 1), (0.7, 0.7, 0.7))[:-1],
        [step("prefill", SP, 4096, 50, machine=MACHINE._replace(driver="999"))],
    ),
}
WHY = {
    "left out": "left out 2:4 at M=4096 (bound by the host): 1.46 there",
    "no dense": "no ratio of 2:4 at M=4096 (the denominator has no figure)",
    "dense ran": "no ratio of 2:4 auto at M=4096 (only dense kernels ran)",
    "failed": "no ratio of 2:4 at M=4096 (failed)",
    "other driver": "no ratio of 2:4 at M=4096 (the denominator was measured otherwise)",
}


@pytest.mark.parametrize("case", LARGER)
def test_pays_ends_where_larger_M_do_not_count_or_have_no_ratio(case):
    rows, more = LARGER[case]
    rows = [row for row in rows if case != "no dense" or (row.configuration.sparsity, row.M) != ("dense", 4096)]
    text = screen(rows + more)
    name = "2:4 auto" if case == "dense ran" else "2:4"
    assert f"{name} pays from M=1024 to 2048, 1.4" in text
    assert f"; larger M do not count; {WHY[case]}" in text


def test_the_limit_of_one_pattern_is_not_that_of_another():
    rows = both("prefill", (1, 1, 1), (0.7, 0.7, 0.7))[:-1] + [step("prefill", SP, 4096, 28, host_bound=True)]
    rows += [step("prefill", ("cusparselt", "2_6"), M, M / 111) for M in (1024, 2048, 4096)]
    rows += both("prefill", (1, 1, 1), (0.7, 0.7, 0.7), dtype="FP8")
    text = screen(rows)
    assert "2:4 pays from M=1024 to 2048, 1.43; larger M do not count; 2:6 pays from M=1024 on, 1.11" in text
    assert "2:4 with INT8 pays from M=1024 to 2048, 1.43 times as fast; larger M do not count" in text
    assert "2:4 with FP8 pays, from M=1024 on, 1.43 times as fast" in text


def test_two_gpus_of_one_name_decide_nothing():
    one, other = MACHINE._replace(gpu_uuid="a"), MACHINE._replace(gpu_uuid="b")
    rows = [step("prefill", CU, M, M / 100, machine=one) for M in (1024, 2048)]
    rows += [step("prefill", SP, M, M / 104, machine=other) for M in (1024, 2048)]
    text = screen(rows)
    two = "no verdict, because two GPUs measured the sides at the largest M that counts, over all of them 2:4 1.04 ⇄"
    assert f"Prefill, by the clock: {two}." in text and f"- Prefill INT8, by the clock: {two}" in text
    assert "| 1.04 ⇄ | unknown |" in text
    assert "2:4 unknown on " in to_markdown(unfolded(across(rows)), "en", "comparison")


def test_without_intervals_there_is_no_verdict():
    text = screen(both("prefill", (1, 1, 1), (0.5, 0.5, 0.5), noise=None))
    assert "Prefill, by the clock: no verdict without intervals: 2:4 2.00." in text


def test_larger_M_that_do_not_count_limit_a_win():
    rows = both("prefill", (1,), (0.8,), Ms=(512,)) + both(
        "prefill", (1, 1), (1.3, 1.3), Ms=(1024, 2048), host_bound=True
    )
    text = screen(rows)
    assert "2:4 pays at M=512, 1.25 times as fast; larger M do not count." in text
    assert "left out 2:4 at M=1024, 2048 (bound by the host): 0.77 there" in text
    assert "| pays at 512 |" in text


@pytest.mark.parametrize("larger", ["not measured", "planned", "in_flight", "failed", "out_of_memory"])
def test_a_win_ends_where_nothing_larger_was_measured(larger):
    """Dense has 4096, or nobody has it yet. A sparse point there is missing, is being measured, or failed."""
    rows = both("prefill", (1, 1), (0.8, 0.8), Ms=(1024, 2048))
    plan = Plan({"prefill": {r.configuration: {1024, 2048, 4096} for r in rows}})
    if larger != "planned":
        rows.append(step("prefill", CU, 4096, 40.96))
    if larger in ("in_flight", "failed", "out_of_memory"):
        last = rows[-1]
        rows.append(replace(last, configuration=Configuration("BitNet-2B", "INT8", *SP), status=larger, values={}))
    text = screen(rows, plan=plan if larger == "planned" else None)
    assert "2:4 pays from M=1024 to 2048, 1.25 times as fast; larger M do not count." in text
    why = {"failed": "failed", "out_of_memory": "out of memory", "in_flight": "being measured"}.get(
        larger, "no usable point"
    )
    assert f"no ratio of 2:4 at M=4096 ({why})" in text


def test_a_pattern_pays_from_above_a_hole_on():
    Ms = (512, 1024, 2048, 4096)
    rows = [step("prefill", CU, M, M / 100) for M in Ms]
    rows += [step("prefill", SP, M, 0.8 * M / 100, host_bound=M in (1024, 2048)) for M in Ms]
    text = screen(rows)
    assert "2:4 pays, from M=4096 on, 1.25 times as fast" in text
    assert "| pays from 4096 |" in text


def test_a_pattern_that_is_faster_at_smaller_M_loses_at_the_largest_only():
    rows = both("prefill", (1, 1, 1), (0.7, 0.7, 1.3), Ms=(512, 1024, 2048))
    rows += both("prefill", (1,), (2.0,), Ms=(4096,), host_bound=True)
    assert "2:4 loses at M=2048, the largest that counts." in screen(rows)


def test_types_with_other_M_are_not_one_sentence():
    rows = both("prefill", (1,), (0.8,), Ms=(512,)) + both("prefill", (1, 1), (0.8, 0.8), Ms=(512, 1024), dtype="FP8")
    text = screen(rows)
    assert "2:4 with INT8 pays, from M=512 on" in text and "2:4 with FP8 pays, from M=512 on" in text


def test_stock_vllm_with_a_pattern_is_refused():
    with pytest.raises(RecordError, match="stock vLLM, which runs dense weights"):
        names.configured("INT8", "vllm", "2_4")


def test_gpu_time_decides_only_with_its_name_and_the_clock_beside_it():
    ends = {"gpu_step_ms_ci_low": 0.89, "gpu_step_ms_ci_high": 0.91}
    less = {"gpu_step_ms_ci_low": 0.79, "gpu_step_ms_ci_high": 0.81}
    rows = [step("decode", CU, M, 1.0, gpu=0.9, host_bound=True, **ends) for M in (64, 128)]
    rows += [step("decode", SP, M, 2.0, gpu=0.8, host_bound=True, **less) for M in (64, 128)]
    text = screen(rows)
    assert "Decode, by GPU time: 2:4 pays" in text
    assert "by the clock, with the host's share, 0.50 (2 slower)." in text
    assert "by the clock, with the host's share, 2:4 0.50 (2 slower)." in text
    assert "| pays from 64 (slower) |" in text


def test_the_dense_row_is_the_denominator():
    rows = [step("decode", CU, 64, 10.0, gpu=6.5), step("decode", CT, 64, 11.0, gpu=6.0), step("decode", SP, 64, 8.0)]
    rows += [step("prefill", CU, 64, 20.0), step("prefill", SP, 64, 18.0)]
    rows += [step("prefill", CT, 64, 9.0, tokens_min=1, tokens_max=64)]  # disqualified
    text = screen(rows)
    (dense,) = [line for line in text.splitlines() if line.startswith("| dense |")]
    assert "| 9.00 ms (cutlass) † |" in dense and "| 10.0 ms (cublaslt) |" in dense
    assert text.count("decode over dense, by the clock") == 1


def planned(rows, *engines):
    """The first screen of rows of a plan that asks for dense engines, too."""
    asked = {*(Configuration("BitNet-2B", "INT8", *place) for place in engines), *(row.configuration for row in rows)}
    return screen(rows, plan=Plan(points={"prefill": {name: {1024, 2048, 4096} for name in asked}}))


@pytest.mark.parametrize("lost", ["all", "the largest"])
def test_a_dense_engine_without_a_figure_is_named_where_it_may_be_faster(lost):
    """The verdict is over what is left: headline, sentence and conclusions say so."""
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8))
    rows += [step("prefill", CT, M, M / 100) for M in (1024, 2048) if lost != "all"]
    text = planned(rows, CT)
    where = "M=1024, 2048, 4096" if lost == "all" else "M=4096"
    engines = "the dense engine (cublaslt)" if lost == "all" else "the fastest dense engine (cublaslt, cutlass)"
    assert f"Times as fast as {engines}, for" in text
    assert (
        f"Dense engines without a figure that counts, which may be faster: cutlass INT8 at {where} (no usable point)."
        in text
    )
    assert f"without cutlass, which has no figure that counts at {where} (no usable point)" in text


def test_a_faster_dense_engine_that_a_check_disqualifies_gives_way_to_none():
    """Over the next one 2:4 would win for the wrong reason."""
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8))
    rows += [
        step("prefill", CT, M, M / 140, tokens_min=1 if M == 4096 else M, tokens_max=M) for M in (1024, 2048, 4096)
    ]
    text = screen(rows)
    assert "2:4 pays" not in text and "left out 2:4 at M=4096 (not M tokens a step)" in text


def test_a_step_shorter_than_its_gpu_time_takes_part_in_nothing():
    rows = both("decode", (1, 1, 1), (0.95, 0.95, 0.5))
    rows = [replace(row, values=row.values | {"gpu_step_ms": row.M / 100 * 0.9}) for row in rows]
    text = text_of(rows)
    first = text.partition("\n## How")[0]
    assert "a step shorter than its GPU time" in first and "2.00" not in first.split("left out")[0]
    assert "Engine that contradicts itself" in text


def test_where_a_check_disqualifies_the_fastest_dense_engine_no_slower_one_is_called_the_fastest():
    """Neither over stock vLLM nor between GPUs."""
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8))
    rows += [step("prefill", ST, M, M / 83) for M in (1024, 2048, 4096)]
    rows += [step("prefill", CT, M, M / 110, tokens_min=M if M < 4096 else 1, tokens_max=M) for M in (1024, 2048, 4096)]
    assert "over stock vLLM: prefill, by the clock, INT8 1.33 (2 of 3 M)." in screen(rows)
    (kept,) = summaries_of(H200, [Source("results", rows=rows)], analysed([Source("results", rows=rows)]))
    assert {*kept.dense["prefill", "step_ms", "BitNet-2B", "INT8"]} == {1024, 2048}


def test_a_backend_of_sparse_kernels_that_ran_none_is_not_sparse():
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8))
    ran = [replace(row, values=row.values | {"sparse_linears": 0}) for row in rows[3:]]
    text = screen([*rows[:3], *ran])
    assert "2:4 pays" not in text and "No sparse kernel ran in an engine" in text


def test_a_dense_engine_that_ran_sparse_kernels_is_no_denominator():
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8), sparse_linears=4)
    text = screen(rows)
    assert "2:4 pays" not in text and "sparse kernels in a dense engine" in text


def test_an_engine_of_another_machine_is_no_denominator():
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8))
    rows += [step("prefill", CT, M, M / 200, machine=MACHINE._replace(driver="999")) for M in (1024, 2048, 4096)]
    assert "Times as fast as the dense engine (cublaslt), for" in screen(rows)
    apart = [step("prefill", CU, 1024, 10.0), step("prefill", SP, 1024, 8.0, machine=MACHINE._replace(driver="999"))]
    assert "No sparse engine could be held against a dense one" in screen(apart)


def test_stock_is_held_against_the_fastest_dense_engine_or_left_out():
    rows = [
        step("prefill", CT, 1024, 6.0, host_bound=True),
        step("prefill", CU, 1024, 10.0),
        step("prefill", ST, 1024, 10.5),
    ]
    rows += [step("prefill", SP, 1024, 5.0)]
    assert "Without sparsity" not in screen(rows)
    assert "fastest dense engine over stock vLLM: prefill, by the clock, INT8 1.05." in screen(rows[1:])


def test_types_and_figures_are_named_where_they_differ():
    rows = [
        step("decode", place, 64, 10 * f, gpu=6 * f, host_bound=True) for place, f in ((CU, 1), (SP, 0.8), (ST, 1.2))
    ]
    clock = [step("decode", place, 64, 10 * f, dtype="FP8") for place, f in ((CU, 1), (SP, 0.8), (ST, 1.2))]
    text = screen(rows + clock)
    late = "by the clock, with the host's share, 2:4 1.25 (1 faster)"
    assert (
        f"Decode INT8, by GPU time: no verdict without intervals: 2:4 1.25; {late}. Decode, by the clock: 2:4" in text
    )
    assert "decode, by GPU time, INT8 1.20; decode, by the clock, FP8 1.20" in text


def test_auto_counts_only_where_it_ran_sparse_kernels():
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8))
    rows += [
        step("prefill", AU, M, M / 150, sparse_linears=int(M == 1024), energy_j_per_token=0.5) for M in (1024, 4096)
    ]
    source = Source("results", rows=rows)
    blocks = answer_blocks(H200, source, comparisons(source), "results")
    (graph,) = [each for block in blocks[-2:-1] for key, each in block.items.items() if key[1:] == ("prefill", "dense")]
    assert [(line[0], line[1]) for line in graph.table.rows if "auto" in line[0]] == [("2:4 auto", "1024")]
    (auto,) = [line for line in screen(rows).splitlines() if line.startswith("| 2:4 auto |")]
    assert "500.00" not in auto


def test_a_name_means_one_backend_on_the_whole_page():
    rows = both("prefill", (1, 1, 1), (1.2, 1.2, 1.2))
    rows += [step("prefill", AU, M, M / 120, sparse_linears=4) for M in (1024, 2048, 4096)]
    rows += [step("decode", CU, 64, 10.0), step("decode", AU, 64, 7.0, sparse_linears=4)]
    text = screen(rows)
    assert "Decode INT8, by the clock: 2:4 auto pays" in text
    source = Source("results", rows=rows)
    assert line_of(source, comparisons(source)).startswith("prefill at best INT8 2:4 auto 1.20")


def test_what_ran_out_of_memory_and_what_is_not_shown_is_named():
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8))
    full = rows[-1].configuration
    rows.append(Row(H200, "prefill", full, 8192, "out_of_memory", {}, MACHINE))
    assert "Out of memory: prefill BitNet-2B INT8 cusparselt/2_4 M=8192." in screen(rows)
    many = [row for model in "ABCDE" for row in both("prefill", (1, 1, 1), (0.8, 0.8, 0.8), model=model)]
    assert "Not on this screen: E INT8." in screen(many)


def test_dense_and_stock_alone_have_their_sentence():
    text = screen([step("prefill", place, 1024, ms) for place, ms in ((CU, 10.0), (ST, 12.0))])
    assert "the fastest dense engine over stock vLLM: prefill, by the clock, INT8 1.20." in text


def test_two_models_of_one_gpu_are_told_apart_in_the_comparison():
    rows = both("prefill", (1, 1, 1), (0.8, 0.8, 0.8), model="A") + both(
        "prefill", (1, 1, 1), (1.2, 1.2, 1.2), model="B"
    )
    source = Source("results", rows=rows)
    summaries = summaries_of(H200, [source], analysed([source]))
    text = to_markdown(unfolded(comparison.document(summaries)), "en", "comparison")
    assert "2:4 pays on H200 A (M≥1024); 2:4 loses on H200 B." in text


def gpus(*sides):
    """The comparison of GPUs, each with its key, its full name and its rows."""
    summaries = []
    for number, (key, name, rows) in enumerate(sides):
        rows = [replace(r, hardware=key, provenance=r.provenance._replace(gpu_name=name)) for r in rows]
        source = Source(f"results{number}", rows=rows, linears={"BitNet-2B": 4})
        summaries += summaries_of(key, [source], analysed([source]))
    return to_markdown(unfolded(comparison.document(summaries)), "en", "comparison")


H100 = "H100_cc90_py312_cu129_x86_64"


def test_the_comparison_says_up_to_which_M_a_pattern_pays():
    rows = both("prefill", (1, 1, 1), (0.7, 0.7, 0.7))
    short = [*rows[:-1], step("prefill", SP, 4096, 28, host_bound=True)]
    text = gpus((H200, "NVIDIA H200", rows), (H100, "NVIDIA H100 PCIe", short))
    assert "2:4 pays on H200 (M≥1024), H100 (M=1024–2048)." in text or (
        "2:4 pays on H100 (M=1024–2048), H200 (M≥1024)." in text
    )
    assert "1.43 † pays 1024 to 2048" in text


def test_the_comparison_names_M_that_gpus_have_not_in_common_and_those_without_a_rival():
    rows = both("prefill", (1, 1, 1), (0.7, 0.7, 0.7))
    other = both("prefill", (1, 1), (1.5, 1.5), Ms=(64, 128))
    alone = [step("prefill", SP, M, M / 100) for M in (1024, 2048)]
    text = gpus(
        (H200, "NVIDIA H200", rows),
        (H100, "NVIDIA H100 PCIe", other),
        ("B200_cc100_py312_cu129_x86_64", "NVIDIA B200", alone),
    )
    assert "2:4 pays on H200 (M≥1024)" in text and "2:4 loses on H100 (M=128)" in text
    assert "No sparse engine could be held against a dense one on B200." in text


def test_a_cpu_is_a_rehearsal(tmp_path):
    cpu = "cpu-Xeon_cc0_py311_cu0_x86_64"
    for place, seconds in (({"backend": "onednn"}, 0.012), ({"backend": "reference", "sparsity": "2_8"}, 0.010)):
        synthetic.write(tmp_path, "prefill", [32, 128], seconds, place=place | {"hardware": cpu})
    gather_all(tmp_path, cpu)
    text, _ = markdown(tmp_path, hardware=cpu)
    assert "A rehearsal on a CPU: it shows that the whole way works, and says nothing of GPUs." in text


def test_what_is_unknown_is_named(tmp_path):
    text, _ = markdown(ours(tmp_path / "results"))
    unknown = "Unknown here: stock vLLM, energy, memory of weights, weights changed by pruning, quality."
    assert f"Known here: tokens/s, step time, kernels, intervals. {unknown}" in text
    assert HARDWARE in text


def test_the_first_screen_of_published_figures_has_kernels_and_says_what_its_words_mean():
    text, _ = markdown(PUBLISHED)
    first = text.partition("\n## How")[0]
    assert (
        "Kernels alone, sum of hot GEMM latencies of a layer, over cublaslt/dense, not in turn: INT8 2:4 1.21" in first
    )
    assert "kernel, products dense [SVG]" in first
    for word in ("2:L: ", "W8A8", "Dense: ", "GPU time: ", "Pays: "):
        assert word in first


def test_the_graph_of_the_comparison_shows_what_its_table_says():
    """Over the fastest dense engine of each M, here CUTLASS, by the clock."""
    rows = both("prefill", (1, 1, 1), (0.5, 0.5, 0.5)) + [step("prefill", CT, M, M / 125) for M in (1024, 2048, 4096)]
    document = across(rows)
    (table, graph) = (
        next(each for each in document.walk(kind) if "speedup" in each.name or "answer" in each.name)
        for kind in (Table, Figure)
    )
    assert "cutlass" in table.rows[0] and str(table.rows[0][5]).startswith("1.60 pays")
    assert [panel["series"][0]["y"] for panel in graph.panels] == [[pytest.approx(1.6)]]
    assert graph.panels[0]["y"] == "speed-up over the fastest dense"


def test_one_pattern_of_two_models_is_one_series_in_the_graph_of_the_comparison():
    rows = [both("prefill", (1, 1, 1), (0.5, 0.5, 0.5), model=model) for model in ("A", "B")]
    sides = [Source(f"results{i}", rows=mine) for i, mine in enumerate(rows)]
    summaries = [each for source in sides for each in summaries_of(H200, [source], analysed([source]))]
    (graph,) = comparison.comparison_figures(summaries, ["one", "two"])[-1:]
    assert [(each["label"], each["y"]) for each in graph.panels[0]["series"]] == [("2:4", [2.0, 2.0])]


def test_the_comparison_names_figures_and_libraries_that_differ():
    """GPU time on one GPU and the clock on the other; two libraries on one and one on the other."""
    host = [step("decode", CU, M, 1.0, gpu=0.9, host_bound=True) for M in (64, 128)]
    host += [step("decode", ("torch", "dense"), M, 1.1, gpu=1.0, host_bound=True) for M in (64, 128)]
    host += [step("decode", SP, M, 2.0, gpu=0.8, host_bound=True) for M in (64, 128)]
    other = both("decode", (1, 1), (1.5, 1.5), Ms=(64, 128))
    text = gpus((H200, "NVIDIA H200", host), (H100, "NVIDIA H100 PCIe", other))
    assert "2:4 loses on H100 by the clock; 2:4 unknown on H200 by GPU time." in text
    assert "on H200 by the clock, with the host's share, 0.50 (2 slower)." in text
    assert "| 1.13 unknown (0.50 slower) |" in text
    assert "| by GPU time | cublaslt |" in text and "| by the clock | cublaslt |" in text


def test_without_any_rival_the_comparison_says_so():
    alone = [step("prefill", SP, M, M / 100) for M in (1024, 2048)]
    text = gpus((H200, "NVIDIA H200", alone), (H100, "NVIDIA H100 PCIe", alone))
    assert "No sparse engine could be held against a dense one on H100, H200." in text or (
        "No sparse engine could be held against a dense one on H200, H100." in text
    )


def test_a_type_without_sparse_engines_is_named():
    rows = both("prefill", (1,), (0.8,), Ms=(512,)) + [step("prefill", CU, 512, 5.12, dtype="FP8")]
    assert "Not on this screen: BitNet-2B FP8." in screen(rows)


def test_energy_that_nobody_measured_is_said():
    rows = both("prefill", (1, 1), (0.8, 0.8), Ms=(512, 1024), weight_bytes=2e9)
    assert "Memory and prefill energy over dense: 2:4 INT8 × 1.00, energy unknown." in screen(rows)


def test_energy_of_a_step_that_the_host_bounds_is_marked():
    costs = {"weight_bytes": 2e9, "energy_j_per_token": 0.002}
    rows = both("prefill", (1, 1), (0.8, 0.8), Ms=(512, 1024), **costs)
    rows[-1].values["host_bound"] = True
    assert "Memory and prefill energy over dense (M=1024): 2:4 INT8 × 1.00 and × 1.00 †." in screen(rows)


def test_weights_of_a_small_model_are_not_shown_as_nothing():
    text = screen(both("prefill", (1, 1), (0.8, 0.8), Ms=(512, 1024), weight_bytes=8_900_000))
    assert "| 0.0089 |" in text and "| 0.00 |" not in text
