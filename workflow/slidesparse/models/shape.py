"""The shape of a model: the numbers in the registry, the GEMMs that follow, and the check of a config.json."""

import codecs

from slidesparse.errors import CheckpointError, ConfigurationError
from slidesparse.files import parse_json, read_bytes
from slidesparse.models import bitnet
from slidesparse.models.contents import POINTER

MARKS = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
"""Byte order marks, and the encodings of the texts that they begin."""

FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def describe(name, entry):
    """The shape of registry entry `entry`, and the linears of a layer, each with N output and K input channels."""
    shape = shape_of(name, entry)
    return {"model": name, **shape, "linears": bitnet.linears(shape)}


def shape_of(name, entry):
    """The six numbers of registry entry `entry`; ConfigurationError if it lacks one."""
    try:
        return {field: int(entry["shape"][field]) for field in FIELDS}
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(f"registry.{name}.shape lacks one of {', '.join(FIELDS)}: add it") from None


def check_heads(name, shape):
    """Raise ConfigurationError if no engine runs attention heads of this `shape`'s size."""
    head = shape["hidden_size"] // shape["num_attention_heads"]
    if head % bitnet.HEAD_MULTIPLE or head > bitnet.LARGEST_HEAD:
        raise ConfigurationError(
            f"registry.{name}.shape has heads of {head} channels (hidden_size over num_attention_heads), but attention"
            f" needs a multiple of {bitnet.HEAD_MULTIPLE} up to {bitnet.LARGEST_HEAD}"
        )


def read_config(path):
    """The content of a model's config.json, a dict; CheckpointError says what else lies at `path`."""
    try:
        data = read_bytes(path)
        config = parse_json(data.decode())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({_other_kind(data) or error}): correct it") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no model's config.json")
    return config


def _other_kind(data):
    """What the bytes are that should be JSON, if they tell; else None."""
    if data.startswith(POINTER):
        return "it is a pointer of git LFS and not the file itself, which `git lfs pull` fetches"
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return f"it begins with a byte order mark, of {encoding}; save it as UTF-8 without one"
    return None


def check_config(name, path, shape):
    """The content (a dict) of the config.json at `path`.

    CheckpointError unless it describes a BitNet of exactly this `shape`, which can be read and which engines can run.
    """
    try:
        config = read_config(path)
    except CheckpointError as error:
        raise CheckpointError(f"model {name}: {error}") from None
    if not bitnet.describes(config):
        kind = config.get("model_type")
        raise CheckpointError(f"model {name}: {path} describes a {kind!r:.80} model, but only BitNet can be measured")
    if problem := bitnet.unfit(config, shape):
        raise CheckpointError(f"model {name}: {path} {problem}")
    head = shape["hidden_size"] // shape["num_attention_heads"]
    for field, expected in {**shape, "head_dim": head}.items():
        if (found := config.get(field, head if field == "head_dim" else None)) != expected:
            raise CheckpointError(
                f"model {name}: {path} has {field} {found!r}, but the registry says {expected}:"
                f" correct registry.{name}.shape"
            )
    return config
