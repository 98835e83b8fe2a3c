"""Files of others in wrong places, and names that are nearly right: each is named, and none vanishes."""

import re
import shutil

import pytest

import synthetic
from reports import HARDWARE, ours
from slidesparse.errors import RecordError
from slidesparse.machine.families import wrong_capability
from slidesparse.machine.naming import gpu_model
from slidesparse.report.sources import agree, names
from slidesparse.report.sources.read import hardware_keys, read_source
from slidesparse.report.tables.gather import gather_all
from slidesparse.report.write import held_sources

B200 = "B200_cc100_py312_cu130_x86_64"


def refused(root, hardware=HARDWARE):
    return read_source(root, hardware).refused


def named(root, *words, hardware=HARDWARE):
    """Whether one sentence on what a root lacks has all these words."""
    return any(all(word in sentence for word in words) for sentence in refused(root, hardware))


@pytest.mark.parametrize("name", ["throughput_benchmark_results", "benchmark_kernel", "vllm_bench_logs"])
def test_a_folder_in_another_case_is_named(copy, name):
    (copy / name).rename(copy / name.title())
    assert named(copy, f"{name.title()} is not read", f"it is written {name}")


def test_a_key_in_another_case_is_named(copy):
    folder = next((copy / "throughput_benchmark_results" / "prefill").glob("*INT8*"))
    folder.rename(folder.with_name(folder.name.replace("RTX", "rtx")))
    assert len(hardware_keys([copy])) == 2
    assert named(copy, "differ in small and capital letters only")


@pytest.mark.parametrize("ending", [".txt", ".tsv", ".xlsx"])
def test_a_table_with_another_ending_is_named(copy, ending):
    path = next((copy / "throughput_benchmark_results").rglob("*.csv"))
    path.rename(path.with_suffix(ending))
    assert named(copy, path.with_suffix(ending).name, "tables are .csv files")


@pytest.mark.parametrize(
    "name",
    [B200.replace("py", "PY"), B200.replace("cc100", "cc10.0"), B200.replace("cc", "CC"), B200.replace("cc", "sm")],
)
def test_a_key_of_ours_with_a_slip_is_named(tmp_path, name):
    ours(tmp_path)
    synthetic.write(tmp_path / "x", "prefill", (512,), place={"hardware": B200})
    shutil.move(tmp_path / "x" / B200, tmp_path / name)
    assert named(tmp_path, f"{name} is not read", "hardware key")


@pytest.mark.parametrize("place", ["old/{key}", "{other}/x"])
def test_a_key_or_stage_of_ours_too_deep_is_named(tmp_path, place):
    ours(tmp_path)
    folder = place.format(key=B200, other=HARDWARE)
    synthetic.write(tmp_path / "y", "prefill", (512,), place={"hardware": B200})
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    shutil.move(tmp_path / "y" / B200, tmp_path / folder)
    assert named(tmp_path, f"{folder} is not read")


@pytest.mark.parametrize("pattern", ["4_8", "6_8"])
def test_a_folder_of_ours_that_is_no_pattern_is_named(tmp_path, pattern):
    ours(tmp_path)
    folder = tmp_path / HARDWARE / "prefill/BitNet-2B/INT8/cusparselt"
    (folder / "2_8").rename(folder / pattern)
    assert named(tmp_path, f"the folder '{pattern}' is no pattern")


def test_points_of_another_gpu_than_the_key_are_refused(tmp_path):
    synthetic.write(tmp_path, "prefill", (512,), place={"hardware": B200})
    gather_all(tmp_path, B200)
    assert refused(tmp_path, B200) == []
    (path,) = (tmp_path / B200).rglob("BitNet-2B-INT8_prefill.csv")
    path.write_text(path.read_text().replace("NVIDIA B200", "NVIDIA GeForce RTX 4090"))
    source = read_source(tmp_path, B200)
    assert not source.rows
    assert "its header says GPU NVIDIA GeForce RTX 4090, its place says B200" in source.refused[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda text: text.replace(",", ";"), "its columns are not separated by commas"),
        (lambda text: text.replace("512,", "5_12,", 1), "'5_12' is no whole number"),
        (lambda text: text.replace("512,", "５12,", 1), "is no whole number"),
    ],
)
def test_what_python_would_take_for_a_number_or_a_column_is_refused(tmp_path, text, said):
    ours(tmp_path)
    path = tmp_path / HARDWARE / "prefill/BitNet-2B/INT8/cusparselt/2_8/BitNet-2B-INT8_prefill.csv"
    path.write_text(text(path.read_text()))
    assert named(tmp_path, said)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("RTX6000PRO", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        ("RTXA2000", "NVIDIA RTX A2000 12GB"),
        ("DGXSpark", "NVIDIA GB10"),
    ],
)
def test_other_names_of_a_gpu_are_its_names(key, name):
    assert gpu_model(key) == gpu_model(name)


