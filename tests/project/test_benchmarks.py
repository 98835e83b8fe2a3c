"""The benchmarks, which no other test runs: what they import is there."""

import importlib.util
import runpy
import sys
import types

import pytest

from places import ROOT

BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    if importlib.util.find_spec("cupy") is None:  # where there is no GPU
        monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    assert runpy.run_path(str(path), run_name="benchmark")["__doc__"]
