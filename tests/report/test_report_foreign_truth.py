"""Files of others say what they are: shapes, lengths, outputs, GPU, CUDA and times that contradict it are named."""

import os
import re
import shutil
from pathlib import Path

import pytest

from foreign import DENSE, KERNEL, KERNELS, SEARCH, THROUGHPUT, run_row, search_row, tidy
from reports import HARDWARE, PUBLISHED, edit, gathered, markdown, ours, rows_under, set_column
from slidesparse.machine.families import wrong_capability
from slidesparse.machine.naming import gpu_model
from slidesparse.report.sources import names
from slidesparse.report.sources.read import read_source
from slidesparse.report.sources.shapes import differ, lengths, of_models, wrong_length
from slidesparse.report.tables.roofline import least
from slidesparse.report.write import write_reports
from slidesparse.sparsity.patterns import Pattern

DENSE_SEARCH = KERNELS.format("cuBLASLt") + "/INT8/alg_search_BitNet-2B-INT8.csv"
LIFTS = (
    "gpu,cc,dtype,model,kernel,sparsity,M,K,K_out,latency_us,ratio_to_memcpy,GBps_rw,GBps_incl_memset\n"
    + "RTX4090,89,FP8,BitNet-2B,{},2_8,16,2560,{},5.0,1.2,10,10\n" * 2
)


def refused(root, hardware=HARDWARE):
    return read_source(root, hardware).refused


def other_gate_up(text):
    """A search whose gate_up has half the channels and half the latency."""
    head = next(line for line in text.splitlines() if line.startswith("M,")).split(",")
    times = [at for at, name in enumerate(head) if name.startswith("lat_us_")]
    out = []
    for line in text.splitlines():
        if line.startswith("# NK_list"):
            line = line.replace("(13824", "(6912")
        elif re.match(r"\d+,13824,", line):
            cells = line.split(",")
            cells[1] = "6912"
            for at in times:
                cells[at] = f"{float(cells[at]) / 2:.3f}" if cells[at] else ""
            line = ",".join(cells)
        out.append(line)
    return "\n".join(out) + "\n"


def moved(copy, key, name):
    """The published files as those of another hardware key and GPU."""
    gpu, _, rest = key.partition("_cc")
    cc, _, rest = rest.partition("_")
    for path in sorted(copy.rglob("RTX4090*"), key=lambda path: -len(path.parts)):
        match = re.fullmatch(r"RTX4090_cc89(_INT8|_FP8E4M3)?_py312_cu129_x86_64", path.name)
        path.rename(path.with_name(f"{gpu}_cc{cc}{match[1] or ''}_{rest}" if match else gpu))
    for path in copy.glob("benchmark_kernel/*/alg_search_results/*/*/*.csv"):
        changed = path.read_text().replace("NVIDIA GeForce RTX 4090", name).replace("# CC: cc89", f"# CC: cc{cc}")
        path.write_text(changed)
    return copy


# Shapes and lengths


@pytest.mark.parametrize("file", [SEARCH, DENSE_SEARCH])
def test_a_search_of_another_models_shapes_is_refused(copy, file):
    edit(copy / file, other_gate_up)
    text, (sentence,) = markdown(copy)
    assert sentence.startswith(f"{copy / file} does not belong there: its INT8 cu")
    assert "has N=6912 K=2560" in sentence or "has N=6912 K=2" in sentence
    assert str(file) not in text.split("## Result files")[1]
    assert "total 612/648" in text


def test_all_models_keep_their_own_shapes(copy):
    for path in copy.glob("benchmark_kernel/*/alg_search_results/*/*/*.csv"):
        other = path.with_name(path.name.replace("BitNet-2B", "Other-1B"))
        other.write_text(other_gate_up(path.read_text()).replace("# Model: BitNet-2B", "# Model: Other-1B"))
    source = read_source(copy, HARDWARE)
    assert source.refused == []
    models = of_models(source)
    assert differ(models["BitNet-2B"], models["Other-1B"])
    assert not differ(
        models["BitNet-2B"], of_models(read_source(PUBLISHED, "H100_cc90_py312_cu129_x86_64"))["BitNet-2B"]
    )


def test_our_kernels_of_other_shapes_are_refused(tmp_path):
    root = ours(tmp_path)
    set_column(gathered(root, "kernel"), "N", [1280, 2560, 6912, 2560] * 2)
    assert any("does not belong there: its INT8 cu" in sentence for sentence in refused(root))


