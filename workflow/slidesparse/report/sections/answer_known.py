"""What the first screen says of its terms, of what is known and unknown, and of products that took no turns."""

from slidesparse.report.document.model import joined, say
from slidesparse.report.sections import quality
from slidesparse.report.sections.outputs import output_pair
from slidesparse.report.sections.quantities import ends
from slidesparse.report.sections.ratios import lacking_at
from slidesparse.report.sections.verdict import STAGES, row_names, spanned

SHOWN = 4
"""Most patterns of which products are named."""

TERMS = say(
    "2:L: 2 of every L weights are zero. INT8, FP8: weights and activations of 8 bits (W8A8). Dense: without sparsity;"
    " the fastest: of all libraries measured at that M. GPU time: a step without the GPU's waits for its host, the CPU."
    " Pays: the whole interval of the speed-up lies above 1."
)


def terms(source, label):
    """A list with what the words of the first screen mean; empty without engines. label: type -> its name."""
    engines = {row.configuration[:2] for stage in STAGES for row in source.stage(stage)}
    return [TERMS] if engines & {*label} else []


def known_here(source):
    """A list with a sentence on what is known, and what no point of an engine tells; empty if all is there."""
    rows = [row for stage in STAGES for row in source.stage(stage) if row.status == "ok"]
    figures = [
        (say("tokens/s"), any(row.values.get("tokens_per_s") for row in rows)),
        (say("step time"), any(row.values.get("step_ms") for row in rows)),
        (say("GPU time"), any(row.values.get("gpu_step_ms") for row in rows)),
        (say("kernels"), any(row.status == "ok" for row in source.stage("kernel"))),
    ]
    costs = [
        (say("stock vLLM"), any(row.configuration.stock for row in rows)),
        (say("intervals"), any(ends(row.values, name)[0] for row in rows for name in ("step_ms", "gpu_step_ms"))),
        (say("energy"), any(row.values.get("energy_j_per_token") for row in rows)),
        (say("memory of weights"), any(row.values.get("weight_bytes") for row in rows)),
        (say("weights changed by pruning"), any(item.get("changed") is not None for item in source.checkpoints)),
    ]
    if not rows or all(there for _, there in costs):
        return []
    costs.append((say("quality"), quality.is_known(source)))
    there = say("Known here: {parts}.", parts=joined([what for what, there in [*figures, *costs] if there], ", "))
    missing = say("Unknown here: {parts}.", parts=joined([what for what, there in costs if not there], ", "))
    return [joined([there, missing], " ")]


def of_shapes(source, label):
    """(shape, type) -> the name of the first type that has its kernels. label: type -> its name."""
    found = {}
    for (model, dtype), of in label.items():
        found.setdefault((source.shape_of(model), dtype), of)
    return found


def of_products(source, comparisons, label):
    """Sentences on products alone, for types whose sparse ones took no turns with dense ones. label: type -> name."""
    groups = {}
    for (shape, dtype), of in of_shapes(source, label).items():
        if one := apart(comparisons, shape, dtype):
            shown = dict([*row_names(one.sparse_names()).items()][:SHOWN])
            counted = {name: found for name in shown if (found := one.sparse_counted(name))}
            spans = [span_of_M(one, name, shown[name], found) for name, found in counted.items()]
            pairs = {str(text): text for text in map(output_pair, one.outputs.values())}
            pairs |= without(one, [(name, M) for name, found in counted.items() for M in found])
            said = joined([say("{of} {spans}", of=of, spans=joined(spans, ", ")), *pairs.values()], ", ")
            groups.setdefault((str(one.what), str(one.over)), (one, []))[1].extend([said] if spans else [])
    return [
        say(
            "Kernels alone, {what}, over {over}, not in turn: {parts}.",
            what=one.what,
            over=one.over,
            parts=joined(parts),
        )
        for one, parts in groups.values()
        if parts
    ]


def span_of_M(comparison, name, text, counted):
    """A text on one pattern's ratios, and on how many M they are, if not on all. counted: M -> those that count."""
    Ms = comparison.of(name).keys() | comparison.Ms
    of = {"name": text, "span": spanned(counted.values()), "n": len(counted), "all": len(Ms)}
    return say("{name} {span}", **of) if len(counted) == len(Ms) else say("{name} {span} ({n} of {all} M)", **of)


def without(comparison, keys):
    """English -> a text on dense libraries that lack a figure beside some ratios; empty if none does."""
    found = {(backend, str(why)): (backend, why) for backend, _, why in lacking_at(comparison, keys)}
    texts = [say("without {name} ({why})", name=backend, why=why) for backend, why in found.values()]
    return {str(text): text for text in texts}


def apart(comparisons, shape, dtype):
    """The comparison of products with the fastest dense library, or the only one; None if any took turns."""
    found = [c for c in comparisons if (c.stage, c.model, c.dtype) == ("kernel", shape, dtype) and c.sparse_names()]
    if any(each.in_turn for each in found):
        return None
    kinds = {each.kind: each for each in reversed(found)}
    return kinds.get("best_dense") or kinds.get("dense")
