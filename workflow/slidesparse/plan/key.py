"""The key of a point: what names it, and where it and what belongs to it lie below a root such as `results`."""

import re
from pathlib import Path
from typing import NamedTuple

from slidesparse.errors import RecordError
from slidesparse.machine import hardware
from slidesparse.plan import stock
from slidesparse.plan.backends import BACKENDS, DENSE_BACKENDS

PATH = re.compile(
    r"(?:^|/)(?P<hardware>[^/]+)/(?P<stage>kernel|prefill|decode)/(?P<model>[^/]+)/(?P<dtype>[^/]+)/(?P<backend>[^/]+)"
    r"/(?P<sparsity>[^/]+)/M(?P<M>[0-9]{1,12})\.json"
)


class Configuration(NamedTuple):
    """What is compared: everything of a key but hardware, stage and M."""

    model: str
    dtype: str
    backend: str
    sparsity: str

    @classmethod
    def of(cls, name):
        """The configuration that plan.json calls model/dtype/backend/sparsity; TypeError for another form."""
        return cls(*name.split("/"))

    @property
    def name(self):
        """model/dtype/backend/sparsity."""
        return "/".join(self)

    @property
    def column(self):
        """Its name beside others of the same model and dtype."""
        return f"{self.backend}/{self.sparsity}"

    @property
    def sparse_kernel(self):
        """True where a sparse kernel may run: a sparsity, and no dense backend."""
        return self.sparsity != "dense" and self.backend not in DENSE_BACKENDS

    @property
    def sparse_on_gpu(self):
        """True for products of a GPU's sparse tensor cores."""
        backend = BACKENDS.get(self.backend)
        return backend is not None and backend.sparse and backend.processor == "gpu"

    @property
    def stock(self):
        """True for stock vLLM, which differs from all others by more than its products."""
        return self.backend == stock.BACKEND


class Key(NamedTuple):
    """The key of a point; M is the number of rows, of tokens of a prefill step, or of sequences that decode."""

    hardware: str
    stage: str
    model: str
    dtype: str
    backend: str
    sparsity: str
    M: int

    @classmethod
    def of(cls, path):
        """The key of the point that belongs at …/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.json.

        Raises RecordError if the path is not that of a point.
        """
        text = Path(path).as_posix()
        match = PATH.search(text)
        if not match or match.end() != len(text):
            raise RecordError(
                f"{path} is not the path of a point, …/hardware/stage/model/dtype/backend/sparsity/M64.json"
            )
        *names, M = match.groups()
        return cls(*names, int(M))

    @property
    def processor(self):
        """gpu or cpu. Raises HardwareError for what is no hardware key."""
        return hardware.parse(self.hardware).processor

    @property
    def variants(self):
        """Names of the variants of stock vLLM that the point is the best of; none if it is of another backend."""
        if self.backend != stock.BACKEND:
            return []
        return stock.variants_at(self.stage, self.M, self.processor)

    @property
    def configuration(self):
        """Its Configuration."""
        return Configuration(*self[2:6])

    @property
    def engine(self):
        """What one engine, or one worker of the kernel stage, measures: the key without stage and M."""
        return (self.hardware, *self[2:6])

    def path(self, root):
        """Where the point lies, as text."""
        return f"{self._folder(root)}/M{self.M}.json"

    def csv(self, root):
        """Where the CSV of its configuration lies, as text."""
        return f"{self._folder(root)}/{self.model}-{self.dtype}_{self.stage}.csv"

    def basis(self, root):
        """What it is measured of, as text: the model's shape (kernel) or the checkpoint's manifest."""
        if self.stage == "kernel":
            return f"{root}/models/{self.model}/shape.json"
        return f"{root}/checkpoints/{self.model}/{self.dtype}/{self.sparsity}.json"

    def tuning(self, root, shape=None):
        """Its tuning table or choices, as text; `shape`: the model that has its dimensions, itself unless told."""
        return f"{root}/{self.hardware}/tuning/{shape or self.model}/{self.dtype}/{self.backend}/{self.sparsity}.json"

    def _folder(self, root):
        return f"{root}/{self.hardware}/{self.stage}/{self.model}/{self.dtype}/{self.backend}/{self.sparsity}"


def is_pattern(sparsity):
    """Whether a text is `dense`, `2_inf` or `2_L` with an even L from 4 to 9998."""
    return re.fullmatch("dense|2_(?:[468]|[1-9][0-9]{0,2}[02468]|inf)", sparsity) is not None


def root_of(path):
    """The root below which the point at `path` lies."""
    return Path(path).parents[6]


def tuning_key(path):
    """(hardware, model, dtype, backend, sparsity) of the tuning table that belongs at `path`."""
    hardware, _, *names = Path(path).with_suffix("").parts[-6:]
    return (hardware, *names)
