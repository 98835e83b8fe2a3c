"""envs/install.sh refuses what it cannot install, in one sentence; the README starts with its two commands."""

import re
import shutil
import subprocess
import sys

import pytest

from places import ROOT


@pytest.fixture
def install(tmp_path):
    """Runs a copy of install.sh in an empty project: (exit status, standard error)."""
    (tmp_path / "envs").mkdir()
    shutil.copy(ROOT / "envs" / "install.sh", tmp_path / "envs")

    def run(*arguments, **environment):
        command = ["bash", "envs/install.sh", *arguments]
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": sys.executable} | environment
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    return run


def test_an_unknown_environment_is_refused(install, tmp_path):
    status, message = install("gpu")
    assert status == 1
    assert message == "envs/install.sh: there is no environment 'gpu'; use cpu, gpu-cu12, gpu-cu13 or quality.\n"
    assert not (tmp_path / ".venv").exists()


def test_an_unfit_python_is_refused(install, tmp_path):
    status, message = install("cpu", PYTHON="false")
    assert status == 1
    assert "Python 3.11 to 3.13" in message
    assert message.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


def test_the_environment_of_tasks_stands_beside_another(install, tmp_path):
    status, message = install("quality")
    assert status == 1
    assert "install that first (bash envs/install.sh)" in message and message.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("holds", [None, "gpu-cu13"])
def test_a_venv_that_holds_something_else_is_left_alone(install, tmp_path, holds):
    venv = tmp_path / ".venv"
    venv.mkdir()
    if holds:
        (venv / "environment").write_text(f"{holds}\n")
    before = sorted(venv.iterdir())
    status, message = install("cpu")
    assert status == 1
    assert "rm -r .venv" in message
    assert sorted(venv.iterdir()) == before


def test_the_readme_starts_with_its_two_commands():
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (first, main), (second, test) = blocks[:2]
    assert first == second == "bash"
    assert "snakemake" in main and "pytest" in test
    for block in main, test:
        assert block.startswith("bash envs/install.sh && ")
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
