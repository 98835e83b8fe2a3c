"""Runs the fused kernels in Triton's interpreter and prints what was wrong; see test_fused_kernels.py."""

import json
import sys

import numpy as np
import torch

import interpreted_kernels  # first: it makes Triton interpret
from fused_cases import differences
from slidesparse.operators import fused, norms
from slidesparse.operators.launches import Launch

torch.use_deterministic_algorithms(True)  # fills what is not written yet, too


def check(name, arguments, launch):
    """What differs from the reference, output bytes that were never written, and bytes written elsewhere."""
    if launch:
        norms.default = lambda K, M: Launch(*launch)
    caches = [a.clone() for a in arguments[7:9]] if name == "rope_scale_cache" else []
    copied = arguments[:7] + caches + arguments[9:] if caches else arguments
    interpreted_kernels.written.clear()
    got = getattr(fused, name)._init_fn(*copied)
    expected = getattr(fused, f"{name}_reference")(*arguments)
    got = list(got) if isinstance(got, tuple) else [got]
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    wrong = differences(name, got + caches, expected + arguments[7:9] * bool(caches))
    addresses = np.unique(np.concatenate(interpreted_kernels.written))
    inside = sum(np.isin(out.data_ptr() + np.arange(out.nbytes), addresses).sum() for out in got)
    if missing := sum(out.nbytes for out in got) - inside:
        wrong["missing"] = int(missing)
    within = [np.isin(addresses, one.data_ptr() + np.arange(one.nbytes)) for one in got + caches]
    if stray := len(addresses) - np.any(within, axis=0).sum():
        wrong["stray"] = int(stray)
    return wrong


if __name__ == "__main__":
    print(json.dumps([check(*case) for case in torch.load(sys.argv[1])]))
