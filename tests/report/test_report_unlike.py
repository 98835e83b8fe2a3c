"""What is said of sides that are not alike, of GPUs that share few M, and of figures that are not known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import synthetic
from foreign import KERNEL, THROUGHPUT, run_row, search_row, tidy
from reports import H200, HARDWARE, MACHINE, SPARSE, markdown, step, text_of, unfolded
from slidesparse.files import sealed, write_json
from slidesparse.plan.key import Configuration, Key
from slidesparse.points.answers import csv_of_table
from slidesparse.points.request import searched as searched_for
from slidesparse.report.document.render import to_markdown
from slidesparse.report.sections import comparison
from slidesparse.report.sources.read import read_source
from slidesparse.report.sources.rows import OURS, Row, Source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import analysed, summaries_of

A100, L40S = "A100_cc80_py312_cu129_x86_64", "L40S_cc89_py312_cu129_x86_64"
B200 = "B200_cc100_py312_cu130_x86_64"
DENSE, CUTLASS = (Configuration("BitNet-2B", "INT8", backend, "dense") for backend in ("cublaslt", "cutlass"))
HALF, AUTO = (Configuration("BitNet-2B", "INT8", backend, "2_4") for backend in ("cusparselt", "auto"))
EIGHTH = HALF._replace(sparsity="2_8")


def on(rows, key, **provenance):
    """Rows as another GPU's."""
    return [replace(row, hardware=key, provenance=row.provenance._replace(**provenance)) for row in rows]


def engines(Ms, key, protocol="9"):
    """Dense and 2:4 prefill, 1.25 times as fast."""
    rows = [row for M in Ms for row in (step("prefill", DENSE, M, M / 100), step("prefill", HALF, M, M / 125))]
    return on(rows, key, protocol=protocol)


def compared(*items):
    """The text of the comparison of (key, rows)."""
    summaries = []
    for key, rows in items:
        source = Source(key, linears={"BitNet-2B": 4})
        source.add(OURS, rows)
        summaries += summaries_of(key, [source], analysed([source]))
    return to_markdown(unfolded(comparison.document(summaries)), "en", "comparison")


# GPUs side by side


def test_where_the_host_bounds_the_fastest_dense_engine_a_slower_one_is_not_the_fastest():
    def rows(key, bound):
        found = []
        for M in (1024, 2048):
            found += [step("prefill", DENSE, M, M / 80), step("prefill", CUTLASS, M, M / 100, host_bound=bound)]
            found.append(step("prefill", HALF, M, M / 125))
        return on(found, key)

    text = compared((A100, rows(A100, False)), (L40S, rows(L40S, True)))
    assert "fastest dense engine, steady-state step time at M=" not in text
    text = compared((A100, rows(A100, False)), (L40S, rows(L40S, False)))
    assert "A100 20.480 ms (cutlass/dense), L40S 20.480 ms (cutlass/dense)" in text


def test_a_third_gpu_with_other_M_hides_nothing_of_two_that_share_theirs():
    two = (A100, engines((1024, 2048), A100)), (L40S, engines((1024, 2048), L40S))
    text = compared(*two, (B200, engines((4096,), B200)))
    assert "of the 2 M that these have: A100 1.25; L40S 1.25" in text.replace(", L40S", "; L40S")
    assert "None of these M counts for B200." in text
    assert "fastest dense engine, steady-state step time at M=2048: A100 20.480 ms" in text
    assert "that all have: A100 1.25, L40S 1.25" in compared(*two)
    text = compared((A100, engines((1024,), A100)), (L40S, engines((2048,), L40S)))
    assert "Nothing to conclude: no two have a figure that counts at one M." in text


def test_protocols_are_held_against_one_another_M_by_M():
    crossing = engines((1024,), A100, "9") + engines((2048,), A100, "6")
    other = engines((1024,), L40S, "6") + engines((2048,), L40S, "9")
    text = compared((A100, crossing), (L40S, other))
    assert "Measured in unlike ways: protocol 6; protocol 9." in text
    assert "A100 1.25 (protocol 6 at M=2048; protocol 9 at M=1024)" in text
    assert "L40S 1.25 (protocol 6 at M=1024; protocol 9 at M=2048)" in text


