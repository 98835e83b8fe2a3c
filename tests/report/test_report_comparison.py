"""Hardware side by side: any number of keys, in any layout, with or without FP8, on any machine."""

import csv
import shutil

import pytest

import synthetic
from reports import H100, HARDWARE, PUBLISHED, SPARSE, compared, edit, markdown, rows_under
from slidesparse.errors import RecordError
from slidesparse.files import read_json, write_json
from slidesparse.report.sections.comparison import capability_table
from slidesparse.report.sources.read import read_source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import write_comparison

A100, GB10 = "A100_cc80_py312_cu130_x86_64", "GB10_cc121_py312_cu130_aarch64"


def test_the_published_gpus_side_by_side():
    text = compared(PUBLISHED)
    passed = rows_under(text, "What was measured")
    assert [row[:2] for row in passed] == [["H100", "NVIDIA H100 PCIe"], ["RTX4090", "NVIDIA GeForce RTX 4090"]]
    assert [row[6:9] for row in passed] == [["70/70", "40/40", "648/648"]] * 2
    rows = rows_under(text, "prefill BitNet-2B INT8, tokens/s of the published protocol, over cublaslt/dense")
    assert rows[0] == ["H100", "cusparselt/2_4", "1.10", "1.10", "1.18", "1.20", "1.18", "1.25", "1.25", "1.22"]
    assert rows[4][:6] == ["RTX4090", "cusparselt/2_4", "1.11", "1.11", "1.12", "1.43"]
    assert (
        "prefill BitNet-2B INT8, fastest dense engine, tokens/s of the published protocol at M=32768:"
        " H100 94,114 tokens/s (cublaslt/dense), RTX4090 54,528 tokens/s (cublaslt/dense);"
        " H100 is 1.73 times as fast as RTX4090."
    ) in text
    # at 512 sequences neither decode ran them at once
    assert "decode BitNet-2B INT8, fastest dense engine, tokens/s of the published protocol at M=256:" in text


def gpus(tmp_path, *others, **results):
    """The comparison of one dense decode point on two GPUs, with changes to the second one's point."""
    root = tmp_path / "results"
    for hardware, step_s in ((HARDWARE, 0.012), (A100, 0.010)):
        (file,) = synthetic.write(root, "decode", (64,), step_s, place={"hardware": hardware})
        point = read_json(file)
        point["results"] |= {"gpu_step_ms": 500 * step_s, "host_bound": False}
        if hardware == A100:
            point["results"] |= results
            point["request"] |= dict(others)
        write_json(file, point)
        assert gather_all(root, hardware) == []
    return compared(root)


def test_gpus_are_compared_in_decode_by_the_time_of_the_gpu(tmp_path):
    of = "- decode BitNet-2B INT8, fastest dense engine, GPU time of a step at M=64: A100 "
    said = gpus(tmp_path / "a", gpu_step_ms=3.0)
    assert (
        f"{of}3.000 ms (cublaslt/dense), RTX4090 6.000 ms (cublaslt/dense); A100 is 2.00 times as fast as RTX4090,"
        " measured in unlike ways (A100 CUDA 13.0; RTX4090 CUDA 12.9)." in said
    )
    tokens = "fastest dense engine, tokens/s"
    assert tokens in said and tokens not in gpus(tmp_path / "b", host_bound=True)


def test_figures_of_two_protocols_are_not_divided(tmp_path):
    text = gpus(tmp_path, ("protocol", 6))
    assert "Their protocols differ (A100 6; RTX4090 1), so they are not divided by one another." in text
    assert "times as fast as" not in text


def test_what_passed_by_type_and_stage():
    by_type = {row[0]: row[1:] for row in rows_under(compared(PUBLISHED), "What passed, by type and stage")}
    assert by_type["architecture"] == ["Hopper", "Ada Lovelace"]
    assert by_type["INT8 prefill"] == by_type["FP8 prefill"] == ["35/35", "35/35"]
    assert by_type["INT8 decode"] == by_type["FP8 decode"] == ["20/20", "20/20"]
    assert by_type["FP8 kernel"] == ["324/324", "324/324"]