def test_an_rtx_6000_may_be_of_three_generations():
    assert wrong_capability("RTX6000Blackwell_cc120_py312_cu129_x86_64") is None
    assert wrong_capability("RTX6000Blackwell_cc90_py312_cu129_x86_64")


def test_a_throughput_folder_without_its_type_is_told_what_it_lacks(copy):
    folder = next((copy / "throughput_benchmark_results" / "prefill").glob("*INT8*"))
    folder.rename(folder.with_name(folder.name.replace("_INT8", "")))
    assert named(copy, "is not a hardware key with the type, such as RTX4090_cc89_INT8_py312_cu129_x86_64")


LIFTS = (
    "gpu,cc,dtype,model,kernel,sparsity,M,K,K_out,latency_us,ratio_to_memcpy,GBps_rw,GBps_incl_memset\n"
    "RTX4090,89,FP8,BitNet-2B,memcpy_L4,2_4,16,2560,2560,5.0,1.0,10,10\n"
    "RTX4090,89,FP8,BitNet-2B,quant_slide,2_8,16,2560,3840,10.0,{},{},10\n"
)


@pytest.mark.parametrize(
    ("ratio", "rate", "said"),
    [
        ("2.0000", "10", None),
        ("-1.2", "10", "ratio_to_memcpy = -1.2"),
        ("0", "10", "ratio_to_memcpy = 0"),
        ("9.99", "10", "ratio_to_memcpy = 9.99, but 2 follows from the copy's row"),
        ("2.0", "-3", "GBps_rw = -3"),
    ],
)
def test_an_impossible_figure_of_a_lift_is_refused(tmp_path, ratio, rate, said):
    folder = tmp_path / "tidy" / HARDWARE
    folder.mkdir(parents=True)
    (folder / "quant_kernels.csv").write_text(LIFTS.format(ratio, rate))
    source = read_source(tmp_path, HARDWARE)
    assert len(source.lifts) == (1 if said else 2)
    assert said is None or any(said in sentence for sentence in source.refused)


def test_a_space_in_a_key_is_told_how_to_mend(tmp_path):
    ours(tmp_path)
    (tmp_path / "B 200_cc100_py312_cu130_x86_64" / "prefill").mkdir(parents=True)
    assert named(tmp_path, f"rename it {B200}")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-28 10:59:16 UTC", "2026-01-28T10:59:16Z"),
        ("Sun Nov 29 16:08:10 UTC 2026", "2026-11-29T16:08:10Z"),
        ("Sun Nov 29 16:08:10 2026", "2026-11-29T16:08:10"),
        ("Sun Foo 29 16:08:10 2026", None),
        ("yesterday", None),
    ],
)
def test_times_as_programs_print_them_are_times(text, time):
    assert names.instant(text) == time


def test_figures_with_few_decimals_are_rounded_and_not_wrong():
    """5.14 µs written as 5.1, and 2.314 requests/s as 2.31; twice the operations contradict the latency as before."""
    row = {"M": 64, "N": 2560, "K": 2560, "us": 5.1, "tops": 163.2}
    assert agree.wrong_operations(row, "us", "tops") is None
    assert agree.wrong_operations(row | {"tops": 326.4}, "us", "tops")
    assert agree.wrong_operations(row | {"us": 5.14, "tops": 165.5}, "us", "tops")
    decode = {"M_decode": 4, "prompt_len": 16, "output_len": 256, "num_prompts": 100, "max_num_seqs": 4}
    decode |= {"requests_per_s": 2.31, "tokens_per_s": 629.408, "elapsed_time_s": 43.215}
    assert agree.contradiction("decode", decode) is None
    assert agree.contradiction("decode", decode | {"tokens_per_s": 700.0})


def test_a_head_may_write_cuda_with_a_point():
    assert names.cuda_of({"torch": "2.9.0+cu12.9"}) == {"torch": "cu129"}


@pytest.mark.parametrize("place", ["{key}", "tidy/{key}", "throughput_benchmark_results/prefill/{typed}"])
def test_a_plain_file_with_the_name_of_a_key_is_named_and_is_no_hardware(copy, place):
    path = copy / place.format(key=B200, typed=B200.replace("cc100", "cc100_INT8"))
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert hardware_keys([copy]) == [HARDWARE]
    assert named(copy, f"{path} is not read: it is a file")
    with pytest.raises(RecordError, match=f"of hardware {B200}; there is: {HARDWARE}; {re.escape(str(path))} is not"):
        held_sources(B200, [copy])
