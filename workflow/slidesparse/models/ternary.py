"""The ternary weight of one linear, from any form in which models store it.

latent     BF16, F16 or F32 weights; they become ternary by their mean (sparsity.quantize)
unpacked   -1, 0 and 1 in one of these types, beside a `<linear>.weight_scale` of one number
packed     the same with four weights to a byte (uint8), as transformers' BitNet integration stores them

Source of the two latter: transformers, integrations/bitnet.py (pack_weights, unpack_weights).
"""

import sys
from typing import NamedTuple

import torch

from slidesparse.errors import CheckpointError
from slidesparse.models import bitnet
from slidesparse.sparsity.quantize import absmean_scale, ternary

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

USUAL_ZEROS = (0.2, 0.7)
"""Shares of zeros that ternary weights of BitNet models have."""


class Ternary(NamedTuple):
    """One linear's weight."""

    codes: torch.Tensor
    """[N, K] int8: -1, 0 and 1"""
    latent: torch.Tensor
    """[N, K]: pruning goes by its magnitudes; the codes themselves if the latent weight is not there"""
    scale: float
    """the weight is codes * scale"""
    zeros: int
    """codes that are 0"""


def check_stored(where, name, weight, scale):
    """Raise CheckpointError unless the tensors of a linear (safetensors_io.Tensor; scale: or None) can be read.

    where: their file, or files.
    """
    packed = bitnet.is_packed(name, weight.dtype)
    if len(weight.shape) != 2 or not (packed or weight.dtype in TORCH):
        raise CheckpointError(
            f"{where}: {name} is {weight.dtype} {list(weight.shape)}, not a matrix of BF16, F16 or F32 weights, or of"
            " packed ones (U8)"
        )
    if packed and scale is None:
        raise CheckpointError(f"{where}: {name} is packed, but {name}_scale is nowhere: fetch the model again")
    if scale is not None and scale.dtype not in TORCH:
        raise CheckpointError(f"{where}: {name}_scale is {scale.dtype}, not one number of BF16, F16 or F32")
    if scale is not None and scale.shape not in ((), (1,), (1, 1)):
        raise CheckpointError(
            f"{where}: {name}_scale has the shape {list(scale.shape)}, but a packed matrix has one scale"
        )


def from_latent(latent, where):
    """The Ternary of a latent weight [N, K]. Warns of one that does not look like a BitNet model's."""
    try:
        scale = absmean_scale(latent)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    weight = _of(ternary(latent, scale), latent, 1.0 / scale, where)
    if _one_magnitude(latent):
        why = "its weights have one magnitude, as if they were ternary already"
        print(f"warning: {where}: {why}: pruning goes by their positions alone", file=sys.stderr)
    return weight


def from_scaled(stored, scale, divides, where):
    """The Ternary of a packed (uint8 [N / 4, K]) or unpacked matrix and its scale, one number.

    divides: whether the product is divided by the scale, not multiplied.
    """
    scale = scale.double().item()
    if not 0 < scale < float("inf"):
        raise CheckpointError(f"{where}_scale is not a positive number but {scale}: fetch the model again")
    if stored.dtype == torch.uint8:
        codes = unpack(stored)
        if int(codes.max()) > 1:
            raise CheckpointError(
                f"{where}: a byte has two bits that are 3 and no ternary weight: fetch the model again"
            )
    else:
        codes = stored.clamp(-1, 1).to(torch.int8)
        if not torch.equal(codes.to(stored.dtype), stored):
            raise CheckpointError(
                f"{where}: beside a weight_scale all weights must be -1, 0 and 1, and these are not: use the model in"
                " BF16 without scales"
            )
    return _of(codes, codes, 1.0 / scale if divides else scale, where)


def unpack(packed):
    """The codes [N, K] (int8) of a packed matrix [N / 4, K] (uint8).

    A byte holds four weights of its column, the lowest bits first: of rows r, r + N/4, r + N/2 and r + 3N/4. Two bits
    hold a weight plus one.
    """
    shifts = range(0, 8, 8 // bitnet.VALUES_PER_BYTE)
    return torch.cat([(packed >> shift) & 3 for shift in shifts]).view(torch.int8) - 1


def _of(codes, latent, scale, where):
    """A Ternary. Refuses a matrix of zeros, and warns of a share of zeros that is not usual."""
    zeros = codes.numel() - int(codes.count_nonzero())
    share = zeros / codes.numel()
    if share == 1:
        raise CheckpointError(f"{where}: all its weights are zero, so the model computes nothing: use another revision")
    if not USUAL_ZEROS[0] <= share <= USUAL_ZEROS[1]:
        usual = " to ".join(f"{100 * each:.0f}" for each in USUAL_ZEROS)
        found = f"{100 * share:.0f} % of its ternary weights are zero"
        print(f"warning: {where}: {found}, usual is {usual}", file=sys.stderr)
    return Ternary(codes, latent, scale, zeros)


def _one_magnitude(latent):
    """Whether all weights but zeros have one magnitude. Mostly the first few tell."""
    seen = set()
    for piece in latent.reshape(-1).split(1 << 12):
        sizes = piece.abs().unique()
        seen |= set(sizes[sizes > 0][:2].tolist())
        if len(seen) > 1:
            return False
    return True
