"""Dense GEMM by cuBLASLt: INT8 -> INT32 and E4M3 -> BF16, with all algorithms that it proposes or accepts.

An algorithm is the library's 64 opaque bytes, stored in base64. The suffix `:fast` means that FP8 partial sums stay in
the tensor core. That is faster on some shapes and less exact.
"""

from base64 import b64decode, b64encode
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_ubyte, c_uint32, c_uint64, c_void_p
from functools import lru_cache

import torch

from slidesparse import gemm
from slidesparse.errors import MeasurementError
from slidesparse.gemm import NAMES, Algorithm
from slidesparse.gemm.dense import OUTPUTS, Operand, padded, whole_rows
from slidesparse.gemm.library import Problem, load, problem, stream

DEFAULT_WORKSPACE = 32 << 20
"""Bytes that the default algorithm may use: NVIDIA's recommendation for Hopper."""

WORKSPACES = (0, DEFAULT_WORKSPACE, 256 << 20)
REDUCTIONS = (0, 1, 2, 4, 7)
"""Preferences that the heuristic is given: the largest workspace, and a mask of reduction schemes for split K."""

PROPOSALS = 64
MOST_ALGORITHMS = 1 << 14
FAST = ":fast"


class Candidate(Structure):
    """Mirrors `Candidate` in csrc/cublaslt/algorithms.cpp."""

    _fields_ = [("algorithm", c_ubyte * 64), ("workspace", c_uint64), ("waves", c_float)] + [
        (name, c_int32)
        for name in ("id", "tile", "stages", "split_k", "reduction", "swizzle", "custom", "inner", "cluster")
    ]

    def described(self):
        parts = [f"{name} {getattr(self, name)}" for name, _ in self._fields_[3:]]
        return ", ".join(part for part in parts if not part.endswith(" 0"))


SIGNATURES = (
    ("slidesparse_heuristic", (POINTER(Problem), c_uint64, c_uint32, POINTER(Candidate), c_int, POINTER(c_int))),
    (
        "slidesparse_enumerate",
        (POINTER(Problem), c_uint64, POINTER(c_int32), c_int, POINTER(Candidate), c_int, POINTER(c_int)),
    ),
    ("slidesparse_workspace", (POINTER(Problem), c_char_p, POINTER(c_uint64))),
    (
        "slidesparse_matmul",
        (POINTER(Problem), c_char_p, c_void_p, c_void_p, c_void_p, c_void_p, c_uint64, c_void_p),
    ),
)


def library():
    return load("cublaslt", SIGNATURES)


class Backend(gemm.Backend):
    name = "cublaslt"
    sparse = False
    device = "cuda"

    def version(self):
        return library().version

    def outputs(self, dtype):
        return ("INT32",) if dtype == "INT8" else ("BF16",)

    def prepare(self, codes):
        return Operand(codes.to(self.device).contiguous())

    def algorithms(self, operand, M, output=None):
        output = self.default(operand, output)
        listed = {}
        for fast in (0,) if operand.dtype == torch.int8 else (0, 1):
            shape = problem(whole_rows(M), operand.N, operand.K, operand.dtype, output, fast)
            proposals = list(_proposals(shape))
            for candidate in [*proposals, *_enumerated(shape, proposals)]:
                id, name = b64encode(bytes(candidate.algorithm)).decode(), candidate.described()
                if fast:
                    id, name = f"{id}{FAST}", f"{name}, fast accumulation"
                listed.setdefault(id, Algorithm(id, name, candidate.workspace))
        if not listed:
            raise MeasurementError(
                f"cuBLASLt has no algorithm for M={M} N={operand.N} K={operand.K} {NAMES[operand.dtype]} to {output}"
            )
        return list(listed.values())

    def workspace(self, operand, M, algorithm, output=None):
        output = self.default(operand, output)
        return _workspace(whole_rows(M), operand.N, operand.K, operand.dtype, output, algorithm)

    def matmul(self, operand, x, algorithm=None, output=None, out=None):
        output = self.default(operand, output)
        if out is None:
            return cublaslt_mm(x, operand.weight, output, algorithm or "")
        return _multiply(x, operand.weight, output, algorithm, out)


