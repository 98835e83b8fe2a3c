"""Runs decode attention in Triton's interpreter and prints what was wrong; see test_attention.py."""

import json
import sys

import numpy as np
import torch

import interpreted_kernels  # first: it makes Triton interpret
from attention_cases import error, exact
from slidesparse.operators import paged


def check(query, keys, values, lengths, pages, cut):
    """Errors, numbers that were never written, and bytes written elsewhere."""
    cut, M, D = paged.Plan(*cut), len(query), keys.shape[3]
    out = torch.full_like(query, float("nan"))
    partial = torch.full((M, cut.splits, query.shape[1] // D, D), float("nan"))
    sums = torch.full(partial.shape[:3], float("nan"))
    interpreted_kernels.written.clear()
    paged.start(query, keys, values, lengths, pages, D**-0.5, out, partial, sums, cut)
    right = exact(query, keys, values, lengths, pages, D**-0.5)
    wrong = {}
    if not (far := error(out, right) if right.any() else out.abs().max().item()) < 4e-3:
        wrong["error"] = far
    if out[lengths == 0].any():
        wrong["padding"] = True
    addresses = np.unique(np.concatenate(interpreted_kernels.written))
    ours = (out, partial, sums) if cut.splits > 1 else (out,)
    inside = [np.isin(addresses, one.data_ptr() + np.arange(one.nbytes)) for one in ours]
    if missing := out.nbytes - int(inside[0].sum()):
        wrong["missing"] = missing
    if stray := len(addresses) - int(np.any(inside, axis=0).sum()):
        wrong["stray"] = stray
    return wrong


if __name__ == "__main__":
    print(json.dumps([check(*case) for case in torch.load(sys.argv[1])]))
