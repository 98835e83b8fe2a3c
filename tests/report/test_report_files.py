"""Files of the report: all hardware at once, only what changed is written, the same inputs give the same bytes."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import synthetic
from places import PROGRAMS, ROOT
from reports import HARDWARE, PUBLISHED, gathered, ours, rows_under
from slidesparse.errors import RecordError
from slidesparse.report.write import write_report, write_reports
from workflow_clone import wait_until

BOTH = ("en", "zh")


def state(root):
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in root.rglob("*") if file.is_file()}


def content(root):
    return {file.relative_to(root): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The report of the published RTX 4090 in both languages."""
    output = tmp_path_factory.mktemp("published")
    assert write_report(HARDWARE, [PUBLISHED], output, BOTH) == []
    return output


def test_a_report_is_two_forms_in_two_languages_and_a_folder(published):
    names = {f"report.{language}.{form}" for language in BOTH for form in ("md", "html")}
    assert {path.name for path in published.iterdir()} == names | {"report"}
    folder = {path.name for path in (published / "report").iterdir()}
    for language in BOTH:
        text = (published / f"report.{language}.md").read_text()
        linked = {part.split(")")[0] for part in text.split("](report/")[1:]}
        assert linked <= folder
        drawn = {name for name in folder if name.endswith(".svg") and ("@zh" in name) == (language == "zh")}
        assert drawn and drawn <= linked


def test_every_table_is_a_csv_with_all_digits(published):
    text = (published / "report" / "published_prefill_BitNet-2B_INT8_cublaslt_dense.csv").read_text()
    assert text.splitlines()[:2] == ["M,requests/s,tokens/s,elapsed (s)", "512,15.185,7789.9184,8.4294"]
    assert (published / "report" / "published_tasks.csv").read_text().startswith("task,status,duration (s)")


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    copy = shutil.copytree(PUBLISHED, tmp_path / "published")
    write_report(HARDWARE, [copy], tmp_path / "first", BOTH)
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
    write_report(HARDWARE, [copy], tmp_path / "again", BOTH)
    assert content(tmp_path / "again") == content(tmp_path / "first")


def test_figures_that_are_no_more_go_away(tmp_path):
    root = ours(tmp_path / "results")
    write_reports(root, [root], HARDWARE)
    drawn = {path.name for path in (root / HARDWARE / "report").glob("*decode*.svg")}
    assert drawn
    shutil.rmtree(root / HARDWARE / "decode")
    (root / HARDWARE / "report" / "notes.txt").write_text("mine")
    (root / HARDWARE / "report" / "notes.csv").mkdir()
    write_reports(root, [root], HARDWARE)
    left = {path.name for path in (root / HARDWARE / "report").iterdir()}
    assert not drawn & left
    assert {"notes.txt", "notes.csv"} <= left


def test_all_reports(tmp_path):
    root = tmp_path / "results"
    cpu = "cpu-Xeon_cc0_py311_cu0_x86_64"
    place = {"hardware": cpu, "backend": "onednn", "model": "BitNet-tiny"}
    synthetic.write(root, "kernel", [16, 64], place=place)
    (bad,) = synthetic.write(root, "prefill", [32], place=place)
    bad.write_text("{")
    (refused,) = write_reports(root, [root, tmp_path / "absent", PUBLISHED])
    assert str(bad) in refused
    mine = (root / cpu / "report.en.md").read_text()
    assert refused in mine
    assert "kernel: BitNet-tiny INT8 8/8; total 8/8" in mine
    assert rows_under(mine, "Tasks")[5][:3] == ["Task 6 kernel, dense", "success", "5.0"]
    assert "total 70/70" in (root / HARDWARE / "report.en.md").read_text()
    assert {path.name for path in (root / HARDWARE).iterdir()} == {"report.en.md", "report.en.html", "report"}
    assert rows_under((root / "comparison.en.md").read_text(), "What each can run")[-1][:2] == [cpu, "cpu-Xeon"]
    before = state(root)
    assert write_reports(root, [root, tmp_path / "absent", PUBLISHED]) == [refused]
    assert state(root) == before


def test_all_reports_rewrite_only_what_changed(tmp_path):
    root = ours(tmp_path / "results")
    other = "H200_cc90_py312_cu130_x86_64"
    synthetic.write(root, "kernel", [64], place={"hardware": other})
    write_reports(root, [root])
    before = state(root)
    synthetic.write(root, "prefill", [4096])
    write_reports(root, [root])
    changed = {file.relative_to(root).as_posix() for file, found in state(root).items() if before.get(file) != found}
    folder = f"{HARDWARE}/report/results_"
    assert {f"{HARDWARE}/report.en.md", f"{HARDWARE}/tasks.csv", "comparison.en.md"} <= changed
    assert f"{folder}BitNet-2B_throughput.svg" in changed
    assert not {name for name in changed if name.startswith(other)}
    assert not {name for name in changed if name.endswith(".svg") and ("kernel" in name or "decode" in name)}


def test_all_reports_of_what_was_only_planned(tmp_path):
    root = tmp_path / "results"
    synthetic.plan(root, [("decode", "BitNet-2B", "INT8", "cublaslt", "dense", 64)])
    assert write_reports(root, [root], HARDWARE) == []
    text = (root / HARDWARE / "report.en.md").read_text()
    assert "decode: BitNet-2B INT8 0/1; total 0/1" in text
    tasks = rows_under(text, "Tasks")
    assert tasks[4][1:4] == ["missing", "—", "0/1"]
    assert tasks[5][1] == "skipped"


