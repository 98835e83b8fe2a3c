"""The first screen: whether sparsity pays here, for each stage and type, in words, in one table and in one graph."""

from slidesparse.machine import hardware
from slidesparse.report.document.model import NONE, Bullets, Choice, joined, say
from slidesparse.report.sections.answer_graphs import figure_choices
from slidesparse.report.sections.answer_table import costs_over_dense, rule, table
from slidesparse.report.sections.overview import dates
from slidesparse.report.sections.ratios import EVEN, HOST_BOUND, SLOWER, UNKNOWN, of_layers
from slidesparse.report.sections.unfit import reasons
from slidesparse.report.sections.verdict import (
    FIGURES,
    LOSES,
    MOST_TYPES,
    NO_INTERVAL,
    NONE_COUNTS,
    PAYS,
    STAGES,
    TWO_GPUS,
    WORDS,
    deciding,
    fastest_over_stock,
    foreign,
    over_dense,
    over_stock,
    ratios,
    row_names,
    span,
    spell,
    types_of,
    verdict,
)
from slidesparse.report.sources.rows import OURS, configuration_order, grouped, pattern_length

SHOWN = 6
"""Most engines that a sentence names."""

MODELS = 3
"""Most models that the head names."""

QUALITY = say("What a pattern costs in accuracy was not measured. Speed alone decides nothing.")


def answer_blocks(key, source, comparisons, prefix):
    """The blocks of the first screen of one source of a hardware key. The names of its files begin with `prefix`."""
    known = types_of(source)
    types = sorted(known[:MOST_TYPES], key=lambda key: configuration_order((*key, "", "")))
    several = len({model for model, _ in types}) > 1
    label = {each: " ".join(each) if several else each[1] for each in types}
    sentences = verdicts(source, comparisons, label)
    several = len(known) > MOST_TYPES
    blocks = [head(source), *warnings(key, source), *in_short(comparisons, label, several)]
    blocks += [*of_costs(source, comparisons, label), *lead(source, comparisons, label)]
    dense = {row.configuration[:2] for row in source.rows if row.stage != "kernel"} - {*known}
    more = [" ".join(each) for each in [*known[MOST_TYPES:], *sorted(dense)]]
    sentences += [say("Not on this screen: {names}.", names=", ".join(more))] if more else []
    blocks.append(Bullets([*sentences, *out_of_memory(source), *unknown(source)]))
    tables = {(label[each],): table(source, comparisons, *each, label[each], prefix) for each in types}
    tables = {chosen: each for chosen, each in tables.items() if each.rows}
    drawn = figure_choices(comparisons, types, label, prefix)
    blocks += [Choice(("type",), tables)] if tables else []
    blocks += [Choice(("type", "graph", "graph over"), drawn, first_only=True)] if drawn else []
    return [*blocks, rule(source, types)] if tables else blocks


def head(source):
    """A sentence on GPU, model, weights, versions, date and number of points."""
    rows = [row for row in source.rows if row.measured]
    names = sorted({row.provenance.gpu_name for row in rows} - {""}) or [say("name not recorded")]
    versions = sorted({f"vLLM {row.provenance.vllm}" for row in rows if row.provenance.vllm})
    models = sorted({row.configuration.model for row in rows})
    prompts = max((row.values.get("prompt_len") or 0 for row in rows), default=0)
    parts = [", ".join(names) if all(isinstance(n, str) for n in names) else names[0]]
    shown = [model for model in models if model not in source.layers or model in made(source)]
    parts += [weights(source, model) for model in shown[:MODELS]]
    parts += [say("{n} more models", n=len(shown) - MODELS)] if len(shown) > MODELS else []
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
            say("Published by others: one sample a point, so no ratio has an interval, and no win or loss is certain.")
        )
    elif any(source.layouts.get(row.point, OURS) != OURS for row in source.rows):
        found.append(say("Some figures are published by others: one sample a point, and no interval."))
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
    return [*sentences, *of_kernels(source, comparisons, label), *of_stock(comparisons, label)]


