"""Speed-up of prefill by prompt: what longer prompts leave of it, where a shape was measured at several."""

from typing import NamedTuple

from slidesparse.plan import prompts
from slidesparse.report.document.model import Section, Table, fixed, joined, number, say
from slidesparse.report.sections.ratios import Comparison
from slidesparse.report.sections.speedups import cell, notes_on
from slidesparse.report.sections.verdict import deciding, row_names
from slidesparse.report.sources.rows import grouped, pattern_length

NOTE = say(
    "Over the fastest dense engine at the same prompt; the name of the model has it at its end. Steps of one M carry as"
    " many tokens in fewer, longer prompts, so their linears are the same and attention takes longer. Only steps of"
    " whole prompts are here."
)


class Column(NamedTuple):
    """What decides on a model at its prompt. ratios: (M, (backend, sparsity)) -> ratio, at steps of whole prompts."""

    prompt: int
    model: str
    comparison: Comparison
    ratios: dict

    @classmethod
    def of(cls, comparison):
        """The Column of a Comparison of prefill."""
        model, prompt = prompts.apart(comparison.model)
        found = {(M, name[2:]): each for (name, M), each in comparison.ratios.items() if each.sparse and prompt <= M}
        return cls(prompt, model, comparison, found)

    @property
    def head(self):
        """`BitNet-2B-prompt1024`, also of the usual prompt."""
        return f"{self.model}-prompt{self.prompt}"

    @property
    def counted(self):
        """The same without the ratios that take part in no conclusion."""
        one = self.comparison
        left = {(M, name[2:]) for name, M in one.ratios if one.left_out(name, M)}
        return self._replace(ratios={place: each for place, each in self.ratios.items() if place not in left})


def prompt_blocks(source, comparisons):
    """A table for each shape and type: a row for each M and pattern, a column for each model and prompt."""
    blocks = []
    for (shape, dtype), columns in by_shape(source, comparisons).items():
        names, places = names_of(columns), shared(columns)
        rows = [
            (number(str(M), M), names[name], *(cell(each.ratios.get((M, name))) for each in columns))
            for M, name in places
        ]
        marks = {(each.head, name, M): each.ratios[M, name] for each in columns for M, name in each.ratios}
        table = Table(f"prompts_{shape}_{dtype}", ("M", "pattern", *(each.head for each in columns)), rows, "rl")
        title = say("prefill {shape} {dtype}, speed-up by prompt", shape=shape, dtype=dtype)
        blocks.append(Section(title, [NOTE, *notes_on(marks), table]))
    return blocks


def of_prompts(source, comparisons):
    """A list with the sentence of the first screen, on the shortest pattern at the largest M; empty without prompts."""
    parts, found = [], by_shape(source, comparisons)
    for (shape, dtype), columns in found.items():
        counted = [each.counted for each in columns]
        places = shared(counted)
        if not places:
            continue
        M = max(M for M, _ in places)
        name = next(name for most, name in places if most == M)
        there = [each for each in counted if (M, name) in each.ratios]
        each = [say("{ratio} at {head}", ratio=fixed(one.ratios[M, name].value, 2), head=one.head) for one in there]
        of = dtype if len({shape for shape, _ in found}) == 1 else f"{shape} {dtype}"
        said = {"name": names_of(columns)[name], "of": of, "M": M, "each": joined(each, ", ")}
        parts.append(say("{name} {of} at M={M} {each}", **said))
    return [say("Prefill over dense by prompt: {parts}.", parts=joined(parts))] if parts else []


def by_shape(source, comparisons):
    """(shape, type) -> its Columns in the order of prompts, if several prompts have a ratio at one M."""
    found = {}
    for model, dtype in grouped(source.stage("prefill")):
        if one := deciding(comparisons, "prefill", model, dtype):
            found.setdefault((source.shape_of(model), dtype), []).append(Column.of(one))
    return {of: sorted(columns, key=lambda each: each[:2]) for of, columns in found.items() if shared(columns)}


def shared(columns):
    """[(M, (backend, sparsity))] of the ratios that at least two prompts have, by M, the shortest patterns first."""
    found = {}
    for each in columns:
        for place in each.ratios:
            found.setdefault(place, set()).add(each.prompt)
    places = [place for place, held in found.items() if len(held) > 1]
    return sorted(places, key=lambda place: (place[0], pattern_length(place[1][1]), place[1]))


def names_of(columns):
    """(backend, sparsity) -> the name of its row."""
    shown = [row_names(each.comparison.sparse_names()) for each in columns]
    return {name[2:]: text for names in shown for name, text in names.items()}
