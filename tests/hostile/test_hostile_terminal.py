"""Text of others on a terminal: no control character of theirs reaches it."""

import subprocess
import sys

import pytest

import synthetic
from places import LIBRARY, PROGRAMS
from reports import ours
from slidesparse import program
from slidesparse.errors import SlideSparseError
from slidesparse.files import write_json
from slidesparse.points import records

EVIL = "\x1b]0;evil\x07\x1b[2J\u202e\x9b31m\r\x00"


def controls(text):
    """Characters of a text, beside its line breaks, that a terminal would obey."""
    return {character for character in text if not character.isprintable()} - {"\n"}


def run(name, *arguments):
    """What a program of the workflow prints."""
    done = subprocess.run(
        [sys.executable, PROGRAMS / name, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(LIBRARY.parent), "PATH": "", "HOME": "/nonexistent", "MPLCONFIGDIR": "/tmp"},
    )
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_status_shows_text_of_others_as_text(tmp_path):
    plan = {"prefill": {"BitNet-2B/INT8/cublaslt/dense": [512, 1024, 2048]}}
    left_out = [{"what": EVIL, "reason": EVIL}]
    write_json(tmp_path / synthetic.HARDWARE / "plan.json", {"points": plan, "left_out": left_out})
    failed, flying, odd = (synthetic.path(tmp_path, "prefill", M) for M in (512, 1024, 2048))
    records.write_failure(failed, EVIL, EVIL)
    write_json(records.failure_of(flying), {"reason": EVIL, "utc": EVIL, "unless": EVIL})
    write_json(odd, {"run": {"seconds": EVIL}, "status": EVIL})
    said = run("show_status.py", "--results", tmp_path)
    assert "failed:" in said and not controls(said)
    for bad in ({EVIL: {}}, {"prefill": {EVIL: [1]}}, {"prefill": {"a/b/c/d": [EVIL]}}, EVIL):
        write_json(tmp_path / synthetic.HARDWARE / "plan.json", {"points": bad, "left_out": left_out})
        assert not controls(run("show_status.py", "--results", tmp_path))


def test_what_a_report_refuses_is_said_as_text(tmp_path):
    root = ours(tmp_path / "results")
    folder = root / synthetic.HARDWARE / "prefill" / EVIL.replace("\x00", "") / "INT8" / "cublaslt" / "dense"
    folder.mkdir(parents=True)
    (folder / "M1.json").write_text("{}")
    (folder / f"{EVIL[:3]}.csv").write_text(EVIL)
    said = run("write_reports.py", "--results", root, "--sources", root)
    assert "refused: " in said and not controls(said)


@pytest.mark.parametrize("error", [SlideSparseError(EVIL), OSError(5, EVIL, EVIL), FileNotFoundError(2, "x", EVIL)])
def test_an_error_is_said_as_text(error, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program.py"])

    def fail(arguments):
        raise error

    with pytest.raises(SystemExit) as ended:
        program.run(fail)
    assert "program.py: " in ended.value.code and not controls(ended.value.code)
