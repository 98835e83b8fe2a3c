"""Recompute from the kept points, without the report's code, what the first screen of a report says and shows."""

from statistics import median

from kept import DENSE, Figure, changed, engine, in_turn, named, order, points, rounded, span, two
from recompute import ratios, sparse

TYPES, STAGES = ("INT8", "FP8"), ("prefill", "decode")
BEST, STOCK = "the fastest dense backend of each M", "stock vLLM"
CLOCK, GPU = "steady-state step time", "GPU time of a step"
BY = {CLOCK: "by the clock", GPU: "by GPU time"}
DOES = {"faster": "pays", "even": "even", "slower": "loses", "unknown": "unknown"}


def decided(key, stage, dtype, over=BEST):
    """(what is compared, pattern -> M -> ratio) by the clock, or by GPU time if more patterns count by it."""
    both = {}
    for what in (CLOCK, GPU):
        found = {}
        for (column, M), (ratio, *_) in ratios(key, stage, dtype, what, over).items():
            found.setdefault(named(column), {})[M] = ratio
        both[what] = {text: dict(sorted(found[text].items())) for text in sorted(found, key=order)}
    good = {what: sum(any(not r.out for r in each.values()) for each in found.values()) for what, found in both.items()}
    return (what := max(both, key=good.get)), both[what]


def counted(each):
    return {M: ratio for M, ratio in each.items() if not ratio.out}


def word(each):
    """(what the pattern does, the M from which on all ratios that count say so)."""
    good = counted(each)
    others = [M for M in each if max(good) > M and (M not in good or good[M].verdict != last(each).verdict)]
    return DOES[last(each).verdict], min(M for M in good if max(others, default=0) < M)


def last(each):
    return counted(each)[max(counted(each))]


def engines(key, stage, dtype):
    """The sentence on one stage and type."""
    what, found = decided(key, stage, dtype)
    groups, parts = {}, []
    for text, each in found.items():
        does, since = word(each)
        why = (does == "unknown") * ("two GPUs" if last(each).gpu else "intervals")
        groups.setdefault((list(DOES.values()).index(does), since if does == "pays" else 0, why), []).append(text)
    for (place, since, why), texts in sorted(groups.items()):
        does, names, many = list(DOES.values())[place], ", ".join(texts), len(texts) > 1
        good = [ratio for text in texts for M, ratio in counted(found[text]).items() if since <= M]
        values = [ratio.value for ratio in good]
        if does == "pays":
            parts.append(f"{names} {'pay' if many else 'pays'} from M={since} on, {span(values)}")
        elif does == "even":
            parts.append(f"{names} even at the largest M that counts, {span(values)}")
        elif does == "loses":
            slower = sum(ratio.verdict == "slower" for ratio in good)
            parts.append(
                f"{names} {'lose' if many else 'loses'}, {span(values)} (slower in {slower} of {len(good)} ratios)"
            )
        else:
            spans = [f"{text} {span([r.value for r in counted(found[text]).values()])}" for text in texts]
            two_gpus = ", because two GPUs measured the sides at the largest M that counts"
            reason = two_gpus if why == "two GPUs" else " without intervals"
            parts.append(f"no verdict{reason}: {', '.join(spans)}")
    out = {M: ratio.out for each in found.values() for M, ratio in sorted(each.items()) if ratio.out}
    if out:
        whys = ", ".join(dict.fromkeys(out.values()))
        values = [ratio.value for each in found.values() for ratio in each.values() if ratio.out]
        Ms = ", ".join(map(str, sorted(out)))
        parts.append(f"left out, of some patterns or all, M={Ms} ({whys}): {span(values)} there")
    mine = [w for w in points(key) if w[:2] == (stage, dtype) and w[3] != "dense" and named(f"{w[2]}/{w[3]}") in found]
    ran = {where[4] for where in mine if not sparse(key, stage, where[1:])}
    Ms = ", ".join(map(str, sorted(ran)))
    parts += [f"no ratio of some patterns or all at M={Ms} (only dense kernels ran)"] if ran else []
    if what == GPU:
        late = [r.value for r, *_ in ratios(key, stage, dtype, CLOCK, BEST).values()]
        parts.append(f"by the clock, with the host's share, {span(late)}")
    return f"- {stage.capitalize()} {dtype}, {BY[what]}: {'; '.join(parts)}."


