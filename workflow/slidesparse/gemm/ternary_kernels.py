"""Triton: INT8 activations times packed ternary weights (`two_bits`), in INT32, with the scales applied or not.

A program makes a tile of the transposed product: BN output channels by BM tokens. So the weights are the operand that
tensor cores take from registers (wgmma on Hopper, mma elsewhere), where they are expanded. A tile of packed bytes makes
four products: quarter i of it, expanded by a shift and a mask, times the activations of quarter i. The expanded codes
are 64 times too large, so the sums are exact and divided by 64 at the end.

For wgmma the four are joined to one product, so that it is waited for once instead of four times. Joining moves no
register. For mma they stay four, because joined operands are loaded without ldmatrix. Small tiles then have four sums
of their own, which do not wait for each other.

With SPLITS above 1 the sums over K are cut into as many parts. Each part goes to a workspace [SPLITS, M, N] of INT32.
The program that finishes a tile's last part adds them all. A counter of the tile tells it so, and is zero again
afterwards. Every sum is written once, and integers have no order of adding.
"""

import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from slidesparse.errors import HardwareError
from slidesparse.gemm.dense import kept
from slidesparse.gemm.two_bits import FACTOR, quarter

INTERPRETED = triton.knobs.runtime.interpret
"""Whether Triton runs kernels on the CPU, in its interpreter. It lacks inline assembly."""

_SHIFT = tl.constexpr(FACTOR.bit_length() - 1)
CAPABILITY = (8, 0)
"""Compute capability from which on GPUs have what the kernels use."""

JOINED = 144
"""Most registers of a thread for codes and sums with which the quarters of a tile are one product. More are spilled."""

APART = 16
"""Most sums of a thread, with which each quarter of a tile has its own."""


class Gpu(NamedTuple):
    """What decides how a product is cut: multiprocessors, bytes of shared memory of a program, whether it has wgmma."""

    processors: int
    shared: int
    hopper: bool


@cache
def gpu():
    """The Gpu that kernels run on; in the interpreter an H200. Raises HardwareError if it cannot run them."""
    if INTERPRETED:
        return Gpu(132, 227 << 10, True)
    if not torch.cuda.is_available():
        raise HardwareError("backend ternary needs a GPU, and torch finds none")
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        needed, found = (".".join(map(str, each)) for each in (CAPABILITY, capability))
        raise HardwareError(f"backend ternary needs compute capability {needed}, and this GPU has {found}")
    known = torch.cuda.get_device_properties()
    return Gpu(known.multi_processor_count, known.shared_memory_per_block_optin, capability[0] == 9)


class Tile(NamedTuple):
    """How a product is cut: output channels, tokens and packed bytes of a tile, warps, stages, and parts of K.

    The first four are powers of two. A stage is a tile in shared memory. While one is multiplied, the others arrive.
    """

    channels: int
    tokens: int
    depth: int
    warps: int
    stages: int
    splits: int

    @property
    def id(self):
        """As tables store it, such as 64x16x128:4:5:2."""
        return f"{self.channels}x{self.tokens}x{self.depth}:{self.warps}:{self.stages}:{self.splits}"

    @classmethod
    def of(cls, id):
        """The inverse of `id`. Raises ValueError if it is none."""
        if not isinstance(id, str) or not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}x[1-9]\d{0,3}(?::[1-9]\d?){3}", id):
            raise ValueError(f"{id!r} is no tile of the ternary kernel, which is written 64x16x128:4:5:2")
        return cls(*map(int, re.findall(r"\d+", id)))

    def shared(self, hopper):
        """Bytes of shared memory that its stages take: packed weights, and four quarters of activations.

        wgmma reads activations from there, so they need a stage more.
        """
        activations = self.stages if self.warpgroups(hopper) else self.stages - 1
        return self.depth * ((self.stages - 1) * self.channels + activations * 4 * self.tokens)

    def warpgroups(self, hopper):
        """Whether wgmma multiplies it, which Triton takes for these tiles."""
        return hopper and self.channels >= 64 and self.tokens >= 16 and self.warps % 4 == 0

    def joined(self, hopper):
        """Whether its quarters are one product: for wgmma, if registers hold all of its codes beside its sums."""
        return self.warpgroups(hopper) and self.channels * (self.depth + self.tokens) <= JOINED * 32 * self.warps

    def workspace(self, M, N):
        """Bytes of the sums of all parts."""
        return 4 * self.splits * M * N if self.splits > 1 else 0


