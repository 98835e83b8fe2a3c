"""Scores of a checkpoint on a text, from hidden states: its own and those of a reference, both before the output head.

The head is the same in all checkpoints of a model. So logits are products of states with one matrix, made in chunks.
All logarithms are natural. KL(P || Q) is the sum over the whole vocabulary of P log(P / Q), in nats: what coding a
token of P costs more with Q (Kullback and Leibler, Annals of Mathematical Statistics 22, 1951).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from slidesparse.engine.quality import bootstrap

LOGITS = 1 << 25
"""Logits of each of the two models that are held at once: 128 MiB in float32."""

TAIL = 0.99
"""Share of the tokens that the reported percentile of a divergence covers."""


class Scores(NamedTuple):
    """What each token of a text costs and how predictions differ; arrays of float64, or of bool, [tokens]."""

    nats: np.ndarray
    """-log of the probability that the checkpoint gives the token."""
    reference_nats: np.ndarray
    divergence: np.ndarray
    """KL(reference || checkpoint)."""
    agrees: np.ndarray
    """Whether both give the same token the largest probability."""


@torch.inference_mode()
def scored(head, states, reference, targets):
    """The Scores of tokens.

    head: [vocabulary, hidden]. states, reference: [tokens, hidden], of the checkpoint and of what it is compared with.
    targets: [tokens], the tokens that follow. All tensors are on one device. Computed in float32, summed in float64.
    """
    head, rows = head.float(), max(1, LOGITS // len(head))
    parts = [
        _scored(*(F.linear(each.float(), head) for each in both), target)
        for *both, target in zip(states.split(rows), reference.split(rows), targets.split(rows), strict=True)
    ]
    return Scores(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def _scored(logits, reference, targets):
    own, theirs = logits.log_softmax(-1), reference.log_softmax(-1)
    nats = [-each.gather(-1, targets[:, None])[:, 0].double() for each in (own, theirs)]
    divergence = (theirs.exp() * (theirs - own)).sum(-1, dtype=torch.float64)
    return *nats, divergence.clamp(min=0), own.argmax(-1) == theirs.argmax(-1)


def summary(scores, sizes):
    """What a point says of Scores: estimates {value, ci_low, ci_high}, and the sums of each block of text.

    sizes: bytes of each block. The blocks are of equal numbers of tokens.

    bits_per_byte, perplexity (of a token), the same of the reference, extra_bits_per_byte over the reference,
    divergence (mean of a token, in nats), divergence_p99, top1_agreement (share of the tokens), blocks.
    """
    blocks = len(sizes)
    nats, reference, divergence, agrees = (each.reshape(blocks, -1) for each in scores)
    lengths = np.full(blocks, nats.shape[1])
    sums = {
        "bytes": list(sizes),
        "nats": nats.sum(1).tolist(),
        "reference_nats": reference.sum(1).tolist(),
        "divergence": divergence.sum(1).tolist(),
        "agreeing": agrees.sum(1).tolist(),
    }
    return {
        **of_blocks(sums, lengths),
        "divergence_p99": bootstrap.of_percentile(divergence, TAIL),
        "blocks": sums,
    }


def of_blocks(sums, lengths):
    """The estimates that follow from the sums of blocks of text, of `lengths` tokens each."""
    nats, reference = np.asarray(sums["nats"]), np.asarray(sums["reference_nats"])
    bits = np.asarray(sums["bytes"]) * math.log(2)
    return {
        "bits_per_byte": bootstrap.of_ratio(nats, bits),
        "perplexity": bootstrap.of_ratio(nats, lengths, np.exp),
        "reference_bits_per_byte": bootstrap.of_ratio(reference, bits),
        "reference_perplexity": bootstrap.of_ratio(reference, lengths, np.exp),
        "extra_bits_per_byte": bootstrap.of_ratio(nats - reference, bits),
        "divergence": bootstrap.of_ratio(sums["divergence"], lengths),
        "top1_agreement": bootstrap.of_ratio(sums["agreeing"], lengths),
    }
