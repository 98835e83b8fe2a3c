"""Out-of-tree vLLM plugin: a BitNet model class and a quantisation method for dense and slid W8A8 checkpoints.

vLLM finds it through the entry point `vllm.general_plugins`. A caller may also call `register()` before it makes an
engine. Two things decide what runs: the checkpoint's config.json, and the engine argument
`additional_config={"slidesparse": {"backend": …, "tuning": …}}`. In it `tuning` is the path of the backend's tuning
table, or None. For the backend auto it is the path of its choices.
"""

from slidesparse.errors import HardwareError
from slidesparse.machine import vllm
from slidesparse.models.bitnet import ARCHITECTURE


def register():
    """Tell vLLM of the model class and the quantisation method. Idempotent; called in every vLLM process.

    Raises HardwareError if the installed vLLM is outside the tested range.
    """
    version = vllm.version()
    if not version:
        raise HardwareError("vLLM is not installed; install one of the environments in envs/")
    if wrong := vllm.untested(version):
        raise HardwareError(wrong)
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"slidesparse.vllm_plugin.bitnet:{ARCHITECTURE}")
    from slidesparse.vllm_plugin import quantization, unquantised  # noqa: F401  (they register themselves)
