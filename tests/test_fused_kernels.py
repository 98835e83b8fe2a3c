"""The fused operators: their kernels, interpreted, against the references, and these against BitNet's own mathematics."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fused_cases import angles, norm_arguments, rope_arguments

from slidesparse.kernels import configurations, fused
from slidesparse.patterns import Pattern
from slidesparse.quantize import LARGEST, SMALLEST_AMAX
from slidesparse.slide import source

PATTERNS = ["dense", *(f"2_{L}" for L in range(4, 18, 2)), "2_inf"]
DTYPES = ["INT8", "FP8"]
QUANTIZING = ["norm_quantize", "add_norm_quantize", "relu2_mul_norm_quantize"]

SHAPES = [
    # M, K, configuration: warps, words read at once
    (7, 260, (1, 64)),
    (1, 96, (2, 64)),
    (7, 37, (1, 32)),
    (2, 130, (2, 32)),
    (1, 1, (1, 32)),
]

CASES = {
    f"{name}-{pattern}-{dtype}-{M}x{K}": (name, norm_arguments(name, M, K, pattern, dtype), configuration)
    for name, pattern, dtype, (M, K, configuration) in itertools.product(QUANTIZING, PATTERNS, DTYPES, SHAPES[:4])
    if K != 130 or pattern in ("dense", "2_6")
} | {
    f"{name}-{K}-wide{wide}-scaled{scaled}": (
        name,
        norm_arguments(name, M, K, "2_8", "INT8", wide=wide, is_scaled=scaled),
        configuration,
    )
    for name, (M, K, configuration) in itertools.product([*QUANTIZING, "add_norm"], SHAPES)
    for wide, scaled in [(False, False), (True, True)]
}
CASES |= {
    f"{'rope_scale_cache' if cache else 'rope_scale'}-{heads}-{kv_heads}-{D}-{dtype}-scaled{scaled}": (
        "rope_scale_cache" if cache else "rope_scale",
        rope_arguments(6, heads, kv_heads, D, dtype=dtype, is_scaled=scaled, cache=cache),
        None,
    )
    for cache, (heads, kv_heads, D) in itertools.product([False, True], [(4, 1, 128), (3, 2, 24)])
    for dtype, scaled in [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)]
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """{case: what was wrong}."""
    pytest.importorskip("triton", reason="Triton is not installed")
    path = tmp_path_factory.mktemp("kernels") / "cases.pt"
    torch.save(list(CASES.values()), path)
    script = Path(__file__).with_name("interpreted_fused_kernels.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, script, path], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return dict(zip(CASES, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_agrees_with_the_reference_and_writes_nothing_else(interpreted, case):
    assert not interpreted[case]
