"""Recompute from the kept points, without the report's code, the first screens of a report and of the comparison."""

import json
from itertools import zip_longest
from pathlib import Path

import recompute_answer as answer
import recompute_table as tables
from kept import DENSE, MEASURED, MODEL, engine, in_turn, points, rounded
from recompute_answer import BY, STAGES, TYPES, decided, seen

SHOWN = 4
"""Most patterns of a sentence or table of the comparison."""


def head(key):
    every = [*points(key).values()]
    run = [p for p in every if p["key"]["stage"] != "kernel" and not p["key"]["backend"].startswith("vllm-")]
    names = ", ".join(sorted({point["hardware"]["name"] for point in every}))
    (version,) = {point["software"]["vllm"] for point in run}
    prompts = max(point["results"]["prompt_len"] for point in run)
    source = json.loads((MEASURED / "models" / MODEL / "manifest.json").read_text())["source"]
    weights = {"generated": "SYNTHETIC weights, which show speed only"}[source["kind"]]
    day = max(point["run"]["utc"] for point in every)[:10]
    text = f"{names} · {MODEL}: {weights} · prompts of at most {prompts} tokens · vLLM {version} · {day}"
    return f"{text} · {len(run)} points of engines, 0 failed"


def kernels(key):
    parts = []
    for rival, what in (("best", "products"), ("whole", "whole linears"), ("ours", "linears as our engine runs them")):
        spans = []
        for dtype in TYPES:
            Ms = [w[4] for w in points(key) if w[:4] == ("kernel", dtype, "cusparselt", "2_4")]
            spans.append(f"2:4 {dtype} {answer.span([in_turn(key, dtype, '2_4', M, rival).value for M in Ms])}")
        parts.append(f"{what} {', '.join(spans)}")
    return f"- Linears alone, in turn with dense ones: {'; '.join(parts)}."


def over_dense(key, stage, dtype, text):
    """(M, [memory of weights, energy of a token] over the fastest dense engine, mark) of a pattern at its largest M."""
    M, ratio = max(seen(key, stage, dtype)[text].all.items())
    sides = [(ratio.sides[0].name, "dense"), seen(key, stage, dtype)[text].column.split("/")]
    dense, own = (points(key)[stage, dtype, *side, M]["results"] for side in sides)
    mark = " †" * any(engine(key, stage, dtype, *side, M, "step").out != "" for side in sides)
    return M, [rounded(own[what] / dense[what], 2) for what in ("weight_bytes", "energy_j_per_token")], mark


def costs(key):
    """The paragraph on what 2:4 costs."""
    parts, more, last = [], [], {}
    for dtype in TYPES:
        for text in ("2:4", "2:4 auto"):
            last["prefill"], (memory, energy), mark = over_dense(key, "prefill", dtype, text)
            parts.append(f"{text} {dtype} × {memory} and × {energy}{mark}")
            last["decode"], (_, energy), mark = over_dense(key, "decode", dtype, text)
            more += [f"{text} {dtype} × {energy}{mark}"] if float(energy) > 1 else []
    parts += [f"decode energy above dense (M={last['decode']}): {', '.join(more)}"] * bool(more)
    return f"Memory and prefill energy over dense (M={last['prefill']}): {'; '.join(parts)}."


def stock(key):
    parts = []
    for stage in STAGES:
        spans = []
        for dtype in TYPES:
            found = tables.over_stock(key, stage, dtype)
            good = [*filter(None, found.values())]
            spans.append(
                f"{dtype} {answer.spanned(good)}" + f" ({len(good)} of {len(found)} M)" * (len(good) < len(found))
            )
        parts.append(f"{stage}, {BY[decided(key, stage, TYPES[0])]}, {', '.join(spans)}")
    return f"Without sparsity, the fastest dense engine over stock vLLM: {'; '.join(parts)}."


def screen(key):
    """The first screen of a GPU's report."""
    (_, (first, hidden, _)), *others = tables.graphs(key).items()
    links = [f"{' '.join(of)} [SVG](report/{name}.svg) [CSV](report/{name}.csv)" for of, (name, *_) in others]
    sentences = [answer.engines(key, stage, dtype) for stage in STAGES for dtype in TYPES]
    return template("screen").format(
        head=head(key),
        short=" ".join(answer.in_short(key, stage) for stage in STAGES),
        stock=stock(key),
        costs=costs(key),
        dense=", ".join(DENSE),
        sentences="\n".join([*sentences, kernels(key)]),
        tables="\n\n".join(tables.table(key, dtype) for dtype in TYPES),
        hidden=f" Not drawn: {', '.join(hidden)}." if hidden else "",
        graph=first,
        more=", ".join(links),
        model=MODEL,
    )


