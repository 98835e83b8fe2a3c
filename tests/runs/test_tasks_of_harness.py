"""Tasks of the lm-evaluation-harness as a user asks for them: planned, scored, kept, gathered and reported."""

import pytest

from harness_tasks import NEEDS_HARNESS, choice_task, perplexity_task
from places import ROOT
from reports import rows_under
from slidesparse.files import read_json
from slidesparse.machine import harness
from workflow_clone import KEY, ON_CPU

pytest_plugins = ["clones"]
pytestmark = ON_CPU

FEW = """
dtypes: [INT8]
quality: {{tokens: 0, sparsity: ["2_8"], tasks: {tasks}}}
cpu: {{kernel: {{M: []}}, prefill: {{M: []}}, decode: {{M: []}}, tune: {{M: [16]}}}}
report: {{sources: [results]}}
"""
FOLDER = f"results/{KEY}/quality/BitNet-small/INT8"


@pytest.mark.skipif(harness.version() is not None, reason="the environment envs/quality is installed")
def test_without_the_environment_a_plan_with_tasks_is_refused_and_one_without_is_not(bare):
    call = bare.dry_run("all", config=FEW.format(tasks="[arc_easy]"), status=1)
    assert "quality.tasks needs the environment quality, which is not installed: bash envs/install.sh quality" in (
        call.output
    )
    assert "Traceback" not in call.output and "score_task" not in call.output


@NEEDS_HARNESS
def test_tasks_are_scored_once_kept_gathered_and_reported(fresh, tmp_path):
    fresh.variables["HF_DATASETS_CACHE"] = str(tmp_path / "datasets")
    model = ROOT / "resources" / "trained" / "BitNet-small"
    files = [perplexity_task(tmp_path / "text", model, 1024, 256), choice_task(tmp_path / "ends", count=16)]
    config = FEW.format(tasks=[str(path) for path in files])
    call = fresh.run("all", config=config)
    made = {"fetch_model": 1, "describe_model": 1, "convert_checkpoint": 2, "tune_backend": 2}
    end = {"write_report": 1, "write_comparison": 1, "all": 1}
    assert call.jobs == made | {"score_task": 4, "gather_tasks": 2} | end
    assert "tasks   4/4 of the lm-evaluation-harness" in fresh.status()

    dense, pruned = (
        read_json(fresh.directory / f"{FOLDER}/{engine}/tasks/held_out.json")
        for engine in ("onednn/dense", "reference/2_8")
    )
    scores = [result["results"]["harness"]["results"]["held_out"] for result in (dense, pruned)]
    assert scores[0]["byte_perplexity,none"] < scores[1]["byte_perplexity,none"]
    assert dense["software"]["lm_eval"] == harness.version() and dense["software"]["vllm"]
    assert {each["backend"] for each in pruned["results"]["linears"].values()} == {"reference"}

    shown = rows_under(fresh.report(), "Quality")
    assert [row[2:5] for row in shown][:2] == [
        ["onednn/dense", "held_out", "bits_per_byte ↓"],
        ["reference/2_8", "held_out", "bits_per_byte ↓"],
    ]
    assert len(shown) == 8 and all(float(row[6]) > 0 for row in shown if row[4].startswith("acc"))

    assert fresh.dry_run("all", config=config).jobs == {}
    choice_task(tmp_path / "ends", count=12)
    again = fresh.dry_run("all", config=config)
    assert again.jobs == {"score_task": 2, "gather_tasks": 2} | end
    assert "held_out" not in again.everything.partition("Job stats")[2].replace(str(files[0]), "")
