"""Translations of the report: `{language}.yaml` maps the English form of a sentence to its translation."""

import re
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


NAMES = re.compile(r"[^\s,;]+(?: [^\s,;]+){0,2}(?:, [^\s,;]+(?: [^\s,;]+){0,2})+")
"""A list of names or numbers, and no sentence."""

PARTS = re.compile(r"(?:[;, ·]*\{part\d+\}[.;, ]*)+")
"""A sentence that only joins others."""

SPACES = re.compile(r"(?<=[\u3001-\u303f\u4e00-\u9fff\uff01-\uff5e]) +(?=[\u3001-\u303f\u4e00-\u9fff\uff01-\uff5e])")
BESIDE = re.compile(r" +(?=[\u3001\u3002\uff01-\uff5e])|(?<=[\u3001\u3002\uff01-\uff5e]) +")
"""Spaces between, and beside, full-width characters, which need none."""


def speaker(language):
    """A function that translates a Text, with its values, or a word of the catalogue. Anything else stays as it is.

    Marks between parts of a sentence become those of the language.
    """
    known = catalogue(language)
    marks = {mark: known[mark] for mark in (", ", "; ") if mark in known}

    def marked(text):
        for mark, other in marks.items():
            text = text.replace(mark, other)
        return text

    def inside(value):
        """A value of a sentence."""
        return marked(value) if type(value) is str and value not in known and NAMES.fullmatch(value) else said(value)

    def said(value):
        if isinstance(value, Text):
            values = {name: inside(inner) for name, inner in value.values.items()}
            sentence = known.get(value.english)
            if sentence is None:
                sentence = marked(value.english) if PARTS.fullmatch(value.english) else value.english
            sentence = sentence.format_map(values)
            return BESIDE.sub("", SPACES.sub("", sentence)) if marks else sentence
        if isinstance(value, (list, tuple)):
            return known.get(", ", ", ").join(str(said(item)) for item in value)
        if type(value) is str:
            return known.get(value, value)
        return value

    return said
