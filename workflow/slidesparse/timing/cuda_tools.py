"""Tools for measuring on a GPU: comparing products, waiting, capturing graphs, and naming kernels.

CuPy compiles the kernels when they are first used. It sees torch's memory through DLPack.
"""

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from functools import cache

import cupy
import torch

SOURCE = r"""
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ULL)

// Sum of squares and largest value of |out - reference|; NaN counts as infinity.
template <class Out>
__device__ void compared(const Out* out, const double* reference, long long n, double* sum, unsigned long long* most) {
  double squares = 0, largest = 0;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x) {
    double d = fabs(double(out[i]) - reference[i]);
    if (!(d < CUDART_INF)) d = CUDART_INF;
    squares += d * d;
    largest = fmax(largest, d);
  }
  for (int lane = 16; lane; lane /= 2) {
    squares += __shfl_down_sync(~0u, squares, lane);
    largest = fmax(largest, __shfl_down_sync(~0u, largest, lane));
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(sum, squares);
    atomicMax(most, __double_as_longlong(largest));  // doubles that are not negative are ordered as their bits
  }
}

struct BF16 {
  unsigned short bits;
  __device__ explicit operator double() const { return __uint_as_float(unsigned(bits) << 16); }
};

extern "C" __global__ void compare_bf16(const BF16* out, const double* reference, long long n, double* sum,
                                        unsigned long long* most) {
  compared(out, reference, n, sum, most);
}

extern "C" __global__ void compare_int32(const int* out, const double* reference, long long n, double* sum,
                                         unsigned long long* most) {
  compared(out, reference, n, sum, most);
}

extern "C" __global__ void wait_ns(unsigned long long ns, unsigned long long* passed) {
  unsigned long long begin, now;
  long long cycles = clock64();
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < ns);
  passed[0] += clock64() - cycles;
  passed[1] += now - begin;
}
"""


@cache
def _kernel(name):
    return _module().get_function(name)


@cache
def _module():
    return cupy.RawModule(code=SOURCE, options=("-std=c++17",))


def _launch(name, blocks, threads, arguments):
    with _stream(torch._C._cuda_getCurrentRawStream(torch.cuda.current_device())):
        _kernel(name)((blocks,), (threads,), arguments)


@cache
def _stream(handle):
    """CuPy's view of one of torch's streams."""
    return cupy.cuda.ExternalStream(handle)


def errors(outs, reference):
    """[(Frobenius norm, largest absolute value)] of out - reference for every out; NaN counts as infinity.

    outs: int32 or bfloat16, contiguous, on the GPU. reference: float64 of the same shape.
    """
    sums = torch.zeros(len(outs), 2, dtype=torch.float64, device=reference.device)
    target, expected = cupy.from_dlpack(sums), cupy.from_dlpack(reference)
    for out, row in zip(outs, target, strict=True):
        kernel, view = ("compare_int32", out) if out.dtype == torch.int32 else ("compare_bf16", out.view(torch.int16))
        blocks = min(2048, -(-out.numel() // 256))
        operands = (cupy.from_dlpack(view.detach()), expected, out.numel(), row[:1], row[1:])
        _launch(kernel, blocks, 256, operands)
    return [(squares**0.5, largest) for squares, largest in sums.tolist()]


class Wait:
    """Keeps the current stream busy for a while, and measures the clock of the multiprocessors meanwhile."""

    def __init__(self):
        self._passed = torch.zeros(2, dtype=torch.int64, device="cuda")  # cycles and nanoseconds

    def __call__(self, ns):
        _launch("wait_ns", 1, 1, (ns, self._passed.data_ptr()))

    def reset(self):
        """Set the counts to zero."""
        self._passed.zero_()

    @property
    def clock_mhz(self):
        """Mean clock over all waits since the last reset, or None."""
        cycles, ns = self._passed.tolist()
        return cycles / ns * 1e3 if ns else None


@cache
def _side_stream():
    return torch.cuda.Stream()


@cache
def _anchor():
    """A graph that is never replayed. The memory that graphs share lives as long as one of them does."""
    return _captured(lambda: torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph(), None)


def captured(work, keep=False):
    """CUDA graph of what `work()` starts on the current stream. All graphs share their memory: replay one at a time.

    Unlike torch.cuda.graph it neither collects garbage nor empties caches, which takes longer than a measurement.
    keep: keep the graph's description, for `kernels`.
    """
    return _captured(work, torch.cuda.CUDAGraph(keep_graph=keep), _anchor().pool())


def _captured(work, graph, pool):
    stream = _side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(*([pool] if pool else []))
        try:
            work()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


class _KernelNode(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2 of cuda.h."""

    _fields_ = [
        ("func", c_void_p),
        ("launch", c_uint * 7),
        ("kernel_params", c_void_p),
        ("extra", c_void_p),
        ("kern", c_void_p),
        ("ctx", c_void_p),
    ]


def kernels(work):
    """Names of the kernels that `work()` starts, in order; empty if the driver cannot tell."""
    graph = captured(work, keep=True)
    cuda = ctypes.CDLL("libcuda.so.1")
    if not all(hasattr(cuda, name) for name in ("cuGraphKernelNodeGetParams_v2", "cuFuncGetName", "cuKernelGetName")):
        return []
    raw, count = c_void_p(graph.raw_cuda_graph()), c_size_t()
    if cuda.cuGraphGetNodes(raw, None, byref(count)):
        return []
    nodes = (c_void_p * count.value)()
    cuda.cuGraphGetNodes(raw, nodes, byref(count))
    names = []
    for node in nodes:
        kind, parameters, name = c_int(), _KernelNode(), c_char_p()
        if cuda.cuGraphNodeGetType(c_void_p(node), byref(kind)) or kind.value != 0:  # 0: a kernel
            continue
        if cuda.cuGraphKernelNodeGetParams_v2(c_void_p(node), byref(parameters)):
            continue
        ask, function = ("cuFuncGetName", parameters.func) if parameters.func else ("cuKernelGetName", parameters.kern)
        if not getattr(cuda, ask)(byref(name), c_void_p(function)):
            names.append(name.value.decode())
    return names
