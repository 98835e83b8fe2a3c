"""Whether the kernels that are summed, divided and compared under one model's name are those of one model."""

from bisect import bisect_left
from collections import Counter

from slidesparse.report.sources.rows import configuration_order
from slidesparse.sparsity.patterns import Pattern

SHOWN = 3
"""Most shapes that a sentence names."""

LONGEST = 1 << 40
"""No row is longer."""


def wrong_length(sparsity, K, K_slid, what="K'"):
    """How K' contradicts K and the pattern, as a sentence without a full stop; None if it does not, or is not known.

    Between the entries that all windows of a row take, rounded down, and ours, which are padded to more than others'.
    """
    if not K or K_slid is None:
        return None
    pattern = Pattern(sparsity)
    least, most = int(K * pattern.gamma), pattern.K_slid(K)
    if least <= K_slid <= most:
        return None
    follows = f"{least}" if least == most else f"{least} to {most}"
    return f"{what}={K_slid} with K={K}, but {follows} follows from {sparsity}"


def lengths(sparsity, K_slid):
    """(least, most) K of a row that is K_slid long when it is slid, however far it is padded."""
    pattern = Pattern(sparsity)
    if pattern.dense:
        return K_slid, K_slid
    most = next(K for K in range(int(K_slid / pattern.gamma) + 2, -1, -1) if int(K * pattern.gamma) <= K_slid)
    return bisect_left(range(min(most, LONGEST) + 1), K_slid, key=pattern.K_slid), most


def shape(row):
    """(N, least K, most K) of a kernel row."""
    values = row.values
    if values.get("K"):
        return values["N"], values["K"], values["K"]
    return values["N"], *lengths(row.configuration.sparsity, values["K_slid"])


def shapes_of(rows):
    """Configuration -> set of (N, least K, most K) of its kernels."""
    found = {}
    for row in rows:
        if row.stage == "kernel" and row.values.get("N") and (row.values.get("K") or row.values.get("K_slid")):
            found.setdefault(row.configuration, set()).add(shape(row))
    return found


def without(shapes, others):
    """Those of `shapes` that have no equal one of their own among `others`."""
    left, free = [], sorted(others)
    for N, least, most in sorted(shapes):
        equal = next((other for other in free if other[0] == N and other[1] <= most and least <= other[2]), None)
        if equal:
            free.remove(equal)
        else:
            left.append((N, least, most))
    return left


def differ(shapes, others):
    """Whether two sets of shapes are those of two models. One may have less shapes than the other, as in half a run."""
    fewer, more = sorted((shapes, others), key=len)
    return bool(without(fewer, more))


def usual(shapes):
    """The set of shapes in {Configuration: set of shapes} with which most others agree, and of those a dense one."""

    def rank(name):
        exact = sum(least == most for _, least, most in shapes[name])
        return sum(not differ(shapes[name], other) for other in shapes.values()), exact

    return shapes[max(sorted(shapes, key=configuration_order), key=rank)]


def of_models(source):
    """model -> the set of shapes (N, least K, most K) that most of its kernels have, to compare it with other GPUs'."""
    models = {}
    for name, shapes in shapes_of(source.rows).items():
        models.setdefault(name.model, {})[name] = shapes
    return {model: usual(shapes) for model, shapes in models.items()}


def leave_out(source):
    """Leave out the kernels of configurations whose shapes are not their model's, and say so in the source."""
    known, odd = of_models(source), {}
    for name, shapes in shapes_of(source.rows).items():
        if differ(shapes, known[name.model]):
            odd[name] = ", ".join(text_of(shape) for shape in without(shapes, known[name.model])[:SHOWN])
    counts = Counter()
    for row in source.rows:
        if row.stage == "kernel" and row.configuration in odd:
            counts[source.paths.get((source.layouts[row.point], "kernel", row.configuration)), row.configuration] += 1
    for (path, name), n in counts.items():
        if path is None:  # points that failed
            continue
        source.uncount(path, n)
        source.refused.append(
            f"{path} does not belong there: its {name.dtype} {name.column} has {odd[name]}, which most kernels of"
            f" {name.model} do not have"
        )
    source.rows = [row for row in source.rows if row.stage != "kernel" or row.configuration not in odd]


def text_of(shape):
    """`N=2560 K=6912`."""
    N, least, most = shape
    return f"N={N} K={least if least == most else f'{least} to {most}'}"