def over_stock(key, stage, dtype, late=False):
    """M -> how many times as fast as stock vLLM our fastest dense engine is; late: by the clock, whatever the host."""
    by = "step" if late or decided(key, stage, dtype)[0] == CLOCK else "gpu"
    Ms = sorted({w[4] for w in points(key) if w[:2] == (stage, dtype) and w[2] in DENSE})
    found = {}
    for M in Ms:
        stock = engine(key, stage, dtype, "vllm", "dense", M, by)
        each = [stock.over(engine(key, stage, dtype, b, "dense", M, by)) for b in DENSE]
        best = max((r for r in each if r.out in ("", "bound by the host")), key=lambda r: r.value, default=None)
        found[M] = best if best and (late or not best.out) else None
    return found


def kernels(key):
    parts = []
    for rival, what in (("best", "products"), ("whole", "whole linears"), ("ours", "linears as our engine runs them")):
        spans = []
        for dtype in TYPES:
            Ms = [w[4] for w in points(key) if w[:4] == ("kernel", dtype, "cusparselt", "2_4")]
            spans.append(f"2:4 {dtype} {span([linears(key, dtype, M, rival) for M in Ms])}")
        parts.append(f"{what} {', '.join(spans)}")
    return f"- Linears alone, in turn with dense ones: {'; '.join(parts)}."


def linears(key, dtype, M, rival):
    """Ratio of a layer's dense linears over its 2:4 ones; "ours": the sparse ones leave scales to their neighbours."""
    ratio, _, theirs = in_turn(key, dtype, "2_4", M, "whole" if rival == "ours" else rival)
    if rival != "ours":
        return ratio.value
    gemms = points(key)["kernel", dtype, "cusparselt", "2_4", M]["results"]["gemms"]
    return theirs / sum(1e6 * gemm["whole"][0]["folded"]["median_s"] for gemm in gemms)


def costs(key):
    """Of 2:4 over the fastest dense engine by the clock: memory of weights, energy of a token at the largest M."""
    parts = []
    for dtype in TYPES:
        M = max(w[4] for w in points(key) if w[:3] == ("prefill", dtype, "cusparselt"))
        best = min(DENSE, key=lambda b: engine(key, "prefill", dtype, b, "dense", M, "step").value)
        dense = points(key)["prefill", dtype, best, "dense", M]["results"]
        for backend, name in (("cusparselt", "2:4"), ("auto", "2:4 auto")):
            own = points(key)["prefill", dtype, backend, "2_4", M]["results"]
            both = [two(own[what] / dense[what]) for what in ("weight_bytes", "energy_j_per_token")]
            parts.append(f"{name} {dtype} {' and '.join(both)}")
    accuracy = "What a pattern costs in accuracy was not measured. Speed alone decides nothing."
    return f"Over dense, memory of weights and energy of a token in prefill: {', '.join(parts)}. {accuracy}"


def stock(key):
    parts = []
    for stage in STAGES:
        found = {dtype: [r and r.value for r in over_stock(key, stage, dtype).values()] for dtype in TYPES}
        good = {dtype: [value for value in found[dtype] if value] for dtype in TYPES}
        left = {d: f" ({len(good[d])} of {len(found[d])} M)" * (len(good[d]) < len(found[d])) for d in TYPES}
        spans = [f"{dtype} {span(good[dtype])}{left[dtype]}" for dtype in TYPES]
        parts.append(f"{stage}, {BY[decided(key, stage, TYPES[0])[0]]}, {', '.join(spans)}")
    return f"- Without sparsity, our fastest dense engine over stock vLLM: {'; '.join(parts)}."


