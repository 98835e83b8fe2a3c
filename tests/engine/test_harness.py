"""The lm-evaluation-harness on our engine: it finds in a text what the stage quality finds, and answers questions."""

import os

import pytest
import yaml

from harness_tasks import NEEDS_HARNESS, TEXT, choice_task, perplexity_task
from places import ROOT
from slidesparse import models
from slidesparse.errors import MeasurementError
from slidesparse.files import sha256_file, write_json
from slidesparse.models import checkpoints
from slidesparse.worker import handlers, task_handlers

pytestmark = [pytest.mark.engine, NEEDS_HARNESS]

TOKENS, CONTEXT = 2048, 256
DENSE = {"dtype": "INT8", "sparsity": "dense", "backend": "onednn", "tuning": None}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(resources, manifest of the dense checkpoint, folder of tasks) of BitNet-small."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))
    task_handlers.prepare_environment()
    root, tasks = tmp_path_factory.mktemp("resources"), tmp_path_factory.mktemp("tasks")
    entry = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["registry"]["BitNet-small"]
    entry |= {"path": str(ROOT / entry["path"])}
    model = models.fetch("BitNet-small", entry, root, root / "models.lock.json")
    manifest = root / "dense.json"
    write_json(manifest, checkpoints.convert(model, "INT8", "dense", root, progress=False))
    yield root, manifest, tasks
    handlers.close()


@pytest.fixture(scope="module")
def scored(places):
    """Scores a task, as its worker does: (the harness's JSON, what ran)."""
    root, manifest, _ = places

    def score(source):
        found = task_handlers.task(DENSE | {"manifest": str(manifest), "root": str(root), "source": str(source)})
        return found["harness"], found["linears"]

    return score


def test_perplexity_of_a_text_is_that_of_the_stage_quality(places, scored):
    root, manifest, tasks = places
    found, ran = scored(perplexity_task(tasks, ROOT / "resources" / "trained" / "BitNet-small", TOKENS, CONTEXT))
    assert {linear["backend"] for linear in ran.values()} == {"onednn"}
    parameters = {"text": str(TEXT), "context": CONTEXT, "time_limit_s": 600, "sha256": sha256_file(TEXT)}
    request = {"hardware": "cpu", "stage": "quality", "model": "BitNet-small", "M": TOKENS, "peers": {}}
    point = handlers.engine(DENSE | request | {"manifest": manifest, "root": root, "parameters": parameters})
    scores = found["results"]["held_out"]
    assert scores["sample_len"] == TOKENS // CONTEXT
    assert scores["byte_perplexity,none"] == pytest.approx(point["perplexity"]["value"], rel=0.005)
    assert scores["bits_per_byte,none"] == pytest.approx(point["bits_per_byte"]["value"], rel=0.005)


def test_a_task_of_choices_has_an_accuracy_with_its_standard_error(places, scored):
    found, _ = scored(choice_task(places[2], count=16))
    scores = found["results"]["which_end"]
    assert found["n-samples"]["which_end"]["effective"] == 16
    assert scores["acc,none"] > 0.5  # chance is 0.25
    assert 0 < scores["acc_stderr,none"] < 0.15


def test_a_name_that_the_harness_does_not_know_is_refused(scored):
    with pytest.raises(MeasurementError, match="quality.tasks has no_such_task, which is no task of lm-eval 0"):
        scored("no_such_task")
