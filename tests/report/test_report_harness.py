"""Results of tasks of the lm-evaluation-harness, from their JSON to the CSV and the report."""

import pytest

import synthetic
from reports import DENSE, HARDWARE, SLID, edit, markdown, ours, rows_under
from slidesparse.errors import RecordError
from slidesparse.files import sealed, write_json
from slidesparse.plan.tasks import TaskKey
from slidesparse.points import records, tasks
from slidesparse.points.request import of_task
from slidesparse.report.sources.scores import rows
from slidesparse.report.tables import task_scores


def scored(root, configuration=DENSE, task="which", digest="0" * 64, **figures):
    """Write the result of a task; returns its path."""
    key = TaskKey(HARDWARE, *configuration, task)
    scores = {"alias": task, "acc,none": 0.75, "acc_stderr,none": 0.05, "byte_perplexity,none": 2.5} | figures
    found = {
        "results": {task: scores | {"byte_perplexity_stderr,none": "N/A"}},
        "higher_is_better": {task: {"acc": True, "byte_perplexity": False}},
        "n-samples": {task: {"original": 100, "effective": 80}},
        "n-shot": {task: 0},
        "versions": {task: 1.0},
    }
    made = {
        "schema": 1,
        "request": {"digest": digest, "protocol": 1},
        "key": key._asdict(),
        "results": {"harness": found, "linears": {}},
        "hardware": {"name": "NVIDIA GeForce RTX 4090", "driver": "580.95"},
        "software": {"torch": "2.11.0", "vllm": "0.26.0", "lm_eval": "0.4.13"},
        "run": {"utc": "2026-12-01T10:00:00Z", "seconds": 7, "git": {"commit": "a" * 40, "dirty": False}},
    }
    write_json(key.path(root), sealed(made))
    return key.path(root)


@pytest.fixture
def results(tmp_path):
    root = ours(tmp_path / "results")
    scored(root)
    scored(root, SLID, **{"acc,none": 0.5})
    assert task_scores.gather_all(root, HARDWARE) == []
    return root


def test_a_row_of_the_csv_is_a_metric_with_its_standard_error(results):
    accuracy, perplexity = rows(TaskKey(HARDWARE, *DENSE, "which").csv(results))
    assert (accuracy["metric"], accuracy["value"], accuracy["standard_error"]) == ("acc", 0.75, 0.05)
    assert accuracy["higher_is_better"] and accuracy["documents"] == 80 and accuracy["lm_eval"] == "0.4.13"
    assert (perplexity["metric"], perplexity["value"], perplexity["standard_error"]) == ("byte_perplexity", 2.5, None)


def test_the_report_shows_tasks_behind_quality(results):
    text, refused = markdown(results)
    assert refused == []
    shown = rows_under(text, "Quality")
    assert shown[0] == ["BitNet-2B", "INT8", "cublaslt/dense", "which", "acc ↑", "0.7500", "0.0500", "80", "0"]
    assert shown[1] == ["BitNet-2B", "INT8", "cusparselt/2_8", "which", "acc ↑", "0.5000", "0.0500", "80", "0"]
    assert shown[2][4:7] == ["byte_perplexity ↓", "2.5000", "—"]
    assert "lm-eval 0.4.13" in text
    chinese, _ = markdown(results, language="zh")
    assert "lm-eval 0.4.13" in chinese and "Tasks are those of" not in chinese


def test_a_report_without_tasks_says_nothing_of_them(tmp_path):
    assert "lm-eval" not in markdown(ours(tmp_path / "results"))[0]


def test_missing_and_failed_tasks_are_named(results):
    name = "/".join(DENSE)
    plan = {"points": {}, "tasks": {name: {"which": None, "arc_easy": None, "other": None}}}
    write_json(results / HARDWARE / "plan.json", plan)
    with pytest.raises(RecordError), records.making(TaskKey(HARDWARE, *DENSE, "arc_easy").path(results), "a.log"):
        raise RecordError("the hub was not reached")
    text, refused = markdown(results)
    assert refused == []
    assert "Results of tasks that were asked for: 1 of 3." in text
    assert f"arc_easy of {name} failed: the hub was not reached" in text


def test_a_changed_result_is_refused(results):
    path = scored(results, task="other")
    edit(results / path, lambda text: text.replace("0.75", "0.95"))
    (sentence,) = task_scores.gather_all(results, HARDWARE)
    assert sentence.startswith(f"{path} is no result of this task as it was written")
    assert {row["task"] for row in rows(TaskKey(HARDWARE, *DENSE, "other").csv(results))} == {"which"}
    with pytest.raises(RecordError, match="delete it and it is scored again"):
        task_scores.gather([path], results / "any.csv")


def test_a_result_of_another_request_than_the_plans_is_refused(results):
    key = TaskKey(HARDWARE, *DENSE, "which")
    for path in (key.point.basis(results), key.point.tuning(results)):
        write_json(path, {"files": {}})
    asked = of_task(key, "today", key.point.basis(results), key.point.tuning(results))
    write_json(results / HARDWARE / "plan.json", {"points": {}, "tasks": {"/".join(DENSE): {"which": "today"}}})
    (sentence,) = task_scores.gather_all(results, HARDWARE)
    assert "answers another request than the plan's" in sentence
    path = scored(results, digest=asked["digest"])
    assert task_scores.gather_all(results, HARDWARE) == []
    assert tasks.is_result(path, asked) and not tasks.is_result(path, asked | {"digest": "1" * 64})


def test_a_json_that_is_none_of_the_harness_is_refused(tmp_path):
    path = scored(tmp_path, **{"acc,none": 0.1})
    result = tasks.read_result(path)
    write_json(path, sealed(result | {"run": {}}))
    (sentence,) = task_scores.gather_all(tmp_path, HARDWARE)
    assert "no row can be made of the result of which" in sentence


def test_results_alone_are_of_a_hardware(tmp_path):
    scored(tmp_path, task="alone")
    assert task_scores.gather_all(tmp_path, HARDWARE) == []
    text, _ = markdown(tmp_path)
    assert rows_under(text, "Quality")[0][3] == "alone" and synthetic.HARDWARE == HARDWARE
