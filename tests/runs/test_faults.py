"""Faults of the machine: disks full and read-only, a clock that goes back, no memory, a point that hangs; strangers."""

import contextlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

import pytest

from bad_inputs import GENERATED
from places import SUPPORT
from slidesparse import models, program
from slidesparse.errors import MeasurementError, OutOfMemoryError, SlideSparseError
from slidesparse.files import read_json, sealed
from slidesparse.machine import hardware
from slidesparse.points import measure, records
from slidesparse.worker import devices, resident
from workflow_clone import TINY, Clone, wait_until

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(hardware.detect().gpu, reason="these clones measure BitNet-tiny on the CPU"),
]

KEY = hardware.key()
MODEL = "BitNet-tiny"
QUICK = {"warmup_s": 0, "min_samples": 3, "max_samples": 5, "relative_ci": 0.5, "time_limit_s": 0.05}
POINT = f"{KEY}/kernel/{MODEL}/INT8/onednn/dense/M16.json"
TABLE = f"{KEY}/tuning/{MODEL}/INT8/onednn/dense.json"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A clone in which the kernel stage of the tiny configuration has been run. Not to be changed."""
    clone = Clone.of_working_tree(tmp_path_factory.mktemp("measured") / "clone")
    try:
        clone.run("kernel", config=TINY)
        yield clone
    finally:
        clone.stop()


@pytest.fixture
def finished(measured, tmp_path):
    """A copy of it, to be changed."""
    clone = measured.copy(tmp_path / "clone")
    yield clone
    clone.stop()


class Programs:
    """The programs of the clone, run by hand with their output below `results`."""

    def __init__(self, clone, results):
        self.clone, self.results = clone, results
        self.inputs = clone.directory / "results"

    def run(self, name, *arguments, **options):
        command = [sys.executable, f"workflow/scripts/{name}.py", *map(str, arguments)]
        options = {"cwd": self.clone.directory, "env": self.clone.environment, "timeout": 120} | options
        return subprocess.run(command, capture_output=True, text=True, **options)

    def describe_model(self):
        return self.run(
            "describe_model",
            "--model",
            MODEL,
            "--entry",
            json.dumps(GENERATED),
            "--output",
            self.results / "shape.json",
        )

    def fetch_model(self):
        options = ["--entry", json.dumps(GENERATED), "--resources", self.results, "--output", self.results / "m.json"]
        return self.run("fetch_model", "--model", MODEL, *options)

    def convert_checkpoint(self):
        manifest = self.clone.beside / "manifest.json"
        manifest.write_text(json.dumps(models.fetch(MODEL, GENERATED, self.clone.beside)))
        options = ["--dtype", "INT8", "--sparsity", "2_8", "--output", self.results / "c.json"]
        return self.run("convert_checkpoint", "--model-manifest", manifest, *options, "--resources", self.results)

    def tune_backend(self):
        options = ["--basis", self.inputs / "models" / MODEL / "shape.json", "--M", 16, "--no-resident"]
        return self.run("tune_backend", "--output", self.results / TABLE, *options, "--parameters", json.dumps(QUICK))

    def measure_point(self, *more, M=16, parameters=QUICK, table=None, **options):
        output = (self.results / POINT).with_name(f"M{M}.json")
        inputs = ["--basis", self.inputs / "models" / MODEL / "shape.json", "--tuning", table or self.inputs / TABLE]
        return self.run(
            "measure_point", "--output", output, *inputs, "--parameters", json.dumps(parameters), *more, **options
        )

    def measure_alone(self):
        return self.measure_point("--no-resident")

    def gather_points(self):
        return self.run("gather_points", "--points", self.inputs / POINT, "--output", self.results / "some.csv")

    def write_reports(self):
        return self.run("write_reports", "--results", self.results, "--sources", self.results, "--hardware", KEY)


WRITING = (
    "describe_model",
    "fetch_model",
    "convert_checkpoint",
    "tune_backend",
    "measure_alone",
    "gather_points",
    "write_reports",
)


@contextlib.contextmanager
def disk(directory, **options):
    """Mount a disk of its own at `directory`; yields a function that mounts it again with other options."""

    def mount(*words, **options):
        text = ",".join([*words, *(f"{name}={value}" for name, value in options.items())])
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", text, "tmpfs", directory], capture_output=True)
        if done.returncode:
            pytest.skip("mounting needs root")

    directory.mkdir(parents=True, exist_ok=True)
    mount(**options)
    try:
        yield lambda *words, **more: mount("remount", *words, **more)
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(path):
    """Let a file take all room of its disk."""
    with open(path, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(1 << 12))
    return path


def written(directory):
    return {path for path in directory.rglob("*") if path.is_file() and not path.name.endswith((".lock", "lock"))}


def only_sentence(done):
    """The one sentence that a failing program ends with."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(finished, tmp_path, name):
    """Every program that writes results: refused while there is no room, and done by the same call once there is."""
    place = tmp_path / "disk"
    with disk(place, size="32m"):
        programs = Programs(finished, place)
        if name == "write_reports":
            shutil.copytree(programs.inputs / KEY / "kernel", place / KEY / "kernel")
            for table in place.rglob("*.csv"):
                table.unlink()
        before = written(place)
        filler = fill(place / "filler")
        sentence = only_sentence(getattr(programs, name)())
        assert "No space left on device" in sentence or "no room" in sentence
        left = {path for path in written(place) - before - {filler} if path.stat().st_size}
        assert not left, "something half was left"
        filler.unlink()
        done = getattr(programs, name)()
        assert done.returncode == 0, done.stderr
        assert written(place) - before


