"""The first screen: whether sparsity pays here, for each stage and type, in words, in one table and in one graph."""

from slidesparse.machine import hardware
from slidesparse.report.document.model import Bullets, Choice, joined, say
from slidesparse.report.sections.answer_graphs import figure_choices
from slidesparse.report.sections.answer_table import costs_over_dense, rule, table
from slidesparse.report.sections.overview import dates
from slidesparse.report.sections.ratios import EVEN, SLOWER, UNKNOWN, of_layers
from slidesparse.report.sections.verdict import (
    FIGURES,
    LOSES,
    PAYS,
    STAGES,
    WORDS,
    deciding,
    fastest_over_stock,
    foreign,
    over_stock,
    ratios,
    row_names,
    span,
    spell,
    types_of,
    verdict,
)
from slidesparse.report.sources.rows import configuration_order, pattern_length

QUALITY = say("What a pattern costs in accuracy was not measured. Speed alone decides nothing.")


def answer_blocks(key, source, comparisons, prefix):
    """The blocks of the first screen of one source of a hardware key. The names of its files begin with `prefix`."""
    types = sorted(types_of(source), key=lambda key: configuration_order((*key, "", "")))
    several = len({model for model, _ in types}) > 1
    label = {each: " ".join(each) if several else each[1] for each in types}
    sentences = verdicts(source, comparisons, label)
    blocks = [head(source), *warnings(key, source), *in_short(comparisons, label), *lead(source, label)]
    blocks.append(Bullets([*sentences, *unknown(source)]))
    tables = {(label[each],): table(source, comparisons, *each, label[each], prefix) for each in types}
    tables = {chosen: each for chosen, each in tables.items() if each.rows}
    if tables:
        blocks += [Choice(("type",), tables), rule(source, types)]
    drawn = figure_choices(comparisons, types, label, prefix)
    if drawn:
        blocks.append(Choice(("type", "graph", "graph over"), drawn, first_only=True))
    return blocks


def head(source):
    """A sentence on GPU, model, weights, versions, date and number of points."""
    rows = [row for row in source.rows if row.measured]
    names = sorted({row.provenance.gpu_name for row in rows} - {""}) or [say("name not recorded")]
    versions = sorted({f"vLLM {row.provenance.vllm}" for row in rows if row.provenance.vllm})
    models = sorted({row.configuration.model for row in rows})
    prompts = max((row.values.get("prompt_len") or 0 for row in rows), default=0)
    parts = [", ".join(names) if all(isinstance(n, str) for n in names) else names[0]]
    parts += [weights(source, model) for model in models if model not in source.layers or model in made(source)][:3]
    parts += [say("prompts of at most {n} tokens", n=prompts)] if prompts else []
    parts += versions
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
    return {row.configuration.model for row in source.rows if row.stage != "kernel"}


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
    if hardware.parse(key).cc == 0:
        found.append(say("A rehearsal on a CPU: it shows that the whole way works, and says nothing of GPUs."))
    if foreign(source):
        found.append(
            say("Published by others: one sample a point, so no ratio has an interval, and no win is certain.")
        )
    return found


def unknown(source):
    """A list with a sentence on what no point of an engine tells; empty if all is there."""
    rows = [row for stage in STAGES for row in source.stage(stage) if row.status == "ok"]
    parts = [
        (say("stock vLLM"), any(row.configuration.stock for row in rows)),
        (say("intervals"), any(row.values.get("step_ms_ci_low") for row in rows)),
        (say("energy"), any(row.values.get("energy_j_per_token") for row in rows)),
        (say("memory of weights"), any(row.values.get("weight_bytes") for row in rows)),
        (say("weights changed by pruning"), any(item.get("changed") is not None for item in source.checkpoints)),
    ]
    absent = [what for what, there in parts if not there]
    return [say("Unknown here: {parts}.", parts=joined([*absent, say("quality")], ", "))] if rows and absent else []


def verdicts(source, comparisons, label):
    """Sentences on all types of a stage, stage by stage, then on kernels and on stock vLLM. label: type -> its name."""
    sentences = [s for stage in STAGES for each in label for s in of_engines(comparisons, stage, *each, label[each])]
    more = [*of_kernels(source, comparisons, label), *of_costs(source, comparisons, label)]
    return [*sentences, *more, *of_stock(comparisons, label)]


