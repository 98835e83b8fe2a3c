"""Cards of 24 and 16 GiB: which points of the published matrix fit, and what becomes of those that do not.

No such card is here. A stand-in for the engine needs as much memory as an estimate says, which is held against what the
kept engines needed.
"""

import weakref

import pytest
import torch

import kept
from configured import RTX4090, read
from slidesparse.engine import engine as engines
from slidesparse.engine.size import Size
from slidesparse.errors import MeasurementError, OutOfMemoryError
from slidesparse.files import write_json
from slidesparse.machine import memory
from slidesparse.plan import prompts
from slidesparse.plan.matrix import matrix, planned, validated

GIB = 1 << 30
CONTEXT = GIB // 2
"""Bytes of a card that torch cannot have: CUDA's context, libraries, and what the driver keeps."""
WEIGHTS = {"dense": 2.56, "2_4": 1.83, "2_6": 2.25, "2_8": 2.43, "2_10": 2.56}
"""GiB of BitNet-2B's weights in an engine, as the kept points tell them."""
CONFIG = validated(read())
SHAPE = CONFIG["registry"]["BitNet-2B"]["shape"]


def estimate(size, dtype, backend, sparsity):
    """Bytes that an engine of BitNet-2B needs: weights, KV cache, and five times the largest product of a block.

    That product is made by the largest step without a graph, and for each graph, and not all of it is used again.
    """
    wide = 4 if (dtype, backend) == ("INT8", "cublaslt") else 2  # INT32 or BF16
    head = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    token = 2 * 2 * SHAPE["num_hidden_layers"] * SHAPE["num_key_value_heads"] * head
    tokens = max(size.tokens, size.model_len)
    product = tokens * 2 * SHAPE["intermediate_size"] * wide
    return int(WEIGHTS[sparsity] * GIB) + size.blocks(16) * 16 * token + 5 * product


def points(stages):
    """[(stage, dtype, backend, sparsity, M)] of the engines of the published matrix."""
    keys = matrix(CONFIG, RTX4090)
    return [(key.stage, key.dtype, key.backend, key.sparsity, key.M) for key in keys if key.stage in stages]


def measuring(config):
    """{stage: measuring parameters of its points}, in prefill at the usual prompt."""
    return {stage: prompts.measuring(stage, own, prompts.USUAL) for stage, own in config["measure"].items()}


def together(of, parameters):
    """The size of an engine for all of these points."""
    sizes = [Size.of(stage, M, parameters[stage]) for stage, *_, M in of]
    size = sizes[0]
    for other in sizes[1:]:
        size = size.union(other)
    return size


@pytest.mark.parametrize("gpu", [kept.H200, kept.H100])
def test_the_estimate_is_what_kept_engines_needed(gpu):
    found = 0
    parameters = measuring(CONFIG)
    engine = {}
    for stage, dtype, backend, sparsity, M in points(("prefill", "decode")):
        engine.setdefault((dtype, backend, sparsity), []).append((stage, dtype, backend, sparsity, M))
    for (dtype, backend, sparsity), own in engine.items():
        size = together(own, parameters)
        for stage, *_, M in own:
            point = kept.points(gpu).get((stage, dtype, backend, sparsity, M))
            needed = point and point["results"].get("peak_memory_bytes")
            if needed:
                assert needed == pytest.approx(estimate(size, dtype, backend, sparsity), rel=0.06)
                found += 1
    assert found > 50


class Card:
    """A GPU of `gib` GiB, on which stand-ins for engines measure points, and what was loaded on it."""

    def __init__(self, gib, monkeypatch, tmp_path):
        self.bytes, self.loaded, self.begun = gib * GIB - CONTEXT, [], []
        monkeypatch.setattr(engines, "Engine", self.load)
        monkeypatch.setattr(engines, "_free", lambda: None)
        monkeypatch.setattr(engines, "_too_large", {})
        monkeypatch.setattr(engines.checkpoints, "ensure", lambda manifest, root: manifest)
        monkeypatch.setattr(engines.checkpoints, "content_digest", lambda manifest: str(manifest))
        for stage in ("prefill", "decode"):
            monkeypatch.setattr(engines.throughput, stage, lambda engine, M, parameters: {"M": M})
        monkeypatch.setattr(engines.states, "of", lambda engine, windows, limit_s: {"M": len(windows)})
        self.manifest = tmp_path / "manifest.json"

    def load(self, checkpoint, backend, tuning, size):
        self.loaded.append(size)
        assert not [held for held in self.begun if held()], "what was begun before holds memory"
        held = type("Weights", (), {})()
        self.begun.append(weakref.ref(held))
        if estimate(size, checkpoint["dtype"], backend, checkpoint["sparsity"]) > self.bytes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return type("Engine", (), {"size": size, "close": lambda self: None})()

    def measure(self, point, own, parameters):
        stage, dtype, backend, sparsity, M = point
        write_json(self.manifest, {"dtype": dtype, "sparsity": sparsity})
        others = [[stage, M, parameters[stage]] for stage, *_, M in own]
        own = parameters[stage] | {"time_limit_s": 1}
        request = {"stage": stage, "M": M, "parameters": own, "manifest": self.manifest, "others": others}
        return engines.measure(request | {"tuning": None, "backend": backend, "root": ".", "windows": range(M)})


@pytest.mark.parametrize(("gib", "too_large"), [(24, []), (16, [("prefill", "INT8", "cublaslt", "dense", 32768)])])
def test_the_published_matrix_on_a_small_card(gib, too_large, monkeypatch, tmp_path):
    card, parameters = Card(gib, monkeypatch, tmp_path), measuring(planned(CONFIG, RTX4090))
    engine, left = {}, []
    for point in points(("prefill", "decode", "quality")):
        engine.setdefault(point[1:4], []).append(point)
    try:
        for own in engine.values():
            before = len(card.loaded)
            for point in own:
                try:
                    assert card.measure(point, own, parameters) == {"M": point[-1]}
                except OutOfMemoryError as error:
                    assert str(error) == "CUDA out of memory"
                    left.append(point)
            loads = len(card.loaded) - before
            assert loads == len(set(card.loaded[before:])), "what did not fit was tried again"
            assert loads == 1 if gib == 24 else loads <= 6  # at most: all, three of prefill, decode, quality
    finally:
        engines.close()
    assert left == too_large


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), "CUDA out of memory"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "CUDA error: out of memory"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "Triton Error [CUDA]: out of memory"),
        (MeasurementError("cublasLtCreate: ALLOC_FAILED (no memory left)"), None),
    ],
)
def test_what_libraries_say_where_memory_is_full_is_out_of_memory(error, sentence):
    assert memory.is_full(error) and memory.told(error) == (sentence or str(error))
    behind = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    behind.__context__ = error
    assert memory.is_full(behind) and memory.told(behind) == (sentence or str(error))


def test_other_errors_are_not_out_of_memory():
    error = RuntimeError("an illegal memory access was encountered")
    error.__context__ = error.__cause__ = ValueError("size mismatch")
    assert not memory.is_full(error)
