"""A fresh clone of this project, and Snakemake called in it as a user does."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from places import ROOT
from slidesparse.machine import hardware
from slidesparse.plan.backends import STAGES

TINY = "config/test/tiny.yaml"
ONE_PATTERN = json.dumps(
    {"cpu": {stage: {"sparsity": ["2_8"]} for stage in ("kernel", "prefill", "decode")}}
    | {"quality": {"sparsity": ["2_8"], "tokens": 2048}}
)
"""Of the default configuration one pattern, and a tenth of the text."""
DEADLINE = 60  # seconds until a wait counts as failed
PATIENCE = 600  # seconds until a call of Snakemake does
KEY = hardware.key()
ON_CPU = [
    pytest.mark.workflow,
    pytest.mark.engine,
    pytest.mark.skipif(hardware.detect().gpu, reason="these clones measure BitNet-tiny on the CPU"),
]
"""Marks of tests that measure in clones."""
NO_WRITES = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def point(stage, backend, sparsity, M, dtype="INT8", model="BitNet-tiny"):
    """Path of a point of this machine."""
    return f"results/{KEY}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{M}.json"


def expect(call, points, **made):
    """Assert that a dry run measures exactly the `points`, and beside them makes what `made` says."""
    assert call.points == set(points)
    counts = {f"measure_{stage}": sum(f"/{stage}/" in path for path in points) for stage in STAGES}
    folders = {path.rpartition("/")[0] for path in points}
    expected = counts | {"gather_points": len(folders), "write_report": 1, "write_comparison": 1, "all": 1} | made
    assert call.jobs == {rule: count for rule, count in expected.items() if count}


def wait_until(condition, seconds=DEADLINE):
    """Poll `condition` until it holds, and return what it gives."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.02)
    return found