def cell(found, left, interval=True):
    if not found:
        return "†" if left else "—"
    values = [ratio.value for ratio in found]
    ends = f" ({two(min(values))}–{two(max(values))})" if interval and min(values) < max(values) else ""
    return two(median(values)) + ends + " ⇄" * any(ratio.gpu == "⇄" for ratio in found) + " †" * bool(left)


def cost(key, dtype, backend, sparsity, ends):
    """Energy at both stages (mJ a token), memory of weights (GB), and percent of weights that pruning changed."""
    results = [points(key)[stage, dtype, backend, sparsity, ends[stage]]["results"] for stage in STAGES]
    ran = [sparsity == "dense" or sparse(key, s, (dtype, backend, sparsity, ends[s])) for s in STAGES]
    late = [engine(key, stage, dtype, backend, sparsity, ends[stage], "step").out for stage in STAGES]
    marks = [" †" * (why == "bound by the host") for why in late]
    joules = [rounded(1000 * r["energy_j_per_token"], 2) + mark for r, mark in zip(results, marks, strict=True)]
    joules = [text if own else "—" for text, own in zip(joules, ran, strict=True)]
    memory = two(results[0]["weight_bytes"] / 1e9)
    return [*joules, memory, changed(dtype, sparsity), "not measured"]


def rows(key, dtype):
    """Rows of the table of one type, without the row of the dense engine."""
    found = {stage: decided(key, stage, dtype) for stage in STAGES}
    ends = {s: max(w[4] for w in points(key) if w[:3] == (s, dtype, "cusparselt")) for s in STAGES}
    dense = {stage: over_stock(key, stage, dtype) for stage in STAGES}
    turned = {s: [Figure(1 / r.value, None, r.gpu) for r in dense[s].values() if r] for s in STAGES}
    cells = [cell(turned[s], None in dense[s].values()) for s in STAGES]
    late = [ratio for ratio in over_stock(key, "decode", dtype, late=True).values() if ratio]
    late = cell([Figure(1 / r.value, None, r.gpu) for r in late], any(r.out for r in late))
    lines = [["stock vLLM", cells[0], "—", cells[1], late, "—", "1", "1", *cost(key, dtype, "vllm", "dense", ends)]]
    clock = {}
    for (column, M), (ratio, *_) in ratios(key, "decode", dtype, CLOCK, BEST).items():
        clock.setdefault(named(column), {})[M] = ratio
    for text in found["prefill"][1]:
        line, stocks = [text], []
        for stage in STAGES:
            what, patterns = found[stage]
            each = patterns[text]
            line.append(cell(counted(each).values(), len(counted(each)) < len(each)))
            if stage == "decode":
                line.append(cell(clock[text].values(), any(r.out for r in clock[text].values())))
            does, since = word(each)
            line.append(f"pays from {since}" if does == "pays" else does)
            column = f"{'auto' if text.endswith('auto') else 'cusparselt'}/{text.split()[0].replace(':', '_')}"
            mine = {M: r for (c, M), (r, *_) in ratios(key, stage, dtype, what, STOCK).items() if c == column}
            good = counted(mine)
            stocks.append(cell(good.values(), len(good) < len(mine), interval=False))
        backend, _, pattern = column.partition("/")
        lines.append([*line, *stocks, *cost(key, dtype, backend, pattern, ends)])
    return lines


def mistakes(key, screen):
    """What the first screen should say and does not. screen: its Markdown."""
    wanted = [*(engines(key, s, dtype) for s in STAGES for dtype in TYPES), kernels(key), costs(key), stock(key)]
    wanted += [f"| {' | '.join(line)} |" for dtype in TYPES for line in rows(key, dtype)]
    return [line for line in wanted if line not in screen.splitlines()]