def of_costs(source, comparisons, label):
    """A list with the paragraph on what the shortest pattern of each backend costs: memory, energy, accuracy."""
    parts = []
    for (model, dtype), of in label.items():
        comparison = deciding(comparisons, "prefill", model, dtype)
        names = row_names(comparison.sparse_names() if comparison else [])
        firsts = dict.fromkeys(name.backend for name in names)
        for name in [next(each for each in names if each.backend == backend) for backend in firsts]:
            memory, energy, place = costs_over_dense(source, comparison, name)
            said = {"name": names[name], "of": of, "memory": memory}
            if memory and energy != NONE:
                parts.append(say("{name} {of} {memory} and {energy}", **said, energy=energy))
            elif memory:
                parts.append(say("{name} {of} {memory}, energy not measured", **said))
            if memory and place:
                parts[-1] = say("{cost} (M={M}, over {base})", cost=parts[-1], M=place[0], base=place[1])
    if not parts:
        return []
    cost = say("Over dense, memory of weights and energy of a token in prefill: {parts}.", parts=joined(parts, ", "))
    return [joined([cost, QUALITY], " ")]


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
    if not chosen and any(row.configuration.sparse_kernel for row in rows):
        if not any(row.sparse for row in rows) and any(row.silent for row in rows):
            return [say("It is unknown whether a sparse kernel ran in an engine: these points do not say it.")]
        if not any(row.sparse for row in rows):
            return [say("No sparse kernel ran in an engine: these are dense engines with pruned weights.")]
        return [say("No sparse engine could be held against a dense one: “All speed-ups” says why.")]
    if not chosen:
        none = say("No sparse engine was measured, so nothing tells whether sparsity pays here.")
        return [none] if any(row.status == "ok" for row in rows) else []
    return [*over_what(source, chosen, label), *unmatched(source, comparisons, label)]


def unmatched(source, comparisons, label):
    """A list with a sentence on sparse engines that have no dense one to be held against; empty if all have."""
    lacking = [
        say("{stage} {of}", stage=say(stage), of=of)
        for stage in STAGES
        for (model, dtype), of in label.items()
        if not deciding(comparisons, stage, model, dtype)
        and any(row.configuration.sparse_kernel for row in grouped(source.stage(stage)).get((model, dtype), ()))
    ]
    names = joined(lacking, ", ")
    text = say("No sparse engine could be held against a dense one in {names}: “All speed-ups” says why.", names=names)
    return [text] if lacking else []


def over_what(source, chosen, label):
    """A list with the sentence that says what the ratios below are. chosen: the comparisons that decide."""
    engines = sorted({base.backend for each in chosen for base in each.bases.values()})
    if any(each.kind == "best_dense" for each in chosen):
        engines = sorted({*engines, *dense_backends(source, label)})
    else:
        text = say(
            "Times as fast as the dense engine ({engines}), for M tokens (prefill) or M sequences (decode) a step:",
            engines=", ".join(engines),
        )
        others = sorted({*dense_backends(source, label)} - {*engines})
        apart = say(
            "Other dense engines ({names}) were measured otherwise: they may be faster.", names=", ".join(others)
        )
        return [joined([apart, text], " ")] if others else [text]
    return [
        say(
            "Times as fast as the fastest dense engine ({engines}), for M tokens (prefill) or M sequences (decode) a"
            " step:",
            engines=", ".join(engines),
        )
    ]


def in_short(comparisons, label, several=False):
    """A list with the answer in one sentence: for each stage, what each pattern does; empty without engines.

    several: whether there are more types than those of `label`.
    """
    parts = []
    for stage in STAGES:
        chosen = {of: deciding(comparisons, stage, *each) for each, of in label.items()}
        for metric in dict.fromkeys(each.metric for each in chosen.values() if each):
            words, types = {}, [of for of, each in chosen.items() if each and each.metric == metric]
            for of in types:
                for name, text in row_names(chosen[of].sparse_names()).items():
                    words.setdefault(text, {})[of] = verdict(chosen[of], name)
            found = say("no verdict") if all_unknown(words) else joined(short(words, len(label)))
            of = {"stage": say(stage.capitalize()), "figure": FIGURES[metric], "found": found}
            if several or (all_unknown(words) and len(types) < len(label)):
                parts.append(say("{stage} {types}, {figure}: {found}.", types=", ".join(types), **of))
            else:
                parts.append(say("{stage}, {figure}: {found}.", **of))
    return [joined(parts, " ")] if parts else []


def all_unknown(words):
    """Whether nothing is known of any pattern."""
    return all(each.word is UNKNOWN for found in words.values() for each in found.values())


def short(words, types):
    """What patterns do, those together that do the same. words: pattern -> type -> Verdict. types: how many there are.

    Types are named unless a pattern does the same in all of them.
    """
    groups = {}
    for text, found in words.items():
        by_word = {}
        for of, each in found.items():
            by_word.setdefault(reach(each), []).append(of)
        for ends, same in by_word.items():
            groups.setdefault((*ends, "" if len(same) == types else ", ".join(same)), []).append(text)
    parts = []
    for word in map(str, WORDS.values()):
        for (*ends, named), patterns in groups.items():
            if ends[0] == word:
                every = [each for text in patterns for each in words[text].values()]
                members = [each for each in every if reach(each) == tuple(ends)]
                names = say("{patterns} with {types}", patterns=", ".join(patterns), types=named) if named else None
                parts.append(in_words(word, names or ", ".join(patterns), members, len(patterns) > 1))
    return parts


