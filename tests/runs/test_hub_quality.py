"""The command that scores a model of a hub on a text of a hub, up to the hub's door: docs/quality.md."""

import json
import math

import pytest

import real_layout
from local_hub import Hub, serving
from workflow_clone import ON_CPU, TINY, point

pytest_plugins = ["clones"]
pytestmark = ON_CPU

MODEL, REPOSITORY, SET = "BitNet-real", "owner/bitnet-bf16", "owner/text"
TOKENS, CONTEXT, VOCABULARY = 1024, 256, real_layout.SHAPE["vocab_size"]


@pytest.fixture
def hub(tmp_path):
    hub = Hub()
    hub.add(REPOSITORY, real_layout.files(tmp_path))
    return hub


def test_a_model_and_a_text_of_a_hub_are_scored(hub, fresh):
    commit = hub.add(f"datasets/{SET}", {"raw/text.txt": real_layout.TEXT.encode()})
    entry = {"source": "hub", "repository": REPOSITORY, "revision": "main", "shape": real_layout.SHAPE}
    text = f"hf://datasets/{SET}@{commit}/raw/text.txt"
    quality = {"text": text, "tokens": TOKENS, "context": CONTEXT, "sparsity": ["2_8"]}
    overlay = json.dumps({"registry": {MODEL: entry}, "quality": quality, "cpu": {"models": [MODEL]}})
    with serving(hub) as endpoint:
        fresh.variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(fresh.beside / "home")}
        call = fresh.run("quality", config=[TINY, overlay])
    dense, pruned = (
        point("quality", *place, TOKENS, model=MODEL) for place in (("onednn", "dense"), ("reference", "2_8"))
    )
    assert fresh.points("quality").keys() == {dense, pruned} and fresh.failures() == []
    assert call.jobs["fetch_model"] == call.jobs["fetch_text"] == 1
    for path, reference in ((dense, "R"), (pruned, "dense")):
        found = json.loads((fresh.directory / path).read_text())
        results, asked = found["results"], found["request"]["parameters"]
        assert (results["reference"], results["tokens"], results["vocabulary"]) == (reference, TOKENS, VOCABULARY)
        assert TOKENS < results["bytes"] < 8 * TOKENS  # a token is more than a byte
        assert 0 < results["bits_per_byte"]["value"] < 2 * math.log2(VOCABULARY)
        assert asked == {"text": text, "context": CONTEXT}
    lock = json.loads((fresh.directory / "resources/models.lock.json").read_text())
    assert {name: held["commit"] for name, held in lock.items()}[f"{SET}/raw/text.txt"] == commit
    asked = {path.rpartition("/")[2] for path, _ in hub.requests}
    assert not asked & {*real_layout.UNUSED}

    assert fresh.dry_run("quality", config=[TINY, overlay]).jobs == {}  # and no hub is there any more
