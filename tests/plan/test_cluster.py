"""What jobs ask of a cluster, what is left in its queue, and a cluster that is not Slurm."""

import os
import subprocess
import sys
from collections import Counter

import pytest
import yaml

from places import ROOT
from slidesparse.errors import ConfigurationError, SlideSparseError
from slidesparse.plan import cluster
from slidesparse.plan.matrix import validated
from workflow_clone import Clone

H100 = "H100_cc90_py312_cu130_x86_64"
CPU = "cpu-AMD-EPYC_cc0_py311_cu0_x86_64"

CONFIG = f"""
cluster:
  cpu: {{partition: cpu, mem_mb: 1000, runtime: 60, cpus: 8}}
  gpu: {{partition: gpu, mem_mb: 2000, runtime: 15, cpus: 4, account: lab}}
  hardware:
    {H100}: {{partition: hopper, constraint: "sxm&nvlink", gpu: h100, options: --exclusive}}
"""


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        (
            H100,
            (1, 2000, 15, 4, "--gpus=h100:1 --partition=hopper --account=lab '--constraint=sxm&nvlink' --exclusive"),
        ),
        ("A100_cc80_py312_cu130_x86_64", (1, 2000, 15, 4, "--gpus=1 --partition=gpu --account=lab")),
        (CPU, (0, 1000, 60, 8, "--partition=cpu")),
        (None, (0, 1000, 60, 8, "--partition=cpu")),
    ],
)
def test_what_a_job_asks_for(key, asked):
    assert cluster.resources(validated(yaml.safe_load(CONFIG)), key) == dict(zip(cluster.NAMES, asked, strict=True))


def test_a_gpu_is_not_asked_for_where_there_is_none():
    with pytest.raises(ConfigurationError, match="this needs no GPU"):
        validated({"cluster": {"hardware": {CPU: {"gpu": "h100"}}}})


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Stands in for Slurm: a file with the lines that squeue prints, until the job is cancelled."""
    programs, lines = tmp_path / "bin", tmp_path / "queue"
    programs.mkdir()
    (programs / "squeue").write_text(f"#!/bin/sh\ncat {lines}\n")
    (programs / "scancel").write_text(f'#!/bin/sh\nfor id; do sed -i "/^$id|/d" {lines}; done\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return lines


def test_only_our_jobs_of_this_directory_are_cancelled(queue, tmp_path):
    others = f"2|slidesparse_b|/elsewhere\n3|simulation|{tmp_path}\n"
    queue.write_text(f"1|slidesparse_a|{tmp_path}\n{others}4|slidesparse_a|{tmp_path}\n")
    cluster.cancel_left_over(tmp_path)
    assert queue.read_text() == others


def test_a_job_that_does_not_end_is_named(queue, tmp_path, monkeypatch):
    queue.write_text(f"17|slidesparse_a|{tmp_path}\n")
    (queue.parent / "bin/scancel").write_text("#!/bin/sh\n")
    monkeypatch.setattr(cluster, "PATIENCE_S", 0)
    with pytest.raises(SlideSparseError, match="do not end: wait until squeue no longer lists 17"):
        cluster.cancel_left_over(tmp_path)


def test_a_queue_that_does_not_answer_is_not_taken_for_empty(queue, tmp_path, monkeypatch):
    queue.write_text(f"17|slidesparse_a|{tmp_path}\n")
    (queue.parent / "bin/squeue").write_text(f"""#!/bin/sh
if [ ! -e {tmp_path}/asked ]; then touch {tmp_path}/asked; exit 1; fi
cat {queue}
""")
    (tmp_path / cluster.SUBMITTED).mkdir(parents=True)
    cluster.cancel_left_over(tmp_path)
    assert not queue.read_text()
    (queue.parent / "bin/squeue").write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(cluster, "PATIENCE_S", 0)
    with pytest.raises(SlideSparseError, match="squeue does not say whether jobs of an earlier run"):
        cluster.cancel_left_over(tmp_path)


def test_where_no_job_was_submitted_slurm_need_not_answer(queue, tmp_path):
    (queue.parent / "bin/squeue").write_text("#!/bin/sh\nexit 1\n")
    cluster.cancel_left_over(tmp_path)


def test_profiles_of_clusters_differ_in_their_commands_only():
    read = {name: yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text()) for name in ("slurm", "generic")}
    common = [
        {key: value for key, value in profile.items() if not key.startswith("cluster-generic")}
        for profile in read.values()
    ]
    assert common[0] == common[1]
    assert f"--job-name={cluster.JOB_NAME}" in read["slurm"]["cluster-generic-submit-cmd"]


@pytest.mark.parametrize(
    ("said", "status", "meaning"),
    [
        ("COMPLETED", 0, "success"),
        ("PENDING", 0, "running"),
        ("COMPLETING", 0, "running"),
        ("NODE_FAIL", 0, "failed"),
        ("CANCELLED", 0, "failed"),
        ("slurm_load_jobs error: Invalid job id specified", 1, "failed"),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1, "running"),
    ],
)
def test_what_has_become_of_a_job(queue, said, status, meaning):
    (queue.parent / "bin/squeue").write_text(f"#!/bin/sh\necho '{said}' >&{1 + status}\nexit {status}\n")
    done = subprocess.run([ROOT / "profiles/slurm/status", "17"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{meaning}\n"


SWEEP = """
hardware: {key}
models: [BitNet-tiny]
dtypes: [INT8]
kernel: {{M: [16, 32], sparsity: ["2_4"]}}
tune: {{M: [64]}}
"""


@pytest.mark.workflow
def test_points_are_measured_through_another_scheduler_and_a_failing_one_spares_its_neighbour(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    clone.pretend({"": [["NVIDIA H100 PCIe", [9, 0], "GPU-00"]]})
    key = f"H100_cc90_py{sys.version_info.major}{sys.version_info.minor}_cu130_{os.uname().machine}"
    clone.say("fail", [f"{key}/kernel/INT8/cublaslt/dense/16"])
    profile = ["--workflow-profile", "profiles/generic", "--cluster-generic-submit-cmd", "sh", "--latency-wait", "5"]
    profile += ["--seconds-between-status-checks", "1"]
    try:
        call = clone.start("kernel", *profile, config=SWEEP.format(key=key)).wait(1)
        assert len(clone.points("kernel")) == 3, call.output[-8000:]
        clone.say("fail")
        clone.start("kernel", *profile, config=SWEEP.format(key=key)).wait()
    finally:
        clone.stop()
    ended = Counter(point for what, point, _ in clone.journal if what == "end")
    assert len(ended) == 4 and set(ended.values()) == {1}