class Call:
    """One call of Snakemake: its process, and what it printed."""

    def __init__(self, command, directory, environment, output):
        self.path, self.directory = output, directory
        with open(output, "wb") as stream:
            streams = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True, **streams)

    @property
    def pid(self):
        return self.process.pid

    @property
    def output(self):
        return self.path.read_text()

    @property
    def everything(self):
        """What it printed, and Snakemake's own lines."""
        log = re.search(r"^Snakemake's own lines: (.+)$", self.output, re.MULTILINE)
        return self.output + ((self.directory / log[1]).read_text() if log else "")

    def running(self):
        return self.process.poll() is None

    def let_pass(self, seconds):
        """Return after so many seconds, or as soon as it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def wait(self, status=0):
        """Wait for its end, which must be with exit `status`; returns itself."""
        ended = self.process.wait(PATIENCE)
        assert ended == status, f"exit {ended}, expected {status}:\n{self.output[-8000:]}"
        return self

    @property
    def jobs(self):
        """rule -> number of jobs, from the table that Snakemake prints before it starts; empty if nothing is to do."""
        table = re.search(r"^Job stats:\n.*\n[- ]+\n((?:\w+ +\d+\n)+)", self.everything, re.MULTILINE)
        if not table:
            assert "Nothing to be done" in self.everything, self.everything[-8000:]
            return Counter()
        counts = Counter({rule: int(count) for rule, count in map(str.split, table[1].splitlines())})
        assert counts.pop("total") == counts.total()
        return counts

    @property
    def points(self):
        """Paths of the points that it measures, or has begun to measure, or would measure (dry run)."""
        return set(
            re.findall(
                r"^(?:local)?rule measure_\w+:\n(?:    .*\n)*?    output: (.+?)(?: \(update\))?$",
                self.everything,
                re.MULTILINE,
            )
        )


class Clone:
    """A directory that holds this project, in a repository of its own, as it is in the working tree."""

    def __init__(self, directory):
        self.directory = directory
        self.beside = directory.with_name(f"{directory.name}.beside")
        self.beside.mkdir(mode=0o700)
        self.calls, self.variables = [], {}
        self.standin = None

    def pretend(self, gpus):
        """From now on there are `gpus`, {node of Slurm or "": [[name, [major, minor], UUID]]}, measured in pretence."""
        self.standin = self.beside / "standin"
        self.standin.mkdir()
        (self.standin / "gpus.json").write_text(json.dumps(gpus))

    def say(self, name, points=()):
        """Tell the stand-ins which points to `hold`, which `fail`, and which are `large` or `fast`."""
        (self.standin / f"{name}.new").write_text("".join(f"{point}\n" for point in points))
        (self.standin / f"{name}.new").rename(self.standin / name)

    @property
    def journal(self):
        """[[begin or end, point, CUDA_VISIBLE_DEVICES]] of the stand-ins' measurements."""
        path = self.standin / "journal"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    @classmethod
    def of_working_tree(cls, directory):
        """A clone with every file that git tracks or would track, committed."""
        listing = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0")
        for name in filter(None, names):
            if (ROOT / name).exists():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, directory / name)
        clone = cls(directory)
        clone.git("init", "--quiet")
        clone.git("add", "--all")
        clone.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message", "clone")
        return clone

    def copy(self, directory):
        """The same clone with all its results and times at another place."""
        shutil.copytree(self.directory, directory, symlinks=True)
        return Clone(directory)

    def cloned_again(self, directory):
        """A new git clone, with the results and Snakemake's metadata copied into it as `cp -r` would."""
        self.git("clone", "--quiet", self.directory, directory)
        for name in ("results", ".snakemake/metadata"):
            shutil.copytree(self.directory / name, directory / name, dirs_exist_ok=True, copy_function=shutil.copyfile)
        return Clone(directory)

    def git(self, *arguments):
        """Standard output of git in the clone."""
        command = ["git", "-C", str(self.directory), *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | NO_WRITES
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    @property
    def environment(self):
        """A user's environment, and `variables`, in which Python finds the clone's library, whatever is installed."""
        own = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"}
        kept = {name: value for name, value in os.environ.items() if name in own}
        path = os.pathsep.join([sysconfig.get_path("scripts"), kept["PATH"]])
        library, sockets = str(self.directory / "workflow"), str(self.beside)
        if self.standin:
            kept["XDG_STANDIN"] = str(self.standin)
            library = f"{self.directory / 'tests/support/standin'}{os.pathsep}{library}"
        return (
            kept
            | {"PATH": path, "PYTHONPATH": library, "XDG_RUNTIME_DIR": sockets, "SLIDESPARSE_LOCKS": sockets}
            | self.variables
        )

    def start(self, *arguments, config=()):
        """Start `snakemake ARGUMENTS`; `config` has files, or YAML text, to lay over config.yaml."""
        files = []
        for i, overlay in enumerate([config] if isinstance(config, str) else config):
            if not overlay.endswith(".yaml"):
                path = self.beside / f"{len(self.calls)}-{i}.yaml"
                path.write_text(overlay)
                overlay = str(path)
            files.append(overlay)
        program = Path(sysconfig.get_path("scripts"), "snakemake")
        command = [sys.executable, str(program), *arguments, *(["--configfile", *files] if files else [])]
        output = self.beside / f"{len(self.calls)}.log"
        self.calls.append(Call(command, self.directory, self.environment, output))
        return self.calls[-1]

    def run(self, *targets, config=(), status=0):
        """`snakemake --cores 1 TARGETS`, ended with exit `status`."""
        return self.start("--cores", "1", *targets, config=config).wait(status)

    def dry_run(self, *targets, config=(), status=0):
        """`snakemake --dry-run TARGETS`, ended with exit `status`."""
        return self.start("--dry-run", *targets, config=config).wait(status)

    def files(self, pattern="**/*"):
        """Relative path -> (time of modification, content) of the files that match `pattern`."""
        found = {path.relative_to(self.directory).as_posix(): path for path in self.directory.glob(pattern)}
        return {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in found.items() if path.is_file()}

    def points(self, stage="*"):
        """As `files`, of the points that are there."""
        found = self.files(f"results/*/{stage}/*/*/*/*/M*.json")
        return {name: facts for name, facts in found.items() if not name.endswith(".failed.json")}

    def failures(self):
        """Relative paths of the records of failed points."""
        return sorted(self.files("results/*/*/*/*/*/*/M*.failed.json"))

    def status(self):
        """What show_status.py prints."""
        command = [sys.executable, "workflow/scripts/show_status.py"]
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def report(self):
        """Text of this machine's report."""
        return self.only("results/cpu-*/report.en.md").read_text()

    def only(self, pattern):
        """The one path that matches `pattern`."""
        (path,) = self.directory.glob(pattern)
        return path

    def edit(self, name, pattern, replacement):
        """Replace the one match of the regular expression `pattern` in file `name`."""
        path = self.directory / name
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"{count} matches of {pattern} in {name}"
        path.write_text(text)

    def remove(self, *names):
        """Delete files and folders."""
        for path in (self.directory / name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def forget_weights(self):
        """Delete all weights."""
        for name in ("models", "checkpoints"):
            shutil.rmtree(self.directory / "resources" / name)

    def processes(self):
        """pid -> command line (a list) of the processes that work in the clone or are told its path."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                place = os.readlink(entry / "cwd")
            except OSError:  # it has ended
                continue
            own = str(self.directory)
            if any(word == own or f"{own}/" in word for word in (place, *command)):
                found[int(entry.name)] = command
        return found

    def wait_until_alone(self):
        """Wait until no process of the clone is left, nor a socket of a worker."""
        wait_until(lambda: not self.processes())
        assert not list(self.beside.glob("slidesparse/*.sock"))

    def stop(self):
        """End every process of the clone."""
        for call in self.calls:
            if call.running():
                call.process.kill()
                call.process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class InFlight:
    """The prefill point that a call is measuring: its path, the pid of its program and that of its engine worker."""

    def __init__(self, clone, call):
        """Wait until a first prefill point has been written and the worker is busy with a next one."""
        self.known, self.begun = clone.points("prefill"), {}
        self.path, self.program, self.worker = wait_until(lambda: self._find(clone, call), PATIENCE)

    def _find(self, clone, call):
        assert call.running(), f"it ended too early:\n{call.output[-8000:]}"
        if not clone.points("prefill").keys() - self.known.keys():
            return None
        processes = clone.processes()
        worker = _worker(processes, call.pid)
        for pid, command in processes.items():
            if worker and len(command) > 1 and command[1].endswith("measure_point.py"):
                path = command[command.index("--output") + 1]
                used = _processor_time(worker)
                if "/prefill/" in path and used > self.begun.setdefault(pid, used) + 0.1:
                    return path, pid, worker
        return None


def _worker(processes, owner):
    """Pid of the engine worker that belongs to `owner`: of its two processes the one that the other has started."""
    words = {"slidesparse.worker.resident", "--kind=slidesparse.worker.handlers:engine", f"--owner={owner}"}
    pids = {pid for pid, command in processes.items() if words <= set(command)}
    return next((pid for pid in pids if _status(pid)[1:2] and int(_status(pid)[1]) in pids), None)


def _processor_time(pid):
    """Seconds of processor time that a process has used."""
    return sum(map(int, _status(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def _status(pid):
    """Fields of /proc/pid/stat from the third on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