def of_costs(source, comparisons, label):
    """A list with the sentence on what the shortest pattern of each backend takes of memory and energy, over dense."""
    parts = []
    for (model, dtype), of in label.items():
        comparison = deciding(comparisons, "prefill", model, dtype) or deciding(comparisons, "decode", model, dtype)
        names = row_names(comparison.sparse_names() if comparison else [])
        firsts = dict.fromkeys(name.backend for name in names)
        for name in [next(each for each in names if each.backend == backend) for backend in firsts]:
            memory, energy = costs_over_dense(source, name)
            if memory:
                parts.append(
                    say("{name} {of} {memory} and {energy}", name=names[name], of=of, memory=memory, energy=energy)
                )
    if not parts:
        return []
    return [say("Over dense, memory of weights and energy of a token in prefill: {parts}.", parts=joined(parts, ", "))]


def lead(source, label):
    """A list with the sentence that says what the ratios below are; empty without engines."""
    engines = dense_backends(source, label)
    if not engines:
        return []
    return [
        say(
            "Times as fast as the fastest dense engine ({engines}), for M tokens (prefill) or M sequences (decode) a"
            " step:",
            engines=", ".join(engines),
        )
    ]


def in_short(comparisons, label):
    """A list with the answer in one sentence: for each stage, what each pattern does; empty without engines."""
    parts = []
    for stage in STAGES:
        words = {}
        for each, of in label.items():
            comparison = deciding(comparisons, stage, *each)
            for name, text in row_names(comparison.sparse_names() if comparison else []).items():
                words.setdefault(text, {})[of] = verdict(comparison, name)
        if words:
            found = say("no verdict") if all_unknown(words) else joined(short(words))
            parts.append(say("{stage}: {found}.", stage=say(stage.capitalize()), found=found))
    return [joined(parts, " ")] if parts else []


def all_unknown(words):
    """Whether nothing is known of any pattern."""
    return all(each.word is UNKNOWN for found in words.values() for each in found.values())


def short(words):
    """What patterns do, those together that do the same. words: pattern -> type -> Verdict."""
    groups = {}
    for text, found in words.items():
        by_word = {}
        for of, each in found.items():
            by_word.setdefault(str(each.word), []).append(of)
        for word, types in by_word.items():
            groups.setdefault((word, "" if len(types) == len(found) else ", ".join(types)), []).append(text)
    parts = []
    for word in map(str, WORDS.values()):
        for (other, types), patterns in groups.items():
            if other == word:
                members = [each for text in patterns for each in words[text].values() if str(each.word) == word]
                names = say("{patterns} with {types}", patterns=", ".join(patterns), types=types) if types else None
                parts.append(in_words(word, names or ", ".join(patterns), members, len(patterns) > 1))
    return parts


def in_words(word, names, members, several):
    """What patterns of one word do, in words. members: their Verdicts. several: whether they are more than one."""
    if word == str(PAYS):
        since = max(each.since for each in members)
        values = [each.value for member in members for M, each in member.counted.items() if since <= M]
        of = {"names": names, "since": since, "span": span(values)}
        if several:
            return say("{names} pay, from M={since} on, {span} times as fast", **of)
        return say("{names} pays, from M={since} on, {span} times as fast", **of)
    if word == str(LOSES):
        return say("{names} lose", names=names) if several else say("{names} loses", names=names)
    return say("{names} even", names=names) if word == str(EVEN) else say("{names} unknown", names=names)


def dense_backends(source, label):
    """Backends of the dense engines of these types that are not stock vLLM."""
    rows = [row for stage in STAGES for row in source.stage(stage) if row.status == "ok"]
    names = {row.configuration for row in rows if row.configuration[:2] in label}
    return sorted({name.backend for name in names if name.sparsity == "dense" and not name.stock})


def of_engines(comparisons, stage, model, dtype, of):
    """A list with the sentence on prefill or decode; empty if no engine is compared."""
    comparison = deciding(comparisons, stage, model, dtype)
    if not comparison:
        return []
    said = {"stage": say(stage.capitalize()), "of": of, "figure": FIGURES[comparison.metric]}
    return [say("{stage} {of}, {figure}: {parts}.", **said, parts=summed_up(comparison))]


