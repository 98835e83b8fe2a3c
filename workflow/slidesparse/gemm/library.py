"""Loading a library of csrc/ together with the vendor's library that it calls, and calling it.

One process uses one GPU: the vendor's handle belongs to the GPU that was current at the first call.
"""

import ctypes
from ctypes import byref, c_char_p, c_int32, c_int64
from functools import cache, lru_cache

import torch

from slidesparse import program
from slidesparse.errors import HardwareError, MeasurementError
from slidesparse.files import noted, sha256_file
from slidesparse.gemm import build

TYPES = {torch.int8: 3, torch.float8_e4m3fn: 28, "INT32": 10, "BF16": 14}
"""cudaDataType of codes and of products."""

VENDORS = {
    "cublaslt": ("cuBLASLt", "libcublasLt.so.{cuda}", "nvidia-cublas"),
    "cusparselt": ("cuSPARSELt", "libcusparseLt.so.0", "nvidia-cusparselt"),
    "cutlass_sparse": ("CUTLASS", "libcudart.so.{cuda}", "nvidia-cuda-runtime"),
}
"""library of csrc/ -> name of the vendor's library that it calls, its file, and the package that has the file.

CUTLASS has no file but headers; what it calls is the CUDA runtime."""


class Problem(ctypes.Structure):
    """Mirrors `Problem` in csrc/common/problem.h."""

    _fields_ = [(name, c_int64) for name in ("M", "N", "K")] + [
        (name, c_int32) for name in ("input", "output", "option")
    ]


@lru_cache(maxsize=4096)
def problem(M, N, K, dtype, output, option=0):
    """Reference to the Problem of a product. dtype: torch dtype of the codes. output: INT32 or BF16."""
    return byref(Problem(M, N, K, TYPES[dtype], TYPES[output], option))


class Library:
    """A library of csrc/. `call` runs one of its functions and turns its status into an exception."""

    def __init__(self, name, path, vendor, signatures):
        """Load our library from `path` and the vendor's from `vendor`, a path or a name that the loader knows.

        signatures: {function: types of its arguments}. Raises HardwareError if a library cannot be loaded, or if ours
        was compiled for another version of the vendor's.
        """
        title, _, package = VENDORS[name]
        try:
            ctypes.CDLL(str(vendor), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise HardwareError(f"{title} cannot be loaded ({error}): install {package}") from None
        try:
            self._functions = ctypes.CDLL(str(path))
        except OSError as error:
            raise HardwareError(f"{path} cannot be loaded ({error}): delete it to build it again") from None
        self._functions.slidesparse_last_error.restype = c_char_p
        for function, types in signatures.items():
            getattr(self._functions, function).argtypes = types
        compiled, loaded = self.versions()
        if compiled != loaded:
            raise HardwareError(
                f"{path} was compiled for {title} {_dotted(compiled)} and {_dotted(loaded)} is installed, whose objects"
                " may have other sizes: delete it to build it again"
            )
        self.version = f"{title} {_dotted(loaded)}"
        self.sha256 = sha256_file(path)

    def versions(self):
        """(version that ours was compiled for, version that is loaded), as major * 10000 + minor * 100 + patch."""
        compiled, loaded = c_int64(), c_int64()
        self._functions.slidesparse_version(byref(compiled), byref(loaded))
        return compiled.value, loaded.value

    def plans(self):
        """Number of plans that are kept."""
        return self._functions.slidesparse_plans()

    def call(self, function, *arguments):
        """Run slidesparse_`function`. Raises MeasurementError with the library's sentence."""
        if getattr(self._functions, f"slidesparse_{function}")(*arguments):
            raise MeasurementError(self._functions.slidesparse_last_error().decode())


def _dotted(version):
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


@cache
def load(name, signatures):
    """The library of a backend for this machine's GPU, compiled first if it is missing or its sources have changed.

    signatures: {function: types} as a tuple of pairs.
    """
    if not torch.cuda.is_available():
        raise HardwareError(f"backend {name} needs an NVIDIA GPU and a torch built for it, and there is none here")
    cuda = build.cuda_major()
    major, minor = torch.cuda.get_device_capability()
    path = build.library_path(name, cuda, major * 10 + minor)
    if not _is_current(name, path):
        with program.locked(path.with_suffix(".lock")):  # so that workers of several GPUs compile it once
            if not _is_current(name, path):
                build.build(name, major * 10 + minor, path, cuda)
    return Library(name, path, find_vendor(name, cuda), dict(signatures))


def _is_current(name, path):
    """True if this user compiled a library from the present sources; one that others made would run their code."""
    try:
        return noted(build.BUILT, sha256_file(path)) == build.sources_digest(name)
    except OSError:
        return False


def find_vendor(name, cuda):
    """Path of the vendor's library in the installed wheels, or its bare name for the system's loader."""
    file = VENDORS[name][1].format(cuda=cuda)
    candidates = (folder / "lib" / file for folder in build.wheel_folders())
    return next((path for path in candidates if path.is_file()), file)


def stream(tensor):
    """Handle of the current stream of the tensor's GPU; None on a CPU."""
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None
