"""Fault drills: a run is killed or stopped at a seeded moment, and what must then hold is counted.

All drills of a session share one clone with a small model from a hub on this machine. A drill deletes some of what is
finished, or makes all of it stale, starts the workflow, kills or stops a process of it, and lets the next call finish.
Nothing that was finished may have changed, nothing may be measured twice, a stale point stays until it is replaced, and
no process may be left.
"""

import json
import os
import random
import secrets
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from slidesparse import models
from slidesparse.errors import SlideSparseError
from slidesparse.files import read_json
from slidesparse.models import generate
from slidesparse.points import status
from slidesparse.points.request import expected_digests
from slidesparse.points.validate import read_point
from workflow_clone import KEY, TINY, wait_until

MODEL, REPOSITORY = "BitNet-drill", "owner/bitnet-drill"
TOKEN = f"hf_{secrets.token_hex(16)}"  # not to be seen anywhere
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 20_000,  # 10 MB
}
OVERLAY = f"""
registry: {{{MODEL}: {{source: hub, repository: {REPOSITORY}, revision: main, shape: {SHAPE}}}}}
cpu: {{models: [{MODEL}], kernel: {{M: [8, 16, 24]}}}}
report: {{sources: [results]}}
"""
CHECKPOINTS = [f"results/checkpoints/{MODEL}/INT8/{sparsity}.json" for sparsity in ("dense", "2_8")]
TARGETS = ["kernel", *CHECKPOINTS]
REPORTS = [f"results/{KEY}/report.en.md", f"results/{KEY}/report/contents.csv"]
MODEL_MANIFEST = f"results/models/{MODEL}/manifest.json"

VICTIMS = ("workflow", "everything", "shell", "program", "worker", "guard", "download", "conversion", "report")
"""What is killed: Snakemake; all processes at once; a job's shell; a job's program; the resident worker or its guard;
who downloads, while a file arrives; who converts, while a checkpoint is being written; who writes the report."""

STOPPED = ("stopped worker", "stopped guard", "stopped program", "stopped shell", "stopped rest")
"""What is stopped (SIGSTOP), before Snakemake is told to end (SIGTERM), or is killed. The rest is all but Snakemake."""

ALL = VICTIMS + STOPPED

LONGEST = {
    "shell": 0.5,
    "program": 0.5,
    "worker": 2.5,
    "guard": 2.5,
    "rest": 2.5,
    "download": 0.4,
    "conversion": 0.15,
    "report": 2,
}
"""Seconds after a victim was first seen within which it is killed or stopped."""

SAMPLES = (5, 6)
"""Values of a parameter of the kernel points. With the one, points that were measured with the other are stale."""

HANG = 30
"""Seconds within which everything must have ended after something was stopped and Snakemake was told to end."""

START, STEP = 4.0, 0.6
"""Seconds within which Snakemake is killed when no job has ended yet, and after one has ended."""


def publish(hub, directory):
    """Put the drills' model on a test hub, whose weights arrive in pieces that take a while."""
    generate.generate(directory, 1, SHAPE)
    hub.add(REPOSITORY, {item.name: item.read_bytes() for item in directory.iterdir()})
    hub.pace["model.safetensors"] = 0.05


@dataclass
class Tally:
    """What drills added up to."""

    hits: Counter = field(default_factory=Counter)
    kept: int = 0
    lost: int = 0
    wrong: int = 0
    orphans: int = 0
    seconds: float = 0.0

    def __str__(self):
        victims = ", ".join(f"{victim} {count}" for victim, count in sorted(self.hits.items()))
        return (
            f"{self.hits.total()} hits in {self.seconds:.0f} s ({victims}): {self.kept} finished points seen again,"
            f" {self.lost} lost, {self.wrong} wrong, {self.orphans} orphans"
        )


