"""Translations of the report: `{language}.yaml` maps the English form of a sentence to its translation."""

from functools import cache
from pathlib import Path

import yaml

from slidesparse.report.document.model import Text

ENGLISH = "en"


def available():
    """Languages that a report can be written in, English first."""
    return [ENGLISH, *sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))]


@cache
def catalogue(language):
    """English form -> translation; empty for English."""
    if language == ENGLISH:
        return {}
    return yaml.safe_load(Path(__file__).with_name(f"{language}.yaml").read_text(encoding="utf-8"))


def speaker(language):
    """A function that translates a Text, with its values, or a word of the catalogue. Anything else stays as it is."""
    known = catalogue(language)

    def said(value):
        if isinstance(value, Text):
            values = {name: said(inner) for name, inner in value.values.items()}
            return known.get(value.english, value.english).format_map(values)
        if isinstance(value, (list, tuple)):
            return known.get(", ", ", ").join(str(said(item)) for item in value)
        if type(value) is str:
            return known.get(value, value)
        return value

    return said