def test_the_comparison_begins_with_where_the_shortest_pattern_pays():
    other = on(
        [replace(row, configuration=row.configuration._replace(dtype="FP8")) for row in engines((1024,), L40S)], L40S
    )
    for row in other:
        if row.configuration.sparsity == "2_4":
            row.values.update(step_ms=20.0, step_ms_ci_low=19.9, step_ms_ci_high=20.1)
    text = compared((A100, engines((1024, 2048), A100)), (L40S, engines((1024, 2048), L40S) + other))
    assert "Prefill: 2:4 pays on A100 (M≥1024); 2:4 differs between types on L40S." in text
    text = compared((A100, engines((1024, 2048), A100)), (L40S, engines((1024, 2048), L40S)))
    assert "Prefill: 2:4 pays on A100 (M≥1024), L40S (M≥1024)." in text


def of(rows, **named):
    """Rows of another model or type."""
    return [replace(row, configuration=row.configuration._replace(**named)) for row in rows]


def test_models_of_one_gpu_are_told_apart_in_all_types():
    rows = engines((1024, 2048), A100)
    said = "Prefill: 2:4 pays on A100 BitNet-2B (M≥1024), A100 Other-1B (M≥1024)."
    assert said in compared((A100, rows + of(rows, model="Other-1B", dtype="FP8")))
    more = of(rows, dtype="FP8") + of(rows, model="Other-1B")
    assert said in compared((A100, rows + more))


def test_the_shortest_pattern_of_all_types_is_told_with_the_types_that_have_it():
    longer = engines((1024, 2048), A100)
    longer = [row if row.configuration == DENSE else of([row], sparsity="2_8")[0] for row in longer]
    half = of(engines((1024, 2048), A100), dtype="FP8")
    text = compared((A100, longer + half), (L40S, engines((1024, 2048), L40S)))
    assert "Prefill: 2:4 pays on L40S (M≥1024), A100 (FP8, M≥1024)." in text


def test_the_first_table_of_the_comparison_says_how_each_gpu_was_measured():
    text = compared((A100, engines((1024, 2048), A100)), (L40S, engines((1024, 2048), L40S, "6")))
    table = [line for line in text.partition("## Conclusions")[0].splitlines() if line.startswith("|")]
    assert any(line.startswith("| A100 | BitNet-2B | protocol 9 |") for line in table)
    assert any(line.startswith("| L40S | BitNet-2B | protocol 6 |") for line in table)


def test_the_first_table_of_the_comparison_says_where_requests_are_unlike():
    def asked(key, n):
        return [replace(row, values=row.values | {"prompt_len": n}) for row in engines((1024, 2048), key)]

    text = compared((A100, asked(A100, 1024)), (L40S, asked(L40S, 512)))
    assert "| A100 | BitNet-2B | protocol 9, 1024 tokens a request |" in text
    assert "| L40S | BitNet-2B | protocol 9, 512 tokens a request |" in text
    assert "a request" not in compared((A100, asked(A100, 1024)), (L40S, asked(L40S, 1024)))


def test_lengths_of_requests_are_told_with_their_M():
    def asked(key, n):
        return [
            replace(row, values=row.values | {"prompt_len": n if row.M == 512 else 1024})
            for row in engines((512, 1024), key)
        ]

    text = compared((A100, asked(A100, 256)), (L40S, asked(L40S, 512)))
    assert "| A100 | BitNet-2B | protocol 9, 256 tokens a request at M=512 |" in text
    assert "A100 1.25 (256 tokens a request at M=512), L40S 1.25 (512 tokens a request at M=512)" in text
    alone = [row for row in asked(A100, 256) if row.M == 1024]
    assert "tokens a request" not in compared((A100, asked(A100, 256)), (L40S, on(alone, L40S)))


