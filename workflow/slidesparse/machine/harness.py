"""Where EleutherAI's lm-evaluation-harness is: the environment `quality`, or this one. Imports nothing of it."""

import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from slidesparse.errors import ConfigurationError

NAME, FOLDER = "lm-eval", "quality"
"""The harness as a distribution, and the folder of its environment in that of this interpreter (envs/install.sh)."""


def packages():
    """The folder of the packages of the environment `quality`, which need not be there."""
    base = str(Path(sys.prefix, FOLDER))
    return sysconfig.get_path("purelib", "venv", vars={"base": base, "platbase": base})


def python():
    """The interpreter of the environment `quality`, with which a user calls the harness."""
    return str(Path(sys.prefix, FOLDER, "bin", "python"))


def version():
    """Version of the harness; None if neither environment has it."""
    found = metadata.distributions(name=NAME, path=[*sys.path, packages()])
    return next((each.version for each in found), None)


def refuse_missing(tasks):
    """Raise ConfigurationError if there are `tasks` to score and no harness."""
    if tasks and version() is None:
        raise ConfigurationError(
            "quality.tasks needs the environment quality, which is not installed: bash envs/install.sh quality, or set"
            " quality.tasks to []"
        )


def use():
    """Let this process import the environment `quality`, behind all that its own environment has."""
    if packages() not in sys.path:
        sys.path.append(packages())
