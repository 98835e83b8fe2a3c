"""Recompute from the kept points, without the report's code, what the report concludes; see `mistakes`."""

import re
from statistics import geometric_mean

from kept import DENSE, engine, layer, points, ratios, rounded, sparse

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
    r"(prefill|decode): the fastest dense engine has one library .+ \(auto/dense\) has no figure here, .+"
)
WITHOUT_FIGURES = ("Faster and slower: the confidence", "⇄ marks ratios", "Anomalies, which are listed below, limit")


def counted(verdicts):
    return [f"{word} at {verdicts.count(word)}" for word in ("faster", "even", "slower", "unknown") if word in verdicts]


def compared(key, stage, dtype, what, over, said, parts):
    """What a sentence on speed-ups should say. said, parts: what it says, and its end on configurations."""
    found, wanted = ratios(key, stage, dtype, what, over), []
    names = [part.partition(", of ")[0] for part in parts.split("; ")]
    for name in [*names, *sorted({name for name, _ in found} - set(names))]:
        mine = {M: found[name, M] for M in sorted(M for column, M in found if column == name)}
        left = {}
        for M in [M for M, each in mine.items() if each.out]:
            left.setdefault(mine[M].out, []).append(str(M))
        words = counted([each.verdict for each in mine.values() if not each.out])
        words += [f"left out M={', '.join(Ms)} ({why})" for why, Ms in left.items()]
        wanted.append(f"{name}, of {len(mine)} M: {', '.join(words)}")
    good = {place: each for place, each in found.items() if not each.out}
    if not good:
        return f"no ratio counts. {'; '.join(wanted)}"
    name, M = max(good, key=lambda place: good[place].value)
    digits, unit = (1, "µs") if stage == "kernel" else (3, "ms")
    theirs, mine = (rounded(side.value, digits) for side in good[name, M].sides)
    said = f"{good[name, M].text()} at M={M} with {name} ({mine} against {theirs} {unit})"
    said += without(key, stage, dtype, over, name, M)
    if what == "GPU time of a step":
        own = "; by the clock, over the side that is fastest by the clock,"
        own = ", by the clock" if over == "cublaslt/dense" else own
        said += f"{own} {ratios(key, stage, dtype, 'steady-state step time', over)[name, M].text()}"
    return f"the largest ratio is {said}. {'; '.join(wanted)}"


def without(key, stage, dtype, over, name, M):
    """The end of a sentence on kernels: dense ones of other output types, which may be faster."""
    if stage != "kernel" or over != "the fastest dense backend of each M":
        return ""
    kinds = {b: layer(key, dtype, b, "dense", M)[1] for b in DENSE}
    others = [b for b in DENSE if kinds[b] != layer(key, dtype, *name.split("/"), M)[1]]
    others = [f"{b} (other outputs)" for b in others]
    return f", without {', '.join(others)} there" if others else ""


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
    mean += " ⇄" * any(each.gpu == "⇄" for each in good.values())
    values = ", ".join(f"{each.text(3, interval=False)} (M={M})" for M, each in good.items())
    return f"of {len(Ms)} M: {', '.join(words)}; geometric mean of those that count {mean}: {values}"


def both(key, dtype, M, over, what, said):
    """What a sentence on kernels and prefill should say, its M in front."""
    kernel = ratios(key, "kernel", dtype, "sum of cold GEMM latencies of a layer", over)
    model = ratios(key, "prefill", dtype, what, over)
    shared = {where for where in kernel.keys() & model.keys() if not kernel[where].out and not model[where].out}
    most = max(M for _, M in shared)
    names = sorted((name for name, M in shared if most == M), key=lambda name: int(name.partition("_")[2]))
    parts = [f"{n} {' and '.join(each[n, most].text(interval=False) for each in (kernel, model))}" for n in names]
    rivals = {without(key, "kernel", dtype, over, n, most).removesuffix(" there") for n in names} - {""}
    rivals = [each.removeprefix(", without ").replace("(other", "(kernel, other") for each in sorted(rivals)]
    return f"M={most}: {', '.join(parts)}" + "".join(f"; without {each}" for each in rivals)


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