def test_all_gpus_whose_dense_engines_are_ranked_have_their_versions_told():
    rows = {key: engines((1024,), key) for key in (A100, L40S, B200.replace("cu130", "cu129"))}
    for row in rows[L40S]:
        row.values.update(power_limit_w=300.0, step_ms=1.1 * row.values["step_ms"])
    for row in rows[B200.replace("cu130", "cu129")]:
        row.values.update(power_limit_w=700.0, step_ms=1.2 * row.values["step_ms"])
    for row in rows[A100]:
        row.values.update(power_limit_w=700.0)
    text = compared(*rows.items())
    ways = "A100 power limit 700 W; L40S power limit 300 W; B200 power limit 700 W"
    assert f"A100 is 1.20 times as fast as B200, measured in unlike ways ({ways})." in text


def test_the_headline_of_the_comparison_tells_figures_and_M():
    def decode(key, **more):
        return on([step("decode", name, M, ms, **more) for M in (64, 128) for name, ms in ((DENSE, 9), (HALF, 7))], key)

    ends = {"gpu_step_ms": 5.0, "gpu_step_ms_ci_low": 4.95, "gpu_step_ms_ci_high": 5.05}
    late = decode(A100, host_bound=True, **ends)
    for row in late:
        row.values.update(gpu_step_ms=5.0 if row.configuration == DENSE else 4.0)
        row.values.update(gpu_step_ms_ci_low=0.99 * row.values["gpu_step_ms"])
        row.values.update(gpu_step_ms_ci_high=1.01 * row.values["gpu_step_ms"])
    text = compared((A100, late), (L40S, decode(L40S)))
    assert "Decode: 2:4 pays on A100 (by GPU time, M≥64), L40S (by the clock, M≥64);" in text
    rows = engines((1024, 2048), A100) + [Row(A100, "prefill", HALF, 4096, "failed", {}, reason="x")]
    text = compared((A100, rows), (L40S, engines((1024, 2048), L40S)))
    assert "Prefill: 2:4 pays on A100 (M=1024–2048), L40S (M≥1024)." in text


def test_a_pattern_of_another_backend_was_measured():
    auto = [replace(row, configuration=AUTO) for row in engines((1024, 2048), L40S) if row.configuration == HALF]
    for row in auto:
        row.values["sparse_linears"] = 4
    dense = [row for row in engines((1024, 2048), L40S) if row.configuration == DENSE]
    text = compared((A100, engines((1024, 2048), A100)), (L40S, dense + auto))
    assert "Prefill: 2:4 pays on A100 (M≥1024), L40S (auto, M≥1024)." in text


def test_rates_of_decode_on_two_gpus_hold_their_hosts():
    def rates(key):
        rows = on([step("decode", name, 64, ms) for name, ms in ((DENSE, 9), (HALF, 7))], key)
        known = ("requests_per_s", "tokens_per_s", "elapsed_time_s")
        return [replace(row, values={name: row.values[name] for name in known}) for row in rows]

    text = compared((A100, rates(A100)), (L40S, rates(L40S)))
    assert "times as fast as L40S; the share of the hosts in it is unknown." in text
    assert "share of the hosts" not in compared((A100, engines((1024,), A100)), (L40S, engines((1024,), L40S)))
    ours = [on([step("decode", name, 64, 9, gpu_step_ms=8.9) for name in (DENSE, HALF)], key) for key in (A100, L40S)]
    text = compared((A100, ours[0]), (L40S, ours[1]))
    assert "times as fast as L40S" in text and "share of the hosts" not in text


def test_the_first_table_of_the_comparison_has_costs_where_they_are_known():
    def costs(rows):
        known = {DENSE: (3e9, 0.01), HALF: (2e9, 0.008)}
        named = ("weight_bytes", "energy_j_per_token")
        for row in rows:
            row.values.update(zip(named, known[row.configuration], strict=True))
        return rows

    text = compared((A100, costs(engines((1024, 2048), A100))), (L40S, engines((1024, 2048), L40S)))
    first = [line for line in text.partition("## Conclusions")[0].splitlines() if line.startswith("| ")]
    assert any(line.endswith("| 2:4 | costs over dense |") for line in first)
    assert any(line.startswith("| A100") and line.endswith("| 2:4: memory × 0.67, energy × 0.80 |") for line in first)
    assert any(line.startswith("| L40S") and line.endswith("| — |") for line in first)


