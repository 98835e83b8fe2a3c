"""What a user reads of a run that is going on, has ended or was killed: from files alone, on one screen."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import synthetic
from places import PROGRAMS
from slidesparse import program
from slidesparse.errors import DownloadError, RecordError
from slidesparse.files import read_json, sealed, write_json
from slidesparse.points import progress, records, status
from synthetic import HARDWARE
from workflow_clone import wait_until

PROGRAM = PROGRAMS / "show_status.py"
DENSE = ("BitNet-2B", "INT8", "cublaslt", "dense")


@pytest.fixture
def results(tmp_path):
    """Results of a plan of seven points, in every state that a point can be in."""
    synthetic.plan(
        tmp_path,
        [*(("kernel", *DENSE, M) for M in (64, 128)), *(("prefill", *DENSE, M) for M in (512, 1024, 2048, 4096, 8192))],
        [{"what": "FP8", "reason": "FP8 cannot run on A100"}],
    )
    synthetic.write(tmp_path, "kernel", [64, 128])
    synthetic.write(tmp_path, "prefill", [512])
    large = synthetic.path(tmp_path, "prefill", 1024)
    write_json(large, synthetic.out_of_memory(large))
    records.write_failure(synthetic.path(tmp_path, "prefill", 2048), "the engine died", "results/some.log")
    in_flight = synthetic.path(tmp_path, "prefill", 4096)
    records.write_failure(in_flight, "its program ended", None, unless=os.getpid())
    return tmp_path


def test_one_screen_says_what_is_there_failed_in_flight_and_missing(results):
    for backend, seconds in (("cublaslt", "61.5\t0:01:01"), ("auto", "0.5\t0:00:00")):
        tsv = results / HARDWARE / "tuning" / "a" / backend / "b.tsv"
        tsv.parent.mkdir(parents=True)
        tsv.write_text(f"s\th:m:s\n{seconds}\n")
    lines = status.screen(results).splitlines()
    assert lines == [
        f"{HARDWARE}: 4 of 7 points are there, 1 of them out of memory, 1 in flight, 1 failed, 1 missing",
        "  kernel  [####################] 2/2  5.0 s measured",
        "  prefill [########............] 2/5  5.0 s measured, about 7.5 s to go",
        "  FP8 is left out: FP8 cannot run on A100",
        "missing:",
        "  prefill BitNet-2B/INT8/cublaslt/dense: M=8192",
        "tasks: choose_kernels 1 in 0.5 s, tune_backend 1 in 1 min 2 s",
        next(
            line for line in lines if line.startswith("in flight: prefill BitNet-2B/INT8/cublaslt/dense M=4096, since")
        ),
        "failed:",
        "  prefill BitNet-2B/INT8/cublaslt/dense M=2048: the engine died (results/some.log)",
    ]


def test_a_point_whose_program_was_killed_is_no_longer_in_flight(results):
    process = subprocess.Popen(["sleep", "60"])
    path = synthetic.path(results, "prefill", 8192)
    records.write_failure(path, "its program ended", None, unless=process.pid)
    assert "2 in flight" in status.screen(results)
    process.kill()
    process.wait()
    assert "1 in flight, 2 failed" in status.screen(results)
    assert "prefill BitNet-2B/INT8/cublaslt/dense M=8192: its program ended" in status.screen(results)


def test_a_point_that_was_changed_after_it_was_written_is_named(results):
    path = synthetic.path(results, "kernel", 128)
    write_json(path, sealed(read_json(path)))
    assert f"{path} is damaged" not in status.screen(results)
    content = read_json(path)
    write_json(path, content | {"run": content["run"] | {"seconds": 7.25}})
    assert f"{path} is damaged; delete it and it is measured again" in status.screen(results)


def test_what_is_damaged_is_named_and_hides_nothing_else(results):
    path = synthetic.path(results, "kernel", 64)
    path.write_text("{")
    assert f"{path} is damaged; delete it and it is measured again" in status.screen(results)
    records.failure_of(synthetic.path(results, "prefill", 2048)).write_text("[]")
    assert "M2048.failed.json is damaged" in status.screen(results)
    (results / HARDWARE / "plan.json").write_text('{"points": [1]}')
    with pytest.raises(RecordError, match="is no plan of points"):
        status.screen(results)


def failed_task(results, place, **record):
    """Write the record of a task, as a program that ended leaves it; returns its path."""
    path = results / f"{place}.failed"
    write_json(path, {"reason": f"{place} broke", "log": f"{place}.log", "utc": "now"} | record)
    return path


def test_what_points_need_and_could_not_be_made_is_named_before_them(results):
    places = {
        "models/BitNet-2B/manifest": "weights BitNet-2B",
        "checkpoints/BitNet-2B/INT8/2_8": "conversion BitNet-2B/INT8/2_8",
        f"{HARDWARE}/tuning/BitNet-2B/INT8/cublaslt/dense": "search BitNet-2B/INT8/cublaslt/dense",
        f"{HARDWARE}/tuning/BitNet-2B/INT8/auto/2_8": "choice of kernels BitNet-2B/INT8/auto/2_8",
    }
    for place in places:
        failed_task(results, place)
    failed_task(results, "models/another/manifest")  # of a model that nobody plans
    screen = status.screen(results)
    said = screen[screen.index("failed:\n") :].splitlines()[1:]
    assert sorted(said[:4]) == sorted(f"  {name}: {place} broke ({place}.log)" for place, name in places.items())
    assert said[4:] == ["  prefill BitNet-2B/INT8/cublaslt/dense M=2048: the engine died (results/some.log)"]


def test_a_failed_library_is_named(results, monkeypatch):
    monkeypatch.chdir(results)
    failed_task(results / status.BUILDS, "cu13_cc90/libslidesparse_cublaslt")
    assert "\n  library cu13_cc90/libslidesparse_cublaslt: cu13_cc90/libslidesparse_cublaslt broke" in status.screen(
        "."
    )


def test_the_model_that_lends_its_shape_belongs_to_the_plan(tmp_path):
    synthetic.plan(tmp_path, [("prefill", "Twin", "INT8", "cublaslt", "dense", 64)], shapes={"Twin": "BitNet-2B"})
    failed_task(tmp_path, f"{HARDWARE}/tuning/BitNet-2B/INT8/cublaslt/dense")
    assert "search BitNet-2B/INT8/cublaslt/dense" in status.screen(tmp_path)


def test_a_failure_before_the_last_success_counts_for_nothing(results):
    record = failed_task(results, "checkpoints/BitNet-2B/INT8/2_8")
    assert "conversion" in status.screen(results)
    made = results / "checkpoints/BitNet-2B/INT8/2_8.json"
    made.write_text("{}")
    os.utime(record, (1, 1))
    assert "conversion" not in status.screen(results)
    os.utime(made, (0, 0))
    assert "conversion" in status.screen(results)


def test_a_damaged_record_of_a_task_is_named(results):
    failed_task(results, "models/BitNet-2B/manifest").write_text("{")
    assert "weights BitNet-2B: " in status.screen(results) and "manifest.failed is damaged" in status.screen(results)


def test_a_task_leaves_a_record_while_it_runs_and_if_it_fails(tmp_path):
    synthetic.plan(tmp_path, [("prefill", *DENSE, 64)])
    output = tmp_path / "models" / "BitNet-2B" / "manifest.json"
    output.parent.mkdir(parents=True)
    with records.making(output, "some.log"):
        assert "in flight: weights BitNet-2B, since" in status.screen(tmp_path)
    assert not records.failed_task_of(output).exists()
    with pytest.raises(DownloadError), records.making(output, "some.log"):
        raise DownloadError("the hub is away")
    assert "  weights BitNet-2B: the hub is away (some.log)" in status.screen(tmp_path)
    with pytest.raises(PermissionError), records.making(output):
        raise PermissionError(13, "Permission denied", "a file")
    assert "  weights BitNet-2B: a file: Permission denied; make room" in status.screen(tmp_path)
    with records.making(output):
        pass
    assert "failed" not in status.screen(tmp_path)


def test_a_task_that_was_killed_has_failed(tmp_path):
    synthetic.plan(tmp_path, [("prefill", *DENSE, 64)])
    output = tmp_path / "models" / "BitNet-2B" / "manifest.json"
    code = (
        f"import os; from slidesparse.points import records; records.making({str(output)!r}).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert f"  weights BitNet-2B: {records.UNFINISHED}" in status.screen(tmp_path)


def test_many_failures_stay_on_one_screen(tmp_path):
    Ms = range(1, 101)
    synthetic.plan(tmp_path, [("decode", *DENSE, M) for M in Ms])
    for M in Ms:
        records.write_failure(synthetic.path(tmp_path, "decode", M), "it broke", None)
    screen = status.screen(tmp_path)
    assert len(screen.splitlines()) < 24
    assert "  and 92 more" in screen


def test_a_line_says_how_far_it_is(results):
    (plan,) = status.plans(results).values()
    line = progress.line(status.read(results, HARDWARE, plan), status.tasks(results, HARDWARE, plan))
    assert line == (
        "[###########.........] 4/7 | about 7.5 s left | now prefill BitNet-2B/INT8/cublaslt/dense M=4096 | 1 failed"
        " | kernel 2/2, prefill 2/5"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations_are_said_as_people_do(seconds, said):
    assert status.duration(seconds) == said


def test_the_program(results, tmp_path):
    command = [sys.executable, PROGRAM, "--results", results]
    done = subprocess.run([*command, "--hardware", HARDWARE], capture_output=True, text=True, check=True)
    assert done.stdout == status.screen(results)
    done = subprocess.run([*command, "--hardware", "other"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"show_status.py: {results}/other/plan.json is not there: nothing has been run yet\n"


def test_following_prints_lines_until_its_owner_ends(results):
    with subprocess.Popen(["sleep", "60"]) as owner:
        command = [sys.executable, PROGRAM, "--results", results, "--follow", HARDWARE, "--owner", str(owner.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stderr.readline().startswith("[###########.........] 4/7 | about")
            owner.kill()
            assert follower.wait(60) == 1


def test_it_loads_nothing_heavy():
    code = "import sys, slidesparse.points.status; print(*(sys.modules.keys() & {'torch', 'numpy', 'vllm', 'pandas'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_what_a_killed_run_has_left_ends_with_it(results):
    """A stopped shell cannot end by itself. The shells of another run stay."""

    def shell(owner):
        prefix = program.SHELL.format(owner=owner, programs="scripts")
        return subprocess.Popen(["bash", "-c", f"{prefix}read line"], stdin=subprocess.PIPE, start_new_session=True)

    with subprocess.Popen(["sleep", "60"]) as owner, shell(owner.pid) as left, shell(os.getpid()) as other:
        command = [sys.executable, PROGRAM, "--results", results, "--follow", HARDWARE, "--owner", str(owner.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as following:
            assert following.stderr.readline()
            left.send_signal(signal.SIGSTOP)
            owner.kill()
            owner.wait()
            assert following.wait(10) == 1
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        other.communicate(b"line\n")
        assert other.returncode == 0


@pytest.mark.skipif(program.BOUND not in program.shell_prefix(0), reason="setpriv --pdeathsig is not there")
def test_the_kernel_kills_a_stopped_shell_and_its_program_with_their_owner(tmp_path):
    """Also where nobody is left to see it: no display, no worker, no other program."""
    started = tmp_path / "started"
    command = f"{program.shell_prefix(0)}python3 -c \"import os; open('{started}', 'w'); os.read(0, 1)\"; : last"
    code = f"import subprocess; subprocess.run(['bash', '-c', {command!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as owner:
        wait_until(started.exists)
        left = descendants(owner.pid)
        assert len(left) == 2, "a shell and a program"
        for pid in left:
            os.kill(pid, signal.SIGSTOP)
        owner.kill()
        owner.wait()
        wait_until(lambda: not any(alive(pid) for pid in left))


@pytest.mark.skipif(program.BOUND not in program.shell_prefix(0), reason="setpriv --pdeathsig is not there")
def test_a_long_command_which_is_a_script_is_bound_as_well(tmp_path):
    script, started = tmp_path / "script.sh", tmp_path / "started"
    script.write_text(f"{program.shell_prefix(0)}touch {started}; read line; : last")
    code = f"import subprocess; subprocess.run(['bash', '-c', '\"bash\" \"{script}\"'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as owner:
        wait_until(started.exists)
        left = descendants(owner.pid)
        os.kill(left[-1], signal.SIGSTOP)
        owner.kill()
        owner.wait()
        wait_until(lambda: not any(alive(pid) for pid in left))


def shell_of(owner):
    """A shell of a job of process `owner` that waits for a line."""
    command = ["bash", "-c", f"{program.SHELL.format(owner=owner, programs='scripts')}read line; : last"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def test_a_new_run_ends_what_is_stopped_of_ended_ones():
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with shell_of(ended.pid) as left, shell_of(os.getpid()) as other:
        for each in (left, other):
            each.send_signal(signal.SIGSTOP)
        wait_until(lambda: program.state_of(left.pid) == program.state_of(other.pid) == "T")
        program.end_of_ended_runs()
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_a_job_that_stays_stopped_is_ended_and_one_of_a_stopped_run_is_not():
    with subprocess.Popen(["sleep", "60"]) as owner, shell_of(owner.pid) as job:
        job.send_signal(signal.SIGSTOP)
        owner.send_signal(signal.SIGSTOP)
        wait_until(lambda: program.state_of(job.pid) == program.state_of(owner.pid) == "T")
        assert program.end_stopped(owner.pid, {job.pid}) == set()
        owner.send_signal(signal.SIGCONT)
        wait_until(lambda: program.state_of(owner.pid) != "T")
        assert program.end_stopped(owner.pid, set()) == {job.pid}
        assert job.poll() is None
        program.end_stopped(owner.pid, {job.pid})
        assert job.wait(10) == -signal.SIGKILL
        owner.kill()


def descendants(pid):
    """Pids of the child of a process, of its child and so on."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in children] + [each for child in children for each in descendants(child)]


def alive(pid):
    """Whether a process runs or is stopped; one that has ended and that nobody has waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_point_of_other_parameters_is_not_there_and_its_failed_replacement_is_named(tmp_path):
    """After a way back to its parameters it is there again, and the record of that failure counts for nothing."""
    names = [("decode", *DENSE, M) for M in (64, 128)]
    own, other = ({"decode": {"steps": steps, "time_limit_s": 9}} for steps in (1, 2))
    for M in (64, 128):
        path = synthetic.path(tmp_path, "decode", M)
        write_json(path, synthetic.point(path) | {"request": {"parameters": {"steps": 1}}})
    records.write_failure(path, "the engine died", "results/some.log")
    synthetic.plan(tmp_path, names, parameters=other)
    assert status.screen(tmp_path).splitlines()[0] == f"{HARDWARE}: 0 of 2 points are there, 1 failed, 1 missing"
    assert "decode BitNet-2B/INT8/cublaslt/dense M=128: the engine died" in status.screen(tmp_path)
    synthetic.plan(tmp_path, names, parameters=own | {"kernel": {}})
    assert status.screen(tmp_path).splitlines()[0] == f"{HARDWARE}: 2 of 2 points are there"
