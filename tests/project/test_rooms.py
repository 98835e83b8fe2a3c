"""The rooms of the library: the contract in pyproject.toml holds, and would not if a module imported upwards."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from places import LIBRARY, ROOT


def lint(directory):
    """The exit status of lint-imports in a copy of the library, and what it says."""
    command = [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml", "--no-cache"]
    environment = {"PYTHONPATH": str(directory), "PATH": ""}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(LIBRARY, tmp_path / "slidesparse", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_no_room_imports_upwards(copy):
    status, said = lint(copy)
    assert status == 0, said


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("files.py", "from slidesparse.plan import stock"),
        ("machine/nvml.py", "def f():\n    from slidesparse.worker import resident\n"),
        ("points/other.py", "from slidesparse.report import write"),
        ("gemm/dense.py", "import slidesparse.kernel.products"),
    ],
)
def test_an_import_upwards_breaks_the_contract(copy, module, line):
    path = copy / "slidesparse" / module
    path.write_text(f"{path.read_text() if path.exists() else ''}\n\n{line}\n")
    status, said = lint(copy)
    assert status == 1
    assert "No room imports upwards BROKEN" in said


def test_a_module_that_stands_in_no_room_breaks_the_contract(copy):
    (copy / "slidesparse" / "helpers.py").write_text("")
    assert lint(copy)[0] == 1


def test_the_house_has_few_doors():
    assert len([path for path in LIBRARY.iterdir() if path.name != "__pycache__"]) <= 18


def test_no_text_depends_on_the_locale():
    """The linter sees only some of these calls."""
    bare = re.compile(r"\.read_text\(\)|text=True|universal_newlines|(?<![_.\w])open\([^)]*\"[ra+w]+\"\)")
    found = [
        f"{path.name}:{number}"
        for path in sorted(LIBRARY.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if bare.search(line)
    ]
    assert found == []
