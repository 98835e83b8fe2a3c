"""What the resident workers serve: requests of the kernel stage, and of the engine stages prefill, decode and quality.

It is light to import. The first request imports the libraries, after `prepare_environment`.
"""

import os
import sys

from slidesparse.machine import memory
from slidesparse.machine.settings import SETTINGS
from slidesparse.plan.backends import BACKENDS


def prepare_environment():
    """Set `SETTINGS`; called once in a worker, before anything heavy is imported."""
    os.environ.update(SETTINGS)


_process = {"sparse": False}
"""Whether sparse products have run on a GPU in this process."""


def kernel(request):
    """A tuning table if `stage` is tune, else the results of a kernel point."""
    from slidesparse.kernel import point

    search = request["stage"] == "tune"
    _keep_apart(BACKENDS[request["backend"]].sparse, search)
    with memory.ours():
        return (point.tune if search else point.measure)(request)


def engine(request):
    """The results of a prefill, decode or quality point."""
    from slidesparse.engine import engine
    from slidesparse.engine.quality import point

    _keep_apart(engine.is_sparse(request))
    with memory.ours():
        return (point if request["stage"] == "quality" else engine).measure(request)


def _keep_apart(sparse, search=False):
    """Raise resident.Replace if a dense measurement is asked for after sparse products ran on a GPU in this process.

    After sparse products, products at a GPU's power limit take up to 4 % longer in the same process. On some GPUs the
    clock is lower. This holds for dense products, too, so a dense figure would depend on what was measured before it.
    Sparse products have this cost in any process. So have dense ones that take turns with them. A search only compares
    algorithms with each other.
    """
    import torch

    from slidesparse.worker import resident

    if _process["sparse"] and not sparse and not search:
        raise resident.Replace("sparse products have run in this process, and dense ones are to be measured")
    _process["sparse"] |= sparse and torch.cuda.is_available()


def close():
    """Free the engine, if one was made."""
    if "slidesparse.engine.engine" in sys.modules:
        sys.modules["slidesparse.engine.engine"].close()
