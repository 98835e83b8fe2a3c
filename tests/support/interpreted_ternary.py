"""Runs the ternary kernels and their backend in Triton's interpreter and prints what was wrong; see test_ternary.py."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import interpreted_kernels  # first: it makes Triton interpret
from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm import ternary_kernels
from slidesparse.gemm.two_bits import pack
from slidesparse.kernel import point

PARAMETERS = {"warmup_s": 0.001, "min_samples": 2, "max_samples": 2, "relative_ci": 0.5, "time_limit_s": 0.01}


def wrong(x, codes, id, scales=None, joined=None):
    """What differs from the exact product, and bytes of it and of the workspace that were not written once."""
    tile, (M, N) = ternary_kernels.Tile.of(id), (len(x), len(codes))
    expected = x.double() @ codes.double().t()
    out = torch.full((M, N), -7, dtype=torch.bfloat16 if scales else torch.int32)
    workspace = torch.full((tile.workspace(M, N) // 4,), -7, dtype=torch.int32)
    interpreted_kernels.written.clear()
    ternary_kernels.start(x, pack(codes), out, workspace, *(scales or (None, None)), tile, joined)
    found = {}
    if scales:
        expected = expected * scales[0].double() * scales[1].double()
        far = (out.double() - expected).abs() - expected.abs() / 255
        found["scaled"] = int((far > 0).sum())
    else:
        found["sums"] = int((out.double() != expected).sum())
    addresses, times = np.unique(np.concatenate(interpreted_kernels.written), return_counts=True)
    if tile.splits > 1:
        counters = ternary_kernels.counters(tile, M, N, x.device)
        found["counters"] = int(counters.count_nonzero())
        others = ~np.isin(addresses, counters.data_ptr() + np.arange(counters.nbytes))
        addresses, times = addresses[others], times[others]
    found["written"] = out.nbytes + workspace.nbytes - len(addresses) + int((times != 1).sum())
    return {name: count for name, count in found.items() if count}


def searched_and_measured(N, K, M):
    """A tuning table and a kernel point of the backend, as the workflow makes them: what they say of each product."""
    linears = [{"name": "o", "N": N, "K": K}]
    request = {"backend": "ternary", "dtype": "INT8", "sparsity": "dense", "linears": linears, "parameters": PARAMETERS}
    table = point.tune(request | {"M": [M]})
    path = Path(tempfile.mkdtemp()) / "dense.json"
    path.write_text(json.dumps(table))
    results = point.measure(request | {"M": M, "tuning": str(path), "peers": {"onednn": None}})
    (linear,) = results["gemms"]
    products = [linear, *linear["other_outputs"]]
    return {
        "wrong": sum(len(entry["wrong"]) for entry in table["entries"]),
        "exact": {product["output"]: product["exact"] for product in products},
        "names": [product["algorithm_name"] for product in products],
        "scales": {whole["backend"]: whole["scales"] for whole in linear["whole"]},
        "library": results["library"],
        "peers": [peer["backend"] for peer in linear["peers"]],
    }


def refusals():
    """What the backend says to codes and algorithms that it cannot take."""
    backend, said = gemm.backend("ternary"), []
    operand = backend.prepare(torch.ones(4, 64, dtype=torch.int8))
    x = torch.ones(2, 64, dtype=torch.int8)
    for call in (
        lambda: backend.prepare(torch.full((4, 64), 2, dtype=torch.int8)),
        lambda: backend.prepare(torch.ones(4, 64).to(torch.float8_e4m3fn)),
        lambda: backend.outputs("FP8"),
        lambda: backend.matmul(operand, x, "12:1"),
    ):
        try:
            call()
        except MeasurementError as error:
            said.append(str(error))
    return [*said, operand.bytes, backend.matmul(operand, x, output="INT32").tolist()]


if __name__ == "__main__":
    calls = {"stages": searched_and_measured, "refusals": refusals}
    found = []
    for first, *rest in torch.load(sys.argv[1]):
        found.append(calls[first](*rest) if isinstance(first, str) else wrong(first, *rest))
    print(json.dumps(found))
