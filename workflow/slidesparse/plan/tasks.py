"""Tasks of the lm-evaluation-harness: what the key quality.tasks names, and where their results lie below a root."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from slidesparse.errors import ConfigurationError, RecordError
from slidesparse.files import digest, found, sha256_file
from slidesparse.plan.key import Configuration, Key
from slidesparse.plan.schema import shown

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Names of tasks, which are names of files."""

ENDINGS = (".yaml", ".yml")

PATH = re.compile(
    r"(?:^|/)(?P<hardware>[^/]+)/quality/(?P<model>[^/]+)/(?P<dtype>[^/]+)/(?P<backend>[^/]+)/(?P<sparsity>[^/]+)"
    rf"/tasks/(?P<task>{NAME})\.json"
)


class Task(NamedTuple):
    """One entry of quality.tasks."""

    name: str
    """Of its results: the harness's own name, or that of the YAML file without its ending."""
    source: str
    """What the harness is asked for: its own name, or the path of a YAML file."""

    @property
    def content(self):
        """What decides a task beside its name: a digest of all files in the folder of its YAML file, or None.

        A task takes other files of its folder for its data and its functions. Folders in it do not count.
        """
        if not is_file(self.source):
            return None
        beside = sorted(path for path in Path(self.source).parent.iterdir() if path.is_file())
        return digest([Path(self.source).name, {path.name: sha256_file(path) for path in beside}])


class TaskKey(NamedTuple):
    """Names the result of one task of one checkpoint, which is run by one backend."""

    hardware: str
    model: str
    dtype: str
    backend: str
    sparsity: str
    task: str

    @classmethod
    def of(cls, path):
        """The key of the result that belongs at …/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/tasks/….

        Raises RecordError if the path is not that of a result.
        """
        text = Path(path).as_posix()
        match = PATH.search(text)
        if not match or match.end() != len(text):
            raise RecordError(f"{path} is not the path of a task's result, …/dtype/backend/sparsity/tasks/name.json")
        return cls(*match.groups())

    @property
    def configuration(self):
        """Its Configuration."""
        return Configuration(*self[1:5])

    @property
    def point(self):
        """The Key of a quality point of the same engine, which has no M."""
        return Key(self.hardware, "quality", *self.configuration, 0)

    def path(self, root):
        """Path of the result, as text."""
        return f"{folder(root, *self[:5])}/{self.task}.json"

    def csv(self, root):
        """Path of the CSV of all tasks of its configuration, as text."""
        return f"{folder(root, *self[:5])}/{self.model}-{self.dtype}_tasks.csv"


def folder(root, hardware, model, dtype, backend, sparsity):
    """The folder of the results of a configuration, as text."""
    return f"{root}/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/tasks"


def root_of(path):
    """The root below which the result at `path` lies."""
    return Path(path).parents[7]


def is_file(source):
    """Whether an entry names a YAML file, and not a task of the harness."""
    return source.endswith(ENDINGS) or os.sep in source


def named(entries, key):
    """[Task] of the entries of quality.tasks. Raises ConfigurationError, which names `key`, for one that cannot be."""
    tasks = {}
    for i, entry in enumerate(entries):
        place, source = f"{key}[{i}]", found(entry) if is_file(entry) else entry
        if is_file(source) and not (source.endswith(ENDINGS) and os.path.isfile(source)):
            raise ConfigurationError(f"{place} is {shown(entry)}, but there is no YAML file of a task")
        name = Path(source).stem if is_file(source) else source
        if not re.fullmatch(NAME, name):
            raise ConfigurationError(
                f"{place} is {shown(entry)}, but a task's name has letters, digits, '.', '_' and '-'"
            )
        if name in tasks:
            raise ConfigurationError(
                f"{place} is {shown(entry)}, but another entry has the name {name}: rename its file"
            )
        tasks[name] = Task(name, source)
    return [*tasks.values()]
