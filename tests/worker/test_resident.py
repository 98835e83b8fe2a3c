"""The resident worker, with real processes: what it answers, and that nothing is left of it whoever is killed."""

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from places import LIBRARY, SUPPORT
from slidesparse.errors import ConfigurationError, HardwareError, MeasurementError, SlideSparseError
from slidesparse.program import state_of
from slidesparse.worker import resident

DEADLINE = 60  # seconds until a wait counts as failed

CLIENT = """
import json, sys
from slidesparse import program
from slidesparse.worker import resident
request = json.loads(sys.argv.pop())
program.run(lambda _: print(json.dumps(resident.ask(**request))))
"""

OWNER = """
import time
from slidesparse import program
program.tell_end()
print("ready", flush=True)
time.sleep(1000)
"""


def wait_until(condition):
    """Poll `condition` until it holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        select.select([], [], [], 0.005)


def wait_gone(*pids):
    """Wait until the processes have ended."""
    for pid in pids:
        try:
            end = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(end):
            assert select.select([end], [], [], DEADLINE)[0], f"process {pid} is still there"


class Place:
    """A directory for sockets, an owner, and ways to ask for a result in this process and from others."""

    def __init__(self, directory):
        self.directory, self.log = directory, directory / "log"
        self.owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
        self.owner.stdout.readline()
        self.clients = []
        os.mkfifo(directory / "started")
        os.mkfifo(directory / "gate")
        self.started = os.open(directory / "started", os.O_RDONLY | os.O_NONBLOCK)

    def arguments(self, function, request, **options):
        defaults = {"owner": self.owner.pid, "idle": 600, "log": str(self.log)}
        return {"kind": f"resident_handlers:{function}", "request": {"worker": "cpu"} | request} | defaults | options

    def ask(self, function="echo", /, **request):
        return resident.ask(**self.arguments(function, request))

    def client(self, function="echo", prefix=(), options=None, follows=False, **request):
        """Start a client process; its output is one JSON line. follows: it has the option --owner, as programs have."""
        arguments = json.dumps(self.arguments(function, request, **(options or {})))
        owner = ["--owner", str(self.owner.pid)] if follows else []
        command = [*prefix, sys.executable, "-c", CLIENT, *owner, arguments]
        self.clients.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return self.clients[-1]

    def in_flight(self, then="wait for the gate", **keywords):
        """Start a client whose request is being worked on; return it and the pids of worker, guard and child."""
        pipes = {name: str(self.directory / name) for name in ("started", "gate")}
        client = self.client("gated", then=then, **pipes, **keywords)
        assert select.select([self.started], [], [], DEADLINE)[0]
        return client, [int(word) for word in os.read(self.started, 100).split()]

    def open_gate(self):
        os.close(os.open(self.directory / "gate", os.O_WRONLY))

    def sockets(self):
        return list(self.directory.glob("run/slidesparse/*.sock"))

    def processes(self):
        """The pids of all living processes that were started from here."""
        mark = f"XDG_RUNTIME_DIR={self.directory}/run".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                pass
        return found

    def end_owner(self):
        self.owner.kill()
        self.owner.wait()


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", f"{SUPPORT}{os.pathsep}{LIBRARY.parent}")
    place = Place(tmp_path)
    yield place
    place.end_owner()
    os.close(place.started)
    for client in place.clients:
        client.kill()
        client.communicate()
    wait_until(lambda: not place.processes())


# ---- answers


def test_one_worker_answers_all_requests(place):
    first, second = place.ask(M=1), place.ask(M=2, nested={"list": [1.5, None, "Bitte größer"]})
    assert first["request"] == {"worker": "cpu", "M": 1}
    assert second["request"] == {"worker": "cpu", "M": 2, "nested": {"list": [1.5, None, "Bitte größer"]}}
    assert (first["served"], second["served"]) == (1, 2)
    assert first["pid"] == second["pid"] != os.getpid()


def test_a_large_message_arrives_whole(place):
    text = "0123456789" * 300_000
    assert place.ask(text=text)["request"]["text"] == text


def test_clients_that_come_first_together_share_one_worker(place):
    directory = place.directory / "run" / "slidesparse"
    directory.mkdir(mode=0o700)
    with open(directory / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clients = [place.client(M=m) for m in range(5)]
        waiting = re.compile(rf"-> FLOCK .*:{os.fstat(lock.fileno()).st_ino} ")
        wait_until(lambda: len(waiting.findall(Path("/proc/locks").read_text(encoding="utf-8"))) == 5)
    results = [json.loads(client.communicate(timeout=DEADLINE)[0]) for client in clients]
    assert len({result["pid"] for result in results}) == 1
    assert sorted(result["served"] for result in results) == [1, 2, 3, 4, 5]
    assert sorted(result["request"]["M"] for result in results) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("change", [{"worker": "gpu1"}, {"owner": os.getpid()}, {"CUDA_VISIBLE_DEVICES": "1"}])
def test_another_device_or_owner_has_another_worker(place, monkeypatch, change):
    first = place.ask()["pid"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", change.get("CUDA_VISIBLE_DEVICES", ""))
    arguments = place.arguments("echo", {"worker": change.get("worker", "cpu")}, idle=0.5)
    other = resident.ask(**arguments | {"owner": change.get("owner", place.owner.pid)})
    assert other["pid"] != first
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert place.ask()["pid"] == first


@pytest.mark.parametrize("change", ["kind", "environment", "directory"])
def test_a_request_for_a_worker_of_another_sort_replaces_it(place, monkeypatch, change):
    first = place.ask()
    if change == "environment":
        monkeypatch.setenv("HF_HOME", "elsewhere")
    elif change == "directory":
        monkeypatch.chdir(place.directory)
    second = place.ask("configured" if change == "kind" else "echo", configuration=1)
    assert second["pid"] != first["pid"]
    assert second["served"] == 1
    wait_gone(first["pid"], first["guard"])
    assert len(place.sockets()) == 1


def test_the_callers_environment_does_not_reach_the_handler(place, monkeypatch):
    kept = {"HF_HOME": "/hub", "CUDA_VISIBLE_DEVICES": "0", "LD_LIBRARY_PATH": "/lib", "XDG_CACHE_HOME": "/cache"}
    kept |= {"TRITON_CACHE_DIR": "/triton", "TORCHINDUCTOR_CACHE_DIR": "/inductor", "CUDA_CACHE_PATH": "/cuda"}
    dropped = {"OMP_NUM_THREADS": "7", "VLLM_USE_V1": "0", "TORCH_LOGS": "all", "CUBLAS_WORKSPACE_CONFIG": ":8:8"}
    for name, value in (kept | dropped).items():
        monkeypatch.setenv(name, value)
    seen = place.ask("surroundings")
    assert seen["environment"].items() >= (kept | {"PREPARED": "1"}).items()
    assert not seen["environment"].keys() & dropped.keys()
    assert "" not in seen["path"]
    assert os.getcwd() not in seen["path"]
    assert seen["input"] == "/dev/null"
    assert place.ask("surroundings")["environment"]["PREPARED"] == "1"


def test_here_gives_the_same_without_a_worker(place, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    program = "import json, sys; from slidesparse.worker.resident import here;"
    program += "print(json.dumps(here(*json.loads(sys.argv[1]))))"

    def here(function, **request):
        arguments = json.dumps([f"resident_handlers:{function}", request])
        return subprocess.run([sys.executable, "-c", program, arguments], capture_output=True, text=True)

    result, closed = here("surroundings", worker="cpu").stdout.splitlines()[::-1]
    assert closed == "closed"
    environments = [json.loads(result)["environment"], place.ask("surroundings")["environment"]]
    for environment in environments:
        environment.pop("LC_CTYPE", None)  # set by an interpreter that starts in the C locale
    assert environments[0] == environments[1]
    assert "ConfigurationError: say M instead of m" in here("fail", error="configuration").stderr
    unexpected = here("fail", error="unexpected").stderr
    assert "ValueError: first line\nsecond line" in unexpected
    assert "MeasurementError: the measurement (resident_handlers:fail) failed with ValueError: first line" in unexpected


# ---- errors


def test_an_error_of_the_handler_comes_back_and_the_worker_stays(place):
    with pytest.raises(ConfigurationError, match="^say M instead of m$"):
        place.ask("fail", error="configuration")
    with pytest.raises(HardwareError, match="^device 7 is not there$"):
        place.ask("fail", error="unknown")
    guards = place.processes()
    with pytest.raises(ConfigurationError):
        place.ask("fail", error="configuration")
    assert place.processes() == guards


def test_after_an_unexpected_error_the_worker_ends(place):
    with pytest.raises(MeasurementError, match=r"failed with ValueError: first line; the traceback is in .*/log$"):
        place.ask("fail", error="unexpected")
    wait_until(lambda: not place.sockets())
    assert "second line" in place.log.read_text()
    assert place.log.read_text().endswith("closed\n")
    with pytest.raises(MeasurementError, match="Out of range float"):
        place.ask("not_a_number")
    with pytest.raises(MeasurementError, match="No module named 'no_such_module'"):
        resident.ask(**place.arguments("", {}) | {"kind": "no_such_module:measure"})
    assert place.ask()["served"] == 1


def test_replace_starts_a_new_process_for_the_same_request(place):
    first, second = (place.ask("configured", configuration="a") for _ in range(2))
    third, fourth = (place.ask("configured", configuration="b") for _ in range(2))
    assert (first["pid"], third["pid"]) == (second["pid"], fourth["pid"])
    assert first["pid"] != third["pid"]
    assert [result["served"] for result in (first, second, third, fourth)] == [1, 2, 1, 2]
    wait_gone(first["pid"], first["guard"])


def test_a_new_process_that_asks_to_be_replaced_is_an_error(place):
    with pytest.raises(SlideSparseError, match="^another process is needed$"):
        place.ask("fail", error="replace")


def test_a_worker_that_cannot_start_is_an_error(place, monkeypatch):
    (place.directory / "argparse.py").write_text("raise RuntimeError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(place.directory))
    with pytest.raises(MeasurementError, match=r"the resident worker for cpu does not start; see its log .*/log$"):
        place.ask()
    assert "broken" in place.log.read_text()


@pytest.mark.parametrize("then", ["wait for ever", "hold the interpreter lock", "stop"])
def test_a_request_over_its_time_limit_ends_the_worker(place, then):
    client, pids = place.in_flight(then=then, options={"timeout": 0.5})
    output, error = client.communicate(timeout=DEADLINE)
    assert (client.returncode, output) == (1, "")
    assert "the measurement was stopped at its time limit of 0.5 s" in error
    assert "Traceback" not in error
    wait_gone(*pids)
    assert then == "stop" or "in gated" in place.log.read_text()
    assert place.ask("gated")["pid"] not in pids


# ---- nothing is left, whoever is killed


@pytest.mark.parametrize("prefix", [(), ("nohup",)])
@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1), (1, 0)], ids=["worker", "guard", "both", "both reversed"])
def test_a_killed_worker_fails_the_request_in_flight_only(place, killed, prefix):
    client, pids = place.in_flight(prefix=prefix)
    for number in killed:
        with contextlib.suppress(ProcessLookupError):  # the guard ends soon after the worker
            os.kill(pids[number], signal.SIGKILL)
    output, error = client.communicate(timeout=DEADLINE)
    assert (client.returncode, output) == (1, "")
    assert f"the resident worker was lost during the measurement; see its log {place.log}" in error
    wait_gone(*pids)
    again = place.ask("gated")
    assert again["served"] == 1
    assert again["pid"] not in pids


@pytest.mark.parametrize("killed", [0, 1], ids=["worker", "guard"])
def test_without_terminals_nothing_is_left_either(place, killed):
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/pts && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*hidden, "true"], capture_output=True).returncode:
        pytest.skip("no name space with mounts can be made here")
    client, pids = place.in_flight(prefix=hidden)
    os.kill(pids[killed], signal.SIGKILL)
    output, error = client.communicate(timeout=DEADLINE)
    assert (client.returncode, output) == (1, "")
    assert "the resident worker was lost during the measurement" in error
    wait_gone(*pids)
    assert place.ask("gated")["served"] == 1


@pytest.mark.parametrize("then", ["wait for the gate", "hold the interpreter lock"])
@pytest.mark.parametrize("reaped", [True, False])
def test_when_the_owner_is_killed_all_end(place, then, reaped):
    client, pids = place.in_flight(then=then)
    waiting = place.client("gated")
    place.owner.kill()
    if reaped:
        place.owner.wait()
    for one in (client, waiting):
        assert one.communicate(timeout=DEADLINE) == ("", "")
        assert one.returncode in (1, -signal.SIGKILL)  # itself, or by another one of the owner
    wait_gone(*pids)
    wait_until(lambda: not place.processes())
    assert place.sockets() == []


@pytest.mark.parametrize("stopped", [0, 1], ids=["worker", "guard"])
def test_a_stopped_process_does_not_outlive_its_owner(place, stopped):
    client, pids = place.in_flight()
    os.kill(pids[stopped], signal.SIGSTOP)
    place.owner.kill()
    assert client.communicate(timeout=DEADLINE) == ("", "")
    wait_gone(*pids)
    wait_until(lambda: not place.processes())
    assert place.sockets() == []


def test_stopped_processes_do_not_outlive_their_owner(place):
    """Neither worker nor guard can end the other, so the client does."""
    client, pids = place.in_flight()
    for pid in pids[:2]:
        os.kill(pid, signal.SIGSTOP)
    place.owner.kill()
    assert client.communicate(timeout=DEADLINE) == ("", "")
    wait_gone(*pids)
    wait_until(lambda: not place.processes())


def test_stopped_processes_end_with_their_owner_when_nobody_else_is_left(place):
    """The kernel resumes them."""
    client, pids = place.in_flight()
    client.kill()
    client.wait()
    for pid in pids[:2]:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(state_of(pid) == "T" for pid in pids[:2]))
    place.owner.kill()
    wait_gone(*pids)
    wait_until(lambda: not place.processes())
    assert place.sockets() == []


def test_a_guard_that_is_stopped_while_it_starts_ends_with_its_owner(place, tmp_path, monkeypatch):
    """With a client that is killed, too. It has not run a line of ours yet."""
    stop = "import os, signal, sys\nif '--socket=' in ''.join(sys.orig_argv): os.kill(os.getpid(), signal.SIGSTOP)\n"
    (tmp_path / "sitecustomize.py").write_text(stop)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    client = place.client()
    wait_until(lambda: any(state_of(pid) == "T" for pid in place.processes()))
    client.kill()
    client.wait()
    place.end_owner()
    wait_until(lambda: not place.processes())
    assert place.sockets() == []


def test_a_stopped_client_does_not_outlive_its_owner(place):
    """It may hold the lock of a device, for which the next run would wait."""
    client, pids = place.in_flight(follows=True)
    os.kill(client.pid, signal.SIGSTOP)
    place.owner.kill()
    assert client.wait(DEADLINE) in (1, -signal.SIGKILL)  # itself, or by another one
    wait_gone(*pids)


def test_changed_code_counts_for_nothing(place, monkeypatch):
    """What this process has loaded is no longer what a new worker would load."""
    assert place.ask()["served"] == 1
    monkeypatch.setattr(resident, "CODE", [])
    with pytest.raises(MeasurementError, match="slidesparse was changed during the measurement"):
        place.ask()


@pytest.mark.parametrize("stopped", [0, 1], ids=["worker", "guard"])
def test_an_idle_process_that_is_stopped_is_replaced(place, stopped):
    """It would accept no request, and the client would wait for it."""
    client, pids = place.in_flight()
    place.open_gate()
    assert client.communicate(timeout=DEADLINE)[1] == ""
    os.kill(pids[stopped], signal.SIGSTOP)
    assert place.ask()["served"] == 1
    wait_gone(*pids[:2])


@pytest.mark.parametrize("stopped", [0, 1], ids=["worker", "guard"])
def test_a_stopped_process_holds_no_client(place, stopped):
    client, pids = place.in_flight()
    os.kill(pids[stopped], signal.SIGSTOP)
    _, error = client.communicate(timeout=DEADLINE)
    assert "the resident worker was stopped (SIGSTOP) during the measurement" in error
    assert place.sockets() == []
    wait_gone(*pids)
    assert place.ask("gated")["served"] == 1


def test_nothing_is_started_for_an_owner_that_is_gone(place):
    place.end_owner()
    with pytest.raises(SystemExit) as end:
        place.ask()
    assert end.value.code == 1
    assert place.processes() == []


def test_a_client_that_is_killed_costs_the_next_one_nothing(place):
    client, (worker, _, child) = place.in_flight()
    client.kill()
    client.wait()
    following = place.client("gated")
    place.open_gate()
    result = json.loads(following.communicate(timeout=DEADLINE)[0])
    assert (result["pid"], result["served"]) == (worker, 2)
    wait_gone(child)


@pytest.mark.parametrize("idle", [0, 0.1])
def test_an_idle_worker_ends_and_takes_its_socket_with_it(place, idle):
    result = resident.ask(**place.arguments("echo", {}, idle=idle))
    wait_gone(result["pid"], result["guard"])
    assert place.sockets() == []
    assert place.log.read_text() == "closed\n"


@pytest.mark.parametrize("which", ["pid", "guard"])
def test_a_terminated_worker_ends_and_takes_its_socket_with_it(place, which):
    result = place.ask()
    os.kill(result[which], signal.SIGTERM)
    wait_gone(result["pid"], result["guard"])
    assert place.sockets() == []
    assert place.ask()["pid"] != result["pid"]


def test_the_socket_of_a_killed_worker_is_replaced(place):
    result = place.ask()
    os.killpg(result["guard"], signal.SIGKILL)
    wait_gone(result["pid"], result["guard"])
    assert len(place.sockets()) == 1
    assert place.ask()["served"] == 1
    assert len(place.sockets()) == 1


def test_the_reader_of_a_clients_output_does_not_wait_for_the_worker(place):
    client = place.client()
    output = subprocess.run(["cat"], stdin=client.stdout, capture_output=True, timeout=DEADLINE).stdout
    worker = json.loads(output)["pid"]
    assert place.ask()["pid"] == worker


# ---- where the sockets lie


def test_the_directory_must_be_ones_own(place):
    directory = place.directory / "run" / "slidesparse"
    place.ask()
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(MeasurementError, match=r"/slidesparse must be a directory of user \d+ with mode 0700"):
        place.ask()
    directory.chmod(0o700)
    directory.rename(place.directory / "run" / "other")
    for make in (lambda: directory.symlink_to("other"), lambda: directory.write_text("")):
        make()
        with pytest.raises(MeasurementError, match="must be a directory"):
            place.ask()
        directory.unlink()


def test_the_directorys_path_may_be_long(place, monkeypatch):
    long = place.directory / "run" / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    result = resident.ask(**place.arguments("echo", {}, idle=0.1))
    wait_gone(result["pid"], result["guard"])
    assert [path.name for path in (long / "slidesparse").iterdir()] == ["lock"]


def test_importing_it_loads_nothing_heavy():
    program = (
        "import sys, slidesparse.worker.resident; print(*(sys.modules.keys() & {'torch', 'numpy', 'vllm', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
