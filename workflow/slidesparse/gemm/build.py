"""Compiling csrc/ into the libraries that the GPU backends load. Needs nvcc and the vendor's headers, but no GPU.

Calls of a vendor's library are resolved at load time, so headers are enough to build. Sources are compiled side by
side. Kernels, which are .cu files, take minutes, so a line of progress goes to standard error.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from slidesparse.errors import HardwareError, MeasurementError
from slidesparse.files import digest, note, sha256_file, write_atomic, write_json
from slidesparse.machine import hardware
from slidesparse.plan.backends import BACKENDS

BUILT = "built"
"""The kind of notes, by sha256, of the libraries that this user compiled."""

SOURCES = Path(__file__).parents[3] / "csrc"
SUFFIXES = (".h", ".cuh", ".cpp", ".cu")

HEADERS = {
    "cublaslt": {
        "cublas_api.h": "nvidia-cublas",
        "cublasLt.h": "nvidia-cublas",
        "library_types.h": "nvidia-cuda-runtime",
    },
    "cusparselt": {
        "cusparseLt.h": "nvidia-cusparselt",
        "cusparse.h": "nvidia-cusparse",
        "library_types.h": "nvidia-cuda-runtime",
    },
    "cutlass_sparse": {
        "cutlass/version.h": "nvidia-cutlass",
        "cuda/std/utility": "nvidia-cuda-cccl",
    },
}
"""library -> the headers that it includes -> the package that holds each. The first header has the vendor's version."""