@pytest.mark.parametrize(
    "wrong",
    ["prefill", "tasks.csv", "report.en.html", "report", "comparison", "report/answer.json"]
    + ["report/results_BitNet-2B_throughput.svg"],
)
def test_a_folder_or_file_in_place_of_one_output_spares_the_others(tmp_path, wrong):
    root = ours(tmp_path / "results")
    folders = {"prefill": gathered(root), "comparison": root / "comparison"}
    place = folders.get(wrong, root / HARDWARE / wrong)
    if wrong in ("report", "comparison"):
        place.write_text("")
    else:
        place.unlink(missing_ok=True)
        place.mkdir(parents=True)
    sentence = (
        f"{place} is a {'file in place of a folder' if place.is_file() else 'folder in place of a file'}: remove it"
    )
    if wrong in ("prefill", "tasks.csv"):
        assert any(sentence in each for each in write_reports(root, [root]))
    else:
        with pytest.raises(RecordError, match=re.escape(sentence)):
            write_reports(root, [root])
    there = {path.name for path in (root / HARDWARE).iterdir() if path.is_file()}
    assert {"tasks.csv", "report.en.md"} - {wrong} <= there or wrong.split("/")[0] == "report"
    assert (root / "comparison.en.md").is_file() or wrong == "comparison"


RIGHTS = [shutil.which("setpriv"), "--bounding-set", "-dac_override,-dac_read_search,-fowner,-chown"]
"""Runs a program of root without root's rights over the files of others."""


@pytest.mark.skipif(os.geteuid() != 0 or not RIGHTS[0], reason="files of other users need root")
@pytest.mark.parametrize("what", ["points", "table", "all of a key"])
def test_what_another_user_has_made_unreadable_costs_itself_alone(tmp_path, what):
    root = ours(tmp_path / "results")
    other = "H200_cc90_py312_cu130_x86_64"
    synthetic.write(root, "kernel", [64], place={"hardware": other})
    path = {"points": gathered(root).parent, "table": gathered(root)}.get(what, root / other)
    path.chmod(0)
    os.chown(path, 65534, 65534)
    command = [*RIGHTS, sys.executable, PROGRAMS / "write_reports.py", "--results", root, "--sources", root]
    environment = {"PYTHONPATH": str(ROOT / "workflow"), "PATH": "", "MPLCONFIGDIR": "/tmp", "HOME": str(tmp_path)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert (str(path) in done.stderr) is (what != "table")  # which is replaced
    text = (root / HARDWARE / "report.en.md").read_text()
    assert "kernel: BitNet-2B INT8 16/16" in text
    assert ("prefill: BitNet-2B INT8 4/4" in text) is (what != "points")


def test_writers_of_reports_end_with_the_program_that_started_them(tmp_path):
    """Even if it is killed: each of them has a hundred megabytes."""
    command = [PROGRAMS / "write_reports.py", "--results", tmp_path, "--sources", PUBLISHED, "--processes", "2"]
    environment = {"PYTHONPATH": str(ROOT / "workflow"), "PATH": "", "MPLCONFIGDIR": "/tmp", "MARK": str(tmp_path)}
    writing = subprocess.Popen([sys.executable, *map(str, command)], env=environment)

    def processes():
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                found += [path] if f"MARK={tmp_path}".encode() in path.read_bytes() else []
        return found

    wait_until(lambda: len(processes()) >= 3)
    writing.kill()
    writing.wait()
    wait_until(lambda: not processes())


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, str(PROGRAMS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": "", "MPLCONFIGDIR": "/tmp"},
        check=False,
    )


def test_programs(tmp_path, published):
    one = ("write_report.py", "--output", tmp_path / "out", "--languages", *BOTH)
    done = run(*one, "--hardware", HARDWARE, "--sources", PUBLISHED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert content(tmp_path / "out") == content(published)
    failed = run(*one, "--hardware", "H200_cc90_py312_cu129_x86_64", "--sources", ROOT)
    assert failed.returncode == 1
    assert failed.stderr.startswith("write_report.py: no source holds anything")
    root = ours(tmp_path / "results")
    gathered(root).with_name("M512.json").write_text("{")
    done = run("write_reports.py", "--results", root, "--sources", root, PUBLISHED, "--hardware", HARDWARE)
    assert done.returncode == 0
    assert done.stderr.startswith("refused: ")
    assert "M512.json is damaged" in done.stderr
    assert (root / HARDWARE / "report.en.md").is_file()
    assert not (root / "comparison.en.md").exists()
    assert run("write_comparison.py", "--results", root, "--sources", root, PUBLISHED).returncode == 0
    assert (root / "comparison.en.html").is_file()
    failed = run("write_reports.py", "--results", root, "--sources", root, "--hardware", "H200_cc90_py312_cu129_x86_64")
    assert failed.returncode == 1
    assert not (root / "H200_cc90_py312_cu129_x86_64").exists()
    failed = run("write_reports.py", "--results", tmp_path / "none", "--sources", PUBLISHED / "benchmark_kernel")
    assert failed.returncode == 1
    (sentence,) = failed.stderr.splitlines()
    assert sentence.startswith("write_reports.py: no source holds anything to report: found 2 kernel folders, no thr")
    assert sentence.endswith(f"give {PUBLISHED}, the folder above")
    failed = run(*one, "--hardware", HARDWARE, "--sources", PUBLISHED, "--languages", "fr")
    assert failed.stderr == "write_report.py: there is no report in fr: there is en, zh\n"
