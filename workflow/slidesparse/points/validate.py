"""Reads a stored point and checks it against the schema, its path and the request that it must answer."""

from functools import cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from slidesparse.errors import RecordError
from slidesparse.files import is_sealed, printable
from slidesparse.plan import prompts
from slidesparse.plan.key import Key, is_pattern
from slidesparse.points.consistent import contradiction
from slidesparse.points.request import is_its_own
from slidesparse.points.strict import read_json

SCHEMA = Path(__file__).parents[2] / "schemas" / "point.schema.yaml"
AGAIN = "delete it and it is measured again"


@cache
def validator():
    """The JSON schema validator of points, built once."""
    return Draft202012Validator(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


def read_point(path, expected_digest=None):
    """The point at `path`, checked.

    Raises RecordError if it is damaged, does not fit the schema or belongs to another path. With an `expected_digest`
    (hex), a point that answers another request is refused, too.
    """
    expected = Key.of(path).stored
    point = read_json(path)
    error = next(validator().iter_errors(point), None)  # only the first: a hostile point has millions
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the point"
        raise RecordError(f"{path} is not a valid point: {where}: {_rule(error)}; {AGAIN}")
    if not is_pattern(expected["sparsity"]):
        raise RecordError(f"{path} does not belong there: {expected['sparsity']:.80} is no sparsity")
    for name in Key._fields:
        said, value = (key.get(name, prompts.USUAL) for key in (point["key"], expected))
        if said != value:
            said = f"{printable(said):.80}"
            raise RecordError(
                f"{path} does not belong there: its key says {name} {said}, its path says {value}; {AGAIN}"
            )
    check_seal(path, point)
    try:
        wrong = contradiction(point)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RecordError(
            f"{path} is damaged: its figures cannot be compared ({type(error).__name__}); {AGAIN}"
        ) from None
    if wrong:
        raise RecordError(f"{path} contradicts itself: {wrong}; {AGAIN}")
    if expected_digest is not None:
        check_digest(path, point, expected_digest)
    return point


def check_seal(path, point):
    """Raise RecordError if the point read from `path` is not as it was written."""
    if not is_sealed(point):
        raise RecordError(f"{path} was changed after it was measured: its sha256 is not that of its content; {AGAIN}")


def check_digest(path, point, expected):
    """Raise RecordError if a point answers another request than that with the digest `expected` (hex)."""
    digest = point["request"]["digest"]
    if digest != expected:
        raise RecordError(
            f"{path} answers another request: its digest is {digest[:12]}…, not {expected[:12]}…; {AGAIN}"
        )
    if not is_its_own(point, path):
        raise RecordError(f"{path} contradicts itself: its digest is not that of its request; {AGAIN}")


def _rule(error):
    """The rule that a part of a point breaks, without its value: a link may have led to a file with secrets."""
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"it lacks {missing[0]}"
    if error.validator == "additionalProperties" and error.validator_value is False:
        extra = next(name for name in error.instance if name not in error.schema.get("properties", {}))
        return f"it has the unknown field {extra!r:.80}"
    return f"it breaks the rule {error.validator} {error.validator_value!s:.80}"
