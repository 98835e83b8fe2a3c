"""Our own layout: every figure of it comes out, bad files are refused, and what is missing is named."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import synthetic
from reports import H100, HARDWARE, PUBLISHED, edit, gathered, markdown, ours, rows_under
from slidesparse.errors import RecordError
from slidesparse.files import read_json, write_json
from slidesparse.plan import stock
from slidesparse.points import records
from slidesparse.points.request import PROTOCOL, expected_digests
from slidesparse.points.validate import read_point
from slidesparse.report.sources import measured
from slidesparse.report.sources.read import hardware_keys, read_source
from slidesparse.report.tables.columns import COLUMNS
from slidesparse.report.tables.gather import configuration_directories, gather, gather_all, point_files
from slidesparse.report.write import write_report


def test_our_points_have_steady_state_columns(tmp_path):
    text, refused = markdown(ours(tmp_path / "results"))
    assert refused == []
    assert rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")[0] == (
        ["512", "83.33", "42,750", "1.54", "12.000", "11.880 to 12.120", "—", "42,667"]
    )
    ratios = rows_under(text, "decode BitNet-2B INT8, steady-state step time, over cublaslt/dense")
    assert ratios[0] == ["64", "1.20 (1.18–1.22)"]
    assert rows_under(text, "kernel BitNet-2B INT8, sum of cold GEMM latencies of a layer, over cublaslt/dense") == (
        [["64", "1.20 (1.19–1.21)"], ["128", "1.20 (1.19–1.21)"], ["bound", "1.33"]]
    )
    assert "sum over the linears of a layer, hot latency (µs)" in text
    assert "kernel: BitNet-2B INT8 16/16; total 16/16" in text
    assert "Not the published protocol" not in text


def test_a_run_of_another_length_says_so(tmp_path):
    (file,) = synthetic.write(tmp_path / "results", "prefill", [512])
    value = synthetic.point(file)
    value["results"] |= {"steps": 16}
    write_json(file, value)
    gather_all(tmp_path / "results", HARDWARE)
    text, _ = markdown(tmp_path / "results")
    assert "Not the published protocol: 16 steps instead of 128." in text


OUR_DAMAGE = {
    "cut in a row": (lambda text: text[:-7], "its last line has no end"),
    "a short row": (
        lambda text: text.replace(",0.26.0\n", "\n", 1),
        f"has {len(COLUMNS['prefill']) - 2} of {len(COLUMNS['prefill']) - 1} columns",  # of one prompt, none for it
    ),
    "two rows for an M": (lambda text: text + text.splitlines()[1] + "\n", "two rows for M_prefill=512"),
    "an unknown column": (lambda text: text.replace("vllm\n", "sglang\n"), "unknown column sglang"),
    "NaN": (lambda text: text.replace("42750", "NaN"), "'NaN' is no finite number"),
    "a zero": (lambda text: text.replace("42750", "0"), "tokens_per_s = 0, as after a dry run"),
    "a boolean": (lambda text: text.replace("false", "no", 1), "column git_dirty: 'no' is neither true nor false"),
    "an unknown status": (lambda text: text.replace(",ok,", ",fine,", 1), "unknown status"),
    "nothing measured": (
        lambda text: re.sub(r"42750,1.536,12,", ",,,", text),
        "is ok but has no tokens_per_s or step_ms",
    ),
}


@pytest.mark.parametrize("name", OUR_DAMAGE)
def test_a_bad_csv_of_ours_is_refused_by_name(tmp_path, name):
    root = ours(tmp_path / "results")
    change, cause = OUR_DAMAGE[name]
    edit(gathered(root), change)
    text, (sentence,) = markdown(root)
    assert str(gathered(root)) in sentence
    assert cause in sentence
    assert f"- {sentence}" in text
    assert "### prefill BitNet-2B INT8 cublaslt/dense" not in text
    assert "### prefill BitNet-2B INT8 cusparselt/2_8" in text


def test_a_kernel_csv_that_lacks_a_linear_is_refused(tmp_path):
    root = ours(tmp_path / "results")
    edit(gathered(root, "kernel"), lambda text: "\n".join(text.splitlines()[:-1]) + "\n")
    _, (sentence,) = markdown(root)
    assert "is truncated: M=128 lacks down" in sentence


def test_a_csv_in_the_wrong_folder_is_refused(tmp_path):
    root = ours(tmp_path / "results")
    file = gathered(root)
    file.rename(file.with_name("BitNet-2B-FP8_prefill.csv"))
    _, (sentence,) = markdown(root)
    assert "does not belong there: the CSV of this folder is BitNet-2B-INT8_prefill.csv" in sentence


def test_two_provenances_are_both_shown_and_not_divided(tmp_path):
    root = ours(tmp_path / "results")
    synthetic.write(root, "prefill", [2048], 0.02, driver="590.10", commit="b" * 40)
    sparse = {"backend": "cusparselt", "sparsity": "2_8"}
    synthetic.write(root, "prefill", [2048], 0.01, place=sparse)
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    origins = rows_under(text, "Provenance")
    assert [row[4] for row in origins] == ["580.95", "590.10"]
    assert f"`{root}` holds points of different driver: 580.95, 590.10." in text
    assert "holds points of different git_commit" in text
    dense = rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")
    assert [row[-1] for row in dense] == ["P1", "P1", "P2"]
    ratios = rows_under(text, "prefill BitNet-2B INT8, steady-state step time, over cublaslt/dense")
    assert [row[0] for row in ratios] == ["512", "1024", "bound"]
    assert "Left out: 1 ratios of points that differ in hardware name" in text


def test_the_power_limits_of_the_gpu_are_in_the_provenance(tmp_path):
    root = ours(tmp_path / "results")
    assert "not recorded" in rows_under(markdown(root)[0], "Provenance")[0][12]
    for file, limit in zip(sorted(root.rglob("M*.json")), (700.0, 650.0), strict=False):
        point = read_json(file)
        point["hardware"]["power_limit_w"] = limit
        write_json(file, point)
    gather_all(root, HARDWARE)
    assert rows_under(markdown(root)[0], "Provenance")[0][12] == "650 to 700"
    assert "功率上限（W）" in markdown(root, language="zh")[0]


def test_a_ratio_between_two_gpus_is_marked(tmp_path):
    root = ours(tmp_path / "results")
    title = "prefill BitNet-2B INT8, steady-state step time, over cublaslt/dense"
    for uuid in ({}, {"uuid": "aaaa"}):  # not recorded, and one GPU
        for file in root.rglob("M*.json"):
            point = read_json(file)
            write_json(file, point | {"hardware": point["hardware"] | uuid})
        gather_all(root, HARDWARE)
        text, _ = markdown(root)
        assert text.count("⇄") == 1  # the rule under the table
        assert rows_under(text, title)[0][1] == "1.20 (1.18–1.22)"
    other = root / HARDWARE / "prefill/BitNet-2B/INT8/cusparselt/2_8/M512.json"
    point = read_json(other)
    write_json(other, point | {"hardware": point["hardware"] | {"uuid": "bbbb"}})
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    assert [row[1] for row in rows_under(text, title)[:2]] == ["1.20 (1.18–1.22) ⇄", "1.20 (1.18–1.22)"]
    assert text.count("⇄ marks ratios of points that two GPUs measured") == 2  # step times, tokens/s
    assert "aaaa" in text and "bbbb" in text


def test_two_sources_are_not_mixed(tmp_path):
    root = ours(tmp_path / "results")
    text, _ = markdown(root, PUBLISHED)
    mine, theirs = text.split("\n## Source ")[1:]
    assert rows_under(mine, "prefill BitNet-2B INT8 cublaslt/dense")[0][2] == "42,750"
    assert rows_under(theirs, "prefill BitNet-2B INT8 cublaslt/dense")[0][2] == "7,790"
    assert "total 4/4" in mine
    assert "total 70/70" in theirs
    assert [row[0] for row in rows_under(text, "Provenance")] == ["P1", "P2", "P3"]


def test_another_commit_alone_does_not_stop_a_ratio(tmp_path):
    root = ours(tmp_path / "results")
    synthetic.write(root, "prefill", [1024], 0.01, commit="b" * 40, place={"backend": "cusparselt", "sparsity": "2_8"})
    gather_all(root, HARDWARE)
    text, _ = markdown(root)
    assert len(rows_under(text, "Provenance")) == 2
    ratios = rows_under(text, "prefill BitNet-2B INT8, steady-state step time, over cublaslt/dense")
    assert ratios[1] == ["1024", "1.20 (1.18–1.22)"]


def test_what_is_missing_failed_or_left_out_is_said_with_its_reason(tmp_path):
    root = ours(tmp_path / "results")
    big = synthetic.path(root, "prefill", 32768)
    write_json(big, synthetic.out_of_memory(big))
    gather_all(root, HARDWARE)
    log = "results/prefill/M2048.log"
    write_json(big.with_name("M2048.failed.json"), {"reason": "the engine | died", "log": log})
    names = [("INT8", "cublaslt", "dense"), ("INT8", "cusparselt", "2_8"), ("INT8", "cusparselt", "2_4")]
    points = [("prefill", "BitNet-2B", *name, M) for name in names for M in (512, 1024, 2048, 32768)]
    synthetic.plan(root, points, [{"dtype": "FP8", "reason": "it needs compute capability 8.9"}])
    text, refused = markdown(root)
    assert refused == []
    assert "prefill: BitNet-2B INT8 4/12; total 4/12" in text
    found = rows_under(text, "Missing, failed, left out")
    assert ["prefill", "BitNet-2B/INT8/cublaslt/dense", "2048", "—", "the engine \\| died", log] in found
    assert [row[4] for row in found if row[2] == "32768"] == ["20 GiB asked for, 3 GiB free"]
    assert ["prefill", "BitNet-2B/INT8/cusparselt/2_4", "512, 1024, 2048, 32768"] in found
    assert ["prefill", "BitNet-2B/INT8/cusparselt/2_8", "2048, 32768"] in found
    assert "- FP8: it needs compute capability 8.9" in text
    dense = rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")
    assert [row[1] for row in dense] == ["83.33", "83.33", "failed", "out of memory"]


def test_a_point_in_flight_is_being_measured_and_not_failed(tmp_path):
    root = ours(tmp_path / "results")
    for stage, M in (("prefill", 2048), ("kernel", 256)):
        where = synthetic.path(root, stage, M)
        records.write_failure(where, "its program ended before the measurement did", "some.log", unless=os.getpid())
    text, _ = markdown(root)
    _, begun = rows_under(text, "Missing, failed, left out")
    assert begun[:4] == ["prefill", "BitNet-2B/INT8/cublaslt/dense", "2048", "—"]
    assert begun[4].startswith("since 20")
    assert begun[5] == "some.log"
    assert "Being measured:" in text
    assert not re.search("failed:|its program ended", text, re.I)
    assert [row[1] for row in rows_under(text, "prefill BitNet-2B INT8 cublaslt/dense")] == (
        ["83.33", "83.33", "being measured"]
    )
    latencies = rows_under(text, "kernel BitNet-2B INT8 qkv (N=3840, K=2560), cold latency (µs)")
    assert latencies[-1] == ["256", "being measured", "—"]
    assert len(rows_under(text, "Provenance")) == 1
    chinese, _ = markdown(root, language="zh")
    assert "正在测量：" in chinese
    assert "| 2048 | 正在测量 |" in chinese


def test_a_point_whose_program_is_gone_has_failed(tmp_path):
    root = ours(tmp_path / "results")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as program:
        where = synthetic.path(root, "prefill", 2048)
        records.write_failure(where, "its program ended", None, unless=program.pid)
        assert "Being measured:" in markdown(root)[0]
    text, _ = markdown(root)
    assert "Failed:" in text
    assert "Being measured:" not in text


def test_a_failure_beside_a_point_counts_unless_the_csv_has_the_point(tmp_path):
    """The point may be of other parameters than the plan's, and the one that was to replace it has failed."""
    root = ours(tmp_path / "results")
    synthetic.write(root, "prefill", [2048])  # not gathered
    for M in (1024, 2048):
        records.write_failure(synthetic.path(root, "prefill", M), "the engine died", "some.log")
    found = rows_under(markdown(root)[0], "prefill BitNet-2B INT8 cublaslt/dense")
    assert [row[1] for row in found] == ["83.33", "83.33", "failed"]