@pytest.mark.parametrize("sparsity", ["dense", "2_4", "2_6", "2_8", "2_10", "2_12", "2_14", "2_16", "2_inf"])
@pytest.mark.parametrize("K", [32, 2560, 6912, 8192, 18944])
def test_the_length_of_a_slid_row_tells_that_of_the_weight(sparsity, K):
    pattern = Pattern(sparsity)
    for K_slid in {pattern.K_slid(K), -(-int(K * pattern.gamma) // 32) * 32 if sparsity != "dense" else K}:
        assert wrong_length(sparsity, K, K_slid) is None
        low, high = lengths(sparsity, K_slid)
        assert low <= K <= high
    assert wrong_length(sparsity, K, 3 * K + 129) is not None
    assert lengths(sparsity, (1 << 63) - 1)


def test_a_search_of_another_pattern_is_refused(copy):
    other = (copy / SEARCH).with_name((copy / SEARCH).name.replace("2_8", "2_10")).read_text()
    (copy / SEARCH).write_text(other.replace("# Sparsity: 2_10", "# Sparsity: 2_8"))
    (sentence,) = refused(copy)
    assert sentence == f"{copy / SEARCH} contradicts itself: it has K_factor=1.600, but 1.500 follows from 2_8"
    edit(copy / SEARCH, lambda text: text.replace(" (K_factor=1.600)", ""))
    (sentence,) = refused(copy)
    assert sentence.startswith(f"{copy / SEARCH} does not belong there: its INT8 cusparselt/2_8 has N=2560 K=")


def test_our_rows_of_another_length_are_refused(tmp_path):
    path = gathered(ours(tmp_path), "kernel", "cusparselt", "2_8")
    set_column(path, "K_slid", 4096)
    assert any(f"{path} contradicts itself: M=64 qkv has K'=4096 with K=2560" in each for each in refused(tmp_path))


def test_tidy_columns_that_contradict_others(tmp_path):
    shapes = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)]
    good = [search_row(20.0, N=N, K=K) for N, K in shapes]
    slid = [search_row(15.0, N=N, K=K, backend="cuSPARSELt", pattern="2_8") for N, K in shapes]
    wrong = [row.replace(",2560,3840,15.0", ",2560,2560,15.0").replace(",10368,15.0", ",6912,15.0") for row in slid]
    runs = (
        run_row(15.185).replace(",65.8545,", ",999.0,")
        + run_row(16, M=1024).replace(",131200,", ",7,")
        + run_row(8, M=2048)
    )
    tidy(tmp_path, throughput=THROUGHPUT + runs, kernel=KERNEL + "".join(good + wrong))
    source = read_source(tmp_path, HARDWARE)
    said = "\n".join(source.refused)
    assert "has ms_per_step = 999, but 65.8545 follows" in said
    assert "has total_tokens = 7, but 131200 follow" in said
    assert "has tops = " in said
    assert {row.M for row in source.stage("prefill")} == {2048}
    assert {row.configuration.sparsity for row in source.stage("kernel")} == {"dense"}
    edited = [",".join([*row.split(",")[:11], row.split(",")[12], *row.split(",")[12:]]) for row in wrong]
    (tmp_path / "tidy" / HARDWARE / "kernel.csv").write_text(KERNEL + "".join(good + edited))
    assert any("K_expanded=2560 with K=2560, but 3840 follows from 2_8" in each for each in refused(tmp_path))


# Outputs


def test_the_output_of_a_search_is_kept_and_wide_ones_are_divided(copy):
    source = read_source(copy, HARDWARE)
    found = {(row.configuration.dtype, row.configuration.backend): row for row in source.stage("kernel")}
    said = {key: (row.values["output_of_others"], row.values.get("output")) for key, row in found.items()}
    assert said == {
        ("INT8", "cublaslt"): ("INT32", None),
        ("INT8", "cusparselt"): ("BF16", None),
        ("FP8", "cublaslt"): ("BF16", None),
        ("FP8", "cusparselt"): ("BF16", None),
    }
    assert "kernel BitNet-2B INT8, sum of hot GEMM latencies of a layer, over cublaslt/dense" in markdown(copy)[0]


def test_narrow_outputs_are_a_kind_of_their_own(copy):
    title = "kernel BitNet-2B INT8, sum of hot GEMM latencies of a layer, over cublaslt/dense"
    (before, _) = markdown(copy)
    edit(copy / SEARCH, lambda text: text.replace("INT8 -> BF16", "INT8 -> INT8"))
    text, (sentence,) = markdown(copy)
    assert "kernels of BitNet-2B INT8 with outputs of INT8 (cusparselt/2_8) are not divided" in sentence
    assert len(rows_under(text, title)[0]) == len(rows_under(before, title)[0]) - 1


