"""What a job asks of a cluster, and the jobs that a killed run left in the queue."""

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from slidesparse.errors import ConfigurationError, SlideSparseError
from slidesparse.machine import naming

OPTIONS = {
    "partition": "--partition={}",
    "account": "--account={}",
    "qos": "--qos={}",
    "constraint": "--constraint={}",
}
"""key of the configuration: the option of sbatch that has the same meaning."""

PLAIN_OPTIONS = frozenset(
    re.findall(
        "[a-z-]+",
        """begin bind clusters constraint contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu deadline
        dependency distribution exclude exclusive extra-node-info gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket
        gpus-per-task gres gres-flags hint hold licenses mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice
        no-kill nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket overcommit
        oversubscribe power prefer priority reservation signal sockets-per-node spread-job switches thread-spec
        threads-per-core time time-min tmp use-min-nodes wait-all-nodes wckey""",
    )
)
"""Options of sbatch that a configuration may have, because they say what a job needs. All others write files, set the
environment, run commands or name the job. Only the profile may have those (profiles/slurm)."""

NAMES = ("gpu", "mem_mb", "runtime", "cpus_per_task", "sbatch")
"""The resources that jobs ask for."""

JOB_NAME = "slidesparse_"
"""The beginning of the names of our jobs (profiles/slurm)."""

PATIENCE_S = 60

SUBMITTED = ".snakemake/slurm"
"""The folder of logs that the first job submitted from a directory makes (profiles/slurm)."""


def resources(config, hardware_key=None):
    """Resources of a job, from a validated configuration; without a hardware key it runs on any machine."""
    gpu = bool(hardware_key and naming.parse(hardware_key).cc)
    job = config["cluster"]["gpu" if gpu else "cpu"] | config["cluster"]["hardware"].get(hardware_key, {})
    words = [text.format(job[key]) for key, text in OPTIONS.items() if key in job]
    if gpu:
        words.insert(0, f"--gpus={job['gpu']}:1" if "gpu" in job else "--gpus=1")
    words += further_options(job.get("options", []))
    return {
        "gpu": int(gpu),
        "mem_mb": job["mem_mb"],
        "runtime": job["runtime"],
        "cpus_per_task": job["cpus"],
        "sbatch": shlex.join(words),
    }


def further_options(options, key="cluster.….options"):
    """The words of `options`, a text or a list of texts, split as by a shell; each word is one option of sbatch.

    key: the name of the options in the configuration, for errors. Raises ConfigurationError for a word that is no
    option, or one that is not in PLAIN_OPTIONS.
    """
    try:
        words = [word for text in ([options] if isinstance(options, str) else options) for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigurationError(f"{key} is {options!r:.80}, which cannot be split into words: {error}") from None
    for word in words:
        name = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?", word)
        if not name:
            raise ConfigurationError(
                f"{key} has {word!r:.80}, but every word must be a long option of sbatch, --name or --name=value"
            )
        if name[1] not in PLAIN_OPTIONS:
            raise ConfigurationError(
                f"{key} has --{name[1]:.80}, but may only say what a job needs: {', '.join(sorted(PLAIN_OPTIONS))};"
                f" set others in profiles/slurm/profile.yaml"
            )
    return words


def cancel_left_over(directory):
    """Cancel the Slurm jobs that a killed run in `directory` left, and wait until they have ended.

    Raises SlideSparseError if they do not end, or if Slurm does not say whether there are any although jobs have been
    submitted from here. Does nothing on a machine without Slurm.
    """
    if not shutil.which("squeue"):
        return
    submitted = Path(directory, SUBMITTED).is_dir()
    deadline = time.monotonic() + PATIENCE_S
    while (left := _jobs(directory)) or (left is None and submitted):
        if time.monotonic() > deadline:
            if left is None:
                raise SlideSparseError(
                    "squeue does not say whether jobs of an earlier run are in the queue: wait until Slurm answers"
                )
            raise SlideSparseError(
                f"jobs of an earlier run do not end: wait until squeue no longer lists {', '.join(left)}"
            )
        if left:
            subprocess.run(["scancel", *left], capture_output=True)
        time.sleep(0.5)
    for marker in Path(directory, ".snakemake/incomplete").glob("**/*"):
        if marker.is_file():  # because of it Snakemake would wait for those jobs
            marker.unlink()


def _jobs(directory):
    """Ids of our jobs in the queue that work in `directory`; None if Slurm does not say."""
    command = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%j|%Z"]
    try:
        lines = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    jobs = [line.split("|", 2) for line in lines if line.count("|") >= 2]
    here = os.path.realpath(directory)
    return [id for id, name, place in jobs if name.startswith(JOB_NAME) and os.path.realpath(place) == here]