def summed_up(comparison):
    """What a sentence says of all patterns of a comparison: groups of those with one word, and what is left out."""
    names = row_names(comparison.sparse_names())
    found = {name: verdict(comparison, name) for name in names}
    groups = {}
    for name, each in found.items():
        groups.setdefault((str(each.word), each.since if each.word is PAYS else 0), []).append(name)
    parts = []
    for word in map(str, (PAYS, EVEN, LOSES, UNKNOWN)):
        for (other, since), members in sorted(groups.items(), key=lambda item: item[0][1] or 0):
            if other == word:
                parts.append(group(word, since, {names[name]: found[name] for name in members}))
    left = {M for each in found.values() for _, Ms in each.left.values() for M in Ms}
    if left:
        whys = {text: why for each in found.values() for text, (why, _) in each.left.items()}
        values = [
            comparison.ratios[name, M].value for name, each in found.items() for _, Ms in each.left.values() for M in Ms
        ]
        of = {"Ms": ", ".join(map(str, sorted(left))), "why": joined(list(whys.values()), ", "), "span": span(values)}
        parts.append(say("left out, of some patterns or all, M={Ms} ({why}): {span} there", **of))
    return joined(parts)


def group(word, since, members):
    """What is said of patterns that have one word. members: name -> Verdict. since: the M from which on they pay."""
    several, names = len(members) > 1, ", ".join(members)
    values = [value for each in members.values() for value in (each.values if word == str(PAYS) else ratios(each))]
    if not values:
        return say("{names} unknown, because no ratio counts", names=names)
    said = {"names": names, "span": span(values)}
    if word == str(UNKNOWN):
        each = [say("{name} {span}", name=name, span=span(ratios(one))) for name, one in members.items() if ratios(one)]
        return say("no verdict without intervals: {each}", each=joined(each, ", "))
    if word == str(PAYS):
        said["since"] = since
        if several:
            return say("{names} pay from M={since} on, {span}", **said)
        return say("{names} pays from M={since} on, {span}", **said)
    if word == str(EVEN):
        return say("{names} even at the largest M, {span}", **said)
    verdicts = [each.verdict for member in members.values() for each in member.counted.values()]
    said |= {"n": verdicts.count(SLOWER), "all": len(verdicts)}
    if several:
        return say("{names} lose, {span} (slower in {n} of {all})", **said)
    return say("{names} loses, {span} (slower in {n} of {all})", **said)


def of_kernels(source, comparisons, label):
    """A list with the sentence on kernels of the shortest pattern: products, whole linears, and linears of our engine.

    Whole linears quantise, lift and scale by themselves. In our engine neighbours do part of that for sparse ones.
    """
    kinds = (
        ("best_dense", say("products")),
        ("linear", say("whole linears")),
        ("folded", say("linears as our engine runs them")),
    )
    parts = []
    for kind, what in kinds:
        spans = []
        for (model, dtype), of in label.items():
            name, values = in_turn(source, comparisons, source.shape_of(model), dtype, kind)
            if values:
                spans.append(say("{name} {of} {span}", name=spell(name.sparsity), of=of, span=span(values)))
        if spans:
            parts.append(say("{what} {spans}", what=what, spans=joined(spans, ", ")))
    return [say("Linears alone, in turn with dense ones, over all M: {parts}.", parts=joined(parts))] if parts else []


def in_turn(source, comparisons, shape, dtype, kind):
    """(the configuration with the shortest pattern, its ratios in turn that count), or (None, [])."""
    measured = "linear" if kind == "folded" else kind
    of_kind = ("kernel", shape, dtype, measured)
    turns = [c for c in comparisons if (c.stage, c.model, c.dtype, c.kind) == of_kind and c.in_turn]
    name = min((n for c in turns for n in c.sparse_names()), key=lambda n: pattern_length(n.sparsity), default=None)
    if not name:
        return None, []
    counted = turns[0].counted(name)
    if kind != "folded":
        return name, [each.value for each in counted.values()]
    folded = of_layers(source, shape, dtype, "linear_folded_us")
    return name, [turns[0].sides[name, M][1] / folded[name, M].value for M in counted if (name, M) in folded]


def of_stock(comparisons, label):
    """A list with the sentence on our fastest dense engine over stock vLLM; empty if stock vLLM was not measured."""
    parts = []
    for stage in STAGES:
        best = {of: fastest_over_stock(comparisons, stage, *each) for each, of in label.items()}
        spans = [
            say("{of} {span}", of=of, span=span([q.value for q in each.values()])) for of, each in best.items() if each
        ]
        figures = [over_stock(comparisons, stage, *each) for each in label]
        figure = next((FIGURES[each.metric] for each in figures if each), None)
        if spans:
            parts.append(say("{stage}, {figure}, {spans}", stage=say(stage), figure=figure, spans=joined(spans, ", ")))
    if not parts:
        return []
    return [say("Without sparsity, our fastest dense engine over stock vLLM: {parts}.", parts=joined(parts))]
