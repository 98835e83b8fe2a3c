"""What a point says of the software and the commit that made it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from places import ROOT
from slidesparse.machine import provenance


def test_software():
    versions = provenance.software()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["snakemake"]
    assert set(versions) == {
        *("python", "torch", "torch_cuda", "vllm", "cublas", "cusparselt", "cupy", "triton"),
        *("snakemake", "transformers", "numpy"),
    }


def test_planning_imports_nothing_heavy():
    program = (
        "import sys; from slidesparse.plan import matrix; from slidesparse.machine import provenance;"
        " provenance.machine(); provenance.software();"
        " print([m for m in ('torch', 'numpy', 'pandas', 'vllm', 'snakemake') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT / "workflow"
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_DIR", raising=False)

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    return SimpleNamespace(path=tmp_path, git=git)


def test_git_state(repository, tmp_path_factory):
    nothing = {"commit": None, "dirty": None}
    assert provenance.git_state(repository.path) == nothing  # no commit yet
    repository.git("add", "file")
    repository.git("commit", "-q", "-m", "one")
    commit = repository.git("rev-parse", "HEAD")
    (repository.path / "untracked").write_text("x")
    assert provenance.git_state(repository.path) == {"commit": commit, "dirty": False}
    (repository.path / "file").write_text("two")
    assert provenance.git_state(repository.path) == {"commit": commit, "dirty": True}
    inside = repository.path / "copy"
    inside.mkdir()
    (inside / "file").write_text("one")
    assert provenance.git_state(inside) == nothing  # the commit is not that of the copy
    repository.git("add", "copy")
    assert provenance.git_state(inside) == {"commit": commit, "dirty": True}
    assert provenance.git_state(tmp_path_factory.mktemp("plain")) == nothing
    assert provenance.git_state(repository.path / "missing") == nothing


def test_git_state_without_git(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state(repository.path) == {"commit": None, "dirty": None}
