"""What a job asks of a cluster, and the jobs that an ended run left in its queue."""

import getpass
import os
import shutil
import subprocess
import time

from slidesparse import hardware
from slidesparse.errors import SlideSparseError

RESOURCES = {
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "qos",
    "constraint": "constraint",
    "gpu": "gpu_model",
    "mem_mb": "mem_mb",
    "runtime": "runtime",
    "cpus": "cpus_per_task",
    "options": "slurm_extra",
}
"""key of the configuration: the resource of Snakemake that says the same."""

NAMES = ("gpu", *RESOURCES.values())
"""Every resource that `resources` may name."""

JOB_NAME = "slidesparse_"
"""How the names of our jobs begin (slurm-jobname-prefix in profiles/slurm)."""

PATIENCE_S = 60


def resources(config, hardware_key=None):
    """Resources of a job on a hardware key, or of one that runs on any machine, from a validated configuration."""
    gpu = bool(hardware_key and hardware.parse(hardware_key).cc)
    job = config["cluster"]["gpu" if gpu else "cpu"] | config["cluster"]["hardware"].get(hardware_key, {})
    asked = {name: job[key] for key, name in RESOURCES.items() if key in job}
    # A job that its cluster starts again by itself would measure what it has measured already.
    return asked | {"gpu": int(gpu), "slurm_extra": " ".join(filter(None, ["--no-requeue", asked.get("slurm_extra")]))}


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


def _jobs(directory):
    """Ids of our jobs in the queue that work in `directory`; none where Slurm does not answer."""
    command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%j|%Z"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    jobs = [line.split("|", 2) for line in lines if line.count("|") >= 2]
    here = os.path.realpath(directory)
    return [id for id, name, place in jobs if name.startswith(JOB_NAME) and os.path.realpath(place) == here]