def test_costs_of_two_gpus_are_marked_and_have_their_place():
    rows = engines((1024, 2048), A100)
    for row in rows:
        row.values["weight_bytes"] = 3e9 if row.configuration == DENSE else 2e9
        if row.M == 1024:
            row.values["energy_j_per_token"] = 0.010 if row.configuration == DENSE else 0.008
    rows = [
        replace(row, provenance=row.provenance._replace(gpu_uuid="b" if row.configuration == HALF else "a"))
        for row in rows
    ]
    assert "2:4 INT8 × 0.67 and × 0.80 ⇄ (M=1024, over cublaslt)" in text_of(rows)
    assert "| 2:4: memory × 0.67, energy × 0.80 ⇄ (M=1024, over cublaslt) |" in compared((A100, rows))


def test_a_ratio_has_the_protocol_of_its_own_sides():
    more = on([step("prefill", EIGHTH, M, M / 90) for M in (1024, 2048)], A100, protocol="6")
    text = compared((A100, engines((1024, 2048), A100) + more), (L40S, engines((1024, 2048), L40S)))
    assert "that all have: A100 1.25, L40S 1.25" in text
    assert "Measured in unlike ways" not in text


# One GPU


def test_a_point_without_a_figure_was_measured():
    ends = {"gpu_step_ms_ci_low": 6.9, "gpu_step_ms_ci_high": 7.1}
    rows = []
    for M in (64, 128, 256):
        known = {"gpu_step_ms": 7.0, **ends} if M < 256 else {}
        slower = {name: value + 1 for name, value in known.items()}
        rows += [step("decode", DENSE, M, 10, host_bound=True, **slower)]
        rows += [step("decode", HALF, M, 9, host_bound=True, **known)]
    text = text_of(rows)
    assert "no ratio of 2:4 at M=256 (its points lack this figure)" in text
    assert "256 (no usable point)" not in text


def test_energy_is_that_of_the_largest_M_at_which_both_sides_have_one():
    rows = []
    for M in (1024, 2048, 4096):
        known = [{"energy_j_per_token": joules} if M < 4096 else {} for joules in (0.01, 0.008)]
        rows += [step("prefill", DENSE, M, M / 100, weight_bytes=3e9, **known[0])]
        rows += [step("prefill", HALF, M, M / 120, weight_bytes=2e9, **known[1])]
    assert "2:4 INT8 × 0.67 and × 0.80 (M=2048, over cublaslt)." in text_of(rows)


def test_costs_over_another_engine_than_the_tables_name_it():
    rows = []
    for M in (512, 1024, 2048):
        rows += [step("prefill", DENSE, M, M / 100, weight_bytes=3e9, energy_j_per_token=0.01)]
        fast = M / (110 if M < 2048 else 90)
        rows += [step("prefill", CUTLASS, M, fast, weight_bytes=6e9, energy_j_per_token=0.02)]
        if M < 2048:
            rows += [step("prefill", HALF, M, M / 120, weight_bytes=2e9, energy_j_per_token=0.008)]
        rows += [step("prefill", EIGHTH, M, M / 115, weight_bytes=2.5e9, energy_j_per_token=0.009)]
    assert "2:4 INT8 × 0.33 and × 0.40 (M=1024, over cutlass)." in text_of(rows)


