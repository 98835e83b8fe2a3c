"""Runs the quantise and lift kernel in Triton's interpreter and prints what was wrong; see test_kernels.py.

A process of its own, because Triton decides when it is imported whether it interprets.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder

from slidesparse import kernels
from slidesparse.kernels import quantize_lift
from slidesparse.kernels.configurations import Configuration

written = []  # addresses of the bytes that the kernel wrote

_store = InterpreterBuilder.create_masked_store


def _recording_store(self, pointers, value, mask, *options):
    size = value.data.dtype.itemsize
    addresses = pointers.data[mask.data.astype(bool)].astype(np.int64)
    written.append((addresses[:, None] + np.arange(size)).reshape(-1))
    return _store(self, pointers, value, mask, *options)


InterpreterBuilder.create_masked_store = _recording_store


def differences(x, pattern, dtype, configuration):
    """Codes and scales that differ from the reference, and bytes that were not written exactly once."""
    expected, factor = kernels.reference(x, pattern, dtype)
    codes = torch.full(expected.shape, 0x55, dtype=torch.uint8).view(expected.dtype)
    scale = torch.full(factor.shape, -1.0)
    written.clear()
    quantize_lift.launch(x, pattern, dtype, codes, scale, Configuration(*configuration))
    addresses, times = np.unique(np.concatenate(written), return_counts=True)
    missing = codes.numel() + 4 * scale.numel() - len(addresses)
    return {
        "codes": int((codes.view(torch.int8) != expected.view(torch.int8)).sum()),
        "scales": int((scale.nan_to_num(nan=-1) != factor.nan_to_num(nan=-1)).sum()),
        "written": missing + int((times != 1).sum()),
    }


if __name__ == "__main__":
    cases = torch.load(sys.argv[1])
    print(json.dumps([differences(*case) for case in cases]))
