"""Output types of products in files of others, whose heads may tell them. Ours are divided only if they are alike."""

from slidesparse.report.document.model import joined, say
from slidesparse.report.sources.rows import OURS, configuration_order

UNRECORDED = say("unrecorded")


def outputs_of(rows, comparison):
    """(Configuration, M) of ratios -> (own output type, the denominator's), as texts, where one is known and they
    differ. rows: kernels of the comparison's model and type.
    """
    kinds = {}
    for row in rows:
        kinds.setdefault((row.configuration, row.M), set()).add(row.values.get("output_of_others") or "")
    found = {}
    for (name, M), base in comparison.bases.items():
        sides = [", ".join(sorted(kinds.get((each, M), set()) - {""})) for each in (name, base)]
        if sides[0] != sides[1]:
            found[name, M] = tuple(each or UNRECORDED for each in sides)
    return found


def against(found, pair):
    """A text with the output types of both sides behind it, if there is such a pair."""
    return joined([found, output_pair(pair)], ", ") if pair else found


def output_pair(pair):
    """A text with the output types of both sides; None without a pair."""
    return say("{own} outputs against {over}", own=pair[0], over=pair[1]) if pair else None


def unlike(comparison, keys):
    """A text with the names of those of `keys`, (Configuration, M), whose sides have unlike outputs; empty if none."""
    groups = {}
    for name, M in sorted(keys, key=lambda key: configuration_order(key[0])):
        if pair := comparison.outputs.get((name, M)):
            groups.setdefault(tuple(map(str, pair)), (pair, {}))[1][name.column] = None
    return joined([against(", ".join(names), pair) for pair, names in groups.values()]) if groups else ""


def unlike_outputs(comparison):
    """A list with a sentence, if products of others with unlike outputs are divided by one another."""
    found = unlike(comparison, comparison.outputs)
    return [say("Unlike outputs, by the heads of these files: {parts}.", parts=found)] if found else []


def output_texts(source, rows):
    """(Configuration, M) -> a text with the output types of kernel rows. Ours have none where their file has none."""
    kinds = {}
    for row in rows:
        missing = "" if source.layouts.get(row.point) == OURS else UNRECORDED
        kind = row.values.get("output_of_others") or row.values.get("output") or missing
        kinds.setdefault((row.configuration, row.M), {})[str(kind)] = kind
    texts = {key: joined([each[kind] for kind in sorted(each)], ", ") for key, each in kinds.items() if "" not in each}
    return {key: say("{kinds} outputs", kinds=text) for key, text in texts.items()}