def test_a_workflow_whose_disk_fills_up_or_is_read_only_says_so_and_goes_on_later(finished):
    results = finished.directory / "results"
    kept = finished.beside / "kept"
    shutil.copytree(results, kept)
    with disk(results, size="16m") as again:
        shutil.copytree(kept, results, dirs_exist_ok=True)
        (results / POINT).unlink()
        before = finished.points()
        again("ro")
        call = finished.run("kernel", config=TINY, status=1)
        assert re.search("Write-protected output files|Read-only file system", call.output)
        again("rw")
        fill(results / "filler")
        call = finished.run("kernel", config=TINY, status=1)
        assert "No space left on device" in call.output
        assert finished.points() == before
        (results / "filler").unlink()
        used = os.statvfs(results)
        again("rw", size=(used.f_blocks - used.f_bfree + 2) * used.f_frsize)  # enough for the plan and a log
        call = finished.run("kernel", config=TINY, status=1)
        assert re.search("No space left on device|its disk has no room", call.output), call.output
        assert "Error in file" not in call.output and "Report: " not in call.output
        assert finished.points() == before
        again("rw", size="16m")
        call = finished.run("kernel", config=TINY)
        assert call.points == {f"results/{POINT}"}
        after = finished.points()
        assert {path: after[path] for path in before} == before
        finished.wait_until_alone()


def test_without_room_for_temporary_files_a_run_says_so(tmp_path, monkeypatch):
    with disk(tmp_path / "tmp", size="16k"):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
        program.refuse_no_room_for_temporary_files()
        fill(tmp_path / "tmp" / "filler")
        with pytest.raises(
            SlideSparseError, match="no temporary file can be written in .*: make room there, or set TMP"
        ):
            program.refuse_no_room_for_temporary_files()


@pytest.mark.parametrize("stale", [False, True])
def test_a_checkout_on_a_full_disk_is_one_sentence(measured, tmp_path, stale):
    config = [TINY, "cpu: {measure: {kernel: {max_samples: 6}}}"] if stale else [TINY]
    with disk(tmp_path / "disk", size="160m"):
        clone = measured.copy(tmp_path / "disk" / "clone")
        clone.beside = tmp_path / "beside"  # its logs have room
        clone.beside.mkdir(mode=0o700)
        if not stale:
            (clone.directory / "results" / POINT).unlink()
        before = clone.points()
        filler = fill(clone.directory / "filler")
        call = clone.run("kernel", config=config, status=1)
        assert call.output.count("No space left on device") == 1
        assert "Traceback" not in call.output and "Errno" not in call.output
        assert clone.points() == before
        filler.unlink()
        clone.run("kernel", config=config)
        assert clone.points().keys() > before.keys() or stale


def test_a_clock_that_goes_back_measures_nothing_again(finished):
    """All that is there was made tomorrow."""
    for path in sorted(finished.directory.rglob("*")):
        if path.is_file() and ".git" not in path.parts:
            when = path.stat().st_mtime_ns + 86_400 * 10**9
            os.utime(path, ns=(when, when))
    (finished.directory / "results" / POINT).unlink()
    before = finished.points()
    call = finished.run("kernel", config=TINY)
    assert call.points == {f"results/{POINT}"}
    after = finished.points()
    assert all(after[path][1] == content for path, (_, content) in before.items())
    assert finished.dry_run("kernel", config=TINY).points == set()