def test_it_is_unknown_which_kernels_ran_where_auto_does_not_say_it():
    dense = [step("prefill", DENSE, M, M / 100) for M in (1024, 2048, 4096)]
    text = text_of(dense + [step("prefill", AUTO, M, M / 130) for M in (1024, 2048, 4096)])
    assert "It is unknown whether a sparse kernel ran in an engine" in text
    assert "No sparse kernel ran in an engine" not in text
    said = [step("prefill", AUTO, M, M / 130, sparse_linears=None if M == 2048 else 3) for M in (1024, 2048, 4096)]
    text = text_of(dense + said)
    assert "at M=2048 (unknown which kernels ran)" in text
    assert "only dense kernels ran" not in text


def test_a_dense_engine_that_was_measured_otherwise_is_no_rival_and_is_named():
    rows = []
    for M in (1024, 2048, 4096):
        rows += [step("prefill", DENSE, M, M / 100), step("prefill", HALF, M, M / 120)]
        rows += [replace(step("prefill", CUTLASS, M, M / 110), provenance=MACHINE._replace(protocol="6"))]
    text = text_of(rows)
    said = "Dense engines without a figure that counts, which may be faster: cutlass INT8 at M=1024, 2048, 4096"
    assert f"{said} (measured otherwise)." in text and "Times as fast as the dense engine (cublaslt), for" in text
    assert text.count("| measured otherwise ") >= 3


@pytest.mark.parametrize(
    ("failing", "sentence"),
    [
        (HALF, "no speed-up over dense, because no sparse one gave a figure"),
        (DENSE, "no speed-up over dense, because no dense engine gave a figure"),
    ],
)
def test_why_there_is_no_speed_up(failing, sentence):
    rows = [step("prefill", name, M, M / 100) for M in (1024, 2048) for name in (DENSE, HALF) if name != failing]
    rows += [Row(H200, "prefill", failing, M, "failed", {}, reason="x") for M in (1024, 2048)]
    assert sentence in text_of(rows)


def test_dense_engines_alone_are_no_answer_and_the_page_says_so():
    sentence = "No sparse engine was measured, so nothing tells whether sparsity pays here."
    assert sentence in text_of([step("prefill", DENSE, M, M / 100) for M in (1024, 2048)])
    assert sentence not in text_of([step("prefill", name, 1024, 10) for name in (DENSE, HALF)])


def test_types_are_named_where_not_all_are_shown():
    rows = []
    for model in "ABCDE":
        Ms, gain = ((1024, 2048, 4096), 0.8) if model != "E" else ((1024, 2048), 1.2)
        for M in Ms:
            rows += [step("prefill", DENSE._replace(model=model), M, M / 100)]
            rows += [step("prefill", HALF._replace(model=model), M, M / 100 * gain)]
    text = text_of(rows)
    assert "Prefill A INT8, B INT8, C INT8, D INT8, by the clock: 2:4 pays, from M=1024 on" in text


def test_a_disqualified_ratio_is_in_no_span():
    ends = {"gpu_step_ms_ci_low": 6.9, "gpu_step_ms_ci_high": 7.1}
    rows = []
    for M in (64, 128, 256):
        odd = {"sequences_min": 10, "sequences_max": 64} if M == 256 else {}
        rows += [step("decode", DENSE, M, 10, host_bound=True, gpu_step_ms=8.0)]
        rows += [step("decode", HALF, M, 9 if M < 256 else 2, host_bound=True, gpu_step_ms=7.0, **ends, **odd)]
    text = text_of(rows)
    assert "by the clock, with the host's share, 1.11" in text
    assert "1.11 to 5.00" not in text and "1.11–5.00" not in text


def test_the_span_of_a_headline_begins_at_the_M_that_it_names():
    rows = []
    for M in (1024, 2048, 4096):
        rows += [step("prefill", DENSE, M, M / 100), step("prefill", AUTO, M, M / 105, sparse_linears=3)]
        rows += [step("prefill", HALF, M, M / (90 if M == 1024 else 120))]
    text = text_of(rows)
    assert "pay, from M=2048 on, 1.05 to 1.20 times as fast (some from M=1024 on, 1.05 below 2048)" in text
    rows = [each for each in rows if (each.configuration, each.M) != (AUTO, 1024)]
    rows.append(step("prefill", AUTO, 1024, 1024 / 102, sparse_linears=3))
    text = text_of(rows)
    assert "pay, from M=2048 on, 1.05 to 1.20 times as fast (some from M=1024 on, 1.02 below 2048)" in text