class Range:
    """The clone in which the drills take place, once finished, and their tally."""

    def __init__(self, clone, endpoint):
        self.clone, self.tally, self.samples = clone, Tally(), SAMPLES[0]
        clone.variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(clone.beside / "home"), "HF_TOKEN": TOKEN}
        self.call([*TARGETS, *REPORTS]).wait()
        self.planned = frozenset(clone.points("kernel"))
        self.engine_points = self.contents_of_engine_points()
        self.manifests = clone.files("results/checkpoints/**/*.json")
        assert len(self.planned) == 6

    def call(self, targets):
        samples = f"cpu: {{measure: {{kernel: {{max_samples: {self.samples}}}}}}}"
        return self.clone.start("--cores", "1", *targets, config=[TINY, OVERLAY, samples])

    def answering(self, points):
        """Those of the points that were measured with the parameters that are asked for now."""
        return {path for path, (_, text) in points.items() if samples_of(text) == self.samples}

    def drill(self, seed, victims=()):
        """Hit one thing, then another in the next call and so on, let the last finish; assert that nothing is hurt."""
        rng, begin = random.Random(seed), time.monotonic()
        for victim in victims or (ALL[seed % len(ALL)], rng.choice(ALL)):
            self.hit(rng, victim)
        present = self.clone.points("kernel")
        call = self.call([*TARGETS, *REPORTS]).wait()
        self.check_alone()
        after = self.clone.points("kernel")
        self.check_kept(present, after)
        self.tally.lost += len(self.planned - after.keys())
        assert after.keys() == self.planned == self.answering(after)
        assert call.points >= self.planned - self.answering(present)
        results = self.clone.directory / "results"
        assert not any(stage.failed for stage in status.read(results, KEY, status.plans(results)[KEY]).values())
        self.engine_points = self.contents_of_engine_points()
        self.check_right()
        self.tally.seconds += time.monotonic() - begin

    def hit(self, rng, victim):
        """Delete something or make it stale, start the workflow, hit `victim` in it, and see what is left."""
        for _ in range(10):
            jobs = self.spoil_some(rng, victim)
            before = self.clone.points("kernel")
            call, hit = self.run_and_hit(rng, victim, jobs)
            if hit:
                break
            assert call.process.returncode == 0, call.output[-8000:]  # it was faster: nothing was hurt, try again
        assert hit, f"the {victim} was never hit"
        self.tally.hits[victim] += 1
        self.check_alone()
        self.check_kept(before, self.clone.points("kernel"))

    def spoil_some(self, rng, victim):
        """Delete some of what is finished or make all points stale; returns the number of jobs this costs.

        What the victim is to make is among it.
        """
        if victim not in ("download", "conversion") and rng.random() < 0.4:
            self.samples = next(samples for samples in SAMPLES if samples != self.samples)
            return len(self.planned)
        return self.delete_some(rng, victim)

    def delete_some(self, rng, victim):
        """Delete some finished things, among them what the victim is to make; returns the number of jobs this costs."""
        clone, gone = self.clone, set(rng.sample(sorted(self.planned), rng.randint(1, len(self.planned) - 1)))
        if victim not in ("download", "conversion") and rng.random() < 0.3:
            table = rng.choice(sorted(clone.files("results/*/tuning/**/*.json")))
            of_table = Path(table).with_suffix("").parts[-2:]
            gone |= {table, *(path for path in self.planned if Path(path).parts[-3:-1] == of_table)}
            # another search may choose otherwise, which makes these stale
            kept = {path: text for path, text in self.engine_points.items() if Path(path).parts[-3:-1] != of_table}
            self.engine_points = kept
        if victim == "download":
            clone.remove("resources/models", MODEL_MANIFEST)
            if rng.random() < 0.5:
                clone.remove("resources/models.lock.json")
        if victim in ("download", "conversion"):  # without the former, nobody would ask for a model
            manifest = rng.choice(CHECKPOINTS)
            clone.remove(manifest, f"resources/checkpoints/{MODEL}/INT8/{Path(manifest).stem}")
        clone.remove(*gone)
        return len(gone)

    def run_and_hit(self, rng, victim, jobs):
        """Start the workflow and hit `victim` in it; returns the call, ended, and whether the victim was hit."""
        ended, share, choice, softly = rng.randrange(jobs), rng.random(), rng.random(), rng.random() < 0.5
        call = self.call(REPORTS if victim == "report" else TARGETS)
        whom = victim.removeprefix("stopped ")
        if victim in ("workflow", "everything"):
            wait_until(lambda: call.everything.count("Finished jobid:") >= ended or not call.running())
            call.let_pass(share * (STEP if ended else START))
        else:
            wait_until(lambda: self.find(whom, call, choice) or not call.running())
            call.let_pass(share * LONGEST[whom])
        pids = self.find(whom, call, choice) if call.running() else []
        hit = [send(pid, signal.SIGSTOP if victim in STOPPED else signal.SIGKILL) for pid in pids]
        if victim in STOPPED and any(hit):
            send(call.pid, signal.SIGTERM if softly else signal.SIGKILL)
            call.process.wait(HANG)
            wait_until(lambda: not self.clone.processes(), HANG)
        call.process.wait(600)
        return call, any(hit)

    def find(self, victim, call, choice):
        """Pids of what is to be killed now; empty if there is none at the moment."""
        processes = self.clone.processes()
        assert not any(TOKEN in word for command in processes.values() for word in command)
        if victim == "workflow":
            return [call.pid]
        if victim == "everything":
            return sorted(processes)
        if victim == "rest":  # once a worker is there
            return sorted(processes.keys() - {call.pid}) if workers(processes) else []
        if victim in ("worker", "guard"):
            return [pid for pid, role in workers(processes).items() if role == victim]
        programs = {pid: command[1] for pid, command in processes.items() if is_program(command)}
        if victim == "shell":
            found = [pid for pid, command in processes.items() if command[:1] and command[0].endswith("bash")]
        elif victim == "program":
            found = list(programs)
        elif victim == "report":
            found = [pid for pid, program in programs.items() if "write_reports" in program]
        elif not any(self.clone.directory.glob(UNDER_WAY[victim])):
            return []
        else:
            found = [pid for pid, program in programs.items() if PROGRAM[victim] in program]
            found += [call.pid] if found else []
        return found and [sorted(found)[int(choice * len(found))]]

    def check_alone(self):
        try:
            wait_until(lambda: not self.clone.processes())
        except AssertionError:
            self.tally.orphans += len(self.clone.processes())
            raise

    def check_kept(self, before, after):
        """What was finished is as it was, to the byte; what was stale may have been replaced.

        Times may be later: after a way back to earlier parameters Snakemake starts jobs that find their point there,
        and touches it.
        """
        lost = before.keys() - after.keys()
        changed = {path for path in before.keys() & after.keys() if not same(before, after, path)}
        finished, replaced = self.answering(before), self.answering(after)
        wrong = {path for path in changed if path in finished or path not in replaced}
        self.tally.kept += len(before)
        self.tally.lost += len(lost)
        self.tally.wrong += len(wrong)
        assert not lost and not wrong, f"lost {lost}, changed {wrong}"
        assert all((self.clone.directory / path).exists() for path in REPORTS), "a report is lost"
        assert self.contents_of_engine_points().items() >= self.engine_points.items()

    def contents_of_engine_points(self):
        """Path -> content. No drill spoils these points; a checkpoint that is made again starts jobs that find them."""
        return {path: text for path, (_, text) in self.clone.points().items() if "/kernel/" not in path}

    def check_right(self):
        """Every point is valid and answers what is asked for; checkpoints have the bytes that they had at first."""
        try:
            for path in (self.clone.directory / path for path in sorted(self.planned)):
                parameters = read_json(path)["request"]["parameters"]
                read_point(path, expected_digests([path], parameters)[path])
            manifests = self.clone.files("results/checkpoints/**/*.json")
            assert {name: content for name, (_, content) in manifests.items()} == {
                name: content for name, (_, content) in self.manifests.items()
            }
            for name in CHECKPOINTS:
                weights = self.clone.directory / "resources/checkpoints" / Path(name).relative_to("results/checkpoints")
                models.verify(weights.with_suffix(""), read_json(self.clone.directory / name)["files"])
        except (AssertionError, SlideSparseError):
            self.tally.wrong += 1
            raise


UNDER_WAY = {
    "download": f"resources/models/.fetch/{MODEL}/partial/*/*.part",
    "conversion": f"resources/checkpoints/{MODEL}/INT8/.*.partial-*/.*.tmp",
}
PROGRAM = {"download": "fetch_model", "conversion": "convert_checkpoint"}


def samples_of(text):
    """The parameter of which SAMPLES are values, in the text of a point."""
    return json.loads(text)["request"]["parameters"]["max_samples"]


def same(before, after, path):
    return before[path][1] == after[path][1]


def send(pid, number):
    """Send a signal; returns whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def is_program(command):
    return len(command) > 1 and command[1].startswith("workflow/scripts/") and "--follow" not in command


def workers(processes):
    """pid -> worker or guard, of the processes of resident workers; the worker is the one that the other started."""
    pids = {pid for pid, command in processes.items() if "slidesparse.worker.resident" in command}
    parents = {pid: parent_of(pid) for pid in pids}
    return {pid: "worker" if parent in pids else "guard" for pid, parent in parents.items()}


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return None
