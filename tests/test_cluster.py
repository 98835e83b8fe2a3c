"""What jobs ask of a cluster, what is left in its queue, and a cluster that is not Slurm."""

import os
import re
import sys
from collections import Counter

import pytest
import yaml

from slidesparse import cluster
from slidesparse.configuration import validated
from slidesparse.errors import ConfigurationError, SlideSparseError
from workflow_clone import ROOT, Clone

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
            {
                "gpu": 1,
                "gpu_model": "h100",
                "slurm_partition": "hopper",
                "slurm_account": "lab",
                "constraint": "sxm&nvlink",
                "mem_mb": 2000,
                "runtime": 15,
                "cpus_per_task": 4,
                "slurm_extra": "--no-requeue --exclusive",
            },
        ),
        (
            "A100_cc80_py312_cu130_x86_64",
            {
                "gpu": 1,
                "slurm_partition": "gpu",
                "slurm_account": "lab",
                "mem_mb": 2000,
                "runtime": 15,
                "cpus_per_task": 4,
                "slurm_extra": "--no-requeue",
            },
        ),
        *(
            (
                key,
                {
                    "gpu": 0,
                    "slurm_partition": "cpu",
                    "mem_mb": 1000,
                    "runtime": 60,
                    "cpus_per_task": 8,
                    "slurm_extra": "--no-requeue",
                },
            )
            for key in (CPU, None)
        ),
    ],
)
def test_what_a_job_asks_for(key, asked):
    assert cluster.resources(validated(yaml.safe_load(CONFIG)), key) == asked
    assert asked.keys() <= set(cluster.NAMES)


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


def test_profiles_of_clusters_differ_in_their_executor_only():
    read = {name: yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text()) for name in ("slurm", "generic")}
    common = [
        {key: value for key, value in profile.items() if not re.match("slurm|cluster-generic|executor", key)}
        for profile in read.values()
    ]
    assert common[0] == common[1]
    assert f"{read['slurm']['slurm-jobname-prefix']}_" == cluster.JOB_NAME


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
    try:
        call = clone.start("kernel", *profile, config=SWEEP.format(key=key)).wait(1)
        assert len(clone.points("kernel")) == 3, call.output[-8000:]
        clone.say("fail")
        clone.start("kernel", *profile, config=SWEEP.format(key=key)).wait()
    finally:
        clone.stop()
    ended = Counter(point for what, point, _ in clone.journal if what == "end")
    assert len(ended) == 4 and set(ended.values()) == {1}
