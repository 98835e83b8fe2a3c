"""Compiles every Triton kernel for a GPU that is not there, as the operators launch it, and prints what it needs.

Called with compute capabilities, as in `python tests/support/compiled.py 80 89`, and with `--all` for every launch on
each. Without it only those of `WHOLE` get all launches, and the others one of each form of a kernel. Triton is told of
such a GPU and compiles instead of launching, so launches, constants and alignment are those of the engine. Operands
have no memory.
Prints a line of JSON for each kernel, type and launch.
"""

import contextlib
import gc
import io
import json
import re
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from configured import read
from slidesparse import gemm, operators
from slidesparse.gemm import ternary_kernels
from slidesparse.gemm.dense import OUTPUTS
from slidesparse.gemm.two_bits import quarter
from slidesparse.machine import families
from slidesparse.operators import attention, fused, norms, scale
from slidesparse.plan.backends import BACKENDS, ENGINES

CONFIG = read()
SHAPE = CONFIG["registry"]["BitNet-2B"]["shape"]
HEADS, KV = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"]
HIDDEN, WIDE = SHAPE["hidden_size"], SHAPE["intermediate_size"]
D = HIDDEN // HEADS
PATTERN = "2_8"
MORE = {90: ("2_6", "2_inf")}
"""Compute capability: further patterns, whose windows lie otherwise in a row."""
WHOLE = (90,)
"""Compute capabilities of which every launch is compiled: that with kernels of its own."""
FEW, MANY = norms.FEW, norms.FEW + 1
"""Numbers of rows of the two kinds of launches of a norm."""
ALL = "--all"
LOG = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)
"""What ptxas says of a kernel."""


class NoGpu:
    """A driver of Triton for a GPU of compute capability `cc` (times ten) that is not there."""

    cc = 80
    every = True
    """Whether all launches are compiled."""

    def get_current_device(self):
        return self.cc

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.cc, 32)