def test_searches_with_other_numbers_of_calls_are_not_divided(copy):
    edit(copy / SEARCH, lambda text: text.replace("warmup=25, repeat=50", "warmup=2, repeat=5"))
    text, sentences = markdown(copy)
    assert not sentences and "| warmup=2, repeat=5 |" in text
    title = "kernel BitNet-2B INT8, sum of hot GEMM latencies of a layer, over cublaslt/dense"
    assert "cusparselt/2_8" not in str(rows_under(text, title))
    said = text.partition(f"- {title}: ")[2].partition("\n")[0]
    assert "cusparselt/2_8, of 9 M: left out M=64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384 (the denom" in said


@pytest.mark.parametrize("said", ["FOO", "INT4"])
def test_an_unknown_output_is_refused(copy, said):
    edit(copy / SEARCH, lambda text: text.replace("INT8 -> BF16", f"INT8 -> {said}"))
    (sentence,) = refused(copy)
    assert f"{copy / SEARCH} is not read: its header says outputs of {said}" in sentence


def test_an_output_that_is_not_recorded_is_no_fault(copy):
    edit(copy / SEARCH, lambda text: text.replace("INT8 -> BF16", "INT8 -> not recorded"))
    assert refused(copy) == []


# Lifts


@pytest.mark.parametrize("kernel", ["quant_only", "Quant_Slide", "quant_slide_v2"])
def test_a_fused_kernel_that_is_not_shown_is_named(tmp_path, kernel):
    table = LIFTS.format(kernel, 3840, "quant_slide", 3840)
    folder = tidy(tmp_path, quant_kernels=table)
    source = read_source(tmp_path, HARDWARE)
    (sentence,) = source.refused
    assert sentence.startswith(f"{folder / 'quant_kernels.csv'}: row 1 not used: the kernel '{kernel}' is neither")
    assert len(source.lifts) == 1


def test_a_fused_kernel_of_another_length_is_named(tmp_path):
    tidy(tmp_path, quant_kernels=LIFTS.format("memcpy_L4", 2560, "quant_slide", 2560))
    assert any("K_out=2560 with K=2560, but 3840 follows from 2_8" in each for each in refused(tmp_path))


# Status files


def status_of(copy):
    (path,) = copy.glob("vllm_bench_logs/*/*.json")
    return path


def other_cuda(copy):
    """The same files under a second key of the GPU, without its searches."""
    other = HARDWARE.replace("cu129", "cu130")
    for path in sorted(copy.glob("throughput_benchmark_results/*/*cu129*")):
        shutil.copytree(path, path.with_name(path.name.replace("cu129", "cu130")))
    return other


def test_a_status_file_belongs_to_the_key_whose_times_fit(copy):
    other = other_cuda(copy)
    mine, theirs = read_source(copy, HARDWARE), read_source(copy, other)
    assert mine.refused == [] and mine.tasks
    assert theirs.tasks == [] and theirs.dates == []
    (sentence,) = theirs.refused
    assert sentence == f"{status_of(copy)} is not used here: by the times of the searches it is of {HARDWARE}"
    shutil.rmtree(copy / "benchmark_kernel")
    for key in (HARDWARE, other):
        source = read_source(copy, key)
        assert source.tasks == []
        assert f"{status_of(copy)} is not used: it may be of {HARDWARE} or {other}" in source.refused


def test_a_second_status_file_is_named(copy):
    path = status_of(copy)
    older = path.with_name("bitnet_bench_20260127_105916_status.json")
    older.write_text(path.read_text().replace("2026-01-28", "2026-01-27"))
    source = read_source(copy, HARDWARE)
    assert source.refused == [f"{older} is not used: {path} is, the newest complete one of RTX4090"]
    assert source.tasks[0]["seconds"] == pytest.approx(99.9, abs=0.1)


@pytest.mark.parametrize("place", ["RTX4090/slidesparse_bench_20260128_status.json", "GeForceRTX4090/{}", "{}"])
def test_a_status_file_elsewhere_is_named(copy, place):
    path = status_of(copy)
    other = copy / "vllm_bench_logs" / place.format(path.name)
    other.parent.mkdir(exist_ok=True)
    path.rename(other)
    (sentence,) = refused(copy)
    assert sentence.startswith(f"{other} is not read: a status file is vllm_bench_logs/")


@pytest.mark.parametrize("duration", ["true", "NaN", "-1"])
def test_a_duration_is_a_number(copy, duration):
    edit(status_of(copy), lambda text: text.replace("99.91210627555847", duration))
    (sentence,) = refused(copy)
    assert str(status_of(copy)) in sentence and "is damaged" in sentence


# Names