def test_workflows_in_two_directories_take_turns_on_a_device(finished, tmp_path, monkeypatch):
    other = finished.copy(tmp_path / "other")
    other.variables["SLIDESPARSE_LOCKS"] = str(finished.beside)
    for clone in (finished, other):
        clone.remove(*clone.points())
    monkeypatch.setenv("SLIDESPARSE_LOCKS", str(finished.beside))
    with devices.host(shared=False):
        calls = [clone.start("--cores", "1", "kernel", config=TINY) for clone in (finished, other)]
        for clone in (finished, other):
            wait_until(lambda clone=clone: any(devices.WAITING in log.read_text() for log in logs(clone)))
        assert not finished.points() and not other.points()
    for call in calls:
        call.wait()
    for clone in (finished, other):
        assert len(clone.points()) == 2
        wait_until(lambda clone=clone: not clone.processes())
    other.stop()


def logs(clone):
    return clone.directory.glob("results/*/kernel/*/*/*/*/M*.log")


def test_without_memory_on_the_host_a_point_fails_with_a_sentence(finished):
    """On the host that is no result: another point, or another user, may have taken the memory."""
    programs = Programs(finished, finished.directory / "results")
    limit = 8 << 30
    with owner() as pid:
        done = programs.measure_point(
            "--owner", pid, M=10**9, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        )
    assert "memory" in only_sentence(done)
    output = (programs.results / POINT).with_name(f"M{10**9}.json")
    assert not output.exists()
    assert "memory" in read_json(records.failure_of(output))["reason"]


def test_without_memory_on_the_device_a_point_is_a_result(finished, monkeypatch):
    """Simulated: what the handler raises on a GPU."""

    def full(*_):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(measure, "_ask", full)
    results = finished.directory / "results"
    output = (results / POINT).with_name("M64.json")
    worker = program.Worker(True, None, {})
    shape = results / "models" / MODEL / "shape.json"
    measure.measure(output, shape, results / TABLE, QUICK, peers={}, resources="resources", log=None, worker=worker)
    point = json.loads(output.read_text())  # of a CPU it would be refused
    assert (point["status"], point["reason"]) == ("out_of_memory", "CUDA out of memory. Tried to allocate 20.00 GiB")
    assert not records.failure_of(output).exists()


@contextlib.contextmanager
def owner():
    """Pid of a process that workers belong to."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


HANGS = """
import runpy, sys
from slidesparse.points import measure as points
points.MARGIN_S = 4
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_point_that_hangs_is_ended_and_its_neighbours_are_measured(finished):
    """It asks for a thousand million samples."""
    programs = Programs(finished, finished.directory / "results")
    endless = QUICK | {"min_samples": 10**9, "max_samples": 10**9}
    with owner() as pid:
        run = programs.run

        def hanging(name, *arguments):
            command = [sys.executable, "-c", HANGS, f"workflow/scripts/{name}.py", *map(str, arguments)]
            options = {"cwd": finished.directory, "env": finished.environment, "timeout": 120}
            return subprocess.run(command, capture_output=True, text=True, **options)

        programs.run = hanging
        sentence = only_sentence(programs.measure_point("--owner", pid, M=32, parameters=endless))
        assert "the measurement was stopped at its time limit of 4.05 s" in sentence
        failure = read_json(records.failure_of((programs.results / POINT).with_name("M32.json")))
        assert "time limit" in failure["reason"]
        programs.run = run
        done = programs.measure_point("--owner", pid, M=48)
        assert done.returncode == 0, done.stderr
    wait_until(lambda: not finished.processes())


def test_a_table_of_another_library_version_is_refused_and_tuned_again_when_deleted(finished):
    programs = Programs(finished, finished.directory / "results")
    table = programs.inputs / TABLE
    content = read_json(table)
    table.write_text(json.dumps(sealed(content | {"library": "oneDNN 0.1"})))
    call = finished.run("kernel", config=TINY, status=1)
    assert f"was tuned with oneDNN 0.1 and this is {content['library']}" in call.output
    assert finished.failures() == [f"results/{POINT}".replace(".json", ".failed.json")]
    table.unlink()
    call = finished.run("kernel", config=TINY)
    assert call.jobs["tune_backend"] == 1
    assert call.points == {f"results/{POINT}"}
    assert finished.failures() == []


