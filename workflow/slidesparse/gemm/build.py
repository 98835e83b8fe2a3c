"""Compiling csrc/ into the libraries that the GPU backends load. Needs nvcc and the vendor's headers, but no GPU.

csrc/ is host code that calls the vendor's library. These calls are resolved at load time, so headers are enough to
build.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from slidesparse.errors import HardwareError, MeasurementError
from slidesparse.files import digest, note, sha256_file, write_atomic, write_json
from slidesparse.machine import hardware

BUILT = "built"
"""The kind of notes, by sha256, of the libraries that this user compiled."""

SOURCES = Path(__file__).parents[3] / "csrc"

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
}
"""library -> the headers that it includes -> the package that holds each. The first header has the vendor's version."""

FLAGS = ("-shared", "-std=c++17", "-O2", "-cudart", "none", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall")


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
    headers = {header: find_header(header, package, cuda, nvcc) for header, package in HEADERS[library].items()}
    folders = dict.fromkeys([SOURCES / "common", *(path.parent for path in headers.values())])
    flags = [*FLAGS, f"-arch=sm_{cc}"]
    sources = sorted(map(str, (SOURCES / library).glob("*.cpp")))
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "made.so"
        command = [str(nvcc), *flags, *(f"-I{folder}" for folder in folders), *sources, "-o", str(made)]
        compiled = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if compiled.returncode:
            text = compiled.stderr + compiled.stdout
            first = next((line for line in text.splitlines() if "error" in line.lower()), text.strip() or "no message")
            raise MeasurementError(f"csrc/{library} does not compile with nvcc {version} ({nvcc}): {first.strip()}")
        write_atomic(output, made.read_bytes())
    record = {
        "library": library,
        "cuda": cuda,
        "cc": cc,
        "sha256": sha256_file(output),
        "sources": sources_digest(library),
        "headers": _header_version(next(iter(headers.values()))),
        "nvcc": version,
        "flags": flags,
    }
    write_json(Path(output).with_suffix(".json"), record)
    note(BUILT, record["sha256"], record["sources"])
    return record


def sources_digest(library):
    """sha256 over the names and contents of a library's sources."""
    folders = (SOURCES / "common", SOURCES / library)
    files = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".h", ".cpp"))
    return digest([[path.relative_to(SOURCES).as_posix(), sha256_file(path)] for path in files])


def wheel_folders():
    """The folders nvidia/* of the installed wheels."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else ()
    return sorted(folder for root in roots for folder in Path(root).iterdir() if folder.is_dir())


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
        if (folder / "include" / name).is_file():
            return folder / "include" / name
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
    parts = dict(re.findall(r"#define CU\w+_VER_(MAJOR|MINOR|PATCH)\s+(\d+)", text))
    return ".".join(parts[name] for name in ("MAJOR", "MINOR", "PATCH")) if len(parts) == 3 else None
