"""A plan on one screen: the jobs are Snakemake's, the bytes those of real checkpoints, and times name their source."""

import subprocess
import sys
from pathlib import Path

import pytest

from configured import A100, CPU, RTX4090, overlaid, read
from places import PROGRAMS, ROOT
from slidesparse.files import read_json, write_json
from slidesparse.plan import matrix, prompts
from slidesparse.plan.backends import STAGES, deciding
from slidesparse.plan.table import Table
from slidesparse.points import forecast
from synthetic import point

pytest_plugins = ["clones"]

H200 = "H200_cc90_py312_cu130_x86_64"
MEASURED = ROOT / "resources" / "measured"


def table(root, *changes, hardware=RTX4090, sources=()):
    config = read()
    for change in [*changes, {"hardware": hardware, "report": {"sources": [str(root), *map(str, sources)]}}]:
        config = overlaid(config, change)
    return Table(matrix.validated(config), root=str(root))


def rows(screen):
    """{hardware key: the words of its row}."""
    return {words[0]: words[1:] for words in map(str.split, screen.splitlines()[1:]) if "_cc" in words[0]}


def test_a_plan_is_one_screen_of_points_jobs_hours_and_disk(tmp_path):
    screen = forecast.screen(table(tmp_path, hardware=[RTX4090, A100], sources=[MEASURED]), ["a note"])
    lines = screen.splitlines()
    assert lines[0].split() == [*STAGES, "there", "searches", "jobs", "hours", "left"]
    found = rows(screen)
    assert found[RTX4090][:7] == ["162", "70", "40", "10", "0", "18", "363"]
    assert found[A100][:7] == ["81", "35", "20", "5", "0", "9", "184"]
    assert 0.1 < float(found[A100][7]) < float(found[RTX4090][7]) < 5
    for key in (RTX4090, A100):
        assert " ".join(found[key][8:]) == f"at H100's speed, from {MEASURED}/H100_cc90_py312_cu130_x86_64/tasks.csv"
    assert lines[3].startswith(f"FP8 is left out on {A100}: ")
    assert lines[4:] == ["a note", lines[5]]
    assert lines[5] == "disk: models BitNet-2B 4.8 GB; 10 checkpoints 33.5 GB; together 38.3 GB, for all hardware"


def test_times_come_from_the_nearest_hardware_that_is_kept(tmp_path):
    assert f"at H200's speed, from {MEASURED}/{H200}/tasks.csv" in forecast.screen(
        table(tmp_path, hardware=H200, sources=[MEASURED])
    )
    own = tmp_path / H200 / "tasks.csv"
    own.parent.mkdir()
    own.write_text((MEASURED / H200 / "tasks.csv").read_text().replace("2832.416", "15400"))  # 100 s a point
    screen = forecast.screen(table(tmp_path, hardware=H200, sources=[MEASURED]))
    assert f"at H200's speed, from {own}" in screen and float(rows(screen)[H200][7]) == pytest.approx(
        70 * 100 / 3600 + 0.45, abs=0.3
    )
    own.write_text("task,seconds\n1 base,x\n")
    assert f"{MEASURED}/{H200}/tasks.csv" in forecast.screen(table(tmp_path, hardware=H200, sources=[MEASURED]))
    assert "unknown" in forecast.screen(table(tmp_path, hardware=CPU, sources=[MEASURED]))


def test_what_is_there_takes_no_time(tmp_path):
    asked = table(tmp_path, hardware=CPU)
    parameters = asked.content(CPU)["parameters"]
    for key in forecast.planned(asked, CPU)[0]:
        path = Path(key.path(tmp_path))
        asked_for = prompts.measuring(key.stage, deciding(key.stage, parameters[key.stage]), key.prompt)
        write_json(path, point(path) | {"request": {"parameters": asked_for}})
    for path in forecast.searched(asked, CPU):
        write_json(path, {})
    assert rows(forecast.screen(asked))[CPU][4:] == ["40", "10", "105", "none", "all", "is", "there"]


@pytest.mark.parametrize("sparsity", ["dense", "2_4", "2_6", "2_8", "2_10"])
def test_bytes_of_checkpoints_are_those_of_real_ones(sparsity):
    registry = matrix.entries(matrix.validated(read()))
    real = read_json(MEASURED / "checkpoints" / "BitNet-2B-synthetic" / "INT8" / f"{sparsity}.json")
    size = real["files"]["model.safetensors"]["size"]
    assert forecast.weights(registry, "BitNet-2B", sparsity) == pytest.approx(size, rel=1e-4)


def test_a_local_model_stays_where_it_is(tmp_path):
    mine = {"registry": {"Mine": {"source": "local", "path": "/m", "shape": "BitNet-2B"}}, "models": ["Mine"]}
    assert "disk: models Mine where it is; 10 checkpoints 33.5 GB;" in forecast.screen(table(tmp_path, mine))


def test_the_program_takes_the_options_of_snakemake():
    command = [sys.executable, PROGRAMS / "show_status.py", "--plan", "--configfile", "config/measured.yaml"]
    command += ["--config", f"hardware=[{H200},{CPU}]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert rows(done.stdout).keys() == {H200, CPU}
    without = "models, backends.dense, backends.sparse, decode.M"
    assert f"config/measured.yaml: {without} without effect on {CPU}" in done.stdout
    assert len(done.stdout.splitlines()) < 10


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("files", "words"),
    [([], []), (["config/measured.yaml"], [f"hardware={H200}"]), (["config/extended.yaml"], [f"hardware={A100}"])],
)
def test_the_jobs_are_those_of_snakemake(fresh, files, words):
    command = [sys.executable, "workflow/scripts/show_status.py", "--plan"]
    command += [*(["--configfile", *files] if files else []), *(["--config", *words] if words else [])]
    done = subprocess.run(
        command, cwd=fresh.directory, env=fresh.environment, capture_output=True, text=True, check=True
    )
    (row,) = rows(done.stdout).values()
    call = fresh.dry_run("all", *(["--config", *words] if words else []), config=files)
    assert int(row[6]) == call.jobs.total()
