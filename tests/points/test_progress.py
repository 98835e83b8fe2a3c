"""What a run prints while it goes on, and at its end."""

import os
import subprocess
import sys

import pytest

import synthetic
from places import PROGRAMS
from slidesparse.points import progress, records
from synthetic import HARDWARE

OTHER = "A100_cc80_py312_cu129_x86_64"
DENSE = ("BitNet-2B", "INT8", "cublaslt", "dense")
MS = range(1, 41)


@pytest.fixture
def results(tmp_path):
    """The results of a plan of forty points, of which none is there."""
    root = tmp_path / "results"
    synthetic.plan(root, [("decode", *DENSE, M) for M in MS])
    return root


class Stopped(Exception):
    pass


def followed(results, monkeypatch, steps, keys=(HARDWARE,), columns=None):
    """What `follow` prints if before each of its looks after the first one of `steps` is taken."""
    written, waiting = [], iter(steps)

    class Stream:
        write = written.append
        flush = staticmethod(lambda: None)
        isatty = staticmethod(lambda: columns is not None)

    def pause(_):
        try:
            next(waiting)()
        except StopIteration:
            raise Stopped from None

    monkeypatch.setattr(progress.time, "sleep", pause)
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(Stopped):
        progress.follow(results, list(keys), Stream)
    return "".join(written)


def measured(results, M):
    return lambda: synthetic.write(results, "decode", [M])


def test_elsewhere_than_on_a_terminal_there_is_a_line_for_every_tenth(results, monkeypatch):
    lines = followed(results, monkeypatch, [measured(results, M) for M in MS]).splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("[##..................] 4/40 | about 1 min 30 s left")
    assert lines[-1] == "[####################] 40/40 | decode 40/40"


def test_nothing_is_printed_before_anything_happens(results, monkeypatch):
    assert followed(results, monkeypatch, [lambda: None] * 3) == ""


def test_a_kind_of_work_is_named_when_it_begins(results, monkeypatch):
    manifest = results / "models" / "BitNet-2B" / "manifest.json"
    searched = [results / HARDWARE / "tuning" / "BitNet-2B" / "INT8" / name / "dense.json" for name in ("a", "b")]
    works = [records.making(path) for path in (manifest, *searched)]
    steps = [step for work in works for step in (work.__enter__, lambda work=work: work.__exit__(None, None, None))]
    lines = followed(results, monkeypatch, steps).splitlines()
    assert [line.split(" | ")[2] for line in lines] == ["now weights BitNet-2B", "now search BitNet-2B/INT8/a/dense"]


def test_on_a_terminal_one_line_is_renewed(results, monkeypatch):
    text = followed(results, monkeypatch, [measured(results, M) for M in (1, 2)], columns=40)
    assert "\n" not in text
    first, second = text.split(progress.CLEAR)[1:]
    assert first.startswith("[....................] 1/40 | about") and len(first) == len(second) == 39
    assert second.startswith("[#...................] 2/40 | about")


# The end


def ended(results, act, keys=(HARDWARE,), failed=False):
    """What a process prints at its end that starts the display, calls `act` and ends."""
    results.mkdir(exist_ok=True)
    (results / ".lock").write_text("")
    code = (
        "from slidesparse.points.progress import Progress\n"
        f"display = Progress('results', {[*keys]!r}, 'en'); display.start('/dev/null', ['a/log'])\n"
        f"display.reported = {[*keys] if failed else None}; {act}"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=results.parent, env=environment, capture_output=True, text=True, check=True)
    first, *lines = done.stderr.splitlines()
    assert first == "Snakemake's own lines: a/log"
    return lines


def report(key, answer=None):
    """Code that writes a report of a hardware key, as the rule `write_report` does."""
    code = f"import pathlib; place = pathlib.Path('results', {key!r}); (place / 'report').mkdir()"
    code += "; [(place / name).write_text('') for name in ('report.en.html', 'report.log')]"
    return code + (f"; (place / 'report' / 'answer.json').write_text({answer!r})" if answer is not None else "")


def test_a_run_ends_with_its_result_and_the_path_of_the_report(results):
    for path in synthetic.write(results, "decode", MS):
        os.utime(path, (1, 1))  # of an earlier run
    lines = ended(results, report(HARDWARE, '{"line": "prefill at best INT8 2:4 1.20 at M=16384"}'))
    assert lines == [f"Report: results/{HARDWARE}/report.en.html · prefill at best INT8 2:4 1.20 at M=16384 · 0 failed"]


@pytest.mark.parametrize("answer", [None, "{", "[]", '{"line": 1}', '{"line": " "}', "{}"])
def test_without_an_answer_there_is_no_result(results, answer):
    assert ended(results, report(HARDWARE, answer)) == [f"Report: results/{HARDWARE}/report.en.html · 0 failed"]