def test_M_at_which_two_types_were_measured_otherwise_are_counted():
    rows = []
    for M in (1024, 2048, 4096):
        other = MACHINE._replace(driver="2" if M > 1024 else MACHINE.driver)
        rows += [step("prefill", DENSE, M, M / 100)]
        rows += [replace(step("prefill", DENSE._replace(dtype="FP8"), M, M / 150), provenance=other)]
    assert "of 3 M: faster at 1, measured otherwise 2;" in text_of(rows)


# Tidy tables


def test_a_row_without_a_gpu_is_named(tmp_path):
    bad = run_row(12, backend="cuSPARSELt", pattern="2_4").replace("RTX4090,", ",", 1)
    folder = tidy(tmp_path, throughput=THROUGHPUT + run_row(10) + bad)
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    assert sentence == f"{folder / 'throughput.csv'}: row 2 not used: it has no usable gpu"


def test_a_layer_has_the_linears_of_rows_that_are_not_used_too(tmp_path):
    body = ""
    for backend, pattern, us in (("cuBLASLt", "dense", 10.0), ("cuSPARSELt", "2_4", 7.0)):
        for N, K in ((3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)):
            cells = search_row(us, N=N, K=K, backend=backend, pattern=pattern).split(",")
            cells[11] = str(2 * float(cells[11])) if N == 13824 else cells[11]
            body += ",".join(cells)
    tidy(tmp_path, kernel=KERNEL + body)
    text, refused = markdown(tmp_path)
    assert sum("lacks N=13824 K=2560: it counts in no sum" in sentence for sentence in refused) == 2
    assert "sum of hot GEMM latencies of a layer" not in text


def test_the_copy_of_a_fused_kernel_is_found_whatever_its_type_is_called(tmp_path):
    head = "gpu,cc,dtype,model,kernel,sparsity,M,K,K_out,latency_us,ratio_to_memcpy,GBps_rw,GBps_incl_memset\n"
    row = "RTX4090,89,FP8E4M3,BitNet-2B,{},2_4,64,2560,{},{},{},1,1\n"
    body = row.format("memcpy_L4", 2560, 5.0, 1.0) + row.format("quant_slide", 2560, 10.0, 9.0)
    tidy(tmp_path, quant_kernels=head + body)
    (sentence,) = read_source(tmp_path, HARDWARE).refused
    assert "it has ratio_to_memcpy = 9, but 2 follows from the copy's row" in sentence


def test_a_pattern_has_one_colour_in_all_bars_of_the_comparison():
    """Bars had the colours of their places, and panels have other patterns at a place."""
    rates = {DENSE: 1.0, HALF: 1.25, AUTO: 1.3, HALF._replace(sparsity="2_6"): 1.1, EIGHTH: 1.05}

    def rows(key, names):
        found = [step("prefill", n, M, M / r, tokens_per_s=1000 * r) for n, r in rates.items() for M in (1024, 2048)]
        return on([row for row in found if row.configuration in names], key)

    summaries = []
    for key, names in ((A100, set(rates)), (L40S, {*rates} - {AUTO})):
        source = Source(key, linears={"BitNet-2B": 4})
        fp8 = [
            replace(row, configuration=row.configuration._replace(dtype="FP8")) for row in rows(key, {*rates} - {AUTO})
        ]
        source.add(OURS, rows(key, names) + fp8)
        summaries += summaries_of(key, [source], analysed([source]))
    (figure,) = (each for each in comparison.comparison_figures(summaries, ["A", "B"]) if "speedup" in each.name)
    styles = {}
    for panel in figure.panels:
        for series in panel["series"]:
            styles.setdefault(series["label"], set()).add(series["style"])
    assert all(len(found) == 1 for found in styles.values())
    assert len({*map(str, styles.values())}) == len(styles) >= 3


