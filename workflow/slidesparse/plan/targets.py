"""Refuses a path below the results that is asked for and that nothing makes, with the nearest that is planned."""

import os
from difflib import get_close_matches

from slidesparse.errors import ConfigurationError
from slidesparse.files import printable
from slidesparse.plan import stock
from slidesparse.plan.backends import BACKENDS
from slidesparse.plan.key import is_pattern

NO_TARGETS = ("--report", "--archive", "--directory", "-d")
"""Options of Snakemake whose value may be a path below the results that is not there."""

LONGEST = 500
"""Characters of the longest path for which a similar one is searched."""


def refuse_unknown(words, table, makers, others):
    """Raise ConfigurationError if one of the words of a call is a path below `table.root` that cannot be planned.

    makers: function of a path; gives the wildcards, as a dict, of each rule that makes it. others: paths that are
    planned and that `table` does not know, such as reports.
    """
    for before, word in zip(["", *words], words, strict=False):
        path = os.path.normpath(word)
        if path.startswith(f"{table.root}/") and before not in NO_TARGETS and not os.path.lexists(path):
            planned = [*table.planned(), *others]
            if path not in planned and (why := _why_not(makers(path), table)):
                sentence = f"{path} cannot be made, because {why}; near is {_nearest(path, planned)}"
                raise ConfigurationError(printable(sentence))


def _why_not(found, table):
    """Why a path that is not planned cannot be made; None if it can, as any point, search or checkpoint.

    found: the wildcards of the rules that make it.
    """
    if not found:
        return "no rule makes it"
    names = found[0]
    model, backend, sparsity = (names.get(name) for name in ("model", "backend", "sparsity"))
    if model and model not in table.config["registry"]:
        return f"no model is named {model}"
    if backend and backend not in BACKENDS and backend not in stock.VARIANTS:
        return f"no backend is named {backend}"
    if sparsity and not is_pattern(sparsity):
        return f"{sparsity} is no pattern"
    if names.keys() == {"hardware"} and names["hardware"] not in table.plans:
        return f"{names['hardware']} is not planned"
    if "stage" in names and "m" not in names:
        return "no point of it is planned"
    return None


def _nearest(path, planned):
    """Of the planned paths the one that is most like `path`, folder by folder."""
    left = [each.split("/") for each in planned]
    for at, part in enumerate(path[:LONGEST].split("/")):
        here = {parts[at] for parts in left if at < len(parts)}
        close = [part] if part in here else get_close_matches(part, sorted(here), 1)
        left = [each for each in left if each[at : at + 1] == close] or [each for each in left if part in each] or left
    return "/".join(left[0])
