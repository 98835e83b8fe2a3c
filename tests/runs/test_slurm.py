"""The workflow on a real Slurm on this host (tests/support/slurm/start); GPUs, where they are needed, are pretence."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from places import ROOT
from slidesparse.machine import hardware
from slidesparse.plan import cluster
from workflow_clone import TINY, Clone, wait_until

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "mknod")
MISSING = [name for name in NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
REASON = f"no {', '.join(MISSING)} here (Debian: slurm-wlm, munge)" if MISSING else "Slurm's nodes need root"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.workflow,
    pytest.mark.skipif(MISSING or os.getuid() != 0, reason=REASON),
]

TAIL = f"py{sys.version_info.major}{sys.version_info.minor}_cu130_{os.uname().machine}"
A100, H100, RTX4090 = (f"{name}_{TAIL}" for name in ("A100_cc80", "H100_cc90", "RTX4090_cc89"))
GPUS = {
    "a": [["NVIDIA A100-SXM4-40GB", [8, 0], "GPU-a0"]],
    "b": [["NVIDIA H100 PCIe", [9, 0], "GPU-b0"], ["NVIDIA H100 PCIe", [9, 0], "GPU-b1"]],
    "c": [["NVIDIA GeForce RTX 4090", [8, 9], "GPU-c0"]],
}
SLURM = ("--workflow-profile", "profiles/slurm", "--latency-wait", "5", "--seconds-between-status-checks", "1")

CLUSTER = """
cluster:
  cpu: {mem_mb: 2000, runtime: 2, cpus: 2, partition: cpu}
  gpu: {mem_mb: 1000, runtime: 2, cpus: 1, partition: gpu}
"""

SWEEP = f"""
hardware: [{H100}, {RTX4090}]
models: [BitNet-tiny]
dtypes: [INT8]
kernel: {{M: [16], sparsity: ["2_8"]}}
prefill: {{M: [32, 64], sparsity: ["2_8"]}}
decode: {{M: [4, 8], sparsity: ["2_8"]}}
tune: {{M: [64]}}
share_host: [tune, kernel, prefill, decode]  # these nodes are one host
cluster:
  hardware:
    {H100}: {{constraint: sm90}}
    {RTX4090}: {{gpu: rtx4090}}
"""
"""Ten points for each of two GPUs, in four jobs each."""


class Job(NamedTuple):
    id: str
    name: str
    state: str
    partition: str
    node: str
    memory: str
    limit: str
    output: str

    @property
    def kind(self):
        """The rule, or what of a hardware the group measures."""
        name = self.name.removeprefix(cluster.JOB_NAME)
        return name if name != "GROUP" else "kernel" if "/kernel/" in self.output else "engine"


class Cluster:
    """Slurm's daemons, and ways to kill them and start them again."""

    def __init__(self, directory):
        self.directory = directory
        subprocess.run([ROOT / "tests/support/slurm/start", directory], check=True)

    def stop(self):
        subprocess.run([ROOT / "tests/support/slurm/stop", self.directory], check=True)

    def pid(self, daemon):
        return int((self.directory / f"{daemon}.pid").read_text())

    def jobs(self, *options):
        """[(id, name, state, partition, node, memory, time limit, first output)] of the jobs that Slurm knows."""
        command = ["squeue", "--states=all", "--noheader", "--format=%i|%j|%T|%P|%N|%m|%l|%k", *options]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        return [Job(*line.split("|")) for line in lines]

    def kill_controller(self, job):
        """kill -9, after it has stored what it knows, `job` among it: jobs that it has not stored are lost with it."""
        state = self.directory / "state/job_state"
        before = state.stat().st_mtime_ns
        subprocess.run(["scontrol", "update", f"jobid={job}", "comment=changed"], check=True)
        wait_until(lambda: state.stat().st_mtime_ns > before)
        os.kill(self.pid("slurmctld"), signal.SIGKILL)
        wait_until(lambda: subprocess.run(["scontrol", "ping"], capture_output=True).returncode)

    def start_controller(self):
        subprocess.run(["/usr/sbin/slurmctld"], check=True)
        wait_until(lambda: not subprocess.run(["scontrol", "ping"], capture_output=True).returncode)

    def kill_node(self, node):
        """As if the power of a node had failed: its daemon and all that it runs, at once."""
        jobs = [job.id for job in self.jobs(f"--nodelist={node}", "--states=running")]
        assert jobs
        os.kill(self.pid(f"slurmd-{node}"), signal.SIGKILL)
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                step = any(command.startswith(f"slurmstepd: [{id}.") for id in jobs)
                if step or f"SLURMD_NODENAME={node}" in environment:
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:  # it has ended
                continue

    def start_node(self, node):
        subprocess.run(["/usr/sbin/slurmd", "-N", node], check=True)
        state = ["sinfo", "--noheader", f"--nodes={node}", "--format=%T"]
        wait_until(lambda: set(subprocess.check_output(state, text=True).split()) <= {"idle", "mixed", "allocated"})


