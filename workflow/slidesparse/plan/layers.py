"""The configuration as Snakemake makes it: config/config.yaml, files laid over it, and words of the command line."""

import copy
import json
import os
import re
from pathlib import Path

import yaml

from slidesparse.errors import ConfigurationError
from slidesparse.files import read_text
from slidesparse.machine import naming
from slidesparse.plan import matrix
from slidesparse.plan.schema import listed
from slidesparse.plan.text import TEXT_LIMIT, check_file

DEFAULT = "config/config.yaml"
WORDS = "--config"
"""The name of the layer that the command line is."""


def default():
    """Path of the default configuration: that of the working directory, or else of this repository."""
    own = Path(__file__).resolve().parents[3] / DEFAULT
    return str(own) if own.exists() and not os.path.lexists(DEFAULT) else DEFAULT


def base():
    """[(name, content)] of the default configuration, if it is there."""
    path = default()
    return [(path, load(path))] if os.path.exists(path) else []


def own(files, words):
    """[(name, content)] of what a user lays over the default: files, and `words`, a section from the command line."""
    return [(str(path), load(path)) for path in files] + ([(WORDS, dict(words))] if words else [])


def load(path):
    """The section in a configuration file. Raises ConfigurationError for a file that cannot be used."""
    check_file(path)
    text = read_text(path, TEXT_LIMIT)
    try:
        content = json.loads(text)
    except ValueError:
        content = yaml.safe_load(text)
    if not isinstance(content, dict | None):
        raise ConfigurationError(f"the configuration {path} cannot be used: it has no keys")
    return content or {}


def merged(layers):
    """One section of all layers: sections merge, everything else is replaced by what comes later."""
    whole = {}
    for _, content in layers:
        _lay(whole, content)
    return whole


def _lay(below, section):
    for key, value in section.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay(below[key], value)
        else:
            below[key] = copy.deepcopy(value)


def configuration(files=(), words=()):
    """(the configuration before it is completed, the user's layers) of the options --configfile and --config.

    words: texts NAME=VALUE.
    """
    layers = own(files, dict(map(_word, words)))
    return merged([*base(), *layers]), layers


def validated(config, layers):
    """`matrix.validated`; an error begins with the name of the layer that has the key, a user's or the default."""
    try:
        return matrix.validated(config)
    except ConfigurationError as error:
        name = _holder(str(error), [*base(), *layers])
        raise ConfigurationError(f"{name}: {error}" if name else str(error)) from None


def _holder(sentence, layers):
    """The name of the layer that decides the key with which a sentence begins, or most of it; None if none does."""
    said, longest, holder = sentence.lstrip("'"), "", None
    for name, content in layers:
        for key in _keys(content):
            if said.startswith(key) and not re.match(r"[\w-]", said[len(key) :]) and len(key) >= len(longest):
                longest, holder = key, name
    return holder


def _word(text):
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise ConfigurationError(f"{WORDS} has {text!r:.80}, but needs name=value")
    return name, _value(value)


def _value(text):
    """What Snakemake makes of a value on the command line: inside of lists and sections all is text."""
    try:
        node, plain = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    return plain if isinstance(plain, int | float | None) else _texts(node)


def _texts(node):
    if isinstance(node, yaml.MappingNode):
        return {_texts(key): _texts(value) for key, value in node.value}
    return [*map(_texts, node.value)] if isinstance(node, yaml.SequenceNode) else node.value


def overruled(layers, table):
    """Sentences on keys of a user's `layers` that have no effect on a CPU, where the default's section `cpu` has them.

    table: plan.table.Table of the whole configuration.
    """
    keys = [key for key in table.plans if not naming.parse(key).cc]
    named = set(_leaves(merged(layers).get("cpu", {})))
    sentences = []
    for name, content in layers if keys else ():
        lost = [
            path
            for path, value in _leaves({key: value for key, value in content.items() if key != "cpu"}).items()
            if path not in named and _leaves(table.config["cpu"]).get(path, value) != value
        ]
        if lost:
            theirs = listed(f"cpu.{path}" for path in lost)
            sentences.append(
                f"{name}: {listed(lost)} without effect on {listed(keys)}, where {theirs} of {DEFAULT} counts: set that"
            )
    return sentences


def _keys(section, path=""):
    """Dotted names of all keys, in any depth, as an error writes them."""
    for key, value in section.items():
        yield repr(f"{path}{key}")[1:-1]
        yield from _keys(value, f"{path}{key}.") if isinstance(value, dict) else ()


def _leaves(section, path=""):
    """{dotted name: value} of all that is no section."""
    leaves = {}
    for key, value in section.items() if isinstance(section, dict) else ():
        leaves |= _leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return leaves
