"""Where a run works: in another directory than the repository it works, and as a module it is refused in a sentence."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from workflow_clone import TINY, Clone, point

pytestmark = pytest.mark.workflow
MANIFEST, SHAPE = "results/models/BitNet-tiny/manifest.json", "results/models/BitNet-tiny/shape.json"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone.of_working_tree(tmp_path_factory.mktemp("a place") / "clone")


def snakemake(clone, directory, *arguments, status=0, before=()):
    """What `snakemake ARGUMENTS`, called in `directory` with the clone's environment, prints."""
    program = Path(sysconfig.get_path("scripts"), "snakemake")
    done = subprocess.run(
        [*before, sys.executable, program, "--cores", "1", *map(str, arguments)],
        cwd=directory,
        env=clone.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_snakefile_of_another_directory_works_here(clone, tmp_path):
    said = snakemake(clone, tmp_path, "--snakefile", clone.directory / "Snakefile", SHAPE)
    assert (tmp_path / SHAPE).is_file() and "is gone" not in said
    assert not (clone.directory / "results" / "models").exists()


def test_another_directory_gets_the_results(clone, tmp_path):
    directory = tmp_path / "the results"
    said = snakemake(clone, clone.directory, "--directory", directory, MANIFEST, SHAPE)
    assert (directory / MANIFEST).is_file() and (directory / SHAPE).is_file()
    assert "2 jobs done" in said and "is gone" not in said
    assert not (clone.directory / "results" / "models").exists()


def test_a_configuration_of_the_working_directory_goes_first(clone, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("kernal: {}\n")
    said = snakemake(clone, tmp_path, "--snakefile", clone.directory / "Snakefile", "--dry-run", status=1)
    assert "kernal" in said and "did you mean kernel?" in said


def test_as_a_module_of_another_workflow_it_is_refused_when_that_is_planned(clone, tmp_path):
    module = f'module measured:\n    snakefile: "{clone.directory}/workflow/Snakefile"\n    config: config\n'
    (tmp_path / "Snakefile").write_text(f"{module}use rule * from measured as other_*\n")
    said = snakemake(clone, tmp_path, "--dry-run", status=1)
    assert "SlideSparse runs alone and not as a module of another workflow" in said
    assert "Traceback" not in said and not (tmp_path / "results").exists()


def test_a_point_by_its_whole_path_is_refused_with_the_path_to_ask_for(clone):
    asked = point("kernel", "onednn", "dense", 16)
    said = snakemake(clone, clone.directory, "--dry-run", clone.directory / asked, status=1)
    assert f"is the whole path of a point: ask for {asked}" in said


def test_a_path_that_nothing_makes_is_refused_with_a_near_one(clone):
    said = snakemake(clone, clone.directory, "--dry-run", "results/prefill/typo.json", status=1)
    near = point("prefill", "onednn", "dense", 128, model="BitNet-small")
    assert f"results/prefill/typo.json cannot be made, because no rule makes it; near is {near}" in said


def test_a_locale_without_a_character_shows_another(clone):
    command = [sys.executable, clone.directory / "workflow/scripts/measure_point.py", "--help"]
    environment = clone.environment | {"PYTHONIOENCODING": "iso-8859-1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert r"\u2026/{hardware}" in done.stdout


def without(*arguments):
    """What comes before a command that is to run in a world of its own; skips the test where that is not allowed."""
    command = ["unshare", *arguments]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no name space can be made here")
    return command


def test_a_user_without_a_name_and_a_home_can_run(clone, tmp_path):
    variables = ["HOME=/proc", "USER=", "LOGNAME=", f"TMPDIR={tmp_path}"]
    nobody = [*without("--user", "--map-user=12345", "--map-group=12345"), "env", *variables]
    said = snakemake(clone, tmp_path, "--snakefile", clone.directory / "Snakefile", SHAPE, before=nobody)
    assert "HOME is /proc, where this user cannot write: caches are kept in" in said
    assert (tmp_path / SHAPE).is_file()


def test_a_host_without_terminals_and_shared_memory_measures_what_needs_none(clone, tmp_path):
    hidden = "mount -t tmpfs none /dev/pts && mount -t tmpfs -o size=4k,ro none /dev/shm && "
    bare = [*without("--mount"), "sh", "-c", hidden + 'exec "$@"', "sh"]
    if subprocess.run([*bare, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    call = ("--snakefile", clone.directory / "Snakefile", "--configfile", clone.directory / TINY, "--")
    asked = [point("kernel", "onednn", "dense", 16), point("decode", "onednn", "dense", 4)]
    said = snakemake(clone, tmp_path, *call, *asked, status=1, before=bare)
    assert (tmp_path / asked[0]).is_file(), said
    assert "vLLM needs shared memory, but /dev/shm has none (Read-only file system): mount it with room" in said
