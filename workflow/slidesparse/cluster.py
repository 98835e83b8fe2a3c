"""What a job asks of a cluster, and the jobs that an ended run left in its queue."""

import getpass
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from slidesparse import hardware
from slidesparse.errors import SlideSparseError

OPTIONS = {
    "partition": "--partition={}",
    "account": "--account={}",
    "qos": "--qos={}",
    "constraint": "--constraint={}",
}
"""key of the configuration: the option of sbatch that says the same."""

NAMES = ("gpu", "mem_mb", "runtime", "cpus_per_task", "sbatch")
"""The resources that jobs ask for."""

JOB_NAME = "slidesparse_"
"""How the names of our jobs begin (profiles/slurm)."""

PATIENCE_S = 60


def resources(config, hardware_key=None):
    """Resources of a job on a hardware key, or of one that runs on any machine, from a validated configuration."""
    gpu = bool(hardware_key and hardware.parse(hardware_key).cc)
    job = config["cluster"]["gpu" if gpu else "cpu"] | config["cluster"]["hardware"].get(hardware_key, {})
    options = [text.format(shlex.quote(job[key])) for key, text in OPTIONS.items() if key in job]
    if gpu:
        options.insert(0, f"--gpus={job['gpu']}:1" if "gpu" in job else "--gpus=1")
    return {
        "gpu": int(gpu),
        "mem_mb": job["mem_mb"],
        "runtime": job["runtime"],
        "cpus_per_task": job["cpus"],
        "sbatch": " ".join([*options, *filter(None, [job.get("options")])]),
    }


def cancel_left_over(directory):
    """Cancel the Slurm jobs that a run in `directory` left when it was killed, and wait until they have ended.

    Raises SlideSparseError if they do not end. Where there is no Slurm nothing happens.
    """
    if not shutil.which("squeue"):
        return
    deadline = time.monotonic() + PATIENCE_S
    while left := _jobs(directory):
        if time.monotonic() > deadline:
            raise SlideSparseError(
                f"jobs of an earlier run do not end: wait until squeue no longer lists {', '.join(left)}"
            )
        subprocess.run(["scancel", *left], capture_output=True)
        time.sleep(0.5)
    for marker in Path(directory, ".snakemake/incomplete").glob("**/*"):
        if marker.is_file():  # by which Snakemake would wait for those jobs
            marker.unlink()


def _jobs(directory):
    """Ids of our jobs in the queue that work in `directory`; none where Slurm does not answer."""
    command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%j|%Z"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    jobs = [line.split("|", 2) for line in lines if line.count("|") >= 2]
    here = os.path.realpath(directory)
    return [id for id, name, place in jobs if name.startswith(JOB_NAME) and os.path.realpath(place) == here]
