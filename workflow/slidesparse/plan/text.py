"""The text of a configuration file, refused before anything is made of it if it is a trap.

Snakemake reads a configuration without a doubt: of a name that stands there twice the last one counts, `__use_yte__`
makes the file a program (https://yte-template-engine.github.io), and a few lines of aliases can fill the memory. So the
text is looked at first, as YAML's events or as JSON, in time that grows with its length and no further.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

from slidesparse.errors import ConfigurationError
from slidesparse.files import leads_out, parse_json, printable, read_text

TEXT_LIMIT = 1 << 18
"""Bytes of the longest configuration."""

DEPTH_LIMIT, NODE_LIMIT, NUMBER_LIMIT = 32, 100_000, 300
"""Deepest nesting, most values once aliases are written out, and most characters of a number."""

PROGRAM = "__use_yte__"
"""The key by which Snakemake runs a configuration as a program."""

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


def check_file(path):
    """ConfigurationError unless the file at `path` can be read as a configuration, without surprises."""
    try:
        text = read_text(path, TEXT_LIMIT)
    except OSError as error:
        raise ConfigurationError(f"the configuration {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"the configuration {path} is not UTF-8 text") from None
    check_text(text, path)


def check_files(paths):
    """`check_file` of each."""
    for path in paths:
        check_file(path)


def check_text(text, name):
    """ConfigurationError naming the configuration `name` unless `text` is YAML or JSON without surprises."""
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
    """End this process with one sentence if a configuration file in a call of Snakemake with `arguments` is a trap.

    profiles/*/profile.yaml call it, because Snakemake reads these files before it reads the Snakefile.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
    parser.add_argument("--config", "-C", nargs="*")  # so that it is no abbreviation of the other
    try:
        for path in Path(".snakemake").glob("*"):  # Snakemake writes its log there before any rule is read
            if path.is_symlink() and leads_out(".snakemake", path):
                raise ConfigurationError(f"{path} is a link that leads out of .snakemake: remove it")
        check_files(parser.parse_known_args(arguments)[0].configfile)
    except ConfigurationError as error:
        sys.exit(f"snakemake: {printable(error)}")


def _is_json(text):
    """Whether Snakemake will read the text as JSON; ValueError if it would do so with a surprise."""
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
    """ValueError or YAMLError for a text that is not one plain document."""
    sizes, stack = {}, []  # values under an anchor; [anchor, values so far, keys or None, a key is next] by level
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
    """ValueError for a text whose values cannot be made, such as a date in month 13."""
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # whatever the constructors of YAML raise
        raise ValueError(f"a value cannot be read ({' '.join(str(error).split())!s:.80})") from None


def _check_node(event, line):
    """ValueError for a tag that makes objects, a program or an endless number."""
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
    """ValueError if the event is a key that its mapping has already; keys and values of a mapping take turns."""
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
