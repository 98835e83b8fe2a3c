"""Scores of a text from hidden states, and their intervals: against formulas written out by hand."""

import json
import math

import numpy as np
import pytest
import torch

from slidesparse.engine.quality import bootstrap, point, scores
from slidesparse.engine.quality.windows import cut
from slidesparse.errors import MeasurementError
from slidesparse.files import write_json
from slidesparse.models import generate

HEAD = torch.eye(3, dtype=torch.bfloat16)
"""A head whose logits are the states."""


def test_a_token_is_scored_over_the_whole_vocabulary():
    own, theirs = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.5]])
    found = scores.scored(HEAD, own, theirs, torch.tensor([1]))
    p, q = ([math.exp(x) for x in states[0].tolist()] for states in (theirs, own))
    p, q = ([x / sum(each) for x in each] for each in (p, q))
    assert found.nats == pytest.approx([-math.log(q[1])], rel=1e-6)
    assert found.reference_nats == pytest.approx([-math.log(p[1])], rel=1e-6)
    divergence = sum(p * math.log(p / q) for p, q in zip(p, q, strict=True))
    assert found.divergence == pytest.approx([divergence], rel=1e-6)
    assert found.agrees.tolist() == [False]


def test_a_model_compared_with_itself_loses_nothing():
    states = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    said = scores.summary(scores.scored(HEAD, states, states, torch.arange(64) % 3), [20] * 4)
    zero = {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0}
    assert said["divergence"] == said["divergence_p99"] == said["extra_bits_per_byte"] == zero
    assert said["top1_agreement"]["value"] == 1
    assert said["bits_per_byte"] == said["reference_bits_per_byte"]
    assert said["perplexity"]["value"] == pytest.approx(2 ** (said["bits_per_byte"]["value"] * 80 / 64))


def test_chunks_change_nothing(monkeypatch):
    make = torch.Generator().manual_seed(2)
    own, theirs = (torch.randn(50, 3, generator=make) for _ in range(2))
    whole = scores.scored(HEAD, own, theirs, torch.arange(50) % 3)
    monkeypatch.setattr(scores, "LOGITS", 3 * 7)
    for one, other in zip(whole, scores.scored(HEAD, own, theirs, torch.arange(50) % 3), strict=True):
        assert np.array_equal(one, other)


def test_the_interval_of_a_mean_is_that_of_its_blocks():
    """Of 400 independent blocks the interval is nearly the normal one, 1.96 standard errors to each side."""
    blocks = np.random.default_rng(3).normal(5, 1, 400)
    found = bootstrap.of_ratio(blocks, np.ones(400))
    assert found["value"] == pytest.approx(blocks.mean())
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * 1.96 * blocks.std() / 20, rel=0.1)


def test_the_interval_of_a_difference_is_of_pairs():
    hard = np.linspace(1, 9, 100)  # blocks differ much more than the two models do
    sums = {"nats": hard + 0.1, "reference_nats": hard, "bytes": np.ones(100), "divergence": hard, "agreeing": hard}
    found = scores.of_blocks(sums, np.ones(100))
    assert found["bits_per_byte"]["ci_high"] - found["bits_per_byte"]["ci_low"] > 1
    extra = found["extra_bits_per_byte"]
    assert extra["ci_low"] == pytest.approx(extra["value"]) == pytest.approx(extra["ci_high"])


def test_a_percentile_is_of_all_tokens():
    values = np.arange(1.0, 201).reshape(2, 100)
    found = bootstrap.of_percentile(values, 0.99)
    assert found["value"] == 198  # 198 of 200 tokens do not exceed it
    assert (found["ci_low"], found["ci_high"]) == (99, 199)  # of the first block alone, and of the second
    assert bootstrap.of_percentile(np.arange(1.0, 101)[None], 0.5) == {"value": 50, "ci_low": None, "ci_high": None}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(generate.tokenizer()))
    write_json(tmp_path / "config.json", {"bos_token_id": generate.BOS})
    return tmp_path


def test_windows_are_spread_over_the_text(model):
    text = "".join(chr(32 + i % 90) for i in range(100))
    (model / "text").write_text(text)
    found = cut(model, model / "text", 40, 10)
    assert [bytes(window).decode() for window in found.tokens] == [text[i : i + 10] for i in (0, 30, 60, 90)]
    assert found.bytes == [10] * 4
    assert found.inputs[1] == [generate.BOS, *found.tokens[1][:-1]]


def test_bytes_are_those_of_utf_8(model):
    (model / "text").write_text("aé" * 10, encoding="utf-8")
    assert cut(model, model / "text", 30, 3).bytes == [3] * 10


@pytest.mark.parametrize(
    ("content", "said"), [(b"too short", "9 tokens, fewer than the 20"), (b"\xff", "no text in UTF-8")]
)
def test_a_text_that_cannot_be_scored_is_named(model, content, said):
    (model / "text").write_bytes(content)
    with pytest.raises(MeasurementError, match=said):
        cut(model, model / "text", 20, 10)


def test_states_that_are_kept_are_whole_or_made_again(tmp_path):
    path, states = tmp_path / "states.bf16", torch.randn(6, 4).bfloat16()
    assert point._kept(path, 6) is None
    point._keep(path, states)
    assert torch.equal(point._kept(path, 6), states)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert point._kept(path, 6) is None
