"""Engines for the tests of a GPU, and which FlashAttention they run: `pytest -m gpu tests/gpu --flash-attention 2`."""

import pytest

import flash
from gpu_engines import DECODE, ENTRY, PREFILL
from slidesparse import models
from slidesparse.models import checkpoints
from slidesparse.worker import handlers


@pytest.fixture(autouse=True)
def flash_attention(request, monkeypatch):
    """The version that the tests were asked to run with; None for the one that vLLM takes here."""
    wanted = request.config.getoption("--flash-attention")
    if wanted:
        if reason := flash.lacking(wanted):
            pytest.skip(reason)
        flash.force(wanted, monkeypatch)
    return wanted


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    handlers.prepare_environment()
    root = tmp_path_factory.mktemp("resources")
    model, made = models.fetch("BitNet-512", ENTRY, root, root / "models.lock.json"), {}

    def make(dtype, sparsity):
        if (dtype, sparsity) not in made:
            made[dtype, sparsity] = checkpoints.convert(model, dtype, sparsity, root, progress=False)
        return checkpoints.directory(made[dtype, sparsity], root)

    return make


@pytest.fixture
def engine():
    """Makes engines that can measure the points given, and closes them."""
    from slidesparse.engine.engine import Engine, Size

    made = []

    def make(directory, backend, *points, graphs=True, tuning=None, prompt_cap=PREFILL["prompt_cap"]):
        parameters = {"prefill": PREFILL | {"prompt_cap": prompt_cap}, "decode": DECODE}
        sizes = [Size.of(stage, M, parameters[stage]) for stage, M in points]
        size = sizes[0]
        for other in sizes[1:]:
            size = size.union(other)
        made.append(Engine(directory, backend, tuning, size if graphs else size._replace(graphs=())))
        return made[-1]

    yield make
    for one in made:
        one.close()
