"""The key of a point, which names it, and the paths of its files below a root such as `results`."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from slidesparse.errors import ConfigurationError, RecordError
from slidesparse.machine import families, naming
from slidesparse.plan import prompts, stock
from slidesparse.plan.backends import BACKENDS, DENSE_BACKENDS

PATH = re.compile(
    r"(?:^|/)(?P<hardware>[^/]+)/(?P<stage>kernel|prefill|decode|quality)/(?P<model>[^/]+)/(?P<dtype>[^/]+)"
    rf"/(?P<backend>[^/]+)/(?P<sparsity>[^/]+)/M(?P<name>{prompts.NAME})\.json"
)


class Configuration(NamedTuple):
    """What is compared: a key without hardware, stage and M. The model has its prompt, if it is not the usual one."""

    model: str
    dtype: str
    backend: str
    sparsity: str

    @classmethod
    def of(cls, name):
        """The configuration from its name in plan.json, model/dtype/backend/sparsity; TypeError for another form."""
        return cls(*name.split("/"))

    @property
    def name(self):
        """Its name in plan.json, model/dtype/backend/sparsity."""
        return "/".join(self)

    @property
    def column(self):
        """Its name among configurations of the same model and dtype, backend/sparsity."""
        return f"{self.backend}/{self.sparsity}"

    @property
    def weights(self):
        """The model without a prompt, to which weights, quality, shape and kernels belong."""
        return prompts.apart(self.model)[0]

    def key(self, hardware, stage, M):
        """The Key of its point at M."""
        model, prompt = prompts.apart(self.model)
        return Key(hardware, stage, model, *self[1:], M, prompt)

    @property
    def sparse_kernel(self):
        """Whether a sparse kernel may run: it has a pattern, and its backend is not dense."""
        return self.sparsity != "dense" and self.backend not in DENSE_BACKENDS

    @property
    def sparse_on_gpu(self):
        """Whether its backend uses a GPU's sparse tensor cores."""
        backend = BACKENDS.get(self.backend)
        return backend is not None and backend.sparse and backend.processor == "gpu"

    @property
    def stock(self):
        """Whether it is stock vLLM, which differs from all others in more than its products."""
        return self.backend == stock.BACKEND


class Key(NamedTuple):
    """The key of a point. M is a number of rows (kernel), tokens of a step (prefill), sequences (decode) or tokens of
    the text (quality). The prompt is that of prefill (`plan.prompts`)."""

    hardware: str
    stage: str
    model: str
    dtype: str
    backend: str
    sparsity: str
    M: int
    prompt: int = prompts.USUAL

    @classmethod
    def of(cls, path):
        """The key of the point that belongs at …/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.json.

        Raises RecordError if the path is not that of a point.
        """
        text = Path(path).as_posix()
        match = PATH.search(text)
        key = match and cls(*match.groups()[:-1], *prompts.read(match["name"]))
        if not key or match.end() != len(text) or (key.prompt != prompts.USUAL and key.stage != "prefill"):
            raise RecordError(
                f"{path} is not the path of a point, …/hardware/stage/model/dtype/backend/sparsity/M64.json"
            )
        return key

    @property
    def stored(self):
        """Its fields as points have and hash them: without the usual prompt, as before there were others."""
        fields = self._asdict()
        return fields if self.prompt != prompts.USUAL else {name: fields[name] for name in self._fields[:-1]}

    @property
    def processor(self):
        """gpu or cpu. Raises HardwareError if `hardware` is no hardware key."""
        return naming.parse(self.hardware).processor

    @property
    def variants(self):
        """Names of the variants of stock vLLM from which the point is chosen; none for another backend."""
        if self.backend != stock.BACKEND:
            return []
        return stock.variants_at(self.stage, self.M, families.attention(naming.parse(self.hardware).cc))

    @property
    def configuration(self):
        """Its Configuration."""
        return Configuration(prompts.at(self.model, self.prompt), *self[3:6])

    @property
    def engine(self):
        """Hardware and Configuration: all its points are measured by one engine, or one worker of the kernel stage."""
        return (self.hardware, *self.configuration)

    @property
    def file(self):
        """Name of the point's file."""
        return f"M{prompts.name(self.M, self.prompt)}.json"

    def path(self, root):
        """Path of the point, as text."""
        return f"{self._folder(root)}/{self.file}"

    def csv(self, root):
        """Path of the CSV of its configuration, as text."""
        return f"{self._folder(root)}/{self.model}-{self.dtype}_{self.stage}.csv"

    def basis(self, root):
        """Path of what it is measured on, as text: the model's shape (kernel) or the checkpoint's manifest."""
        if self.stage == "kernel":
            return f"{root}/models/{self.model}/shape.json"
        return f"{root}/checkpoints/{self.model}/{self.dtype}/{self.sparsity}.json"

    @property
    def untuned(self):
        """True for stock vLLM and its variants, which have no tuning table."""
        return self.backend == stock.BACKEND or self.backend in stock.VARIANTS

    def tuning(self, root, shape=None):
        """Path of its tuning table or choices, as text; shape: the model that has its dimensions, by default itself."""
        return f"{root}/{self.hardware}/tuning/{shape or self.model}/{self.dtype}/{self.backend}/{self.sparsity}.json"

    def _folder(self, root):
        return f"{root}/{self.hardware}/{self.stage}/{self.model}/{self.dtype}/{self.backend}/{self.sparsity}"


def refuse_whole_paths(arguments):
    """Raise ConfigurationError if one of a call's `arguments` is the absolute path of a point of this directory.

    Snakemake knows points by their paths from the working directory, and says only that no rule makes the other.
    """
    for path in filter(os.path.isabs, arguments):
        for whole, here in ((path, os.getcwd()), (os.path.realpath(path), os.path.realpath("."))):
            relative = os.path.relpath(whole, here)
            root, _, rest = relative.partition("/")
            if root == "results" and PATH.fullmatch(rest):
                raise ConfigurationError(
                    f"{path} is the whole path of a point: ask for {relative}, as it is named here"
                )


def is_pattern(sparsity):
    """Whether a text is `dense`, `2_inf` or `2_L` with an even L from 4 to 9998."""
    return re.fullmatch("dense|2_(?:[468]|[1-9][0-9]{0,2}[02468]|inf)", sparsity) is not None


def from_kept(kept, L):
    """Our name for the paper's (L-2):L, which counts the weights that are kept: 2_8 for 6 and 8. None for another."""
    if str(L).isdecimal() and str(kept).isdecimal() and int(L) - int(kept) == 2 and is_pattern(f"2_{int(L)}"):
        return f"2_{int(L)}"
    return None


def root_of(path):
    """The root below which the point at `path` lies."""
    return Path(path).parents[6]


def tuning_key(path):
    """(hardware, model, dtype, backend, sparsity) of the tuning table that belongs at `path`."""
    hardware, _, *names = Path(path).with_suffix("").parts[-6:]
    return (hardware, *names)
