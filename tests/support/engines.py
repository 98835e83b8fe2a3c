"""Engines of BitNet-tiny for tests: a plugin of pytest that a test module names, and what an engine computes."""

import math

import pytest
import torch

from slidesparse import models
from slidesparse.files import write_json
from slidesparse.models import checkpoints
from slidesparse.tuning.choices import SCHEMA
from slidesparse.worker import handlers
from tiny import ENTRY


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    handlers.prepare_environment()
    return tmp_path_factory.mktemp("resources")


@pytest.fixture(scope="module")
def model(root):
    return models.fetch("BitNet-tiny", ENTRY, root, root / "models.lock.json")


@pytest.fixture(scope="module")
def checkpoint(root, model):
    made = {}

    def make(dtype, sparsity):
        if (dtype, sparsity) not in made:
            made[dtype, sparsity] = checkpoints.convert(model, dtype, sparsity, root, progress=False)
        return checkpoints.directory(made[dtype, sparsity], root)

    make.manifests = made
    return make


LINEARS = {
    "self_attn.qkv_proj": (512, 256),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_up_proj": (1376, 256),
    "mlp.down_proj": (256, 688),
}
"""Linears of a layer of BitNet-tiny and their N and K."""


@pytest.fixture
def choices(tmp_path):
    """A file of choices: reference for two linears and onednn for the others at M up to 16, the reverse above."""
    entries = [
        {
            "N": N,
            "K": K,
            "M": M,
            "backend": ("reference", "onednn")[(i + late) % 2],
            "algorithm": 1 if N == 512 else None,
        }
        for late, M in enumerate((16, 32))
        for i, (N, K) in enumerate(LINEARS.values())
    ]
    tables = {"onednn": None, "reference": None}
    path = tmp_path / "choices.json"
    write_json(path, {"schema": SCHEMA, "made_from": {}, "tables": tables, "entries": entries})
    return path


@pytest.fixture
def engine():
    """Makes engines, and closes them."""
    from slidesparse.engine.engine import Engine, Size

    open_engines = []

    def make(directory, backend, size=None, tuning=None):
        size = size or Size(128, 8, 48, ((8, 48),), ())
        open_engines.append(Engine(directory, backend, tuning, size))
        return open_engines[-1]

    yield make
    for made in open_engines:
        made.close()


@pytest.fixture(scope="session")
def observed():
    """A function of an engine and M."""
    return _observed


def _observed(engine, M=128):
    """Logits of the last token of 8 prompts in steps of M tokens, and the accumulators of every linear's first call."""
    logits, accumulators = [], {}
    compute = engine.model.compute_logits

    def record_logits(hidden):
        logits.append(compute(hidden))
        return logits[-1]

    engine.model.compute_logits = record_logits
    for name, module in engine.model.named_modules():
        method = getattr(module, "quant_method", None)
        if hasattr(method, "multiply"):

            def record(codes, scale, name=name, multiply=method.multiply):
                result = multiply(codes, scale)
                accumulators.setdefault(name, result[0].clone())
                return result

            method.multiply = record
    engine.run([16] * 8, 1, (M, 8), math.inf)
    return torch.cat(logits).float(), accumulators
