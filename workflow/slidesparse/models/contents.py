"""Which files make up a model, and whether a directory of them can be read without running code from it."""

import re

from slidesparse.errors import CheckpointError
from slidesparse.files import inside, is_plain, open_regular, read_json
from slidesparse.models import bitnet, safetensors_io

POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git LFS left in place of the true one."""

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", ".safetensors"
OTHER_WEIGHTS = re.compile(r"consolidated|adapter_model|adapter\b|optimizer|training_args")
"""How the names of weights begin that are another form of a model's, or none of a model."""

WHOLE = "model.safetensors"
"""The one file with the weights of a model that has no shards."""

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


def wanted(names, where, listed=None):
    """The needed files among `names`, config.json and the index first; CheckpointError if they are no model.

    listed: the weights that the index lists (`check_index`), which then are the wanted ones.

    Names with a folder are never wanted, so no file can leave the model's directory. Nor are other forms of the same
    weights, and adapters. As long as an index has not been read, the numbered shards beside it are wanted.
    """
    chosen = [name for name in (CONFIG, INDEX, *OTHERS) if name in names]
    weights = plain_weights(names)
    if listed is not None:
        weights = sorted(listed)
    else:
        weights = [name for name in weights if not OTHER_WEIGHTS.match(name)] or weights
        if INDEX in names:
            weights = [name for name in weights if SHARD.search(name)] or weights
        elif WHOLE in weights:
            weights = [name for name in weights if not SHARD.search(name)]
    if CONFIG not in chosen:
        raise CheckpointError(f"{where} has no {CONFIG}: it is no model that can be read")
    if not weights:
        pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in names)
        hint = "only pickled weights, which are never loaded; convert them to safetensors" if pickled else "no weights"
        raise CheckpointError(f"{where} has no *{WEIGHTS} file ({hint})")
    return chosen + weights


def plain_weights(names):
    """The safetensors files among `names` that lie in no folder, sorted."""
    return sorted(name for name in names if name.endswith(WEIGHTS) and is_plain(name))


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


def check_index(directory, names, needed=()):
    """The files with weights that a sharded model's index lists; None if `names` have no index.

    needed: tensors that must be in it.

    CheckpointError if the index lists a file that is not in `names`, or lacks a needed tensor.
    """
    path = directory / INDEX
    if INDEX not in names:
        return None
    try:
        tensors = read_json(path)["weight_map"]
        shards = set(tensors.values())
    except (CheckpointError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is not the index of a sharded model") from None
    for shard in shards:
        if not is_plain(shard) or not shard.endswith(WEIGHTS):
            raise CheckpointError(
                f"{path} lists {shard!r:.80}, which would lie outside the model's directory, or is no *{WEIGHTS} file"
            )
        if shard not in names:
            raise CheckpointError(f"{path} lists {shard}, but there is no such file: the model is incomplete")
    _check_complete(path, tensors, needed)
    return shards


def check_weights(directory, names, shapes, scale=None):
    """Raise CheckpointError unless the safetensors files in `names` are valid and hold the tensors {name: shape}.

    They may hold further tensors, but none twice. A packed matrix counts with the shape of its weights, and needs its
    scale beside it, and a config.json that says what this does (`scale`, of `bitnet.scale_of`).
    """
    where, packed = {}, []
    for file in (inside(directory, name, error=CheckpointError) for name in plain_weights(names)):
        if is_pointer(file):
            raise CheckpointError(
                f"{file} is not a valid safetensors file but a pointer of git LFS: run `git lfs pull` there"
            )
        for name, tensor in safetensors_io.read_header(file).tensors.items():
            if name in where:
                raise CheckpointError(
                    f"{file} holds tensor {name} again, which {where[name].name} holds: move one of them away"
                )
            where[name] = file
            if name in shapes and bitnet.held_shape(name, tensor.dtype, tensor.shape) != tuple(shapes[name]):
                raise CheckpointError(_misfit(file, name, tensor, shapes[name]))
            if name in shapes and bitnet.is_packed(name, tensor.dtype):
                packed.append(name)
    _check_complete(directory, where, shapes)
    for name in packed:
        if f"{name}_scale" not in where:
            raise CheckpointError(
                f"{where[name]}: {name} is packed, but {name}_scale is nowhere: fetch the model again"
            )
        if scale is None:
            raise CheckpointError(
                f"{where[name]}: {name} is packed, but {CONFIG} has no quantization_config that says by linear_class"
                " whether its scale multiplies (autobitlinear) or divides (bitlinear): add it"
            )


def _misfit(file, name, tensor, shape):
    held = list(bitnet.held_shape(name, tensor.dtype, tensor.shape))
    packed = bitnet.is_packed(name, tensor.dtype)
    how = f"holds {held}, packed four to a byte" if packed else f"has the shape {held}"
    return (
        f"{file}: {name} {how}, but a model of the registry's shape has {list(shape)}: correct the registry, or fetch"
        " the model again"
    )


def _check_complete(where, tensors, needed):
    """Raise CheckpointError if one of the `needed` tensors is not among `tensors`."""
    missing = sorted(set(needed) - set(tensors))
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        why = f", and {CONFIG} does not tie it to the embedding" if missing == [bitnet.HEAD] else ""
        raise CheckpointError(f"{where} lacks the tensor {missing[0]}{more}{why}: the model is incomplete")


def is_pointer(path):
    """Whether git LFS left a pointer at `path` in place of the file."""
    try:
        with open_regular(path) as stream:
            return stream.read(len(POINTER)) == POINTER
    except OSError:
        return False
