"""Locks where the file system has no flock: a file that names its holder is the lock. Nobody waits for the dead."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from bad_inputs import GENERATED
from places import LIBRARY
from slidesparse import models, program
from slidesparse.errors import SlideSparseError
from slidesparse.models import checkpoints
from slidesparse.worker import devices

WITHOUT = """
import errno, fcntl, os, sys
def flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = flock
from slidesparse import program
"""
HOLDING = "with program.locked(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
RUNNING = "program.hold_lock(sys.argv[1])\nprint('held', flush=True)\nsys.stdin.read()\n"


@pytest.fixture(autouse=True, params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def no_flock(request, monkeypatch):
    """No file system has flock: no mount without it can be made here."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def start():
    """Starts another process that holds a lock; ends it at last."""
    started = []

    def begin(code, path):
        command, streams = [sys.executable, "-c", WITHOUT + code, str(path)], subprocess.PIPE
        process = subprocess.Popen(
            command, env={"PYTHONPATH": str(LIBRARY.parent)}, stdin=streams, stdout=streams, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def kill(process):
    """Kill a process and wait for its end; nobody has asked for its exit status yet."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_one_process_holds_it_at_a_time_and_it_is_free_afterwards(tmp_path, start):
    path = tmp_path / "lock"
    other = start(HOLDING, path)
    with pytest.raises(BlockingIOError) as refused, program.locked(path, wait=False):
        pass
    assert f"process {other.pid} on {os.uname().nodename}, whose lock is {path}.held" in str(refused.value)
    other.communicate("")
    with program.locked(path, wait=False), pytest.raises(BlockingIOError), program.locked(path, wait=False):
        pass
    assert os.listdir(tmp_path) == ["lock"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, start):
    path = tmp_path / "lock"
    other = start(HOLDING, path)
    kill(other)
    with program.locked(path, wait=False):
        assert sorted(os.listdir(tmp_path)) == ["lock", "lock.held"]
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("text", ["1 1 elsewhere pid:[1]", "", "x" * 1000])
def test_a_lock_of_another_host_or_of_nobody_known_is_named_and_kept(tmp_path, text):
    (tmp_path / "lock.held").write_text(text)
    refused = pytest.raises(BlockingIOError, match=r"lock\.held; if it has ended, remove that")
    with refused, program.locked(tmp_path / "lock", wait=False):
        pass
    assert (tmp_path / "lock.held").read_text() == text


def test_a_second_run_is_refused_and_one_after_a_kill_is_not(tmp_path, start):
    path = tmp_path / ".lock"
    other = start(RUNNING, path)
    with pytest.raises(SlideSparseError, match=rf"another run \(process {other.pid} on .*\) is working"):
        program.hold_lock(path)
    other.communicate("")
    assert os.listdir(tmp_path) == [".lock"]
    kill(start(RUNNING, path))
    start(RUNNING, path)


def test_models_checkpoints_and_devices_need_no_flock(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDESPARSE_LOCKS", str(tmp_path))
    manifest = models.fetch("tiny", GENERATED, tmp_path / "resources", tmp_path / "lock.json")
    with devices.host(shared=True):
        checkpoints.convert(manifest, "INT8", "2_8", tmp_path / "resources", progress=False)
    assert not list(tmp_path.rglob("*.held*"))