def test_the_h100_report_has_the_tidy_figures():
    text, refused = markdown(PUBLISHED, hardware=H100)
    assert refused == []
    prefill = rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")
    assert [row[2] for row in prefill][:3] == ["14,945", "30,565", "56,699"]
    qkv = rows_under(text, "kernel BitNet-2B INT8 qkv (N=3840, K=2560), hot latency (µs)")
    assert [float(cell) for cell in qkv[0][1:4]] == pytest.approx([11.97, 7.63, 9.06], abs=0.01)
    with open(PUBLISHED / "tidy" / H100 / "kernel.csv", encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    source = read_source(PUBLISHED, H100)
    kernels = [row.values["latency_us"] for row in source.stage("kernel")]
    assert sorted(kernels) == sorted(float(row["latency_us"]) for row in table)
    lifts = rows_under(text, "kernel BitNet-2B FP8 quantise and lift, K=2560, cold latency (µs)")
    assert lifts[-1][0] == "32768"


def test_what_a_gpu_of_an_unknown_family_can_run_is_unknown():
    rows = capability_table(["C300_cc140_py312_cu140_x86_64", "H100_cc90_py312_cu130_x86_64"]).rows
    assert [[str(cell) for cell in row[-2:]] for row in rows] == [["unknown", "unknown"], ["yes", "yes"]]


def test_a_gpu_without_fp8_an_arm_machine_and_a_missing_backend(tmp_path):
    root = tmp_path / "results"
    for hardware in (A100, GB10):
        synthetic.write(root, "prefill", (512, 1024), 0.012, place={"hardware": hardware})
        if hardware == A100:
            synthetic.write(root, "prefill", (512, 1024), 0.010, place=SPARSE | {"hardware": hardware})
    synthetic.write(root, "kernel", (64,), 0.010, place=SPARSE | {"hardware": GB10})
    for hardware in (A100, GB10):
        assert gather_all(root, hardware) == []
    text = compared(root, PUBLISHED)
    able = {row[0]: row for row in rows_under(text, "What each can run")}
    assert able[A100][-2:] == [
        "yes",
        "FP8 cannot run on A100: FP8 (E4M3) tensor cores begin with compute capability 8.9, and it has 8.0",
    ]
    assert able[GB10][2:6] == ["12.1", "3.12", "13.0", "aarch64"]
    by_type = {row[0]: row[1:3] for row in rows_under(text, "What passed, by type and stage")}
    assert by_type["architecture"] == ["Ampere", "Blackwell"]
    assert by_type["INT8 prefill"] == ["4/4", "2/2"]
    assert by_type["FP8 prefill"] == [able[A100][-1], "not measured"]
    a100, _ = markdown(root, hardware=A100)
    assert "kernel: nothing measured." in a100
    assert "FP8 cannot run on A100" in a100
    gb10, _ = markdown(root, hardware=GB10)
    assert "kernel: no speed-up over dense, because no dense backend was measured." in gb10


def test_one_gpu_on_two_systems_and_in_two_sources_has_names_of_its_own(tmp_path):
    root = tmp_path / "results"
    for hardware in (HARDWARE, HARDWARE.replace("cu129", "cu130")):
        synthetic.write(root, "prefill", (512,), 0.012, place={"hardware": hardware})
        gather_all(root, hardware)
    names = [row[0] for row in rows_under(compared(root, PUBLISHED), "What was measured")]
    assert len(set(names)) == len(names) == 5


BAD_ROWS = {
    "a zero": (lambda text: text.replace(",8.689,", ",0,", 1), "row 1 not used: it has latency_us = 0, as after a dry"),
    "below zero": (lambda text: text.replace(",8.689,", ",-8.689,", 1), "row 1 not used: it has latency_us = -8.689"),
    "another GPU": (lambda text: text.replace("\nH100,90,", "\nH200,90,", 1), "row 1 not used: it is of H200 cc90"),
    "no value": (lambda text: text.replace(",8.689,", ",,", 1), "row 1 not used: it has no usable latency_us"),
    "no number": (lambda text: text.replace(",8.689,", ",n/a,", 1), "row 1 not used: column latency_us: 'n/a' is no"),
    "no M": (lambda text: text.replace(",dense,64,", ",dense,0,", 1), "row 1 not used: it has M = 0"),
    "another M": (
        lambda text: text.replace(",dense,64,", ",dense,128,", 1),
        "row 1 not used: it contradicts itself: M=",
    ),
    "no shape": (lambda text: text.replace(",64,2560,", ",64,-2560,", 1), "row 1 not used: it has N = -2560"),
    "a repeat": (
        lambda text: text + text.splitlines()[5].replace(",8.689,96.54,96.543,", ",9.689,86.58,86.579,") + "\n",
        "rows 1, 649 not used: the table holds 2 rows for dtype=FP8, model=BitNet-2B, backend=cublaslt, sparsity=dens",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_of_a_tidy_table_costs_itself_alone(tmp_path, name):
    copy = shutil.copytree(PUBLISHED, tmp_path / "published")
    change, cause = BAD_ROWS[name]
    file = copy / "tidy" / H100 / "kernel.csv"
    edit(file, change)
    source = read_source(copy, H100)
    assert source.refused[0].startswith(f"{file}: {cause}")
    lacking = f"{file}: BitNet-2B FP8 cublaslt/dense M=64 lacks N=2560 K=2560: it counts in no sum"
    assert source.refused[1:] == [lacking]
    assert len(source.stage("kernel")) == 647
    assert {row.linear for row in source.stage("kernel")} == {"qkv", "o", "gate_up", "down"}


BAD = {
    "cut": (lambda text: text[:-9], "its last line has no end"),
    "a short row": (lambda text: text + "H100,90\n", "row 649 has 2 of 17 columns"),
    "a column": (lambda text: text.replace("alg_count\n", "algs\n", 1), "unknown column algs"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_tidy_table_is_refused_by_name(tmp_path, name):
    copy = shutil.copytree(PUBLISHED, tmp_path / "published")
    change, cause = BAD[name]
    file = copy / "tidy" / H100 / "kernel.csv"
    edit(file, change)
    source = read_source(copy, H100)
    (sentence,) = source.refused
    assert str(file) in sentence
    assert cause in sentence
    assert source.stage("kernel") == []
    assert len(source.stage("prefill")) == 70


def test_points_are_gathered_before_they_are_compared(tmp_path):
    """Whoever asks for the comparison by its path may have changed a point of other hardware."""
    synthetic.write(tmp_path, "prefill", [512, 1024])
    gather_all(tmp_path, HARDWARE)
    (table,) = tmp_path.glob("*/prefill/*/*/*/*/*.csv")
    whole = table.read_text()
    table.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    write_comparison(tmp_path, [tmp_path])
    assert table.read_text() == whole


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="no source holds anything that could be compared"):
        write_comparison(tmp_path, [tmp_path])
