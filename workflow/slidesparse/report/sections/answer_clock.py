"""What decode steps take by the clock where GPU time decides: a user waits by the clock, the host's share included."""

from slidesparse.report.document.model import joined, say
from slidesparse.report.sections.quantities import EVEN, FASTER, SLOWER, UNKNOWN
from slidesparse.report.sections.ratios import HOST_BOUND
from slidesparse.report.sections.verdict import over_dense, row_names, spanned


def beside(comparisons, comparison):
    """The comparison by the clock beside one by GPU time; None beside any other, or if there is none."""
    if not comparison or comparison.metric != "gpu_step_ms":
        return None
    return over_dense(comparisons, comparison.stage, comparison.model, comparison.dtype, "step_ms")


def by_clock(clock, name):
    """Ratios of one configuration, in order of M: those that the host bounds, too, but none that a check disqualifies.

    clock: a comparison by the clock, or None.
    """
    found = clock.of(name) if clock else {}
    return [each for M, each in found.items() if each.sparse and clock.left_out(name, M) in (None, HOST_BOUND)]


def tally(ratios):
    """A text on how many ratios are slower than dense, even, faster, unknown."""
    verdicts = [each.verdict for each in ratios]
    parts = [
        say("{n} {verdict}", n=verdicts.count(each), verdict=each)
        for each in (SLOWER, EVEN, FASTER, UNKNOWN)
        if each in verdicts
    ]
    return joined(parts, ", ")


def in_one(ratios):
    """A text on the ratios by the clock of any number of patterns."""
    return said(spanned(ratios), ratios)


def said(spans, ratios):
    return say("by the clock, with the host's share, {spans} ({tally})", spans=spans, tally=tally(ratios))


def in_short(clocks):
    """A list with a text on the shortest pattern by the clock, in all types; empty without any.

    clocks: comparisons by the clock, one for each type, or None.
    """
    found = {}
    for clock in filter(None, clocks):
        for name, text in row_names(clock.sparse_names()).items():
            found.setdefault(text, []).extend(by_clock(clock, name))
    for text in usual(found)[:1]:
        spans = say("{name} {span}", name=text, span=spanned(found[text])) if found[text] else None
        return [said(spans, found[text])] if spans else []
    return []


def usual(texts):
    """Of names of rows those that name a pattern alone; all, if none does."""
    return [text for text in texts if " " not in text] or [*texts]


def word(ratios):
    """What ratios say at all M, as a word, or as two words for the worst and the best; and that some say nothing."""
    verdicts = [each.verdict for each in ratios]
    there = [each for each in (SLOWER, EVEN, FASTER) if each in verdicts]
    if not there:
        return UNKNOWN
    known = there[0] if len(there) == 1 else say("{worst} to {best}", worst=there[0], best=there[-1])
    return say("{words}, some unknown", words=known) if UNKNOWN in verdicts else known


def beside_word(verdict, ratios):
    """A verdict by GPU time, and behind it what the clock says, as a cell of a table. ratios: by the clock, or none."""
    return say("{verdict} ({clock})", verdict=verdict, clock=word(ratios)) if ratios else verdict
