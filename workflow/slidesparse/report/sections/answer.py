"""The first screen: whether sparsity pays here, for each stage and type, in words, in one table and in one graph."""

from slidesparse.machine import naming
from slidesparse.plan import backends as plan
from slidesparse.report.document.model import Bullets, Choice, joined, say
from slidesparse.report.sections.answer_costs import of_costs
from slidesparse.report.sections.answer_graphs import figure_choices
from slidesparse.report.sections.answer_known import known_here, terms
from slidesparse.report.sections.answer_table import dashes, rule, table
from slidesparse.report.sections.by_prompt import of_prompts
from slidesparse.report.sections.findings import of_stock, verdicts
from slidesparse.report.sections.headline import in_short
from slidesparse.report.sections.losses import judged
from slidesparse.report.sections.overview import dates
from slidesparse.report.sections.verdict import MOST_TYPES, STAGES, asks_sparse, deciding, foreign, types_of
from slidesparse.report.sources.rows import OURS, configuration_order, grouped

SHOWN = 6
"""Most engines that a sentence names."""

MODELS = 3
"""Most models that the head names."""


def answer_blocks(key, source, comparisons, prefix):
    """The blocks of the first screen of one source of a hardware key. The names of its files begin with `prefix`."""
    known = types_of(source)
    types = sorted(known[:MOST_TYPES], key=lambda key: configuration_order((*key, "", "")))
    several = len({model for model, _ in types}) > 1
    label = {each: " ".join(each) if several else each[1] for each in types}
    sentences = verdicts(source, comparisons, label)
    several = len(known) > MOST_TYPES
    short, stock = in_short(comparisons, label, several), of_stock(comparisons, label)
    quality = judged(source, label)
    blocks = [head(source), *warnings(key, source), *short, *quality, *(stock if short else [])]
    told = known_here(source)
    blocks += told if foreign(source) else []
    blocks += [*of_costs(source, comparisons, label), *lead(source, comparisons, label), *([] if short else stock)]
    dense = {row.configuration[:2] for row in source.rows if row.stage != "kernel"} - {*known}
    more = [" ".join(each) for each in [*known[MOST_TYPES:], *sorted(dense)]]
    sentences += of_prompts(source, comparisons)
    sentences += [say("Not on this screen: {names}.", names=", ".join(more))] if more else []
    sentences += [*not_begun(source), *out_of_memory(source)]
    sentences += [*([] if foreign(source) else told), *terms(source, label)]
    blocks.append(Bullets(sentences))
    tables = {(label[each],): table(source, comparisons, *each, label[each], prefix) for each in types}
    tables = {chosen: each for chosen, each in tables.items() if each.rows}
    drawn = figure_choices(comparisons, types, label, prefix)
    blocks += [Choice(("type",), tables), *dashes(comparisons, {each: label[each] for each in types})] if tables else []
    blocks += [Choice(("type", "graph", "graph over"), drawn, first_only=True)] if drawn else []
    return [*blocks, rule(source, types)] if tables else blocks


def head(source):
    """A sentence on GPU, model, weights, versions, date and number of points."""
    rows = [row for row in source.rows if row.measured]
    names = sorted({row.provenance.gpu_name for row in rows} - {""}) or [say("name not recorded")]
    versions = sorted({f"vLLM {row.provenance.vllm}" for row in rows if row.provenance.vllm})
    models = sorted({row.configuration.weights for row in rows})
    parts = [", ".join(names) if all(isinstance(n, str) for n in names) else names[0]]
    shown = [model for model in models if model not in source.layers or model in made(source)]
    parts += [weights(source, model) for model in shown[:MODELS]]
    parts += [say("{n} more models", n=len(shown) - MODELS)] if len(shown) > MODELS else []
    parts += [*longest_prompts(rows), *versions]
    parts += [dates(source)[1][:10]] if dates(source) else []
    engines = any(row.stage != "kernel" for row in source.rows)
    points = {row.point for row in rows if row.stage != "kernel" or not engines}
    failed = {row.point for row in source.rows if row.status == "failed" and (row.stage != "kernel" or not engines)}
    said = {"n": len(points), "failed": len(failed - points)}
    parts.append(
        say("{n} points of engines, {failed} failed", **said) if engines else say("{n} points, {failed} failed", **said)
    )
    return joined(parts, " · ")


def made(source):
    """Models that engines ran."""
    return {row.configuration.weights for row in source.rows if row.stage != "kernel"}


def longest_prompts(rows):
    """Texts on the longest prompts of rows, apart for each model at another prompt than the usual one.

    Those of prefill, or of decode where there is no prefill.
    """
    longest = {}
    for row in [row for row in rows if row.stage == "prefill"] or rows:
        if length := row.values.get("prompt_len"):
            model = row.configuration.model
            model = None if model == row.configuration.weights else model
            longest[model] = max(length, longest.get(model, 0))
    usual = [say("prompts of at most {n} tokens", n=longest.pop(None))] if None in longest else []
    return usual + [say("prompts of at most {n} tokens in {model}", n=longest[m], model=m) for m in sorted(longest)]


