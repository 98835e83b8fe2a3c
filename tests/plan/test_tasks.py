"""quality.tasks: which tasks of the lm-evaluation-harness are planned, what decides them, and what is refused."""

import sys

import pytest

from configured import CPU, RTX4090, read, with_change
from slidesparse.errors import ConfigurationError, RecordError
from slidesparse.machine import harness
from slidesparse.plan import tasks
from slidesparse.plan.matrix import matrix, plan, validated
from slidesparse.plan.table import Table
from slidesparse.plan.tasks import TaskKey
from slidesparse.points import forecast


@pytest.fixture
def yaml_file(tmp_path):
    path = tmp_path / "mine" / "held_out.yaml"
    path.parent.mkdir()
    path.write_text("task: held_out\n")
    return path


def asked(*entries, text=""):
    return validated(with_change(f"quality: {{tasks: {list(map(str, entries))}}}\n{text}"))


def test_every_checkpoint_that_quality_scores_has_every_task(yaml_file):
    config = asked("arc_easy", yaml_file, text=f"hardware: {CPU}")
    table = Table(config)
    found = {TaskKey.of(path) for path in table.planned_tasks() if path.endswith(".json")}
    points = {key.configuration for key in matrix(config, CPU) if key.stage == "quality"}
    assert {key.configuration for key in found} == points and len(points) == 10
    assert {key.task for key in found} == {"arc_easy", "held_out"} and len(found) == 20
    key = TaskKey(CPU, "BitNet-small", "INT8", "reference", "2_8", "held_out")
    assert key in found
    assert key.path("results") == f"results/{CPU}/quality/BitNet-small/INT8/reference/2_8/tasks/held_out.json"
    assert key.csv("results") in table.task_csvs(CPU) and len(table.task_csvs()) == 10
    assert plan(config, CPU)["tasks"]["BitNet-small/INT8/onednn/dense"].keys() == {"arc_easy", "held_out"}


def test_without_tasks_nothing_is_planned_and_generated_models_have_none():
    assert read()["quality"]["tasks"] == []
    assert Table(validated(with_change(f"hardware: {CPU}"))).planned_tasks() == []
    config = asked("arc_easy", text=f"hardware: {RTX4090}\nmodels: [BitNet-2B-synthetic]")
    assert Table(config).planned_tasks() == [] and plan(config, RTX4090)["tasks"] == {}


def test_tasks_need_no_text(yaml_file):
    config = asked(yaml_file, text=f"hardware: {CPU}")
    config["quality"]["tokens"] = 0
    assert len(Table(config).planned_tasks()) == 20
    counts = forecast.jobs(Table(config), CPU)
    assert counts["score_task"] == counts["gather_tasks"] == 10 and "measure_quality" not in counts


def test_what_lies_beside_a_file_decides_its_task(yaml_file):
    (one,) = tasks.named([str(yaml_file)], "quality.tasks")
    before = one.content
    (yaml_file.parent / "__pycache__").mkdir()
    assert one.content == before and one.name == "held_out"
    (yaml_file.parent / "data.jsonl").write_text("{}\n")
    assert one.content != before
    assert tasks.Task("arc_easy", "arc_easy").content is None


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (["mine/none.yaml"], r"quality.tasks\[0\] is .mine/none.yaml., but there is no YAML file of a task"),
        (["folder/"], r"quality.tasks\[0\] is .folder/., but there is no YAML file of a task"),
        (["-x"], r"quality.tasks\[0\] is .-x., but must be a task of the harness"),
        (["arc_easy", "arc_easy"], r"quality.tasks"),
        ("arc_easy", r"quality.tasks is .arc_easy., but must be a list of tasks"),
    ],
)
def test_what_is_no_task_is_refused(entries, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        validated(with_change(f"quality: {{tasks: {entries}}}"))


def test_two_files_of_one_name_are_refused(yaml_file, tmp_path):
    other = tmp_path / "other" / "held_out.yaml"
    other.parent.mkdir()
    other.write_text("task: other\n")
    with pytest.raises(ConfigurationError, match="another entry has the name held_out: rename its file"):
        asked(yaml_file, other)


@pytest.mark.parametrize("place", ["tasks/a.json", f"{CPU}/quality/m/INT8/onednn/dense/tasks/.a.json", "M16.json"])
def test_another_path_is_no_result(place):
    with pytest.raises(RecordError, match="is not the path of a task's result"):
        TaskKey.of(place)


def test_without_the_harness_a_plan_with_tasks_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(ConfigurationError, match="not installed: bash envs/install.sh quality, or set quality.tasks"):
        harness.refuse_missing(["arc_easy"])
    harness.refuse_missing([])
    installed = tmp_path.joinpath(harness.packages(), "lm_eval-0.4.13.dist-info")
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lm_eval\nVersion: 0.4.13\n")
    harness.refuse_missing(["arc_easy"])
    assert harness.version() == "0.4.13"
