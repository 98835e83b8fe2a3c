"""What libraries take from the environment while something is measured."""

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
