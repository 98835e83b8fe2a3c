"""The shape of a model: the numbers in the registry, the GEMMs that follow, and the check of a config.json."""

from slidesparse.errors import CheckpointError, ConfigurationError
from slidesparse.files import read_json
from slidesparse.models import bitnet

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


def check_config(name, path, shape):
    """Raise CheckpointError unless the config.json at `path` describes a BitNet of exactly this `shape`."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise CheckpointError(f"model {name}: {path} is no model's config.json")
    if not bitnet.describes(config):
        kind = config.get("model_type")
        raise CheckpointError(f"model {name}: {path} describes a {kind!r:.80} model, but only BitNet can be measured")
    config.setdefault("head_dim", head := shape["hidden_size"] // shape["num_attention_heads"])
    for field, expected in {**shape, "head_dim": head}.items():
        if config.get(field) != expected:
            raise CheckpointError(
                f"model {name}: {path} has {field} {config.get(field)!r}, but the registry says {expected}:"
                f" correct registry.{name}.shape"
            )
