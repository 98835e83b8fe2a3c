"""Recompute from the kept points, without the report's code, what the report concludes; see `mistakes`."""

import re
from statistics import geometric_mean

from kept import DENSE, engine, in_turn, layer, points, rounded


def sparse(key, stage, where):
    linears = points(key)[stage, *where]["results"].get("linears", {})
    return where[2] != "dense" and (where[1] != "auto" or any(e["backend"] == "cusparselt" for e in linears.values()))


def ratios(key, stage, dtype, what, over):
    """{(column, M): (Figure, own, denominator's)} of sparse configurations, as a sentence compares them."""
    found, by = {}, "gpu" if what == "GPU time of a step" else "step"
    for where in [place[1:] for place in points(key) if place[0] == stage and place[1] == dtype]:
        _, backend, sparsity, M = where
        if not sparse(key, stage, where):
            continue
        if "in turn" in what:
            rival = "whole" if "whole" in what else "cublaslt" if over == "cublaslt" else "best"
            found[f"{backend}/{sparsity}", M] = in_turn(key, dtype, sparsity, M, rival)
            continue
        if stage == "kernel":
            own, kind = layer(key, dtype, backend, sparsity, M)
            dense = {b: layer(key, dtype, b, "dense", M) for b in DENSE if (stage, dtype, b, "dense", M) in points(key)}
            dense = {b: figure for b, (figure, output) in dense.items() if output == kind}
        else:
            own = engine(key, stage, *where, by)
            rivals = ("vllm",) if over.startswith("stock") else DENSE
            dense = {b: engine(key, stage, dtype, b, "dense", M, by) for b in rivals}
        if over == "cublaslt/dense":
            dense = {"cublaslt": dense["cublaslt"]} if "cublaslt" in dense else {}
        fit = {b: each for b, each in dense.items() if each.out in ("", "bound by the host")} or dense
        if fit:
            base = min(fit.values(), key=lambda each: each.value)
            ratio = base.over(own)
            bound = int(sparsity[2:]) / (int(sparsity[2:]) - 2) if sparsity != "2_inf" else 1
            least = ratio.value * (1 - (ratio.spread or 0))
            if not over.startswith("stock") and least > bound:
                ratio.out = ratio.out or "above the bound"
            found[f"{backend}/{sparsity}", M] = ratio, own.value, base.value
    return found


COMPARED = re.compile(
    r"(prefill|decode|kernel) \S+ (INT8|FP8), (.+?), over (.+?): "
    r"((?:no ratio counts|the largest ratio is .+?)\. (.+))\."
)
TYPES = re.compile(r"(prefill|decode|kernel) \S+ (\w+)/dense: FP8 over INT8 in (.+?), (of \d+ M: .+)\.")
BOTH = re.compile(
    r"\S+ (INT8|FP8) at (M=\d+), over (.+?): speed-up of the GEMMs \(cold\) and of prefill \((.+?)\): (.+)\."
)
NONE_RAN = re.compile(r"(prefill|decode): no sparse kernel ran in (.+)\. These are dense engines with pruned weights\.")
ONE_LIBRARY = re.compile(
    r"(prefill|decode): the fastest dense engine has one library .+ \(auto/dense\) was not measured, .+"
)
WITHOUT_FIGURES = ("Faster and slower: the confidence", "⇄ marks ratios", "Anomalies, which are listed below, limit")


def counted(verdicts):
    return [f"{word} at {verdicts.count(word)}" for word in ("faster", "even", "slower", "unknown") if word in verdicts]