def tensor(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def forms(dtype):
    """{(pattern of the codes, type of a product whose scales are still to be applied, or None)} of the GPU backends."""
    found = set()
    for name, one in BACKENDS.items():
        if one.processor == "gpu" and dtype in one.engine_dtypes and set(ENGINES) <= set(one.stages):
            backend = gemm.backend(name)
            applied = {"token", "channel"} <= set(backend.scales(dtype))
            product = None if applied else OUTPUTS[backend.outputs(dtype)[0]]
            found.add((PATTERN if backend.sparse else "dense", product))
    return sorted(found, key=str)


def quantisers(dtype):
    """The kernel stage quantises and lifts activations: with the launch of a row length that was not tuned."""
    for pattern in ("dense", PATTERN, *MORE.get(NoGpu.cc, ())):
        for K in (HIDDEN, WIDE):
            yield (
                f"K={K} {pattern}",
                lambda K=K, pattern=pattern: operators._operator._init_fn(tensor(MANY, K), pattern, dtype),
            )


def products(product, M, N, matrices):
    """Arguments for a product [M, N] of a linear that holds several matrices, and its scales unless applied."""
    if product is None:
        return tensor(M, N), None, None
    return tensor(M, N, dtype=product), tensor(M, dtype=torch.float32), tensor(matrices, dtype=torch.float32)


def norm_kernels(dtype):
    """What lies between the linears of a block, of each backend's products."""
    for M in (FEW, MANY) if NoGpu.every else (MANY,):
        for pattern in ("dense", PATTERN) if NoGpu.every else (PATTERN,):
            yield (
                f"norm {pattern} M={M}",
                lambda M=M, pattern=pattern: fused.norm_quantize._init_fn(
                    tensor(M, HIDDEN), tensor(HIDDEN), 1e-5, pattern, dtype
                ),
            )
        more = [(pattern, torch.int32) for pattern in MORE.get(NoGpu.cc, ()) if M == MANY]
        for pattern, product in [*forms(dtype), *more]:
            of = f"{product or 'scaled'}".removeprefix("torch.")

            def add(M=M, pattern=pattern, product=product):
                arguments = *products(product, M, HIDDEN, 1), tensor(M, HIDDEN), tensor(HIDDEN), 1e-5
                fused.add_norm_quantize._init_fn(*arguments, pattern, dtype)
                fused.add_norm._init_fn(*arguments)

            def gate(M=M, pattern=pattern, product=product):
                arguments = *products(product, M, 2 * WIDE, 2), tensor(WIDE), 1e-5
                fused.relu2_mul_norm_quantize._init_fn(*arguments, pattern, dtype)

            yield f"add_norm {of} {pattern} M={M}", add
            yield f"relu2 {of} {pattern} M={M}", gate


def rope_kernels(dtype):
    """With vLLM's cache, which is how engines call it, and once without."""
    cache = tensor(9, 16, KV, 2 * D).split(D, dim=-1)
    position = tensor(MANY, dtype=torch.int64)
    for product in sorted({product for _, product in forms(dtype)}, key=str):
        of = f"{product or 'scaled'}".removeprefix("torch.")
        arguments = *products(product, MANY, (HEADS + 2 * KV) * D, 3), position, tensor(99, D), HEADS, KV
        yield f"rope {of}", lambda a=arguments: fused.rope_scale_cache._init_fn(*a, *cache, position)
    yield f"rope {of} without cache", lambda a=arguments: fused.rope_scale._init_fn(*a)


def attention_kernels():
    """Decodes of the configured numbers of sequences, and heads of another size."""
    Ms = sorted({*CONFIG["decode"]["M"], *read("measured.yaml")["decode"]["M"]})
    Ms = Ms if NoGpu.every else Ms[:1]
    for M, size in [*((M, D) for M in Ms), *((Ms[-1], size) for size in attention.HEAD_SIZES)]:

        def decode(M=M, size=size):
            cache = tensor(9, 16, KV, 2 * size).split(size, dim=-1)
            index = tensor(M, dtype=torch.int32), tensor(M, 20, dtype=torch.int32)
            attention.decode_attention._init_fn(tensor(M, HEADS * size), *cache, *index, size**-0.5)

        yield f"decode M={M} D={size}", decode


def scale_kernels():
    """The pass that applies the scales of a product, in the kernel stage."""
    token, channel = tensor(MANY, 1, dtype=torch.float32), tensor(HIDDEN, dtype=torch.float32)
    for product, other in ((torch.int32, channel), (torch.bfloat16, None)):
        yield (
            f"scale {product}".replace("torch.", ""),
            lambda product=product, other=other: scale.start(
                tensor(MANY, HIDDEN, dtype=product), token, other, tensor(MANY, HIDDEN)
            ),
        )


def ternary_gemms():
    """Products of ternary weights cut into parts of K, and on Hopper, which has wgmma, other cuts as well."""
    gpu = ternary_kernels.Gpu(132, families.family(NoGpu.cc).shared_kib << 10, NoGpu.cc // 10 == 9)
    ternary_kernels.gpu = lambda: gpu
    for M in (16, 64) if gpu.hopper else (16,):
        cuts = ternary_kernels.tiles(M, HIDDEN, HIDDEN, gpu)
        split = next(cut for cut in cuts if cut.splits > 1 and cut.channels == 64)
        for cut in {split, cuts[0]} if gpu.hopper else {split}:

            def multiply(M=M, cut=cut):
                sums = tensor(cut.splits, M, HIDDEN, dtype=torch.int32)
                scales = tensor(M, 1, dtype=torch.float32), tensor(HIDDEN, dtype=torch.float32)
                codes = tensor(M, HIDDEN, dtype=torch.int8), tensor(HIDDEN, quarter(HIDDEN), dtype=torch.uint8)
                ternary_kernels.start(*codes, tensor(M, HIDDEN), sums, *scales, cut)

            yield f"ternary M={M} {cut.id}", multiply


def cases(dtypes):
    """(type, what is launched, a function that launches it)."""
    for dtype in dtypes:
        for kernels in (quantisers, norm_kernels, rope_kernels):
            for name, launch in kernels(dtype):
                yield dtype, name, launch
    for kernels in (attention_kernels, scale_kernels, ternary_gemms):
        for name, launch in kernels():
            yield "", name, launch


def compiled(cc, every=False):
    """[{"cc", "kernel", "dtype", "launch", "warps", "registers", "spilled", "shared"}] for a compute capability.

    spilled: bytes that do not fit into registers. shared: bytes of shared memory of a block. Each kernel is named by
    its first launch. One that does not compile has "error" in place of numbers.
    """
    NoGpu.cc, NoGpu.every, rows = cc, every or cc in WHOLE, []
    dtypes = [dtype for dtype in CONFIG["dtypes"] if dtype in families.family(cc).dtypes]
    run = JITFunction.run
    for dtype, name, launch in cases(dtypes):

        def compile_it(self, *arguments, grid, warmup, dtype=dtype, name=name, **options):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                kernel = run(self, *arguments, grid=grid, warmup=True, **options)
            if found := LOG.search(said.getvalue()):  # else it was compiled before
                row = {"cc": cc, "kernel": kernel.metadata.name, "dtype": dtype, "launch": name}
                row |= {"warps": kernel.metadata.num_warps, "registers": int(found["registers"])}
                spilled = sum(int(found[what]) for what in ("stack", "stores", "loads"))
                rows.append(row | {"spilled": spilled, "shared": kernel.metadata.shared})

        JITFunction.run = compile_it
        try:
            launch()
        except Exception as error:
            rows.append({"cc": cc, "kernel": name, "dtype": dtype, "launch": name, "error": f"{error}"[-2000:]})
        finally:
            JITFunction.run = run
    return rows


if __name__ == "__main__":
    driver.set_active(NoGpu())
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.disable_line_info = True  # which takes a tenth of the time
    gc.disable()
    for capability in map(int, set(sys.argv[1:]) - {ALL}):
        for line in compiled(capability, ALL in sys.argv):
            print(json.dumps(line), flush=True)
