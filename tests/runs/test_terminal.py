"""What a terminal shows of a run of Snakemake, with a small workflow in place of ours, and of our failing one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slidesparse.machine import hardware
from workflow_clone import KEY, TINY

pytest_plugins = ["clones"]
on_cpu = pytest.mark.skipif(hardware.detect().gpu, reason="these clones measure BitNet-tiny on the CPU")

LARGEST = r"prefill( at best INT8 2:8 [0-9.]+|: no ratio counts)"
"""What a run's last line says of prefill. On a busy CPU the one ratio may exceed its bound, and then none counts."""

RULES = """
rule all:
    input: "good/a", "good/b"

rule good:
    output: "good/{name}"
    shell: "touch {output}"

rule bad:
    output: "bad/{name}"
    log: "bad/{name}.log"
    shell: "printf 'warning: first\\\\nfetch.py: the hub is \\\\033[2Jaway\\\\n\\\\n' > {log}; false"

rule silent:
    output: "silent"
    shell: "false"

rule mixed:
    input: "bad/a", "good/a", "bad/b"
"""


@pytest.fixture
def snakemake(tmp_path):
    """Calls Snakemake in a folder with RULES; gives (exit status, the lines that it prints)."""
    (tmp_path / "Snakefile").write_text(RULES)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def call(*arguments):
        command = [sys.executable, "-m", "snakemake", "--logger", "slidesparse", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.returncode, done.stdout.splitlines()

    return call


def test_a_run_in_which_nothing_fails_prints_two_lines_and_the_rest_is_in_the_log(snakemake, tmp_path):
    assert snakemake("--cores", "1") == (0, ["3 jobs: good 2", "3 jobs done"])
    (log,) = Path(tmp_path, ".snakemake/log").glob("*.log")
    for line in ("rule good:", "Job stats:", "3 of 3 steps (100%) done", "Building DAG of jobs...", "Finished jobid: "):
        assert line in log.read_text()
    status, lines = snakemake("--cores", "1")
    assert status == 0 and len(lines) == 1 and lines[0].startswith("Nothing to be done")


def test_a_failed_job_is_one_line_with_the_last_words_of_its_log(snakemake, tmp_path):
    status, lines = snakemake("--cores", "1", "--keep-going", "mixed")
    assert status == 1
    assert sorted(lines) == sorted(
        [
            "4 jobs: bad 2, good 1, mixed 1",
            "failed: bad bad/a: the hub is \ufffd[2Jaway (bad/a.log)",
            "failed: bad bad/b: the hub is \ufffd[2Jaway (bad/b.log)",
            "WorkflowError:",
            "At least one job did not complete successfully.",
        ]
    )
    assert snakemake("--cores", "1", "silent")[1][1] == "failed: silent silent: its log says nothing"


@pytest.mark.parametrize(
    ("rules", "arguments", "sentence"),
    [
        (None, ["nothing"], "MissingRuleException"),
        (None, ["--cores", "none", "all"], "Error parsing number of cores"),
        ("rule all:\n    inptu: 1\n", [], "inptu"),
        ("raise ValueError('a word')\n", [], "a word"),
        ("rule all:\n    input: 'a'\n\nrule a:\n    output: 'a'\n    shell: ':'\n", [], "MissingOutputException"),
        ("onstart:\n    raise ValueError('a word')\n\n\nrule all:\n    shell: ':'\n", [], "a word"),
    ],
)
def test_an_error_of_snakemake_itself_is_printed(snakemake, tmp_path, rules, arguments, sentence):
    if rules:
        (tmp_path / "Snakefile").write_text(rules)
    status, lines = snakemake(
        *(["--cores", "1"] if "--cores" not in arguments else []), "--latency-wait", "0", *arguments
    )
    assert status == 1 and any(sentence in line for line in lines), lines


@pytest.mark.parametrize(
    "arguments", [["--dry-run"], ["--cores", "1", "--verbose"], ["--cores", "1", "--printshellcmds"]]
)
def test_who_asks_for_the_lines_of_snakemake_gets_them(snakemake, arguments):
    status, lines = snakemake(*arguments)
    assert status == 0 and "Job stats:" in lines and any(line.endswith("rule good:") for line in lines)


def test_what_is_no_run_prints_its_lines(snakemake):
    assert snakemake("--list-rules")[1] == ["all", "bad", "good", "mixed", "silent"]


# Ours


@on_cpu
@pytest.mark.workflow
@pytest.mark.engine
def test_a_failing_download_stands_in_the_last_ten_lines_until_one_succeeds(finished):
    """The kernel stage needs no weights, and is there."""
    config = "registry: {Mine: {source: local, path: mine, shape: BitNet-tiny}}\ncpu: {models: [Mine]}"
    call = finished.run("all", config=[TINY, config], status=1)
    last = call.output.splitlines()[-10:]
    sentence = "model Mine: mine cannot be read (No such file or directory)"
    assert any(line.startswith(f"  weights Mine: {sentence}") for line in last), call.output
    assert re.match(rf"Report: results/{KEY}/report\.en\.html · {LARGEST}", last[-1])
    assert last[-1].endswith(" · 1 failed")
    assert f"failed: fetch_model results/models/Mine/manifest.json: {sentence}" in call.output
    assert f"weights Mine: {sentence}" in finished.status()
    (finished.directory / "mine").symlink_to("resources/models/BitNet-tiny")
    call = finished.run("all", config=[TINY, config])
    assert call.output.splitlines()[-1].endswith(" · 0 failed")
    assert "failed" not in finished.status()


@on_cpu
@pytest.mark.workflow
@pytest.mark.engine
def test_a_report_of_what_is_there_names_its_files(finished):
    call = finished.run("report", config=[TINY, "report: {sources: [results, resources/published]}"])
    lines = call.output.splitlines()
    (line,) = [line for line in lines if line.startswith(f"Report: results/{KEY}/report.en.html")]
    assert re.search(LARGEST, line)
    assert line.endswith(" · 0 failed")
    assert lines[-1] == "Report: results/comparison.en.html"
    assert "points are there" not in call.output
