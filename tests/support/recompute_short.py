"""Recompute from the kept points, without the report's code, the one sentence that a report begins with."""

from kept import named, order, points, span
from recompute_answer import BY, DOES, STAGES, TYPES, counted, decided, word


def does(key, stage, dtype, text, each):
    """(what a pattern does, up to which M if larger ones do not count, or ran dense kernels)."""
    most = max(w[4] for w in points(key) if w[:2] == (stage, dtype) and named(f"{w[2]}/{w[3]}") == text)
    good = counted(each)
    return word(each)[0], max(good) if max(good) < most else None


def of_stage(key, stage):
    what = {dtype: decided(key, stage, dtype)[0] for dtype in TYPES}
    found = {dtype: decided(key, stage, dtype)[1] for dtype in TYPES}
    assert len(set(what.values())) == 1
    if all(word(each)[0] == "unknown" for dtype in TYPES for each in found[dtype].values()):
        return f"{stage.capitalize()}, {BY[what['INT8']]}: no verdict."
    groups = {}
    for text in sorted({text for dtype in TYPES for text in found[dtype]}, key=order):
        mine = {}
        for dtype in [dtype for dtype in TYPES if text in found[dtype]]:
            mine.setdefault(does(key, stage, dtype, text, found[dtype][text]), []).append(dtype)
        for what_until, same in mine.items():
            groups.setdefault((*what_until, tuple(same)), []).append(text)
    parts = []
    for (verb, until, same), texts in sorted(groups.items(), key=lambda g: list(DOES.values()).index(g[0][0])):
        names = ", ".join(texts) + ("" if len(same) == len(TYPES) else f" with {', '.join(same)}")
        each = [found[dtype][text] for text in texts for dtype in same]
        many = len(texts) > 1
        if verb == "pays":
            since = sorted({word(one)[1] for one in each})
            values = [r.value for one in each for M, r in counted(one).items() if since[-1] <= M]
            pay = "pay" if many else "pays"
            start = f"{since[-1]} (some from {since[0]})" if len(since) > 1 else since[0]
            start = f" {pay} from M={start} to {until}" if until else f" {pay}, from M={start} on"
            parts.append(f"{names}{start}, {span(values)} times as fast" + "; larger M do not count" * bool(until))
        else:
            verb = "lose" if verb == "loses" and many else verb
            at = f" at M={until}, the largest that counts" if until and verb != "unknown" else ""
            parts.append(f"{names} {verb}{at}")
    return f"{stage.capitalize()}, {BY[what['INT8']]}: {'; '.join(parts)}."


def verdict(key):
    return " ".join(of_stage(key, stage) for stage in STAGES)
