"""Environment variables that libraries read while something is measured."""

SETTINGS = {
    "OMP_NUM_THREADS": "1",  # at the sizes of a CPU run a second thread adds noise, not speed
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # once a process has used the GPU, its fork cannot use it
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
"""Environment variables that the worker sets, whatever its caller has, and that every point stores."""