def test_what_is_not_in_the_plan_is_counted_as_it_is(tmp_path):
    root = ours(tmp_path / "results")
    synthetic.plan(root, [("prefill", "BitNet-2B", "INT8", "cublaslt", "dense", M) for M in (512, 2048)])
    text, _ = markdown(root)
    assert rows_under(text, "Passed")[0] == ["BitNet-2B INT8", "1/2", "2/2", "3/4"]


def test_nothing_measured_yet(tmp_path):
    root = tmp_path / "results"
    synthetic.plan(root, [("kernel", "BitNet-2B", "INT8", "cublaslt", "dense", 64)])
    write_json(root / "models" / "BitNet-2B" / "shape.json", {"linears": [{}, {}, {}, {}]})
    text, _ = markdown(root)
    assert "kernel: BitNet-2B INT8 0/4; total 0/4" in text
    assert "- Hardware: name not recorded" in text


def test_unknown_hardware_is_an_error(tmp_path):
    with pytest.raises(RecordError, match=f"no source holds anything of hardware H200.*there is: {H100}, {HARDWARE}"):
        write_report("H200_cc90_py312_cu129_x86_64", [PUBLISHED], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_models_and_conversions(tmp_path):
    root = ours(tmp_path / "results")
    files = {"model.safetensors": {"size": 1000, "sha256": "0" * 64}}
    source = {"kind": "hub", "repository": "microsoft/bitnet", "revision": "abc"}
    write_json(root / "models" / "BitNet-2B" / "manifest.json", {"source": source, "files": files})
    write_json(root / "models" / "Other" / "manifest.json", {"source": {"kind": "local", "path": "/x"}, "files": {}})
    for sparsity, changed in (("2_8", 250), ("dense", 0)):
        manifest = {"weights": 12345, "zeros_before": 5185, "changed": changed, "files": files}
        write_json(root / "checkpoints" / "BitNet-2B" / "INT8" / f"{sparsity}.json", manifest)
    text, _ = markdown(root)
    assert rows_under(text, "Models and checkpoints") == [
        ["BitNet-2B", "microsoft/bitnet at abc", "1", "1,000"],
        ["checkpoint", "weights", "zeros before", "changed by pruning", "changed (%)", "bytes"],
        ["BitNet-2B/INT8/dense", "12,345", "5,185", "0", "0.000", "1,000"],
        ["BitNet-2B/INT8/2_8", "12,345", "5,185", "250", "2.025", "1,000"],
    ]


def test_points_that_nobody_gathered_are_mentioned(tmp_path):
    root = ours(tmp_path / "results")
    gathered(root).unlink()
    text, _ = markdown(root)
    assert "Points that are in no CSV yet" in text
    assert f"- {gathered(root).parent}" in text


def test_the_kept_measurements_are_whole_and_of_a_clean_commit():
    kept = PUBLISHED.parent / "measured"
    keys = hardware_keys([kept])
    assert keys
    for key in keys:
        source = read_source(kept, key)
        assert source.refused == [] and source.ungathered == []
        assert {row.status for row in source.rows} <= {"ok", "out_of_memory"}
        assert {row.provenance.git_dirty for row in source.rows} == {"false"}
        with tarfile.open(kept / key / "points.tar.xz") as archive:
            points = {name for name in archive.getnames() if Path(name).parts[4] not in stock.VARIANTS}
        assert points == {measured.path_of(kept, row).removeprefix(f"{kept}/") for row in source.rows}


H200 = "H200_cc90_py312_cu130_x86_64"


@pytest.mark.parametrize("key", hardware_keys([PUBLISHED.parent / "measured"]))
def test_kept_tables_are_what_gathering_makes_of_the_kept_points(tmp_path, key):
    """After a change of gathering: unpack the points beside models/ and gather every configuration again."""
    kept = PUBLISHED.parent / "measured"
    shutil.copytree(kept / "models", tmp_path / "models")
    with tarfile.open(kept / key / "points.tar.xz") as archive:
        archive.extractall(tmp_path)
    folders = configuration_directories(tmp_path, key)
    for folder in folders:
        (table,) = (kept / folder.relative_to(tmp_path)).glob("*.csv")
        gather(point_files(folder), tmp_path / "table.csv")
        assert (tmp_path / "table.csv").read_bytes() == table.read_bytes(), table
    assert len(folders) == 64


def test_kept_results_are_not_measured_again(tmp_path, monkeypatch):
    """The H200's kernel points answer what would be asked of them now. The protocols of the other stages rose.

    With the protocols that they had, all points answer: nothing else has changed what is asked of them.
    """
    kept = PUBLISHED.parent / "measured"
    shutil.copytree(kept / H200 / "tuning", tmp_path / H200 / "tuning")
    for name in ("models", "checkpoints"):
        shutil.copytree(kept / name, tmp_path / name)
    plan = json.loads((kept / H200 / "plan.json").read_text())
    write_json(tmp_path / H200 / "plan.json", plan)
    with tarfile.open(kept / H200 / "points.tar.xz") as archive:
        archive.extractall(tmp_path)
    folders = configuration_directories(tmp_path, H200)
    stored = {path: read_point(path)["request"]["digest"] for folder in folders for path in point_files(folder)}
    assert len(stored) == 422

    def asked():
        found = {}
        for folder in folders:
            found |= expected_digests(point_files(folder), plan["parameters"][folder.parts[-5]])
        return found

    stale = [path for path, now in asked().items() if stored[path] != now]
    assert {path.relative_to(tmp_path).parts[1] for path in stale} == {"prefill", "decode"} and len(stale) == 242
    for stage, protocol in (("prefill", 9), ("decode", 7)):
        monkeypatch.setitem(PROTOCOL, stage, protocol)
    assert asked() == stored