@pytest.mark.parametrize("model", [b"B\xff\xfe", b"A\nB", "e\u202e".encode()])
def test_a_name_that_cannot_be_printed_costs_its_file_only(copy, tmp_path, model):
    bad = os.fsencode((copy / DENSE).parent) + b"/" + model + b"-INT8_prefill.csv"
    shutil.copy(copy / DENSE, bad)
    table = Path(copy, "tidy", HARDWARE)
    table.mkdir(parents=True)
    (table / os.fsdecode(b"x\xff.csv")).write_text("M\n1\n")
    named = [sentence for sentence in refused(copy) if "cannot be printed" in sentence]
    assert len(named) == 2
    assert names.printable(os.fsdecode(bad)) in named[0]
    assert all(sentence.isprintable() for sentence in refused(copy))
    write_reports(tmp_path / "out", [copy])
    assert (tmp_path / "out" / "comparison.en.md").is_file()
    assert "BitNet-2B INT8 35/35" in (tmp_path / "out" / HARDWARE / "report.en.md").read_text()


# GPUs

SAME = [
    ("RTX6000Ada", "NVIDIA RTX 6000 Ada Generation", 89),
    ("RTX6000", "NVIDIA RTX 6000 Ada Generation", 89),
    ("A6000", "NVIDIA RTX A6000", 86),
    ("RTXA6000", "NVIDIA RTX A6000", 86),
    ("H100SXM", "NVIDIA H100 80GB HBM3", 90),
    ("H100PCIe", "NVIDIA H100 PCIe", 90),
    ("H100", "NVIDIA H100 NVL", 90),
    ("A100-80GB", "NVIDIA A100-SXM4-80GB", 80),
    ("A100", "NVIDIA A100 80GB PCIe", 80),
    ("GeForceRTX5090", "NVIDIA GeForce RTX 5090", 120),
    ("RTXPRO6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 120),
    ("GH200", "NVIDIA GH200 480GB", 90),
    ("B300SXM6", "NVIDIA B300 SXM6 AC", 103),
    ("GB10", "NVIDIA GB10", 121),
]
OTHER = [
    ("RTX4090", "NVIDIA GeForce RTX 4080"),
    ("RTX4090", "NVIDIA GeForce RTX 4090 D"),
    ("RTX4090", "NVIDIA GeForce RTX 4090 Laptop GPU"),
    ("RTX6000Ada", "NVIDIA RTX A6000"),
    ("RTX6000Ada", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
    ("L40", "NVIDIA L40S"),
    ("H100", "NVIDIA H200"),
    ("H200", "NVIDIA GH200 480GB"),
    ("A100-80GB", "NVIDIA A10"),
]


@pytest.mark.parametrize(("gpu", "name", "cc"), SAME)
def test_a_head_may_name_the_gpu_of_its_folder_in_other_words(gpu, name, cc):
    key = f"{gpu}_cc{cc}_py312_cu129_x86_64"
    names.refuse_other_head("file", {"GPU": name}, key)
    assert wrong_capability(key) is None


@pytest.mark.parametrize(("gpu", "name"), OTHER)
def test_a_head_of_another_gpu_is_refused(gpu, name):
    with pytest.raises(names.RecordError, match="does not belong there"):
        names.refuse_other_head("file", {"GPU": name}, f"{gpu}_cc89_py312_cu129_x86_64")


def test_a_folder_with_other_words_is_read(copy):
    key = "RTX6000Ada_cc89_py312_cu129_x86_64"
    assert refused(moved(copy, key, "NVIDIA RTX 6000 Ada Generation"), key) == []


def test_a_known_gpu_has_its_compute_capability(copy):
    key = "L40S_cc90_py312_cu129_x86_64"
    source = read_source(moved(copy, key, "NVIDIA L40S"), key)
    assert source.rows == [] and len(source.refused) == 38
    assert all("L40S has compute capability 8.9, and its key says 9.0" in sentence for sentence in source.refused)
    assert wrong_capability("A10_cc89_py312_cu129_x86_64") and not wrong_capability("Other_cc89_py312_cu129_x86_64")
    assert gpu_model("Orin (nvgpu)") == "ORIN"


def test_a_gpu_has_no_figures_of_a_type_that_it_cannot_run(copy, tmp_path):
    key = "A10_cc86_py312_cu129_x86_64"
    source = read_source(moved(copy, key, "NVIDIA A10"), key)
    assert {row.configuration.dtype for row in source.rows} == {"INT8"}
    assert len(source.refused) == 19
    assert all("FP8 cannot run on A10" in sentence for sentence in source.refused)
    table = (THROUGHPUT + run_row(8) + run_row(9, dtype="FP8")).replace("RTX4090,89", "A10,86")
    path = tmp_path / "tables" / "tidy" / key / "throughput.csv"
    path.parent.mkdir(parents=True)
    path.write_text(table)
    (sentence,) = refused(tmp_path / "tables", key)
    assert sentence.startswith(f"{path}: row 2 not used: FP8 cannot run on A10")


@pytest.mark.parametrize(("torch", "runtime", "wrong"), [("cu118", "11.8", True), ("cu118", "12.9", False)])
def test_a_head_of_another_cuda_is_refused(copy, torch, runtime, wrong):
    change = {"2.9.0+cu129": f"2.9.0+{torch}", "runtime: 12.9": f"runtime: {runtime}"}
    edit(copy / SEARCH, lambda text: re.sub("|".join(map(re.escape, change)), lambda found: change[found[0]], text))
    assert len(refused(copy)) == wrong
    assert not wrong or "torch 2.9.0+cu118" in refused(copy)[0] and "its place says cu129" in refused(copy)[0]


def test_a_quadro_has_no_rate_of_a_younger_card_of_its_number():
    gemm = {"N": 4096, "K_slid": 4096, "output": "BF16", "clock_mhz": 1000}
    for name, known in (("Quadro RTX 6000", False), ("NVIDIA RTX 6000 Ada Generation", True)):
        hardware = {"name": name, "sm_count": 72, "memory_bandwidth": 1e12}
        assert bool(least(hardware, "FP8", False, gemm, 16384)) == known


# Times and heads


@pytest.mark.parametrize("time", ["2026-99-99T88:00", "9999-12-31T23:59:59", "soon"])
def test_a_time_that_cannot_be_is_not_taken(copy, time):
    edit(copy / SEARCH, lambda text: re.sub("# Time: .*", f"# Time: {time}", text))
    source = read_source(copy, HARDWARE)
    assert source.refused == [f"{copy / SEARCH}: its header says Time {time}, which is no time: it is not used"]
    assert len(source.rows) == 758
    edit(status_of(copy), lambda text: re.sub('"timestamp": .*', f'"timestamp": "{time}"', text))
    assert read_source(copy, HARDWARE).dates == []


def test_times_of_offsets_are_those_of_one_clock(copy):
    shutil.rmtree(copy / "vllm_bench_logs")
    files = sorted(copy.glob("benchmark_kernel/*/alg_search_results/*/*/*.csv"))
    for number, path in enumerate(files):
        time = "2026-01-28T02:00:00+09:00" if number else "2026-01-28T01:00:00-08:00"
        edit(path, lambda text, time=time: re.sub("# Time: .*", f"# Time: {time}", text))
    text, said = markdown(copy)
    assert said == []
    assert "- Measured: 2026-01-27T17:00:00Z to 2026-01-28T09:00:00Z" in text
    assert names.instant("2026-11-28T11:28:24Z") == "2026-11-28T11:28:24Z"
    assert names.instant("2026-01-28T13:11:23.620525") == "2026-01-28T13:11:23.620525"


def test_an_M_twice_in_a_head_is_one(copy):
    edit(copy / SEARCH, lambda text: text.replace("[64, 128,", "[64, 64, 128,"))
    assert refused(copy) == []


@pytest.mark.parametrize("Ms", ["[64, 128.7,", "[64, true,", "[64, null,", '[64, "128",', "[64, 1e400,"])
def test_an_M_is_a_whole_number(copy, Ms):
    edit(copy / SEARCH, lambda text: text.replace("[64, 128,", Ms))
    assert refused(copy) == [f"{copy / SEARCH} is damaged: its header has no readable M_list and NK_list"]


# Steps


def test_gpu_time_that_is_longer_than_its_step_is_named(tmp_path):
    root = ours(tmp_path)
    path = gathered(root, "decode")
    before = len(refused(root))
    set_column(path, "gpu_step_ms", [1e4, 1e-3])
    found = [sentence for sentence in refused(root) if "of GPU time in it" in sentence]
    assert len(found) == 1 and found[0].startswith(f"{path}: M=64 has a step of") and before == 0
    assert len(read_source(root, HARDWARE).stage("decode")) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CC: cc89", "CC: 8.9"),
        ("CC: cc89", "CC: sm_89"),
        ("-> BF16", "-> bfloat16"),
        ("Sparsity: 2_8", "Sparsity: 2:8"),
    ],
)
def test_other_spellings_of_a_head_are_read(copy, old, new):
    edit(copy / SEARCH, lambda text: text.replace(old, new))
    assert markdown(copy)[1] == []