def reach(found):
    """What must be equal of Verdicts that one sentence is about: the word, its limit, and the largest M that counts."""
    return str(found.word), found.until, max(found.counted, default=0)


def in_words(word, names, members, several):
    """What patterns of one word do, in words.

    members: their Verdicts, which have one `until`. several: whether they are more than one.
    """
    if word == str(PAYS):
        first, *others = sorted({each.since for each in members})
        since = say("{last} (some from {first})", last=others[-1], first=first) if others else first
        last = others[-1] if others else first
        values = [ratio.value for each in members for M, ratio in each.counted.items() if last <= M]
        of = {"names": names, "since": since, "span": span(values)}
        pay = say("pay") if several else PAYS
        if (until := members[0].until) and first == until:
            return say("{names} {pay} at M={since}, {span} times as fast; larger M do not count", pay=pay, **of)
        if until:
            return say(
                "{names} {pay} from M={since} to {until}, {span} times as fast; larger M do not count",
                pay=pay,
                until=until,
                **of,
            )
        if several:
            return say("{names} pay, from M={since} on, {span} times as fast", **of)
        return say("{names} pays, from M={since} on, {span} times as fast", **of)
    if word == str(UNKNOWN):
        return say("{names} unknown", names=names)
    of = {"names": names, "until": members[0].until}
    if word == str(EVEN):
        said = say("{names} even at M={until}, the largest that counts", **of)
        return said if of["until"] else say("{names} even", names=names)
    if of["until"] and several:
        return say("{names} lose at M={until}, the largest that counts", **of)
    if of["until"]:
        return say("{names} loses at M={until}, the largest that counts", **of)
    return say("{names} lose", names=names) if several else say("{names} loses", names=names)


def dense_backends(source, label):
    """Backends of the dense engines of these types that are not stock vLLM, and that no check disqualifies."""
    rows = [row for stage in STAGES for row in source.stage(stage) if row.status == "ok"]
    rows = [row for row in rows if row.point not in reasons(source)]
    names = {row.configuration for row in rows if row.configuration[:2] in label}
    return sorted({name.backend for name in names if name.sparsity == "dense" and not name.stock})


def of_engines(comparisons, stage, model, dtype, of):
    """A list with the sentence on prefill or decode; empty if no engine is compared."""
    comparison = deciding(comparisons, stage, model, dtype)
    if not comparison:
        return []
    said = {"stage": say(stage.capitalize()), "of": of, "figure": FIGURES[comparison.metric]}
    parts, clock = [summed_up(comparison)], over_dense(comparisons, stage, model, dtype, "step_ms")
    if clock and comparison.metric == "gpu_step_ms":
        fit = [key for key in clock.ratios if clock.left_out(*key) in (None, HOST_BOUND)]
        values = [clock.ratios[key].value for key in fit if clock.ratios[key].sparse]
        parts += [say("by the clock, with the host's share, {span}", span=span(values))] if values else []
    return [say("{stage} {of}, {figure}: {parts}.", **said, parts=joined(parts))]


def summed_up(comparison):
    """What a sentence says of all patterns of a comparison: groups of those with one word, and what is left out."""
    names = row_names(comparison.sparse_names())
    found = {name: verdict(comparison, name) for name in names}
    groups = {}
    for name, each in found.items():
        about = (each.since, each.until) if each.word is PAYS else (0, None)
        why = each.unsure if each.word is UNKNOWN else ""
        groups.setdefault((str(each.word), *about, why), []).append(name)
    parts = []
    for word in map(str, (PAYS, EVEN, LOSES, UNKNOWN)):
        for (other, since, until, _), members in sorted(groups.items(), key=lambda item: item[0][1]):
            if other == word:
                parts.append(group(word, since, until, {names[name]: found[name] for name in members}))
    left = {M for each in found.values() for _, Ms in each.left.values() for M in Ms}
    if left:
        whys = {text: why for each in found.values() for text, (why, _) in each.left.items()}
        values = [
            comparison.ratios[name, M].value for name, each in found.items() for _, Ms in each.left.values() for M in Ms
        ]
        of = {"Ms": ", ".join(map(str, sorted(left))), "why": joined(list(whys.values()), ", "), "span": span(values)}
        parts.append(say("left out, of some patterns or all, M={Ms} ({why}): {span} there", **of))
    absent = {}
    for each in found.values():
        for M, why in each.absent.items():
            absent.setdefault(str(why), (why, set()))[1].add(M)
    for why, Ms in absent.values():
        parts.append(
            say("no ratio of some patterns or all at M={Ms} ({why})", Ms=", ".join(map(str, sorted(Ms))), why=why)
        )
    lacking = {M: names for M, names in comparison.lacking.items() if any(M in each.counted for each in found.values())}
    without = {}
    for M, each in sorted(lacking.items()):
        for name in each:
            without.setdefault(name, []).append(str(M))
    for name, Ms in sorted(without.items()):
        parts.append(say("without {names}, which has no figure at M={Ms}", names=name, Ms=", ".join(Ms)))
    return joined(parts)


