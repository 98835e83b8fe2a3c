"""Recompute from the kept points, without the report's code, what each pattern does, and the sentences that say it.

Forms of sentences that the kept points do not lead to are not there.
"""

from functools import cache

from kept import points, ratios, rounded

TYPES, STAGES = ("INT8", "FP8"), ("prefill", "decode")
BEST, STOCK = "the fastest dense backend of each M", "stock vLLM"
CLOCK, GPU = "steady-state step time", "GPU time of a step"
BY = {CLOCK: "by the clock", GPU: "by GPU time"}
DOES = {"faster": "pays", "even": "even", "slower": "loses", "unknown": "unknown"}
WORDS = list(DOES.values())
NO_INTERVALS = " without intervals:"
TWO_GPUS = ", because two GPUs measured the sides at the largest M that counts, over all of them"


class Pattern:
    """What the ratios of one configuration say at a stage and type by one figure (`what`).

    all: M -> ratio. counted: those that count. out: M -> ratio of the others. dense: M at which only dense kernels ran.
    """

    def __init__(self, key, stage, dtype, what, column):
        found, where = ratios(key, stage, dtype, what, BEST), (stage, dtype, *column.split("/"))
        self.what, self.column = what, column
        self.all = {M: found[column, M] for M in sorted(M for name, M in found if name == column)}
        self.counted = {M: each for M, each in self.all.items() if not each.out}
        self.out = {M: each for M, each in self.all.items() if each.out}
        self.dense = tuple(sorted(place[4] for place in points(key) if place[:4] == where and place[4] not in self.all))

    @property
    def last(self):
        return self.counted[max(self.counted)]

    @property
    def word(self):
        return DOES[self.last.verdict]

    @property
    def said(self):
        return f"pays from {self.since}" if self.word == "pays" else self.word

    @property
    def since(self):
        """The M from which on all M count and say so, up to the largest that counts."""
        good = [M for M, each in self.counted.items() if each.verdict == self.last.verdict]
        others = [M for M in {*self.all, *self.dense} - {*good} if max(good) > M]
        return min(M for M in good if max(others, default=0) < M)

    @property
    def until(self):
        """The largest M that counts, if larger ones do not, else 0."""
        return max(self.counted) if max(self.counted) < max([*self.all, *self.dense]) else 0


@cache
def seen(key, stage, dtype, what=None):
    """Pattern's name -> Pattern, the shortest first; by the figure by which most patterns count, or by `what`."""
    if what:
        columns = sorted({column for column, _ in ratios(key, stage, dtype, what, BEST)}, key=lambda c: order(named(c)))
        return {named(column): Pattern(key, stage, dtype, what, column) for column in columns}
    both = [seen(key, stage, dtype, each) for each in BY]
    return max(both, key=lambda found: sum(bool(each.counted) for each in found.values()))


def decided(key, stage, dtype):
    """The figure that decides."""
    return next(iter(seen(key, stage, dtype).values())).what


def order(text):
    return float(text.split()[0][2:]), " " in text


def named(column):
    backend, _, pattern = column.partition("/")
    return pattern.replace("_", ":") + " auto" * (backend == "auto")


def span(values):
    low, high = rounded(min(values), 2), rounded(max(values), 2)
    return low if low == high else f"{low} to {high}"


def spanned(figures):
    """Their span, marked if two GPUs measured the sides of one."""
    figures = [*figures]
    return span([each.value for each in figures]) + " ⇄" * any(each.gpu == "⇄" for each in figures)


def together(places):
    """`2:4, 2:6 at M=512, 2:8 at M=1024` of name -> M, without names that have none."""
    names = {}
    for text, Ms in places.items():
        names.setdefault(tuple(Ms), []).append(text)
    return ", ".join(f"{', '.join(texts)} at M={', '.join(map(str, Ms))}" for Ms, texts in names.items() if Ms)


def by_clock(ratios, name=""):
    """What the clock says where GPU time decides."""
    verdicts = [ratio.verdict for ratio in ratios]
    words = [f"{verdicts.count(word)} {word}" for word in ("slower", "even", "faster", "unknown") if word in verdicts]
    return f"by the clock, with the host's share, {name}{spanned(ratios)} ({', '.join(words)})"


