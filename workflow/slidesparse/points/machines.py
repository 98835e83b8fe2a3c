"""Whether the results of a hardware key are those of the GPU that is here. Cards that share a key may differ."""

from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import read_json
from slidesparse.machine import hardware, naming

NEAR = 0.01
"""Memory and power limits that differ by less are the same: drivers reserve a little."""


def others(root, keys):
    """A sentence for each of this machine's GPUs whose key has results of another one below `root`.

    Names, memory, power limits and numbers of multiprocessors are compared, as far as both are known. One point of each
    configuration is read.
    """
    sentences = []
    for gpu in hardware.detected():
        for key in keys if gpu.gpu else ():
            if naming.is_of(key, gpu.key):
                here = facts(gpu.name, gpu.memory_bytes, gpu.power_limit_w, gpu.sm_count)
                there = [other for other in measured(root, key) if differ(here, other)]
                sentences += [sentence(key, here, other) for other in dict.fromkeys(there)]
    return list(dict.fromkeys(sentences))


def facts(name=None, memory_bytes=None, power_limit_w=None, sm_count=None, **_):
    """What is compared of a GPU."""
    return name, memory_bytes, power_limit_w, sm_count


def measured(root, key):
    """The facts of the GPUs that measured results of a key, of one point of each configuration."""
    found = []
    for folder in sorted(Path(root, key).glob("*/*/*/*/*")):
        path = next(iter(sorted(folder.glob("M*[0-9].json"))), None)
        try:
            found += [facts(**read_json(path, RecordError)["hardware"])] if path else []
        except (RecordError, KeyError, TypeError):
            continue  # who reads it says so
    return found


def differ(one, other):
    """Whether facts differ, as far as both are known."""
    known = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return any(abs(a - b) > NEAR * b if isinstance(a, int | float) else a != b for a, b in known)


def sentence(key, here, other):
    """What a user is told of results of a key that another GPU measured; here, other: facts."""
    return (
        f"{key} has results of {described(*other)}, and this machine has {described(*here)}: one report would take them"
        " for one GPU. To keep them apart set hardware_suffix"
    )


def described(name, memory_bytes, power_limit_w, sm_count):
    """A GPU in words: its name, memory, power limit and multiprocessors, as far as they are known."""
    parts = [
        memory_bytes and f"{memory_bytes / 2**30:.0f} GiB",
        power_limit_w and f"{power_limit_w:g} W",
        sm_count and f"{sm_count} multiprocessors",
    ]
    return f"{name} ({', '.join(filter(None, parts)) or 'no more is known'})"
