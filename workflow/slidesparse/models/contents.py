"""Which files make up a model, and whether a directory of them can be read without running code from it."""

import re

from slidesparse.errors import CheckpointError
from slidesparse.files import inside, is_plain, read_json
from slidesparse.models import safetensors_io

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", ".safetensors"
OTHER_WEIGHTS = re.compile(r"consolidated|adapter_model|adapter\b|optimizer|training_args")
"""How the names of weights begin that are another form of a model's, or none of a model."""

SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
"""How the names of a sharded model's files end."""

OTHERS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def wanted(names, where):
    """The needed files among `names`, config.json and the index first; CheckpointError if they are no model.

    Names with a folder are never wanted, so no file can leave the model's directory. Nor are other forms of the same
    weights, and adapters. Where an index stands beside numbered shards, only these are wanted; `check_index` checks
    that they are those of the index.
    """
    chosen = [name for name in (CONFIG, INDEX, *OTHERS) if name in names]
    weights = sorted(name for name in names if name.endswith(WEIGHTS) and is_plain(name))
    weights = [name for name in weights if not OTHER_WEIGHTS.match(name)] or weights
    if INDEX in names:
        weights = [name for name in weights if SHARD.search(name)] or weights
    if CONFIG not in chosen:
        raise CheckpointError(f"{where} has no {CONFIG}: it is no model that can be read")
    if not weights:
        pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in names)
        hint = "only pickled weights, which are never loaded; convert them to safetensors" if pickled else "no weights"
        raise CheckpointError(f"{where} has no *{WEIGHTS} file ({hint})")
    return chosen + weights


def check_name(name, where):
    """Raise CheckpointError unless `name` can be the name of a model in the registry."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        raise CheckpointError(f"{where} names the model {name!r:.80}, which cannot be: fetch the model again")


def check_commit(commit, where, error=CheckpointError):
    """Raise `error` unless `commit` has 40 hexadecimal digits, because it becomes the name of a folder."""
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
        raise error(f"{where} has {commit!r:.80} for a commit, which is no 40 hexadecimal digits")


def check_files(files, where):
    """Raise CheckpointError unless `files` is {plain name: {"size": int, "sha256": hex}} with at least one file."""
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{where} lists no files: delete it and run again")
    for name, facts in files.items():
        if not is_plain(name):
            raise CheckpointError(f"{where} lists {name!r}, which is no plain file name: delete it and run again")
        known = isinstance(facts, dict) and facts.keys() == {"size", "sha256"} and isinstance(facts["sha256"], str)
        if not known or not is_size(facts["size"]) or not re.fullmatch("[0-9a-f]{64}", facts["sha256"]):
            raise CheckpointError(f"{where} lacks the size or sha256 of {name}: delete it and run again")


def is_size(size):
    """Whether `size` is a possible number of bytes of a file."""
    return type(size) is int and 0 <= size < 1 << 62


def check_index(directory, names):
    """Raise CheckpointError if the index of a sharded model lists a file that is not in `names`."""
    path = directory / INDEX
    if INDEX not in names:
        return
    try:
        shards = set(read_json(path)["weight_map"].values())
    except (CheckpointError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is not the index of a sharded model") from None
    for shard in shards:
        if not is_plain(shard):
            raise CheckpointError(f"{path} lists {shard!r}, which would lie outside the model's directory")
        if shard not in names:
            raise CheckpointError(f"{path} lists {shard}, but there is no such file: the model is incomplete")


def check_weights(directory, names, shapes):
    """Raise CheckpointError unless the safetensors files in `names` are valid and hold the tensors {name: shape}.

    They may hold further tensors, but none twice.
    """
    where = {}
    for file in (inside(directory, name, error=CheckpointError) for name in names if name.endswith(WEIGHTS)):
        for name, tensor in safetensors_io.read_header(file).tensors.items():
            if name in where:
                raise CheckpointError(f"{file} holds tensor {name} again, which {where[name].name} holds: delete one")
            where[name] = file
            if name in shapes and tensor.shape != tuple(shapes[name]):
                raise CheckpointError(
                    f"{file}: {name} has the shape {list(tensor.shape)}, but a model of the registry's shape has"
                    f" {list(shapes[name])}: correct the registry, or fetch the model again"
                )
    missing = sorted(shapes.keys() - where.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise CheckpointError(f"{directory} lacks the tensor {missing[0]}{more}: the model is incomplete")