def test_our_points_beside_others_count_as_asked_for(tmp_path):
    for place, seconds in (({}, 0.012), (SPARSE, 0.010)):
        for M, factor in ((512, 1), (1024, 2)):
            synthetic.write(tmp_path, "prefill", (M,), seconds * factor, place=place)
    gather_all(tmp_path, HARDWARE)
    runs = (("cuBLASLt", "dense", 1), ("cuSPARSELt", "2_4", 0.83))
    rows = [
        run_row(1000 / (M * 0.0234 * share), M=M, backend=backend, pattern=pattern)
        for backend, pattern, share in runs
        for M in (2048, 4096)
    ]
    tidy(tmp_path, throughput=THROUGHPUT + "".join(rows))
    text, _ = markdown(tmp_path)
    assert "Elapsed time over steps where no step was measured." in text
    assert "8 points of engines" in text and "prefill: BitNet-2B INT8 8/8" in text


def test_a_table_that_was_changed_is_named_and_its_points_stay(tmp_path):
    """In a source that is not gathered nobody else looks at it."""
    (path,) = synthetic.write(tmp_path, "prefill", [512])
    gather_all(tmp_path, HARDWARE)
    asked = [("prefill", "BitNet-2B", "INT8", "cublaslt", "dense", 512)]
    synthetic.plan(tmp_path, asked, parameters={"prefill": {"steps": 1}})
    key = Key.of(path)
    write_json(Path(key.basis(tmp_path)), {"weights": 1})
    table = Path(key.tuning(tmp_path))
    write_json(table, sealed({"entries": []}) | {"entries": [1]})
    source = read_source(tmp_path, HARDWARE)
    assert [row.M for row in source.stage("prefill")] == [512]
    assert source.refused == [f"{table} was changed after it was written: put it back, or delete it to tune again"]


def searched(root, hardware=HARDWARE, **change):
    """Write a sealed tuning table of onednn and its CSV at their place below a root, and return the table's path."""
    path = root / hardware / "tuning" / "BitNet-2B" / "INT8" / "onednn" / "dense.json"
    best = {"algorithm": 0, "name": "a", "latency_us": 5.0, "workspace": 0, "kernels": []}
    entry = {
        "linear": "qkv",
        "N": 64,
        "K": 32,
        "K_slid": 32,
        "M": 16,
        "output": "INT32",
        "algorithms": 1,
        "top": [best],
    }
    content = {"library": "oneDNN", "backend": "onednn", "searched": searched_for(path), "entries": [entry]}
    write_json(path, sealed(content | change))
    path.with_suffix(".csv").write_text(csv_of_table(path))
    return path


def test_searches_are_read_as_they_were_written(tmp_path):
    searched(tmp_path)
    source = read_source(tmp_path, HARDWARE)
    assert source.refused == [] and [row["latency_us"] for row in source.tuning] == [5.0]


def test_a_csv_that_is_not_its_tables_is_refused(tmp_path):
    """A source without points has nobody else who looks at its tables."""
    csv = searched(tmp_path).with_suffix(".csv")
    csv.write_text(csv.read_text().replace("5.000", "0.001"))
    source = read_source(tmp_path, HARDWARE)
    assert source.tuning == []
    assert source.refused == [f"{csv} does not say what dense.json says: put it back, or delete both to tune again"]


def test_a_changed_table_and_one_of_another_search_are_refused(tmp_path):
    table = searched(tmp_path)
    there = table.parents[1] / "cublaslt" / "dense.json"
    there.parent.mkdir()
    for suffix in (".json", ".csv"):
        there.with_suffix(suffix).write_bytes(table.with_suffix(suffix).read_bytes())
    write_json(table, json.loads(table.read_text()) | {"entries": []})
    source = read_source(tmp_path, HARDWARE)
    assert source.tuning == []
    assert source.refused == [
        f"{there} is the table of another search: put its own back, or delete it to tune again",
        f"{table} was changed after it was written: put it back, or delete it to tune again",
    ]
