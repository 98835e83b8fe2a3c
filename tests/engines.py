"""Engines of BitNet-tiny for tests: a plugin of pytest that a test module names, and what an engine computes."""

import math

import pytest
import torch

from slidesparse import checkpoints, handlers, models
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


@pytest.fixture
def engine():
    """Makes engines, and closes them."""
    from slidesparse.engine import Engine, Size

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