def test_an_answer_is_no_command_to_a_terminal(results):
    (line,) = ended(results, report(HARDWARE, '{"line": "\\u001b[2J\\n1.20"}'))
    assert line == f"Report: results/{HARDWARE}/report.en.html · \ufffd[2J 1.20 · 0 failed"


def test_what_failed_stands_at_the_end(results):
    act = (
        "from slidesparse.points import records; from slidesparse.files import write_json\n"
        "write_json('results/models/BitNet-2B/manifest.failed', {'reason': 'the hub is away', 'log': 'some.log'})"
    )
    (results / HARDWARE / "report.en.html").write_text("")
    lines = ended(results, act, failed=True)
    assert lines[0] == f"{HARDWARE}: 0 of 40 points are there, 40 missing"
    assert lines[-3:] == [
        "failed:",
        "  weights BitNet-2B: the hub is away (some.log)",
        f"Report: results/{HARDWARE}/report.en.html · 1 failed",
    ]


def test_a_run_that_asks_for_points_only_says_how_a_report_is_made(results):
    act = "import synthetic, pathlib; synthetic.write(pathlib.Path('results'), 'decode', [1])"
    lines = ended(results, act)
    assert lines[0] == f"{HARDWARE}: 1 of 40 points are there, 39 missing"
    assert lines[-1] == "No report was asked for; one of what is there: snakemake --cores 1 report"


def test_a_run_without_planned_points_names_the_reports_it_wrote(results):
    for key in (HARDWARE, OTHER):
        (results / key).mkdir(exist_ok=True)
        (results / key / "report.en.html").write_text("")
    (results / "comparison.en.html").write_text("")
    assert ended(results, "pass") == []
    act = "import pathlib; pathlib.Path('results/report.log').write_text('')"
    assert ended(results, act) == [
        f"Report: results/{OTHER}/report.en.html",
        f"Report: results/{HARDWARE}/report.en.html · 0 failed",
        "Report: results/comparison.en.html",
    ]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_that_is_stopped_says_how_many_points_are_missing(results, name):
    act = (
        "import os, signal, synthetic, pathlib; from slidesparse import program\n"
        "program.interrupt_once(); program._locks[:] = [0]\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: print('known')); program.remember_stops()\n"
        "synthetic.write(pathlib.Path('results'), 'decode', [1, 2])\n"
        f"try: os.kill(os.getpid(), signal.{name})\nexcept KeyboardInterrupt: pass"
    )
    lines = ended(results, act)
    assert lines[0] == f"{HARDWARE}: 2 of 40 points are there, 38 missing"
    assert lines[-1] == f"Stopped by {name} with 38 of 40 points missing: call it again to go on"


def test_without_a_plan_a_stopped_run_counts_no_points(tmp_path):
    assert ended(tmp_path / "results", "from slidesparse import program; program.stops.append('SIGTERM')") == []


def without_jobs(results, asked, capsys, keys=(HARDWARE,)):
    """What a call prints in which nothing is to be done."""
    progress.Progress(results, keys, "en").without_jobs(asked)
    return capsys.readouterr().err.splitlines()


def test_a_call_in_which_nothing_is_to_be_done_ends_as_the_run_before(results, capsys, monkeypatch):
    monkeypatch.chdir(results.parent)
    synthetic.write(results, "decode", MS)
    lines = ended(results, report(HARDWARE, '{"line": "prefill at best INT8 2:4 1.20 at M=16384"}'))
    assert lines[-1].startswith(f"Report: results/{HARDWARE}/report.en.html · prefill at best")
    assert without_jobs("results", True, capsys) == lines[-1:]
    no_report = ["No report was asked for; one of what is there: snakemake --cores 1 report"]
    assert without_jobs("results", False, capsys) == no_report
    assert without_jobs("nowhere", True, capsys) == no_report
    (results / OTHER).mkdir()
    (results / OTHER / "report.en.html").touch()
    (results / "comparison.en.html").touch()
    assert without_jobs("results", True, capsys, (HARDWARE, OTHER)) == [
        lines[-1],
        f"Report: results/{OTHER}/report.en.html",
        "Report: results/comparison.en.html",
    ]


def test_a_display_that_is_interrupted_while_it_starts_prints_no_traceback(results):
    program = PROGRAMS / "show_status.py"
    code = (
        "import os, signal\n"
        "from slidesparse.points.progress import Progress\n"
        f"display = Progress('results', ['a'], 'en'); display.start({str(program)!r}, [])\n"
        "while display.follower.poll() is None: os.kill(display.follower.pid, signal.SIGINT)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=results.parent, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("locks", "status"), [("[]", 1), ("[0]", 7)])
def test_an_interrupt_before_the_first_job_is_one_sentence(locks, status):
    """Later Snakemake is interrupted as usual, which ends its jobs."""
    code = (
        "import os, signal, sys\n"
        "from slidesparse import program\n"
        f"program.interrupt_once(); program._locks[:] = {locks}\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: sys.exit(7)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "interrupted before the first job\n" if status == 1 else "")