SHAPES = {
    8: ((16, 1), (32, 2), (64, 4)),
    16: ((16, 1), (32, 2), (64, 2), (64, 4), (128, 4)),
    32: ((32, 2), (64, 2), (64, 4), (128, 4)),
    64: ((64, 4), (128, 4), (128, 8), (256, 8)),
    128: ((64, 4), (128, 4), (128, 8), (256, 8)),
    256: ((64, 4), (128, 8)),
}
"""Tokens of a tile: (channels, warps) worth trying. With 64 channels and four warps, Hopper's wgmma can run."""

ALSO = {8: (16,), 128: (64,), 256: (128,)}
"""Tokens of a tile: other numbers of tokens that are worth trying where these fit."""

SPLITS = (2, 3, 4, 5, 8)
STAGES = (3, 6)
"""Least and most stages of a long part of K. As many are taken as fit into IN_FLIGHT bytes, so that two programs share
a multiprocessor. A part of few steps has one stage more than steps, so that more programs do."""

IN_FLIGHT = 96 << 10


def tiles(M, N, K, on):
    """Tiles worth trying for a product on a Gpu, the default first."""
    found, Q = [], quarter(K)
    fitting = min(max(SHAPES), max(min(SHAPES), 1 << (M - 1).bit_length()))
    for tokens in ALSO.get(fitting, ()) + (fitting,):
        for channels, warps in SHAPES[tokens]:
            programs = triton.cdiv(N, channels) * triton.cdiv(M, tokens)
            for depth in (64, 128):
                steps = triton.cdiv(Q, depth)
                most = IN_FLIGHT // (depth * (channels + 4 * tokens)) + 1
                for splits in (1, *SPLITS):
                    length = triton.cdiv(steps, splits)
                    enough = splits == 1 or programs * splits <= 4 * on.processors and programs < 2 * on.processors
                    if enough and triton.cdiv(steps, length) == splits:
                        stages = max(2, min(STAGES[1], max(STAGES[0], most), length + 1))
                        found.append(Tile(channels, tokens, depth, warps, stages, splits))
    found = [tile for tile in found if tile.shared(on.hopper) <= on.shared] or [Tile(16, 16, 32, 1, 2, 1)]

    def distance(tile):
        programs = triton.cdiv(N, tile.channels) * triton.cdiv(M, tile.tokens) * tile.splits
        return max(on.processors / programs, 1.0), tile.splits, abs(tile.channels - 64), tile.tokens, tile.depth

    return sorted(found, key=distance)


@triton.jit
def _expanded(packed, QUARTER: tl.constexpr, PORTABLE: tl.constexpr):
    """Codes of a quarter, times 64, from packed bytes (int8) of the same shape."""
    if PORTABLE:
        return ((packed.to(tl.int32) << (6 - 2 * QUARTER)) & 0xC0).to(tl.int8)
    elif QUARTER == 0:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 moved; shl.b32 moved, $1, 6; and.b32 $0, moved, 0xC0C0C0C0; }",
            "=r,r", [packed], tl.int8, is_pure=True, pack=4,
        )  # fmt: skip
    elif QUARTER == 1:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 moved; shl.b32 moved, $1, 4; and.b32 $0, moved, 0xC0C0C0C0; }",
            "=r,r", [packed], tl.int8, is_pure=True, pack=4,
        )  # fmt: skip
    elif QUARTER == 2:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 moved; shl.b32 moved, $1, 2; and.b32 $0, moved, 0xC0C0C0C0; }",
            "=r,r", [packed], tl.int8, is_pure=True, pack=4,
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise("and.b32 $0, $1, 0xC0C0C0C0;", "=r,r", [packed], tl.int8, is_pure=True, pack=4)


@triton.jit
def _activations(rows, live, k, last, WHOLE: tl.constexpr):
    """Activations [len(k), BM] at the codes k of each token; `rows` points to the first code of a token."""
    if WHOLE:
        return tl.load(rows[None, :] + k[:, None])
    else:
        return tl.load(rows[None, :] + k[:, None], mask=live[None, :] & (k < last)[:, None], other=0)


