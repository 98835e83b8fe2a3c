"""Triton: apply scales to a product in a separate pass, for libraries whose epilogue does not apply them."""

import triton
import triton.language as tl

BLOCK = 2048


@triton.jit
def _scale(
    product, token_scale, channel_scale, out, N, CHANNEL: tl.constexpr, TOKEN: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(product + row * N + n, mask=n < N).to(tl.float32)
    if TOKEN:
        y *= tl.load(token_scale + row)
    if CHANNEL:
        y *= tl.load(channel_scale + n, mask=n < N)
    tl.store(out + row * N + n, y.to(tl.bfloat16), mask=n < N)


def start(product, token_scale, channel_scale, out):
    """out [M, N] BF16 = product [M, N] times token_scale [M] times channel_scale [N]; None stands for ones."""
    M, N = product.shape
    unused = product  # a pointer that is not read
    _scale[(M, triton.cdiv(N, BLOCK))](
        product,
        unused if token_scale is None else token_scale,
        unused if channel_scale is None else channel_scale,
        out,
        N,
        CHANNEL=channel_scale is not None,
        TOKEN=token_scale is not None,
        BLOCK=BLOCK,
    )