def compared(key, stage, dtype, what, over, said, parts):
    """What a sentence on speed-ups should say. said, parts: what it says, and its end on configurations."""
    found, wanted = ratios(key, stage, dtype, what, over), []
    names = [part.partition(", of ")[0] for part in parts.split("; ")]
    for name in [*names, *sorted({name for name, _ in found} - set(names))]:
        mine = {
            M: each[0] for (column, M), each in sorted(found.items(), key=lambda item: item[0][1]) if column == name
        }
        left = {}
        for M in [M for M, each in mine.items() if each.out]:
            left.setdefault(mine[M].out, []).append(str(M))
        words = counted([each.verdict for each in mine.values() if not each.out])
        words += [f"left out M={', '.join(Ms)} ({why})" for why, Ms in left.items()]
        wanted.append(f"{name}, of {len(mine)} M: {', '.join(words)}")
    good = [(each, name, M, mine, theirs) for (name, M), (each, mine, theirs) in found.items() if not each.out]
    if not good:
        return f"no ratio counts. {'; '.join(wanted)}"
    each, name, M, mine, theirs = max(good, key=lambda item: item[0].value)
    digits, unit = (1, "µs") if stage == "kernel" else (3, "ms")
    sides = f"({rounded(mine, digits)} against {rounded(theirs, digits)} {unit})"
    clock = ""
    if what == "GPU time of a step":
        own = (
            ", by the clock"
            if over == "cublaslt/dense"
            else "; by the clock, over the side that is fastest by the clock,"
        )
        clock = f"{own} {ratios(key, stage, dtype, 'steady-state step time', over)[name, M][0].text()}"
    return f"the largest ratio is {each.text()} at M={M} with {name} {sides}{clock}. {'; '.join(wanted)}"


def types(key, stage, backend, what, said):
    """What a sentence on FP8 over INT8 should say."""
    Ms = sorted(where[4] for where in points(key) if where[:4] == (stage, "INT8", backend, "dense"))
    by = "gpu" if what.startswith("GPU") else "step"

    def figure(dtype, M):
        if stage == "kernel":
            return layer(key, dtype, backend, "dense", M)[0]
        return engine(key, stage, dtype, backend, "dense", M, by)

    good = {M: figure("INT8", M).over(figure("FP8", M)) for M in Ms}
    good = {M: each for M, each in good.items() if not each.out}
    words = counted([each.verdict for each in good.values()]) + [f"left out {len(Ms) - len(good)}"] * (
        len(good) < len(Ms)
    )
    mean = rounded(geometric_mean([each.value for each in good.values()]), 2)
    values = ", ".join(f"{each.text(3, interval=False)} (M={M})" for M, each in good.items())
    return f"of {len(Ms)} M: {', '.join(words)}; geometric mean of those that count {mean}: {values}"


def both(key, dtype, M, over, what, said):
    """What a sentence on kernels and prefill should say, its M in front."""
    kernel = ratios(key, "kernel", dtype, "sum of cold GEMM latencies of a layer", over)
    model = ratios(key, "prefill", dtype, what, over)
    shared = {where for where in kernel.keys() & model.keys() if not kernel[where][0].out and not model[where][0].out}
    most = max(M for _, M in shared)
    names = sorted((name for name, M in shared if most == M), key=lambda name: int(name.partition("_")[2]))
    parts = [
        f"{n} {kernel[n, most][0].text(interval=False)} and {model[n, most][0].text(interval=False)}" for n in names
    ]
    return f"M={most}: {', '.join(parts)}"


def none_ran(key, stage, said):
    """What the names in a sentence on engines of auto should be."""
    ran = {}
    for place in [where for where in points(key) if where[0] == stage and where[2] == "auto" and where[3] != "dense"]:
        ran.setdefault(f"{place[1]} auto/{place[3]}", []).append(sparse(key, stage, place[1:]))
    order = sorted(ran, key=lambda name: (name.startswith("FP8"), int(name.partition("_")[2])))
    return ", ".join(name for name in order if not any(ran[name]))


def mistakes(key, conclusions):
    """Of the list of a report's conclusions: sentences with other figures or counts than the kept points give.

    A sentence of no known form is a mistake as well, because nobody recomputes its quantifiers.
    """
    wrong = []
    for line in conclusions:
        if match := COMPARED.fullmatch(line):
            right = match[5] == compared(key, *match.groups())
        elif match := TYPES.fullmatch(line):
            right = match[4] == types(key, *match.groups())
        elif match := BOTH.fullmatch(line):
            said = f"{match[2]}: {match[5]}"
            right = said == both(key, *match.groups())
        elif match := NONE_RAN.fullmatch(line):
            right = match[2] == none_ran(key, *match.groups())
        elif match := ONE_LIBRARY.fullmatch(line):
            right = not any(where[0] == match[1] and where[2:4] == ("auto", "dense") for where in points(key))
        else:
            right = line.startswith(WITHOUT_FIGURES)
        wrong += [] if right else [line]
    return wrong