def name_of(path):
    """What the stand-ins' journal calls the point at a path."""
    _, key, stage, _, dtype, backend, sparsity, M = Path(path).with_suffix("").parts
    return "/".join((key, stage, dtype, backend, sparsity, M.removeprefix("M")))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


@pytest.fixture
def clone(tmp_path, slurm):
    clone = Clone.of_working_tree(tmp_path / "clone")
    yield clone
    clone.stop()
    shutil.rmtree(clone.directory)


@pytest.mark.engine
@pytest.mark.skipif(hardware.detect().gpu, reason="these clones measure BitNet-tiny on the CPU")
def test_the_whole_workflow_is_measured_through_slurm(slurm, clone):
    before = slurm.jobs()
    clone.start("all", *SLURM, config=[TINY, CLUSTER]).wait()
    jobs = [job for job in slurm.jobs() if job not in before]
    assert Counter((job.kind, job.limit) for job in jobs) == {
        ("convert_checkpoint", "2:00"): 2,
        ("tune_backend", "2:00"): 2,
        ("kernel", "2:00"): 2,
        ("engine", "4:00"): 2,  # of two points each
    }
    assert {job[2:6] for job in jobs} == {("COMPLETED", "cpu", "d", "2000M")}
    assert [len(clone.points(stage)) for stage in ("kernel", "prefill", "decode")] == [2, 2, 2]
    assert clone.failures() == []
    assert "Nothing failed" in clone.report()
    assert clone.dry_run("all", config=TINY).jobs == {}
    clone.wait_until_alone()


@pytest.mark.drills
def test_a_node_that_dies_and_a_job_that_is_cancelled_lose_no_point(slurm, clone):
    clone.pretend(GPUS)
    configurations = (("cublaslt", "dense"), ("cusparselt", "2_8"))
    Ms = {"kernel": (16,), "prefill": (32, 64), "decode": (4, 8)}
    points = {
        f"{key}/{stage}/INT8/{'/'.join(names)}/{M}"
        for key in (H100, RTX4090)
        for names in configurations
        for stage in Ms
        for M in Ms[stage]
    }
    dies = {f"{H100}/{stage}/INT8/cublaslt/dense/{M}" for stage in ("prefill", "decode") for M in Ms[stage]}
    cancelled = f"{RTX4090}/kernel/INT8/cusparselt/2_8/16"
    fails = f"{RTX4090}/prefill/INT8/cublaslt/dense/32"
    clone.say("hold", dies | {cancelled})
    clone.say("fail", [fails])
    known = sum(job.kind == "engine" for job in slurm.jobs())
    call = clone.start("kernel", "prefill", "decode", *SLURM, config=[CLUSTER, SWEEP])

    def begun(wanted):
        assert call.running(), call.output[-8000:]
        return any(what == "begin" and point in wanted for what, point, _ in clone.journal)

    def kernel_of(key, backend):
        return [job.id for job in slurm.jobs() if f"/{key}/kernel/BitNet-tiny/INT8/{backend}/" in job.output]

    def all_submitted():
        return sum(job.kind == "engine" for job in slurm.jobs()) - known == 4

    def ended_as(state):
        return state in [job.state for job in slurm.jobs()]

    wait_until(lambda: begun(dies) and begun({cancelled}) and all_submitted(), 300)
    (job,) = kernel_of(RTX4090, "cusparselt")
    slurm.kill_node("b")
    slurm.kill_controller(job)
    slurm.start_controller()
    wait_until(lambda: not subprocess.run(["scancel", job], capture_output=True).returncode)
    wait_until(lambda: ended_as("CANCELLED") and ended_as("NODE_FAIL"))  # before what is held is let go
    clone.say("hold")
    slurm.start_node("b")
    call.wait(1)
    clone.say("fail")

    ended = Counter(point for what, point, _ in clone.journal if what == "end")
    assert set(ended.values()) == {1} and not ended.keys() & {*dies, cancelled, fails}
    assert {f"{RTX4090}/decode/INT8/cublaslt/dense/{M}" for M in (4, 8)} <= ended.keys()  # the neighbours of `fails`
    assert f"{RTX4090}/prefill/INT8/cublaslt/dense/64" in ended
    kept, before = clone.points(), len(clone.journal)
    finished = {name_of(path) for path in kept}
    assert {point.partition("/")[0] for point in ended.keys() - finished} <= {H100}  # its node died as they ended

    clone.start("kernel", "prefill", "decode", *SLURM, config=[CLUSTER, SWEEP]).wait()
    again = Counter(point for what, point, _ in clone.journal[before:] if what == "end")
    assert again == dict.fromkeys(points - finished, 1)
    present = clone.points()
    assert len(present) == len(points)
    assert {path: present[path] for path in kept} == kept
    assert clone.failures() == []
    nodes = {
        key: {device[:5] for _, point, device in clone.journal if point.startswith(key)} for key in (H100, RTX4090)
    }
    assert nodes == {H100: {"GPU-b"}, RTX4090: {"GPU-c"}}
    clone.wait_until_alone()


