"""One measured point on disk: read, validated, and held against the path it lies at and the request it answers."""

from functools import cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from slidesparse.errors import RecordError
from slidesparse.plan.key import Key
from slidesparse.points.strict import read_json

SCHEMA = Path(__file__).parents[2] / "schemas" / "point.schema.yaml"
AGAIN = "delete it and it is measured again"


@cache
def validator():
    """The validator of a point, built once."""
    return Draft202012Validator(yaml.safe_load(SCHEMA.read_text()))


def read_point(path, expected_digest=None):
    """The point at `path`, complete and in its place.

    Raises RecordError if it is damaged, does not fit the schema, belongs to another path, or (with an
    `expected_digest`, hex) answers another request.
    """
    expected = Key.of(path)._asdict()
    point = read_json(path)
    error = best_match(validator().iter_errors(point))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the point"
        message = error.message if len(error.message) <= 160 else error.message[:160] + "…"
        raise RecordError(f"{path} is not a valid point: {where}: {message}; {AGAIN}")
    for name, value in expected.items():
        said = point["key"][name]
        if said != value:
            raise RecordError(
                f"{path} does not belong there: its key says {name} {said}, its path says {value}; {AGAIN}"
            )
    digest = point["request"]["digest"]
    if expected_digest is not None and digest != expected_digest:
        raise RecordError(
            f"{path} answers another request: its digest is {digest[:12]}…, not {expected_digest[:12]}…; {AGAIN}"
        )
    return point
