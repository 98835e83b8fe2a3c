"""What the GPU of this machine cannot run, for the tests of a GPU."""

import pytest
import torch

from slidesparse.plan.backends import BACKENDS


def need(backend, dtype=None):
    """Skip the test if a backend has no kernels for this GPU, or none for a type."""
    one, (major, minor) = BACKENDS[backend], torch.cuda.get_device_capability()
    if one.capabilities and 10 * major + minor not in one.capabilities:
        pytest.skip(f"{backend} has no kernels for compute capability {major}.{minor}")
    if dtype and dtype not in one.dtypes:
        pytest.skip(f"{backend} has no {dtype}")