@torch.library.custom_op("slidesparse::cublaslt_mm", mutates_args=())
def cublaslt_mm(x: torch.Tensor, weight: torch.Tensor, output: str, algorithm: str) -> torch.Tensor:
    """x [M, K] times weight [N, K] transposed, as `output`; an empty `algorithm` is the library's default."""
    rows = padded(x)
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=OUTPUTS[output], device=x.device)
    return _multiply(rows, weight, output, algorithm or None, out)[: x.shape[0]]


@cublaslt_mm.register_fake
def _(x, weight, output, algorithm):
    return x.new_empty(x.shape[0], weight.shape[0], dtype=OUTPUTS[output])


def _multiply(x, weight, output, algorithm, out):
    M, (N, K) = x.shape[0], weight.shape
    algorithm = algorithm or _default(M, N, K, x.dtype, output)
    needed = _workspace(M, N, K, x.dtype, output, algorithm)
    workspace = torch.empty(needed, dtype=torch.uint8, device=x.device)
    blob, fast = _decoded(algorithm)
    library().call(
        "matmul",
        problem(M, N, K, x.dtype, output, fast),
        blob,
        weight.data_ptr(),
        x.data_ptr(),
        out.data_ptr(),
        workspace.data_ptr(),
        needed,
        stream(x),
    )
    return out


@lru_cache(maxsize=4096)
def _decoded(algorithm):
    """(the 64 bytes, 1 for fast accumulation else 0) of a stored algorithm."""
    blob, _, fast = algorithm.partition(":")
    try:
        content = b64decode(blob, validate=True)
    except ValueError:
        content = b""
    if len(content) != 64 or algorithm not in (blob, blob + FAST):
        raise MeasurementError(f"{algorithm!r} is no algorithm of cuBLASLt, which is 64 bytes in base64")
    return content, int(bool(fast))


@lru_cache(maxsize=4096)
def _workspace(M, N, K, dtype, output, algorithm):
    """Bytes of workspace. Makes the plan, so that it exists before a CUDA graph is captured."""
    blob, fast = _decoded(algorithm)
    needed = c_uint64()
    library().call("workspace", problem(M, N, K, dtype, output, fast), blob, byref(needed))
    return needed.value


@lru_cache(maxsize=4096)
def _default(M, N, K, dtype, output):
    """The library's first proposal, with exact accumulation."""
    proposals = _heuristic(problem(M, N, K, dtype, output), DEFAULT_WORKSPACE, REDUCTIONS[-1], 1)
    if not proposals:
        raise MeasurementError(f"cuBLASLt has no algorithm for M={M} N={N} K={K} {NAMES[dtype]} to {output}")
    return b64encode(bytes(proposals[0].algorithm)).decode()


def _heuristic(shape, workspace, reductions, most):
    proposed, count = (Candidate * most)(), c_int()
    library().call("heuristic", shape, workspace, reductions, proposed, most, byref(count))
    return proposed[: count.value]


def _proposals(shape):
    """What the heuristic proposes under every preference. Its default comes first."""
    preferences = [(DEFAULT_WORKSPACE, REDUCTIONS[-1])]
    preferences += [(workspace, mask) for workspace in WORKSPACES for mask in REDUCTIONS]
    for workspace, mask in dict.fromkeys(preferences):
        yield from _heuristic(shape, workspace, mask, PROPOSALS)


def _enumerated(shape, proposals):
    """Every configuration that the library accepts. Algorithms with over 64 tiles try the proposed ones only."""
    tiles = sorted({candidate.tile for candidate in proposals})
    accepted, count = (Candidate * MOST_ALGORITHMS)(), c_int()
    arguments = ((c_int32 * len(tiles))(*tiles), len(tiles), accepted, MOST_ALGORITHMS, byref(count))
    library().call("enumerate", shape, WORKSPACES[-1], *arguments)
    return accepted[: min(count.value, MOST_ALGORITHMS)]
