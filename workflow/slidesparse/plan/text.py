"""Checks the text of a configuration file before Snakemake reads it.

Snakemake itself checks little. If a key stands twice, the last one counts. `__use_yte__` makes the file a program
(https://yte-template-engine.github.io). A few lines of aliases can fill the memory. So the text is checked first, as
YAML's events or as JSON, in time proportional to its length.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

from slidesparse.errors import ConfigurationError, SlideSparseError
from slidesparse.files import leads_out, parse_json, printable, read_text
from slidesparse.program import find_user

TEXT_LIMIT = 1 << 18
"""Bytes of the longest configuration file."""

DEPTH_LIMIT, NODE_LIMIT, NUMBER_LIMIT = 32, 100_000, 300
"""Deepest nesting, most values after aliases are written out, and most characters of a number."""

PROGRAM = "__use_yte__"
"""With this key, Snakemake runs a configuration file as a program."""

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


def check_file(path):
    """Raise ConfigurationError unless the file at `path` is a safe configuration; see `check_text`."""
    try:
        text = read_text(path, TEXT_LIMIT)
    except OSError as error:
        raise ConfigurationError(f"the configuration {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"the configuration {path} is not UTF-8 text") from None
    check_text(text, path)


def check_files(paths):
    """Call `check_file` for each path."""
    for path in paths:
        check_file(path)


def check_text(text, name):
    """Raise ConfigurationError, with the `name` of the file, unless `text` is valid YAML or JSON without traps."""
    try:
        if not _is_json(text):
            _check_yaml(text)
            _construct(text)
    except ValueError as error:
        raise ConfigurationError(f"the configuration {name} cannot be used: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        cause = " ".join(str(getattr(error, "problem", None) or "no such text").split())
        raise ConfigurationError(f"the configuration {name} is not valid YAML{where}: {cause}") from None


def check_call(arguments):
    """Find the user (`program.find_user`), and end this process in a sentence if a configuration file is a trap.

    profiles/*/profile.yaml call this, because Snakemake reads configuration files before the Snakefile.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
    parser.add_argument("--config", "-C", nargs="*")  # otherwise argparse takes it as short for the other
    try:
        find_user()
        for path in Path(".snakemake").glob("*"):  # Snakemake writes its log there before it reads a rule
            if path.is_symlink() and leads_out(".snakemake", path):
                raise ConfigurationError(f"{path} is a link that leads out of .snakemake: remove it")
        check_files(parser.parse_known_args(arguments)[0].configfile)
    except SlideSparseError as error:
        sys.exit(f"snakemake: {printable(error)}")


def _is_json(text):
    """Whether Snakemake will read the text as JSON; ValueError if that JSON is a trap."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        parse_json(text, parse_int=_number, parse_float=_number)
    except json.JSONDecodeError:
        return False
    return True


def _number(text):
    if len(text) > NUMBER_LIMIT:
        raise ValueError(f"a number has {len(text)} digits")
    return 0


def _check_yaml(text):
    """Raise ValueError or YAMLError unless the text is one plain document."""
    sizes, stack = {}, []  # anchor: number of values; for each level [anchor, values so far, keys or None, key is next]
    documents = total = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ValueError(f"line {line} begins a second document")
        if isinstance(event, yaml.NodeEvent):
            _check_node(event, line)
            size = sizes.get(event.anchor) if isinstance(event, yaml.AliasEvent) else 1
            if size is None:
                raise ValueError(f"line {line} has an alias of something that is not complete")
            if stack:
                _check_key(stack[-1], event, line)
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append([event.anchor, size, set() if isinstance(event, yaml.MappingStartEvent) else None, True])
                if len(stack) > DEPTH_LIMIT:
                    raise ValueError(f"line {line} nests deeper than {DEPTH_LIMIT} levels")
                continue
            if isinstance(event, yaml.ScalarEvent) and event.anchor:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size, *_ = stack.pop()
            if anchor:
                sizes[anchor] = size
        else:
            continue
        if stack:
            stack[-1][1] += size
        total = max(total, size)
        if total > NODE_LIMIT or stack and stack[-1][1] > NODE_LIMIT:
            raise ValueError(f"line {line}: with its aliases written out it holds more than {NODE_LIMIT} values")


def _construct(text):
    """Raise ValueError if a value of the text cannot be constructed, such as a date in month 13."""
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # YAML's constructors may raise anything
        raise ValueError(f"a value cannot be read ({' '.join(str(error).split())!s:.80})") from None


def _check_node(event, line):
    """Raise ValueError for a tag that makes objects, for `__use_yte__`, and for a number that is too long."""
    if getattr(event, "tag", None) not in (None, "!", *TAGS):
        raise ValueError(f"line {line} has the tag {event.tag!r:.80}: leave it out")
    if not isinstance(event, yaml.ScalarEvent):
        return
    if event.value == PROGRAM:
        raise ValueError(f"line {line} has {PROGRAM}, by which it would be run as a program: write its values out")
    number = event.implicit[0] and event.value.lstrip("+-.")[:1].isdigit() or event.tag in NUMBERS
    if number and len(event.value) > NUMBER_LIMIT:
        raise ValueError(f"line {line} has a number of {len(event.value)} digits")


def _check_key(level, event, line):
    """Raise ValueError if the event is a key that its mapping already has. Keys and values of a mapping alternate."""
    _, _, keys, is_key = level
    if keys is None:
        return
    level[3] = not is_key
    if is_key and not isinstance(event, yaml.ScalarEvent):
        raise ValueError(f"line {line} has a key that is no text")
    if is_key:
        if event.value in keys:
            raise ValueError(f"line {line} names {event.value!r:.80} a second time: keep one of them")
        keys.add(event.value)
