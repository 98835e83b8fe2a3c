"""What the resident workers serve: requests of the kernel stage, and of the engine stages prefill and decode.

Light to import; the libraries are imported by the first request, after `prepare_environment`.
"""

import os
import sys

from slidesparse import memory

SETTINGS = {
    "OMP_NUM_THREADS": "1",  # at the sizes of a CPU run a second thread adds noise, not speed
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # after a look at the GPU a fork could not use it
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
"""What libraries take from the environment: set by the worker, whatever its caller's is, and stored in every point."""


def prepare_environment():
    """Set `SETTINGS`; called once in a worker, before anything heavy is imported."""
    os.environ.update(SETTINGS)


def kernel(request):
    """A tuning table or the results of a kernel point, whichever `stage` asks for."""
    from slidesparse import kernel_points

    with memory.ours():
        return (kernel_points.tune if request["stage"] == "tune" else kernel_points.measure)(request)


def engine(request):
    """The results of a prefill or decode point."""
    from slidesparse import engine, resident

    if engine.needs_new_process(request):
        raise resident.Replace("sparse products have run in this process, and a dense engine is asked for")
    with memory.ours():
        return engine.measure(request)


def close():
    """Free the engine, if one was made."""
    if "slidesparse.engine" in sys.modules:
        sys.modules["slidesparse.engine"].close()