def weights(source, model):
    """A text on a model and where its weights are from."""
    kind = next((item.get("source", {}).get("kind") for item in source.models if item["model"] == model), None)
    words = {
        "generated": say("{model}: SYNTHETIC weights, which show speed only", model=model),
        "hub": say("{model}: trained weights", model=model),
        "local": say("{model}: weights of a folder", model=model),
    }
    return words.get(kind) or (say("{model}: weights not recorded", model=model) if model in made(source) else model)


def warnings(key, source):
    """Sentences that go before any verdict: a CPU, or figures of others."""
    found = []
    if naming.parse(key).cc == 0:
        found.append(say("A rehearsal on a CPU: it shows that the whole way works, and says nothing of GPUs."))
    if foreign(source):
        found.append(
            say("Published by others: one sample a point, so no ratio has an interval, and no win or loss is certain.")
        )
    elif any(source.layouts.get(row.point, OURS) != OURS for row in source.rows):
        found.append(say("Some figures are published by others: one sample a point, and no interval."))
    return found


def out_of_memory(source):
    """A list with a sentence on the engines that ran out of memory; empty if none did."""
    found = sorted({row.point for row in source.rows if row.status == "out_of_memory" and row.stage != "kernel"})
    names = [f"{stage} {name.model} {name.dtype} {name.column} M={M}" for stage, name, M in found]
    more = [say("and {n} more", n=len(names) - SHOWN)] if len(names) > SHOWN else []
    return [say("Out of memory: {names}.", names=joined([*names[:SHOWN], *more], ", "))] if names else []


def lead(source, comparisons, label):
    """Sentences on what the ratios below are, and on engines without one; empty without engines."""
    chosen = [deciding(comparisons, stage, *each) for stage in STAGES for each in label]
    chosen = [each for each in chosen if each]
    rows = [row for stage in STAGES for row in source.stage(stage) if row.configuration[:2] in label]
    if not chosen and any(asks_sparse(source, stage, each) for stage in STAGES for each in label):
        good = [row for row in rows if row.status == "ok" and row.configuration.sparse_kernel]
        if good and not any(row.sparse for row in rows) and any(row.silent for row in good):
            return [say("It is unknown whether a sparse kernel ran in an engine: these points do not say it.")]
        if good and not any(row.sparse for row in rows):
            return [say("No sparse kernel ran in an engine: these are dense engines with pruned weights.")]
        return [say("No sparse engine could be held against a dense one: “All speed-ups” says why.")]
    if not chosen:
        none = say("No sparse engine was measured, so nothing tells whether sparsity pays here.")
        return [none] if any(row.status == "ok" for row in rows) else []
    return [*over_what(chosen, label), *unmatched(source, comparisons, label)]


def unmatched(source, comparisons, label):
    """A list with a sentence on sparse engines that have no dense one to be held against; empty if all have."""
    lacking = [
        say("{stage} {of}", stage=say(stage), of=of)
        for stage in STAGES
        for (model, dtype), of in label.items()
        if not deciding(comparisons, stage, model, dtype)
        and (model, dtype) in grouped(source.stage(stage))
        and asks_sparse(source, stage, (model, dtype))
    ]
    names = joined(lacking, ", ")
    text = say("No sparse engine could be held against a dense one in {names}: “All speed-ups” says why.", names=names)
    return [text] if lacking else []


def not_begun(source):
    """A list with a sentence on stages, models and types of a plan that have no row at all; empty without such."""
    named = {}
    for stage in plan.STAGES:
        begun = {row.configuration[:2] for row in source.stage(stage)}
        for each in sorted({name[:2] for name in source.planned(stage)} - begun):
            named.setdefault(each, []).append(say(stage))
    parts = [say("{type} {stages}", type=" ".join(each), stages=joined(found, ", ")) for each, found in named.items()]
    return [say("Planned, and without a usable point: {parts}.", parts=joined(parts))] if parts else []


def over_what(chosen, label):
    """A list with the sentence that says what the ratios below are. chosen: the comparisons that decide."""
    places = {}
    for each in chosen:
        engines = ", ".join(sorted({base.backend for base in each.bases.values()} | {*each.rivals}))
        places.setdefault(engines, {}).setdefault(each.stage, []).append(label[each.model, each.dtype])
    if len(places) == 1 and not any(len(each.rivals) > 1 for each in chosen):
        return [
            say(
                "Times as fast as the dense engine ({engines}), for M tokens (prefill) or M sequences (decode) a step:",
                engines=next(iter(places)),
            )
        ]
    parts = []
    for engines, stages in places.items():
        where = []
        for stage, types in stages.items():
            every = len(types) == sum(each.stage == stage for each in chosen)
            where.append(say(stage) if every else say("{stage} {of}", stage=say(stage), of=", ".join(types)))
        parts.append(say("{where}: {engines}", where=joined(where, ", "), engines=engines))
    return [
        say(
            "Times as fast as the fastest dense engine ({engines}), for M tokens (prefill) or M sequences (decode) a"
            " step:",
            engines=next(iter(places)) if len(places) == 1 else joined(parts),
        )
    ]
