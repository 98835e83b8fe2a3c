"""Runs kernels in Triton's interpreter and prints what was wrong; see test_kernels.py.

A process of its own, because Triton decides when it is imported whether it interprets.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder

from slidesparse import operators
from slidesparse.operators import quantize_lift, scale
from slidesparse.operators.launches import Launch

written = []  # addresses of the bytes that the kernel wrote

_store = InterpreterBuilder.create_masked_store


def _recording_store(self, pointers, value, mask, *options):
    size = value.data.dtype.itemsize
    addresses = pointers.data[mask.data.astype(bool)].astype(np.int64)
    written.append((addresses[:, None] + np.arange(size)).reshape(-1))
    return _store(self, pointers, value, mask, *options)


InterpreterBuilder.create_masked_store = _recording_store


def differences(x, pattern, dtype, launch):
    """Codes and scales that differ from the reference, and bytes that were not written exactly once."""
    expected, factor = operators.reference(x, pattern, dtype)
    codes = torch.full(expected.shape, 0x55, dtype=torch.uint8).view(expected.dtype)
    scale = torch.full(factor.shape, -1.0)
    written.clear()
    quantize_lift.start(x, pattern, dtype, codes, scale, Launch(*launch))
    addresses, times = np.unique(np.concatenate(written), return_counts=True)
    missing = codes.numel() + 4 * scale.numel() - len(addresses)
    return {
        "codes": int((codes.view(torch.int8) != expected.view(torch.int8)).sum()),
        "scales": int((scale.nan_to_num(nan=-1) != factor.nan_to_num(nan=-1)).sum()),
        "written": missing + int((times != 1).sum()),
    }


def scale_differences(product, token_scale, channel_scale):
    """Outputs of the scaling pass that are further from the exact ones than BF16's rounding, and bytes not written."""
    expected = product.double()
    for factor in (token_scale, channel_scale):
        expected = expected if factor is None else expected * factor
    out = torch.full(product.shape, float("nan"), dtype=torch.bfloat16)
    written.clear()
    scale.start(product, token_scale, channel_scale, out)
    wrong = ~((out.double() - expected).abs() <= expected.abs() / 128)
    addresses, times = np.unique(np.concatenate(written), return_counts=True)
    return {"values": int(wrong.sum()), "written": 2 * out.numel() - len(addresses) + int((times != 1).sum())}


if __name__ == "__main__":
    cases, scaling = torch.load(sys.argv[1])
    found = {"cases": [differences(*case) for case in cases], "scaling": [scale_differences(*case) for case in scaling]}
    print(json.dumps(found))
