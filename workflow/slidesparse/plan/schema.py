"""Checks the configuration against its schema, and says in one sentence what is wrong with it."""

import json
import math
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, validators

from slidesparse.errors import ConfigurationError
from slidesparse.plan.backends import BACKENDS, configurable
from slidesparse.plan.key import from_kept

SCHEMA = Path(__file__).parents[2] / "schemas" / "config.schema.yaml"

PATTERNS = ("2_4", "2_6", "2_8", "2_10", "2_12", "2_14", "2_16", "2_inf")
"""The published patterns, for suggestions. Any even L of at least 4 is allowed."""


LONGEST_NAME = 100
"""Characters of the longest name for which a similar one is searched. The time grows with the square of the length."""

SOURCES = {"hub": ("repository", "revision"), "local": ("path",), "generated": ("seed",)}
"""source of a model: the keys of a registry entry that it reads."""


def checked(config, schema_path=SCHEMA):
    """Check a configuration (see `matrix.validated`); returns the schema (a dict)."""
    _check_names(config)
    schema = _schema(schema_path)
    errors = list(_Validator(schema).iter_errors(config))
    if errors:
        order = {"additionalProperties": 0, "required": 2}
        raise ConfigurationError(_sentence(min(errors, key=lambda error: order.get(error.validator, 1))))
    return schema


_Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: _is_number(value) and math.isfinite(value),
        }
    ),
)
"""For this validator 64.0 is no integer and infinity is no number. By itself the library accepts both."""


@cache
def _schema(path):
    """The schema from a file, with the names of backends from the table in plan/backends.py."""
    schema = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for processor, section in (("gpu", schema), ("cpu", schema["properties"]["cpu"])):
        for role, names in configurable(processor).items():
            section["properties"]["backends"]["properties"][role]["items"] = {"enum": names}
    return schema


def _check_names(section, path=()):
    """Raise ConfigurationError for a key that YAML did not read as text (28: or on:), and for control characters.

    A line break in a value would end a command, and the schema does not catch it: `$` in a pattern matches before it.
    """
    for key, value in section.items() if isinstance(section, dict) else enumerate(section):
        if isinstance(section, dict) and not isinstance(key, str):
            raise ConfigurationError(
                f"{_dotted((*path, str(key)))} is not a key, because YAML does not read it as text: quote it"
            )
        for text in (key, value):
            if isinstance(text, str) and not text.isprintable():
                raise ConfigurationError(
                    f"{_dotted((*path, key))!r:.200} holds {text!r:.80}, in which there is a line break or another"
                    " character that cannot be printed: remove it"
                )
        if isinstance(value, dict | list):
            _check_names(value, (*path, key))


def _sentence(error):
    """A sentence with the key, its value, what is allowed, and what was probably meant."""
    path, value, schema = _dotted(error.absolute_path), error.instance, error.schema
    parent = next((part for part in reversed(error.absolute_path) if isinstance(part, str)), "")
    if error.validator == "additionalProperties":
        return _unknown_key(list(error.absolute_path), value, schema)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in value)
        source = f", which source {value['source']} needs" if missing in SOURCES.get(value.get("source"), ()) else ""
        return f"{path}.{missing} is missing{source}: add it"
    if error.validator == "maxItems":
        return f"{path} has {len(value)} entries, but may have at most {error.validator_value}"
    if error.validator == "maximum":
        return f"{path} is {shown(value)}, but must be at most {error.validator_value}"
    if error.validator == "uniqueItems":
        again = next(i for i, item in enumerate(value) if item in value[:i])  # 1 and true are one to a schema
        return f"{path}[{again}] is {shown(value[again])}, but {path}[{value.index(value[again])}] is too: name it once"
    if error.validator == "enum":
        allowed = error.validator_value
        meant = _other_list(value, path) or nearest(value, allowed)
        return f"{path} is {shown(value)}, but allowed are {listed(allowed)}{meant}"
    number = "the number " if _is_number(value) and not {"integer", "number"} & set(_kinds(schema)) else ""
    meant = _advice(value, schema, parent)
    return f"{path} is {number}{shown(value)}, but must be {schema['title']}{meant and '; '}{meant}"


def _unknown_key(path, section, schema):
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    key = next(key for key in section if key not in known and not any(re.search(p, key) for p in patterns))
    where = _dotted([*path, key])
    if path == ["registry"]:
        may = "letters, digits, '.', '_' and '-', and no number behind -prompt at its end"
        return f"{where} is not a usable name for a model: it may have {may}"
    if patterns:
        return f"{where} is not a hardware key, such as RTX4090_cc89_py312_cu129_x86_64"
    owner = f"{_dotted(path)} has" if path else "the configuration has"
    value = shown(section[key])
    return f"{where} (with the value {value}) is not a key: {owner} {listed(known)}{nearest(key, known)}"