def template(name):
    return (Path(__file__).parent / f"{name}.md").read_text()


def compared(keys):
    """The first screen of the comparison."""
    places = [(stage, dtype) for dtype in TYPES for stage in STAGES]
    return template("compared").format(
        keys=len(keys),
        short=" ".join(of_2_4(keys, stage) for stage in STAGES),
        sentences="\n".join(where(keys, *place) for place in places),
        tables="\n\n".join(side_by_side(keys, *place) for place in places),
    )


def on(word, texts, gpus):
    """`2:4 pays on H100, H200`."""
    return f"{answer.does(word, ', '.join(texts), len(texts) > 1)} on {', '.join(gpus)}"


def label(key):
    return key.partition("_")[0]


def names(keys, stage, dtype):
    """Patterns of all GPUs, those of `auto` last."""
    found = {text for key in keys for text in seen(key, stage, dtype)}
    return sorted(found, key=lambda text: (" " in text, answer.order(text)))


def of_2_4(keys, stage):
    """The sentence on what 2:4 does at a stage, in all types."""
    found = {key: [seen(key, stage, dtype)["2:4"] for dtype in TYPES] for key in keys}
    groups = {word: [key for key in keys if {each.word for each in found[key]} == {word}] for word in answer.WORDS}
    since = {key: f" (M≥{max(each.since for each in found[key])})" for key in groups["pays"]}
    groups = {word: [label(key) + since.get(key, "") for key in group] for word, group in groups.items()}
    parts = [on(word, ["2:4"], gpus) for word, gpus in groups.items() if gpus]
    for key in keys:
        clock = [ratio for dtype in TYPES for ratio in answer.late(key, stage, dtype).get("2:4", ())]
        parts += [f"on {label(key)} {answer.by_clock(clock)}"] if clock else []
    return f"{stage.capitalize()}: {'; '.join(parts)}."


def where(keys, stage, dtype):
    """The sentence on which pattern does what on which GPU, at a stage and with a type."""
    shown, more, groups = names(keys, stage, dtype)[:SHOWN], names(keys, stage, dtype)[SHOWN:], {}
    found = {(text, key): each for key in keys for text, each in seen(key, stage, dtype).items() if text in shown}
    known = [{*each.counted} for each in found.values() if each.word != "unknown"]
    for text in shown:
        for word in answer.WORDS:
            gpus = []
            for key in [key for key in keys if (text, key) in found and found[text, key].word == word]:
                each = found[text, key]
                apart = word != "unknown" and any(Ms != known[0] for Ms in known)
                at = f" (M={max(each.counted)})" if apart else ""
                gpus.append(label(key) + (f" (M≥{each.since})" if word == "pays" else at))
            if gpus:
                groups.setdefault((word, *gpus), []).append(text)
    parts = [on(word, texts, gpus) for (word, *gpus), texts in groups.items()]
    parts += [f"{', '.join(more)} in the hardware's own reports"] if more else []
    return f"- {stage.capitalize()} {dtype}: {'; '.join(parts)}."


def side_by_side(keys, stage, dtype):
    """The table of one stage and type, with a row for each GPU."""
    shown, costs = names(keys, stage, dtype)[:SHOWN], stage == "prefill"
    heads = [f"{dtype} {stage}", "model", "measured by", "figure", "over", *shown] + ["costs over dense"] * costs
    lines = [heads, ["---"] * len(heads)]
    for key in keys:
        found, clocks = seen(key, stage, dtype), answer.late(key, stage, dtype)
        (protocol,) = {p["request"]["protocol"] for place, p in points(key).items() if place[:2] == (stage, dtype)}
        bases = {ratio.sides[0].name for each in found.values() for ratio in each.all.values()}
        cells = [f"protocol {protocol}", BY[decided(key, stage, dtype)], ", ".join(sorted(bases))]
        for text in shown:
            each, clock = found[text], clocks.get(text)
            beside = f" ({tables.unmarked(clock)} {tables.clock_word(clock)})" if clock else ""
            cells.append(f"{tables.middle(each.counted.values(), each.out)} {each.said}{beside}")
        if costs:
            _, (memory, energy), mark = over_dense(key, stage, dtype, "2:4")
            cells.append(f"2:4: memory × {memory}, energy × {energy}{mark}")
        lines.append([label(key), MODEL, *cells])
    return tables.markdown(lines)


def mistakes(said, right):
    """[(line of a page, line that it should have)] where these are not the same."""
    lines = (text.strip().splitlines() for text in (said, right))
    return [pair for pair in zip_longest(*lines) if pair[0] != pair[1]]