def late(key, stage, dtype):
    """Pattern's name -> its ratios by the clock, if GPU time decides."""
    found = seen(key, stage, dtype, CLOCK) if decided(key, stage, dtype) == GPU else {}
    return {text: [*each.all.values()] for text, each in found.items()}


def does(word, names, many):
    return f"{names} {word.removesuffix('s')}" if many and word in ("pays", "loses") else f"{names} {word}"


def engines(key, stage, dtype):
    """The sentence on one stage and type."""
    found, groups, parts = seen(key, stage, dtype), {}, []
    for text, each in found.items():
        unknown = each.word == "unknown" and (TWO_GPUS if each.last.gpu else NO_INTERVALS)
        groups.setdefault((WORDS.index(each.word), each.since * (each.word == "pays"), unknown), []).append(text)
    for (at, since, unknown), texts in sorted(groups.items()):
        word, good = WORDS[at], [r for text in texts for M, r in found[text].counted.items() if since <= M]
        said, slower = does(word, ", ".join(texts), len(texts) > 1), sum(each.verdict == "slower" for each in good)
        each = ", ".join(f"{text} {spanned(found[text].counted.values())}" for text in texts)
        ends = {
            "pays": f"{said} from M={since} on, {spanned(good)}",
            "loses": f"{said}, {spanned(good)} (slower in {slower} of {len(good)} ratios)",
            "unknown": f"no verdict{unknown} {each}",
        }
        parts.append(ends[word])
    if out := [ratio for each in found.values() for ratio in each.out.values()]:
        whys, where = ", ".join(dict.fromkeys(r.out for r in out)), together({t: each.out for t, each in found.items()})
        parts.append(f"left out {where} ({whys}): {spanned(out)} there")
    if ran := together({text: each.dense for text, each in found.items()}):
        parts.append(f"no ratio of {ran} (only dense kernels ran)")
    clock = [ratio for each in late(key, stage, dtype).values() for ratio in each]
    parts += [by_clock(clock)] if clock else []
    return f"- {stage.capitalize()} {dtype}, {BY[decided(key, stage, dtype)]}: {'; '.join(parts)}."


def in_short(key, stage):
    """The sentence on all types of a stage."""
    found = {(text, dtype): each for dtype in TYPES for text, each in seen(key, stage, dtype).items()}
    clock, groups, parts = [r for dtype in TYPES for r in late(key, stage, dtype).get("2:4", ())], {}, []
    if all(each.word == "unknown" for each in found.values()):
        shortest = [ratio for dtype in TYPES for ratio in found["2:4", dtype].counted.values()]
        parts.append(f"no verdict{NO_INTERVALS} 2:4 {spanned(shortest)}")
    else:
        for text in sorted({text for text, _ in found}, key=order):
            same = {}
            for dtype in [dtype for dtype in TYPES if (text, dtype) in found]:
                each = found[text, dtype]
                same.setdefault((WORDS.index(each.word), each.until), []).append(dtype)
            for (at, until), types in same.items():
                groups.setdefault((at, until, tuple(types)), []).append(text)
        for (at, until, types), texts in sorted(groups.items(), key=lambda group: group[0][0]):
            parts.append(of_group(WORDS[at], until, types, {t: [found[t, d] for d in types] for t in texts}))
    parts += [by_clock(clock, "2:4 ")] if clock else []
    return f"{stage.capitalize()}, {BY[decided(key, stage, 'INT8')]}: {'; '.join(parts)}."


def of_group(word, until, types, members):
    """What patterns do that do the same in these types. members: name -> Patterns."""
    names = ", ".join(members) + ("" if len(types) == len(TYPES) else f" with {', '.join(types)}")
    each, said = [one for mine in members.values() for one in mine], does(word, names, len(members) > 1)
    if word != "pays":
        return said + f" at M={until}, the largest that counts" * bool(until and word != "unknown")
    first, last = min(one.since for one in each), max(one.since for one in each)
    good = [ratio for one in each for M, ratio in one.counted.items() if last <= M]
    early = [ratio for one in each for M, ratio in one.counted.items() if one.since <= M < last]
    some = f" (some from M={first} on, {spanned(early)} below {last})" if early else ""
    return f"{said}, from M={last} on, {spanned(good)} times as fast{some}"