# Words that a shell would obey


HOSTILE = "$(touch pwned)'; touch pwned; '\"`touch pwned`"


def test_no_word_of_the_configuration_reaches_a_shell(finished):
    overlay = {"registry": {MODEL: {"source": "local", "path": HOSTILE}}}
    target = f"results/models/{MODEL}/manifest.json"
    call = finished.run(target, config=json.dumps(overlay), status=1)
    assert "cannot be read (No such file or directory)" in call.output
    for overlay in ({"registry": {"A; touch pwned": GENERATED}}, {"report": {"sources": ["$(touch pwned)"]}}):
        call = finished.dry_run("kernel", config=json.dumps(overlay), status=1)
        assert "is not a usable name" in call.output or "must be the path of a directory" in call.output
    assert not list(finished.directory.rglob("pwned"))


# The worker's socket


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_nobody_else_is_answered():
    """Even where no directory keeps another user out, the kernel says who it is."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # a name of its own, outside the file system
        listener.listen()
        listener.settimeout(60)
        stranger = os.fork()
        if not stranger:
            try:
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX) as own:
                    own.connect(listener.getsockname())
                    own.recv(1)
            finally:
                os._exit(0)
        with listener.accept()[0] as connection, pytest.raises(MeasurementError, match="is user 65534, not 0"):
            resident._check_peer(connection)
        os.waitpid(stranger, 0)


def test_a_stranger_cannot_enter_the_directory_of_sockets(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert resident.user_directory() == tmp_path / "slidesparse"
    assert resident.user_directory().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_lies_in_the_place_of_the_lock_is_named_and_left(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    lock, point = resident.user_directory() / "lock", tmp_path / "M16.json"
    point.write_text("a finished point")
    {"link": lambda: lock.symlink_to(point), "pipe": lambda: os.mkfifo(lock), "folder": lock.mkdir}[kind]()
    with pytest.raises(MeasurementError, match="lock cannot be locked .*: remove it"):
        resident.ask("slidesparse.worker.handlers:kernel", {"worker": "a"}, None, idle=0, log=tmp_path / "log")
    assert point.read_text() == "a finished point" and os.path.lexists(lock)


@pytest.mark.parametrize("run_time", ["file", "missing"])
def test_a_run_time_directory_that_cannot_be_used_is_passed_over(run_time, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / run_time))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert resident.user_directory() == tmp_path / "tmp" / f"slidesparse-{os.getuid()}"


def test_sockets_that_killed_workers_have_left_go_when_another_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    directory = resident.user_directory()
    monkeypatch.chdir(directory)  # a whole path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as used:
        dead.bind("dead.sock")
        used.bind("used.sock")
        used.listen()
        dead.close()
        resident.ask("resident_handlers:echo", {"worker": "a"}, None, idle=0, log=tmp_path / "log")
        assert not (directory / "dead.sock").exists() and (directory / "used.sock").exists()


def test_a_device_is_one_for_programs_of_any_environment(tmp_path, monkeypatch, capsys):
    """Sessions of cron or sudo have no run-time directory, or another TMPDIR; they take turns all the same."""
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SLIDESPARSE_LOCKS", raising=False)
    plain = devices.lock_directory()
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
        assert devices.lock_directory() == plain
    monkeypatch.setenv("SLIDESPARSE_LOCKS", str(tmp_path))
    with devices.host(shared=False):
        (lock,) = tmp_path.glob("slidesparse-host.lock")
        assert lock.stat().st_mode & 0o777 == 0o666
        second = threading.Thread(target=take_turn)
        second.start()
        wait_until(lambda: devices.WAITING in capsys.readouterr().err)
    second.join(60)
    assert not second.is_alive()


def take_turn():
    with devices.host(shared=False):
        pass


# What a user sees of a run


def test_a_run_says_what_it_does_and_ends_with_a_summary(measured):
    output = measured.calls[0].output
    assert output.splitlines()[1].startswith("8 jobs: describe_model 1, tune_backend 2, measure_kernel 2")
    summary = output[output.rindex(f"{KEY}: 2 of 6 points are there, 4 missing") :]
    assert "kernel  [####################] 2/2" in summary
    assert "tune_backend 2 in" in summary
