"""What an engine must hold to measure a point, or several: it decides the memory that an engine takes."""

from typing import NamedTuple

from slidesparse.engine import throughput
from slidesparse.engine.quality import states


class Size(NamedTuple):
    """What an engine must hold."""

    tokens: int
    """of a step"""
    sequences: int
    """that run at once"""
    model_len: int
    """tokens of a sequence"""
    cached: tuple
    """pairs of sequences and their length that the KV cache must hold, one pair at a time"""
    graphs: tuple
    """pairs of tokens and sequences of the steps that are measured"""

    @classmethod
    def of(cls, stage, M, parameters):
        """The smallest engine that can measure M in `stage`."""
        if stage == "quality":
            return cls(*states.size(M, parameters["context"]))
        if stage == "prefill":
            lengths = throughput.split(M, parameters["prompt_cap"])
            tokens, sequences, model_len = M, 2 * len(lengths), lengths[0] + 1
            graph = (M, len(lengths))
        else:
            tokens, sequences = M * parameters["prompt_len"], M
            model_len, graph = parameters["prompt_len"] + parameters["output_len"], (M, M)
        return cls(tokens, sequences, model_len, ((sequences, model_len),), (graph,))

    def union(self, other):
        """The smallest engine that can do what both can."""
        pairs = (tuple(sorted({*mine, *theirs})) for mine, theirs in zip(self[3:], other[3:], strict=True))
        return Size(*map(max, self[:3], other[:3]), *pairs)

    def blocks(self, block):
        """Blocks of `block` tokens that the KV cache needs."""
        held = max(sequences * (length // block + 1) for sequences, length in self.cached)
        return held + self.model_len // block + 2
