"""Intervals of what is known of every token of a text, by blocks of the text.

Tokens that follow each other are not independent, so what is drawn again is blocks of them (the bootstrap of blocks
that do not overlap: Carlstein, Annals of Statistics 14, 1986). The interval is from the 2.5th to the 97.5th percentile
of the figure over all draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). It always
holds the figure. Figures of two models on the same blocks are drawn together. So the interval of their difference is of
pairs.
"""

import numpy as np

DRAWS, SEED = 1000, 20260305
"""Number of draws, and the seed of all: the same figures have the same interval."""

ENDS = (0.025, 0.975)

AT_ONCE = 1 << 24
"""Weights of tokens that are held at once."""


def draws(blocks):
    """How often each draw has each of a number of blocks, [DRAWS, blocks]."""
    return np.random.default_rng(SEED).multinomial(blocks, np.full(blocks, 1 / blocks), size=DRAWS)


def of_ratio(above, below, function=lambda ratio: ratio):
    """The estimate {value, ci_low, ci_high} of function(sum of `above` / sum of `below`).

    above, below: a number for each block. function: of an array. With one block the ends are None.
    """
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    weights = draws(len(above))
    return _estimate(function(above.sum() / below.sum()), function(weights @ above / (weights @ below)), len(above))


def of_percentile(values, share):
    """The estimate {value, ci_low, ci_high} of a percentile of `values` [blocks, tokens]; share: 0.99 for the 99th.

    It is the smallest value that at least this share of the tokens do not exceed.
    """
    values = np.asarray(values, np.float64)
    blocks, tokens = values.shape
    order = np.argsort(values, axis=None)
    ordered, owner = values.reshape(-1)[order], order // tokens
    wanted = np.ceil(share * values.size)
    weights, held = draws(blocks).astype(np.int32), max(1, AT_ONCE // values.size)
    found = [
        ordered[(np.cumsum(weights[first : first + held, owner], axis=1, dtype=np.int32) >= wanted).argmax(axis=1)]
        for first in range(0, DRAWS, held)
    ]
    return _estimate(ordered[int(wanted) - 1], np.concatenate(found), blocks)


def _estimate(value, drawn, blocks):
    if blocks == 1:
        return {"value": float(value), "ci_low": None, "ci_high": None}
    low, high = np.quantile(drawn, ENDS)
    return {"value": float(value), "ci_low": float(min(low, value)), "ci_high": float(max(high, value))}
