"""Runs kernels in Triton's interpreter, in a process of their own, because it is chosen when Triton is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

DTYPES = ["INT8", "FP8"]
PATTERNS = ["dense", *(f"2_{L}" for L in range(4, 18, 2)), "2_inf"]
LIFTED = [(pattern, dtype) for i, dtype in enumerate(DTYPES) for pattern in ("dense", *PATTERNS[1 + i :: 2])]
"""Every pattern with one of the types, which share how a row is lifted; interpreting both takes twice as long."""


def checked(script, cases, folder):
    """{case: what was wrong} of the cases {name: arguments}, as a script beside this module finds it."""
    path = folder / "cases.pt"
    torch.save(list(cases.values()), path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, Path(__file__).with_name(script), path]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return dict(zip(cases, json.loads(run.stdout), strict=True))
