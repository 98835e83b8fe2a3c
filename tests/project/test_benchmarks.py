"""The benchmarks, which no other test runs: what they import is there."""

import importlib.util
import json
import runpy
import sys
import types

import pytest

from places import ROOT
from slidesparse.timing.protocol import Stopping

BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    if importlib.util.find_spec("cupy") is None:  # where there is no GPU
        monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    assert runpy.run_path(str(path), run_name="benchmark")["__doc__"]


def test_whole_linears_are_compared_without_a_gpu_as_well(tmp_path, capsys):
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "whole_linears.py"), run_name="benchmark")
    few = Stopping(warmup_s=0, min_samples=2, max_samples=2, relative_ci=1, time_limit_s=0.1)
    benchmark["main"].__globals__.update(SEARCH=few, FINAL=few)
    linears = ["--linears", "o=64x256", "down=32x384", "--ours", "reference", "--dtypes", "INT8"]
    (row,) = benchmark["main"]([*linears, "--m", "4", "--output", str(tmp_path / "table.json")])
    for form in ("whole", "product"):
        assert row[form]["fastest"] == ["onednn", "onednn"] and row[form]["ratios"]["best"] > 0
        assert row[form]["ratios"]["onednn"] == pytest.approx(row[form]["ratios"]["best"])
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == [row]
    assert benchmark["main"]([*linears, "--m", "4", "8", "--budget", "0"])  # the first is measured in any case
    assert "left out, because the budget does not suffice: INT8 M=8" in capsys.readouterr().out


def test_the_best_dense_rival_is_that_of_each_linear():
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "whole_linears.py"), run_name="benchmark")
    times = {"ours": [1, 2], "lt": [2, 6], "cut": [4, 3], "sparse": [1, 1]}
    samples = {("whole", name, i): [each[i]] * 3 for name, each in times.items() for i in range(2)}
    found = benchmark["compared"]("whole", samples, list(times), ["lt", "cut"], 2)
    assert found["fastest"] == ["lt", "cut"]
    assert found["ratios"] == pytest.approx({"lt": 8 / 3, "cut": 7 / 3, "sparse": 2 / 3, "best": 5 / 3})
    rows = [{"dtype": "FP8", "M": 9, "whole": found, "product": found}]
    slower = found | {"best_us": 9e6, "ours_us": 4e6, "ratios": {"best": 2.25}}
    rows += [{"dtype": "INT8", "M": 9, "whole": slower, "product": slower}]
    assert [line.split() for line in benchmark["summary"](rows)[1:]] == [
        ["FP8", "9", "1.667", "1.667", "1.667"],
        ["INT8", "9", "2.250", "2.250", "1.250"],
    ]