def _other_list(value, path):
    """Where a known backend in the wrong list belongs, or nothing."""
    backend = BACKENDS.get(value) if isinstance(value, str) and "backends." in path else None
    if not backend:
        return ""
    processor = ("cpu" if path.startswith("cpu.") else "gpu") if backend.processor == "any" else backend.processor
    where = f"{'cpu.' if processor == 'cpu' else ''}backends.{'sparse' if backend.sparse else 'dense'}"
    if path.startswith(f"{where}_on_pruned"):
        return f"; {value} cannot run pruned checkpoints"
    kind, machine = "sparse" if backend.sparse else "dense", "CPUs" if processor == "cpu" else "NVIDIA GPUs"
    if backend.also_dense:
        return f"; {value} belongs in {where} or in {where.replace('sparse', 'dense')}"
    return f"; {value} is a {kind} backend on {machine} and belongs in {where}"


def _advice(value, schema, parent):
    """Advice on what to write instead of a value of the wrong type or form, or nothing."""
    kinds = _kinds(schema)
    text = str(value).strip()
    if len(text) > LONGEST_NAME:
        return ""
    if parent == "hardware":
        return "auto stands alone, hardware: auto" if value == "auto" else nearest(value, ["auto"]).lstrip("; ")
    if parent == "sparsity":
        if "array" not in kinds:
            return _pattern_advice(value)
        return f"write [{_unquoted(value)}]" if _is_number(value) else f'write ["{text}"]' if text and value else ""
    if "array" in kinds and (_is_number(value) or (isinstance(value, str) and value)):
        return f"write [{text}]"
    if isinstance(value, str) and {"integer", "number"} & set(kinds):
        if re.fullmatch(r"\d+(\.\d*)?", text):
            return f"write {text} without quotes, and in a file, because lists and sections after --config are text"
        if re.fullmatch(r"\d+(\.\d*)?[eE][-+]?\d+", text):
            return f"write {float(text)!r}, because YAML reads an exponent without a point as text"
    if isinstance(value, float) and "integer" in kinds and value.is_integer() and value > 0:
        return f"write {int(value)}"
    return "quote it" if "string" in kinds and _is_number(value) else ""


def _pattern_advice(value):
    """Advice on what to write instead of a value that is no sparsity pattern."""
    if _is_number(value):
        return f"YAML reads 2_8 without quotes as the number 28 and 2:8 as 128, so quote it: {_unquoted(value)}"
    text = str(value).strip().replace(":", "_")
    match = re.fullmatch(r"(\d+)_(\d+|inf)", text)
    if len(text) > LONGEST_NAME:
        return 'for example "2_8"'
    if text == "dense":
        return "leave it out, because the dense backends measure dense by themselves"
    if not match:
        nearest = get_close_matches(text, PATTERNS, 1, 0.5)
        return f'did you mean "{nearest[0]}"?' if nearest else 'for example "2_8"'
    Z, L = match.groups()
    if Z != "2":
        kept = _from_kept(Z, L)
        if kept:
            return f"{Z} of {L} weights kept is two zeros in every {L}, written {kept}"
        return 'the first number counts zeros and is always 2, as in "2_8"'
    if L != "inf" and int(L) < 4:
        return f'L is {L}, and the smallest pattern is "2_4"'
    if L != "inf" and int(L) % 2:
        return f'L is odd, and the nearest patterns are "2_{int(L) - 1}" and "2_{int(L) + 1}"'
    written = f"2_{L.lstrip('0')}"
    return f'write "{written}"' if written != str(value) else ""


def _unquoted(number):
    """The pattern that YAML read as a number: it reads 2_8 as 28, and to the base 60 2:8 as 128 and 6:8 as 368."""
    if not isinstance(number, int):
        return '"2_8"'
    text = str(number)
    for L in (text[1:] if text.startswith("2") else "", str(number - 120)):
        if L.isdecimal() and 4 <= int(L) < 60 and int(L) % 2 == 0:
            return f'"2_{L}"'
    return _from_kept(*map(str, divmod(number, 60))) or '"2_8"'


def _from_kept(kept, L):
    """Our name for the paper's (L-2):L in quotes; None if it is no such pattern."""
    ours = from_kept(kept, L)
    return ours and f'"{ours}"'


def _kinds(schema):
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else kinds


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dotted(path):
    """A path in the configuration as text: kernel.M[2] for ("kernel", "M", 2)."""
    return (
        "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        or "the configuration"
    )


def shown(value):
    """A value as JSON, cut at 60 characters."""
    if value is None:
        return "empty"
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty section"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names):
    text = ", ".join(map(str, names))
    return text if len(text) <= 1000 else f"{text[:1000]}…"


def nearest(value, names):
    """`; did you mean X?` if a name is similar, ignoring case; else nothing."""
    if len(str(value)) > LONGEST_NAME:
        return ""
    lower = {str(name).lower(): name for name in names if len(str(name)) <= LONGEST_NAME}
    near = get_close_matches(str(value).lower(), lower, 1, 0.5)
    return f"; did you mean {lower[near[0]]}?" if near else ""
