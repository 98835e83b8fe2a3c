"""Every kernel compiles for every GPU that can run this workflow, without a GPU, and fits its shared memory."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from places import LIBRARY, SUPPORT
from slidesparse.errors import HardwareError
from slidesparse.gemm import build
from slidesparse.machine import families
from slidesparse.plan.backends import BACKENDS

TARGETS = (80, 86, 89, 90, 100, 120)
"""Compute capabilities times ten."""

KERNELS = {"_quantize_lift", "_norm", "_rope", "_decode_attention", "_merge_attention", "_scale"}
KERNELS |= {"_ternary_gemm"}

CUTLASS = "int8_bf16_128x128_2x1_pingpong.cu"
"""The kernel of csrc/cutlass_sparse that is compiled."""


def compiled(folder, *more):
    """What each Triton kernel needs on each target, compiled with nothing in Triton's cache."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if triton.knobs.runtime.interpret:
        pytest.skip("Triton interprets")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"TRITON_CACHE_DIR": str(folder)}

    def half(capabilities):
        command = [sys.executable, SUPPORT / "compiled.py", *map(str, capabilities), *more]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    with ThreadPoolExecutor() as pool:
        halves = list(pool.map(half, (TARGETS[::2], TARGETS[1::2])))
    assert not any(half.returncode for half in halves), [half.stderr[-4000:] for half in halves]
    return [json.loads(line) for half in halves for line in half.stdout.splitlines()]


def table(rows):
    """Most registers, bytes spilled and shared memory in KiB of each kernel on each target."""
    lines = ["kernel".ljust(20) + "".join(f"{cc / 10:>14.1f}" for cc in TARGETS)]
    for kernel in sorted({row["kernel"] for row in rows}):
        cells = []
        for cc in TARGETS:
            own = [row for row in rows if (row["cc"], row["kernel"]) == (cc, kernel)]
            most = [max((row[what] for row in own), default=0) for what in ("registers", "spilled", "shared")]
            cells.append(f"{most[0]}/{most[1]}/{most[2] / 1024:.1f}" if own else "-")
        lines.append(kernel.ljust(20) + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(["registers of a thread / bytes spilled / KiB of shared memory of a block, at most", *lines])


@pytest.mark.parametrize("more", [(), pytest.param(("--all",), marks=pytest.mark.drills)], ids=["some", "all"])
def test_triton_kernels_compile_for_every_gpu_and_fit(more, tmp_path, record_property):
    """INT8 everywhere and FP8 from 8.9 on, dense and 2:8: all launches of the operators on one GPU, some on others."""
    rows = compiled(tmp_path, *more)
    assert not [row for row in rows if "error" in row]
    record_property("table", table(rows))
    assert {row["cc"] for row in rows} == set(TARGETS) and {row["kernel"] for row in rows} == KERNELS
    for cc in TARGETS:
        family = families.family(cc)
        own = [row for row in rows if row["cc"] == cc]
        assert {row["dtype"] for row in own} - {""} == set(family.dtypes)
        assert not [row for row in own if row["spilled"]]
        assert not [row for row in own if row["shared"] > family.shared_kib << 10]


def nvcc():
    try:
        return build.find_nvcc()
    except HardwareError as error:
        pytest.skip(str(error))


def test_tools_of_measuring_compile_for_every_gpu(tmp_path):
    """CuPy, which is not here, compiles them at first use."""
    module = ast.parse((LIBRARY / "timing" / "cuda_tools.py").read_text())
    (source,) = (node.value for node in module.body if ast.unparse(node).startswith("SOURCE = "))
    (tmp_path / "tools.cu").write_text(ast.literal_eval(source))
    command = [nvcc(), "-std=c++17", "-cubin", "-Xptxas", "-v", "tools.cu"]
    for cc in TARGETS:
        ran = subprocess.run([*command, f"-arch=sm_{cc}"], cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == 3, ran.stderr


@pytest.mark.parametrize("library", build.HEADERS)
def test_libraries_are_compiled_for_every_gpu_they_are_for(library, monkeypatch, tmp_path, capsys):
    """Nothing is compiled: nvcc's commands tell whether it knows the GPU."""
    dry = tmp_path / "bin" / "nvcc"
    dry.parent.mkdir()
    real = shlex.quote(str(nvcc()))
    dry.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\n'
        f'{real} --dryrun "$@" || exit\nfor last; do :; done\n: > "$last"\n'
    )
    dry.chmod(0o755)
    monkeypatch.setenv("PATH", str(dry.parent), prepend=os.pathsep)
    wheels = build.wheel_folders()
    monkeypatch.setattr(build, "wheel_folders", lambda: [SUPPORT / "vendor", *wheels])
    for cc in BACKENDS[library].capabilities or TARGETS:
        assert build.build(library, cc, tmp_path / f"{cc}.so")["cc"] == cc
    kernels = list((build.SOURCES / library).glob("*.cu"))
    progress = capsys.readouterr().err.splitlines()
    assert len(progress) == (len(kernels) + 1 if kernels else 0)
    assert not kernels or progress[-1] == f"csrc/{library}: {len(progress)} of {len(progress)} files compiled"


def test_a_kernel_of_cutlass_runs_on_sparse_tensor_cores_and_fits(tmp_path):
    """One of csrc/cutlass_sparse, as each takes a minute or two of a core, and the device's part of it alone."""
    triton = pytest.importorskip("triton", reason="Triton is not installed, whose disassembler reads the kernel")
    compiler = nvcc()
    folders = build.include_folders("cutlass_sparse", 13, compiler)
    command = [compiler, *build.flags_of("cutlass_sparse", 90), *(f"-I{folder}" for folder in folders)]
    source, made = build.SOURCES / "cutlass_sparse" / CUTLASS, tmp_path / "made.cubin"
    ran = subprocess.run([*command, "-cubin", "-Xptxas", "-v", source, "-o", made], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in ran.stderr, ran.stderr
    assert "wgmma" not in ran.stderr, ran.stderr  # ptxas says so if it lets them wait for one another
    disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    code = subprocess.run([disassembler, "-c", made], capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"\bIGMMA\.SP\.64x128x64\b", code)) >= 4