FLAGS = ("-std=c++17", "-O2", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall")

LINKED = ("-shared", "-cudart", "none")

KERNELS = ("--expt-relaxed-constexpr", "-DNDEBUG", "-DCCCL_DISABLE_CTK_COMPATIBILITY_CHECK")
"""Further flags of libraries with kernels, which are compiled with all instructions of one architecture: for sm_90a.

CCCL refuses an nvcc that is newer than the headers of the CUDA runtime, as that of gpu-cu13 is.
"""

MEMORY = 4 << 30
"""Bytes that compiling a kernel may take. It was seen to take 3 GB."""


def library_path(library, cuda, cc, root="resources"):
    """Where the library of a backend lies, for a CUDA major version and a compute capability such as 90."""
    return Path(root) / "build" / f"cu{cuda}_cc{cc}" / f"libslidesparse_{library}.so"


def cuda_major():
    """Major version of the CUDA that the installed torch was built for, or None."""
    cuda = hardware.torch_cuda()[1]
    return int(cuda.partition(".")[0]) if cuda else None


def build(library, cc, output, cuda=None):
    """Compile csrc/{library} for compute capability `cc` to `output`. Writes a record next to it (.json); returns it.

    cuda: major version to build for; by default that of the installed torch, else of nvcc.
    Raises HardwareError if nvcc or a header is missing, MeasurementError if the sources do not compile.
    """
    nvcc = find_nvcc()
    version = _nvcc_version(nvcc)
    cuda = cuda or cuda_major() or int(version.partition(".")[0])
    flags, folders = flags_of(library, cc), include_folders(library, cuda, nvcc)
    sources = [path for path in _sources(library) if path.suffix in (".cpp", ".cu")]
    with tempfile.TemporaryDirectory() as directory:
        objects = [str(Path(directory) / f"{path.stem}.o") for path in sources]
        command = [str(nvcc), *flags, *(f"-I{folder}" for folder in folders), "-c"]
        commands = [[*command, str(path), "-o", made] for path, made in zip(sources, objects, strict=True)]
        made = Path(directory) / "made.so"
        try:
            _side_by_side(commands, f"csrc/{library}", progress=any(path.suffix == ".cu" for path in sources))
            _run([str(nvcc), *flags, *LINKED, *objects, "-o", str(made)])
        except _Failure as error:
            raise MeasurementError(f"csrc/{library} does not compile with nvcc {version} ({nvcc}): {error}") from None
        write_atomic(output, made.read_bytes())
    record = {
        "library": library,
        "cuda": cuda,
        "cc": cc,
        "sha256": sha256_file(output),
        "sources": sources_digest(library),
        "headers": _header_version(_headers(library, cuda, nvcc)[0]),
        "nvcc": version,
        "flags": [*flags, *LINKED],
    }
    write_json(Path(output).with_suffix(".json"), record)
    note(BUILT, record["sha256"], record["sources"])
    return record


def include_folders(library, cuda, nvcc):
    """The folders of a library's headers, without repetition. Raises HardwareError if one is missing."""
    found = zip(HEADERS[library], _headers(library, cuda, nvcc), strict=True)
    return list(dict.fromkeys([SOURCES / "common", *(path.parents[name.count("/")] for name, path in found)]))


def _headers(library, cuda, nvcc):
    return [find_header(header, package, cuda, nvcc) for header, package in HEADERS[library].items()]


def flags_of(library, cc):
    """nvcc's flags for a library. Raises HardwareError if its kernels are not for compute capability `cc`."""
    capabilities = BACKENDS[library].capabilities
    if not capabilities:
        return [*FLAGS, f"-arch=sm_{cc}"]
    if cc not in capabilities:
        known = " and ".join(f"{one / 10}" for one in capabilities)
        raise HardwareError(f"csrc/{library} has kernels for compute capability {known} only, and not for {cc / 10}")
    return [*FLAGS, *KERNELS, f"-gencode=arch=compute_{cc}a,code=sm_{cc}a"]


class _Failure(Exception):
    """What nvcc said first when it failed."""


def _run(command):
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if ran.returncode:
        text = ran.stderr + ran.stdout
        wrong = (line for line in text.splitlines() if re.search(r"\berror\b", line, re.IGNORECASE))
        raise _Failure(next(wrong, text.strip() or "no message").strip())


def _side_by_side(commands, what, progress):
    """Run commands, one on each core if half of the memory lasts. Raises _Failure as soon as one has failed.

    progress: whether to print a line whenever one has ended.
    """
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // MEMORY
    with ThreadPoolExecutor(max(1, min(len(os.sched_getaffinity(0)), room))) as pool:
        running = [pool.submit(_run, command) for command in commands]
        try:
            for done, one in enumerate(as_completed(running), start=1):
                one.result()
                if progress:
                    print(f"{what}: {done} of {len(commands)} files compiled", file=sys.stderr, flush=True)
        except _Failure:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def sources_digest(library):
    """sha256 over the names and contents of a library's sources."""
    return digest([[path.relative_to(SOURCES).as_posix(), sha256_file(path)] for path in _sources(library)])


def _sources(library):
    """The files of a library, sorted; those in `common` are headers."""
    folders = (SOURCES / "common", SOURCES / library)
    return sorted(path for folder in folders for path in folder.iterdir() if path.suffix in SUFFIXES)


def wheel_folders():
    """The folders nvidia/* of the installed wheels, and that of nvidia-cutlass."""
    found = [folder for root in _roots("nvidia") for folder in Path(root).iterdir() if folder.is_dir()]
    return [*sorted(found), *(Path(root) / "source" for root in _roots("cutlass_library"))]


def _roots(package):
    spec = importlib.util.find_spec(package)
    return spec.submodule_search_locations or () if spec else ()


def find_nvcc():
    """nvcc of PATH, CUDA_HOME, the nvidia-cuda-nvcc wheel or /usr/local/cuda. Raises HardwareError if there is none."""
    homes = [os.environ.get("CUDA_HOME"), *wheel_folders(), "/usr/local/cuda"]
    for candidate in [shutil.which("nvcc"), *(Path(home) / "bin" / "nvcc" for home in homes if home)]:
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise HardwareError(
        "nvcc was not found in the PATH, in CUDA_HOME or in the package nvidia-cuda-nvcc: install the CUDA toolkit or"
        " that package to build the GPU backends"
    )


def find_header(name, package, cuda, nvcc):
    """Path of a header in the installed wheels or in a toolkit. Wheels named for the CUDA version come first."""
    wheels = sorted(wheel_folders(), key=lambda folder: folder.name != f"cu{cuda}")
    toolkits = [nvcc.parents[1], os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    for folder in [*wheels, *(Path(home) for home in toolkits if home)]:
        for place in (folder / "include", folder / "include" / "cccl"):
            if (place / name).is_file():
                return place / name
    raise HardwareError(
        f"the header {name} was not found in the installed packages or in the CUDA toolkit of {nvcc}: install"
        f" {package} for CUDA {cuda}"
    )


def _nvcc_version(nvcc):
    try:
        text = subprocess.run(
            [str(nvcc), "--version"], capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout
        return re.search(r"release \S+ V(\S+)", text)[1]
    except (OSError, subprocess.CalledProcessError, TypeError) as error:
        raise HardwareError(f"{nvcc} does not tell its version ({error}): repair or remove it") from None


def _header_version(header):
    """Version that a header states, such as 13.1.0, or None."""
    text = header.read_text(encoding="utf-8", errors="replace")
    parts = dict(re.findall(r"#define CU\w+?_(?:VER_)?(MAJOR|MINOR|PATCH)\s+(\d+)", text))
    return ".".join(parts[name] for name in ("MAJOR", "MINOR", "PATCH")) if len(parts) == 3 else None