@triton.jit
def _bf16(y, PORTABLE: tl.constexpr):
    """Float32 rounded half to even to BF16, also in the interpreter, whose own conversion cuts the bits off."""
    if PORTABLE:
        bits = y.to(tl.int32, bitcast=True)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return y.to(tl.bfloat16)


@triton.jit(do_not_specialize=["M", "tiles"])
def _ternary_gemm(
    x,
    packed,
    out,
    parts,
    counters,
    token_scale,
    channel_scale,
    M,
    N,
    K,
    Q,
    tiles,  # of BK packed bytes, for one part of K
    BN: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    WHOLE: tl.constexpr,  # whether all tiles are whole
    JOINED: tl.constexpr,  # whether the four quarters of a tile are one product
    APART: tl.constexpr,  # whether they have sums of their own, if not
    PORTABLE: tl.constexpr,
):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    part = tl.program_id(2)
    weights = packed + n.to(tl.int64) * Q
    rows = x + m.to(tl.int64) * K
    begin = part * tiles * BK
    sums = tl.zeros([BN, BM], tl.int32)
    second, third, fourth = sums, sums, sums
    for first in tl.range(begin, tl.minimum(begin + tiles * BK, Q), BK, num_stages=STAGES):
        j = first + tl.arange(0, BK)
        if WHOLE:
            four = tl.load(weights[:, None] + j[None, :])
        else:
            four = tl.load(weights[:, None] + j[None, :], mask=(n < N)[:, None] & (j < Q)[None, :], other=0)
        if JOINED:
            each = tl.arange(0, 4 * BK)
            all_four = _activations(rows, m < M, each // BK * Q + first + each % BK, K, WHOLE)
            low = tl.join(_expanded(four, 0, PORTABLE), _expanded(four, 1, PORTABLE))
            high = tl.join(_expanded(four, 2, PORTABLE), _expanded(four, 3, PORTABLE))
            codes = tl.permute(tl.join(low, high), (0, 3, 2, 1)).reshape(BN, 4 * BK)
            sums = tl.dot(codes, all_four, sums, out_dtype=tl.int32)
        else:
            x0 = _activations(rows, m < M, j, K, WHOLE)
            x1 = _activations(rows, m < M, j + Q, K, WHOLE)
            x2 = _activations(rows, m < M, j + 2 * Q, K, WHOLE)
            x3 = _activations(rows, m < M, j + 3 * Q, K, WHOLE)
            sums = tl.dot(_expanded(four, 0, PORTABLE), x0, sums, out_dtype=tl.int32)
            if APART:
                second = tl.dot(_expanded(four, 1, PORTABLE), x1, second, out_dtype=tl.int32)
                third = tl.dot(_expanded(four, 2, PORTABLE), x2, third, out_dtype=tl.int32)
                fourth = tl.dot(_expanded(four, 3, PORTABLE), x3, fourth, out_dtype=tl.int32)
            else:
                sums = tl.dot(_expanded(four, 1, PORTABLE), x1, sums, out_dtype=tl.int32)
                sums = tl.dot(_expanded(four, 2, PORTABLE), x2, sums, out_dtype=tl.int32)
                sums = tl.dot(_expanded(four, 3, PORTABLE), x3, sums, out_dtype=tl.int32)
    if APART:
        sums = sums + second + (third + fourth)
    sums = sums >> _SHIFT
    at = m.to(tl.int64)[None, :] * N + n[:, None]
    live = (m < M)[None, :] & (n < N)[:, None]
    if SPLITS == 1:
        _store(out, sums, at, live, token_scale, channel_scale, m, n, M, N, PORTABLE)
    else:
        size = M.to(tl.int64) * N
        tl.store(parts + part * size + at, sums, mask=live)
        counter = counters + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        tl.debug_barrier()  # all threads of this program have stored their sums before the counter says so
        if tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == SPLITS - 1:
            total = tl.zeros([BN, BM], tl.int32)
            for each in tl.static_range(SPLITS):
                total += tl.load(parts + each * size + at, mask=live, other=0, cache_modifier=".cg")
            _store(out, total, at, live, token_scale, channel_scale, m, n, M, N, PORTABLE)
            tl.store(counter, 0)


@triton.jit
def _store(out, sums, at, live, token_scale, channel_scale, m, n, M, N, PORTABLE: tl.constexpr):
    """Sums [BN, BM] to `out`: as they are (INT32), or times both scales (BF16)."""
    if out.dtype.element_ty == tl.int32:
        tl.store(out + at, sums, mask=live)
    else:
        y = sums.to(tl.float32) * tl.load(token_scale + m, mask=m < M, other=0.0)[None, :]
        y *= tl.load(channel_scale + n, mask=n < N, other=0.0)[:, None]
        tl.store(out + at, _bf16(y, PORTABLE), mask=live)


def counters(tile, M, N, device):
    """Counters of a product's tiles, int32, all zero (`dense.kept`). A product leaves them zero.

    All products share them. So two products whose K is cut into parts must not run at the same time.
    """
    return kept(triton.cdiv(N, tile.channels) * triton.cdiv(M, tile.tokens), 0, torch.int32, device)


def start(x, packed, out, workspace, token_scale, channel_scale, tile, joined=None):
    """out [M, N] = x [M, K] int8 times packed weights [N, quarter(K)] uint8, transposed, cut into a `Tile`.

    out: int32, or bfloat16 with token_scale [M] and channel_scale [N], float32, applied.
    workspace: int32 [splits, M, N] for a tile with splits, else not used.
    joined: whether a tile's quarters are one product; None is what suits the GPU.
    """
    M, K = x.shape
    N = len(packed)
    if not M:
        return
    parts, counts = (workspace, counters(tile, M, N, x.device)) if tile.splits > 1 else (x, x)  # x is not read
    scales = (x, x) if out.dtype == torch.int32 else (token_scale, channel_scale)
    known, numbers = settings(M, N, K, tile, tile.joined(gpu().hopper) if joined is None else joined)
    grid = (triton.cdiv(N, tile.channels), triton.cdiv(M, tile.tokens), tile.splits)
    _ternary_gemm[grid](x, packed.view(torch.int8), out, parts, counts, *scales, *numbers, **known)


def settings(M, N, K, tile, joined):
    """(constants, numbers) of the kernel."""
    Q = quarter(K)
    constants = {
        "BN": tile.channels,
        "BM": tile.tokens,
        "BK": tile.depth,
        "STAGES": tile.stages,
        "SPLITS": tile.splits,
        "WHOLE": (M % tile.tokens, N % tile.channels, Q % tile.depth, 4 * Q - K) == (0, 0, 0, 0),
        "JOINED": joined,
        "APART": not joined and tile.channels * tile.tokens <= APART * 32 * tile.warps,
        "PORTABLE": INTERPRETED,
        "num_warps": tile.warps,
    }
    return constants, (M, N, K, Q, triton.cdiv(triton.cdiv(Q, tile.depth), tile.splits))


def compile_all(products, processes=None):
    """Compile the kernels of products [(M, N, K, tile)] into Triton's cache on disk. Returns how many there are.

    processes: number of processes that compile; None is one less than the cores, at most eight.
    """
    jobs = {}
    for M, N, K, tile in products:
        known, (_, _, _, Q, _) = settings(M, N, K, tile, tile.joined(gpu().hopper))
        for form in (torch.int32, torch.bfloat16):
            jobs[tuple(known.values()), _kinds(N, K, Q), form] = (M, N, K, tile, form)
    if INTERPRETED:
        return len(jobs)
    processes = processes or max(1, min(8, len(os.sched_getaffinity(0)) - 1))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_compile, jobs.values(), chunksize=2))
    return len(jobs)


def _kinds(*numbers):
    """What Triton compiles anew for: a number that is 1, a multiple of 16, or neither."""
    return tuple(number if number == 1 else number % 16 == 0 for number in numbers)


def _compile(job):
    M, N, K, tile, form = job
    known, numbers = settings(M, N, K, tile, tile.joined(gpu().hopper))
    parts = torch.int32 if tile.splits > 1 else torch.int8
    scale = torch.int8 if form == torch.int32 else torch.float32
    kinds = (torch.int8, torch.int8, form, parts, parts, scale, scale)
    _ternary_gemm.warmup(*kinds, *numbers, grid=(1,), **known)