def group(word, since, until, members):
    """What is said of patterns that have one word. members: name -> Verdict. since, until: the M at which they pay."""
    several, names = len(members) > 1, ", ".join(members)
    values = [value for each in members.values() for value in (each.values if word == str(PAYS) else ratios(each))]
    if word == str(UNKNOWN):
        return not_known(members)
    said = {"names": names, "span": span(values)}
    if word == str(PAYS):
        said["since"] = since
        if until:
            of = {"pay": say("pay") if several else PAYS, "until": until}
            if since == until:
                return say("{names} {pay} at M={since}, {span}; larger M do not count", pay=of["pay"], **said)
            return say("{names} {pay} from M={since} to {until}, {span}; larger M do not count", **of, **said)
        if several:
            return say("{names} pay from M={since} on, {span}", **said)
        return say("{names} pays from M={since} on, {span}", **said)
    if word == str(EVEN):
        return say("{names} even at the largest M that counts, {span}", **said)
    verdicts = [each.verdict for member in members.values() for each in member.counted.values()]
    said |= {"n": verdicts.count(SLOWER), "all": len(verdicts)}
    if several:
        return say("{names} lose, {span} (slower in {n} of {all} ratios)", **said)
    return say("{names} loses, {span} (slower in {n} of {all} ratios)", **said)


def not_known(members):
    """What is said of patterns of which nothing is known for one reason. members: name -> Verdict."""
    why = next(iter(members.values())).unsure
    if why is NONE_COUNTS:
        return say("{each} unknown, because no ratio counts", each=", ".join(members))
    each = joined([say("{name} {span}", name=name, span=span(ratios(one))) for name, one in members.items()], ", ")
    if why is TWO_GPUS:
        return say("no verdict, because two GPUs measured the sides at the largest M that counts: {each}", each=each)
    if why is NO_INTERVAL:
        return say("no verdict without intervals: {each}", each=each)
    return say("no verdict, because the ratio at the largest M that counts has no interval: {each}", each=each)


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
            name, values, n = in_turn(source, comparisons, source.shape_of(model), dtype, kind)
            if values:
                said = {"name": spell(name.sparsity), "of": of, "span": span(values), "n": len(values), "all": n}
                spans.append(
                    say("{name} {of} {span}", **said)
                    if len(values) == n
                    else say("{name} {of} {span} ({n} of {all} M)", **said)
                )
        if spans:
            parts.append(say("{what} {spans}", what=what, spans=joined(spans, ", ")))
    return [say("Linears alone, in turn with dense ones: {parts}.", parts=joined(parts))] if parts else []


def in_turn(source, comparisons, shape, dtype, kind):
    """(the configuration with the shortest pattern, its ratios in turn that count, number of all), or (None, [], 0)."""
    measured = "linear" if kind == "folded" else kind
    of_kind = ("kernel", shape, dtype, measured)
    turns = [c for c in comparisons if (c.stage, c.model, c.dtype, c.kind) == of_kind and c.in_turn]
    name = min((n for c in turns for n in c.sparse_names()), key=lambda n: pattern_length(n.sparsity), default=None)
    if not name:
        return None, [], 0
    counted, n = turns[0].counted(name), len(turns[0].of(name))
    if kind != "folded":
        return name, [each.value for each in counted.values()], n
    folded = of_layers(source, shape, dtype, "linear_folded_us")
    return name, [turns[0].sides[name, M][1] / folded[name, M].value for M in counted if (name, M) in folded], n


def of_stock(comparisons, label):
    """A list with the sentence on our fastest dense engine over stock vLLM; empty if stock vLLM was not measured."""
    parts = []
    for stage in STAGES:
        spans = {}
        for each, of in label.items():
            best, comparison = fastest_over_stock(comparisons, stage, *each), over_stock(comparisons, stage, *each)
            if best:
                n = len({M for name, M in comparison.ratios if name.sparsity == "dense"} | {*comparison.Ms})
                said = {"of": of, "span": span([ratio.value for ratio in best.values()]), "n": len(best), "all": n}
                spans.setdefault(comparison.metric, []).append(
                    say("{of} {span}", **said) if len(best) == n else say("{of} {span} ({n} of {all} M)", **said)
                )
        for metric, said in spans.items():
            of = {"stage": say(stage), "figure": FIGURES[metric]}
            parts.append(say("{stage}, {figure}, {spans}", spans=joined(said, ", "), **of))
    if not parts:
        return []
    return [say("Without sparsity, our fastest dense engine over stock vLLM: {parts}.", parts=joined(parts))]