def test_a_run_that_was_killed_leaves_no_job_that_measures_beside_the_next(slurm, clone):
    clone.pretend(GPUS)
    prepare(clone, A100)
    point = f"results/{A100}/kernel/BitNet-tiny/INT8/cublaslt/dense/M16.json"
    config = [CLUSTER, SWEEP, f"hardware: {A100}"]
    held = f"{A100}/kernel/INT8/cublaslt/dense/16"
    clone.say("hold", [held])
    call = clone.start(point, *SLURM, config=config)
    wait_until(lambda: clone.journal or not call.running(), 300)
    os.kill(call.pid, signal.SIGKILL)
    call.wait(-signal.SIGKILL)
    again = clone.start(point, *SLURM, config=config)
    wait_until(lambda: len(clone.journal) >= 2 or not again.running(), 300)
    clone.say("hold")
    again.wait()
    assert [what for what, *_ in clone.journal] == ["begin", "begin", "end"]
    assert list(clone.points()) == [point]
    clone.wait_until_alone()


def test_a_variant_of_stock_vllm_is_one_job_and_the_best_is_chosen_here(slurm, clone):
    clone.pretend(GPUS)
    before = {job.id for job in slurm.jobs()}
    places = {"prefill": 8192, "decode": 4}
    best = [f"results/{H100}/{stage}/BitNet-tiny/INT8/vllm/dense/M{M}.json" for stage, M in places.items()]
    clone.start(*best, *SLURM, config=[CLUSTER, SWEEP, f"hardware: {H100}"]).wait()
    jobs = [job for job in slurm.jobs() if job.id not in before and job.partition == "gpu"]
    limits = {job.output.split("/")[5]: job.limit for job in jobs}
    one, both = "2:00", "4:00"  # points
    assert limits == {
        "vllm-piecewise-1": one,
        "vllm-piecewise-32": both,
        "vllm-piecewise-1-own": one,
        "vllm-piecewise-32-own": both,
    }
    assert len(jobs) == 4 and {job.kind for job in jobs} == {"engine"}
    assert set(best) <= clone.points().keys() and len(clone.points()) == 8
    clone.wait_until_alone()


def prepare(clone, key):
    """Put tuning tables of `key` into the clone, as if they had been searched."""
    clone.run("results/models/BitNet-tiny/shape.json")
    for names in ("cublaslt/dense", "cusparselt/2_8"):
        table = clone.directory / f"results/{key}/tuning/BitNet-tiny/INT8/{names}.json"
        table.parent.mkdir(parents=True)
        table.write_text(json.dumps({"schema": 3, "entries": []}))
        table.with_suffix(".csv").touch()


def test_a_job_that_gets_another_gpu_says_so_and_writes_nothing(slurm, clone):
    clone.pretend(GPUS)
    prepare(clone, H100)
    point = f"results/{H100}/kernel/BitNet-tiny/INT8/cublaslt/dense/M16.json"
    wrong = f"cluster: {{hardware: {{{H100}: {{gpu: a100, constraint: sm80}}}}}}"
    call = clone.start(point, *SLURM, config=[CLUSTER, SWEEP, wrong]).wait(1)
    assert call.jobs["measure_kernel"] == 1
    sentence = f"this machine is {A100} and the results asked for belong to {H100}: measure them there"
    assert sentence in clone.only(point.replace(".json", ".log")).read_text()
    assert sentence in call.output
    assert clone.journal == [] and clone.points() == {} and clone.failures() == []
    clone.wait_until_alone()


def test_a_gpu_that_the_cluster_does_not_have_is_refused_at_once(slurm, clone):
    prepare(clone, H100)
    point = f"results/{H100}/kernel/BitNet-tiny/INT8/cublaslt/dense/M16.json"
    wrong = f"cluster: {{hardware: {{{H100}: {{gpu: v100}}}}}}"
    call = clone.start(point, *SLURM, config=[CLUSTER, SWEEP, wrong]).wait(1)
    assert "Requested node configuration is not available" in call.output
    assert clone.points() == {}
