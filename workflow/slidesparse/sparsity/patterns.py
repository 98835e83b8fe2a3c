"""The arithmetic of Z:L structured sparsity and of sliding it into 2:4 windows. It is in no other module.

A row of K weights is cut into groups of L. A Z:L row has at least Z = 2 zeros in every group, so L-2 weights of a group
may be non-zero. A window covers four inputs and holds two weights, and one starts at every second input. So the L/2-1
windows of a group hold its L-2 weights. The paper (arXiv 2603.05232) writes (2N-2):2N with N = L/2.

Laid side by side, the windows are an ordinary 2:4 row of K' = K * gamma entries, with gamma = 2 - 4/L. Sparse tensor
cores run it without loss. The limit is `2:inf`: K/2 windows, no weight has to be zero, K' = 2K.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from math import ceil

ALIGNMENT = 128
"""K' is padded to a multiple of this many entries (bytes, for 8-bit types): the tile width of the sparse kernels."""

WINDOW = 4
KEPT = 2


@dataclass(frozen=True)
class Pattern:
    """One sparsity pattern, written `2_8` (Z zeros in every L), `2_inf` or `dense`."""

    name: str

    def __post_init__(self):
        if self.name in ("dense", "2_inf"):
            return
        match = re.fullmatch(r"2_([1-9]\d*)", self.name)
        if not match or int(match[1]) % 2 or int(match[1]) < WINDOW:
            raise ValueError(
                f"pattern {self.name!r} is not one of dense, 2_inf or 2_L with an even L of at least 4, such as 2_8"
            )

    @property
    def dense(self):
        """True for a weight that is neither pruned nor slid."""
        return self.name == "dense"

    @property
    def Z(self):
        """Zeros required in a group (0 for dense and 2:inf)."""
        return 0 if self.name in ("dense", "2_inf") else 2

    @property
    def L(self):
        """Group length, or None where there are no groups (dense and 2:inf)."""
        return None if self.name in ("dense", "2_inf") else int(self.name[2:])

    @property
    def gamma(self):
        """K'/K before padding: 2 - 4/L."""
        if self.dense:
            return 1.0
        return 2.0 if self.L is None else 2 - 4 / self.L

    @property
    def bound(self):
        """Largest speed-up of the GEMM over an equally efficient dense one: 2/gamma = L/(L-2), and 1 for 2:inf."""
        return 1.0 if self.L is None else self.L / (self.L - 2)

    def groups(self, K):
        """Number of groups of a row, and their length; 2:inf is one group of K rounded up to whole windows."""
        if self.L is None:
            return 1, ceil(K / WINDOW) * WINDOW
        return ceil(K / self.L), self.L

    def windows(self, K):
        """Number of windows in a group: L/2 - 1. 2:inf has one more; its last window reads two zeros."""
        length = self.groups(K)[1]
        return length // 2 - (0 if self.L is None else 1)

    def K_used(self, K):
        """Entries of a slid row before padding."""
        return K if self.dense else self.groups(K)[0] * self.windows(K) * WINDOW

    def K_slid(self, K):
        """K', the length of a slid row: all windows, padded to a multiple of `ALIGNMENT`."""
        return K if self.dense else ceil(self.K_used(K) / ALIGNMENT) * ALIGNMENT

    def window_starts(self, K):
        """First input of every window in storage order: all even windows of all groups, then all odd windows.

        In this order the even windows of L = 4, 8, 12, 16 and of 2:inf are the row itself. So lifting is a plain store
        and one masked copy.
        """
        groups, length = self.groups(K)
        windows = self.windows(K)
        return [
            group * length + 2 * window
            for parity in (0, 1)
            for group in range(groups)
            for window in range(parity, windows, 2)
        ]

    @cached_property
    def title(self):
        """The usual notation: dense, 2:8, 2:inf."""
        return self.name.replace("_", ":")

    def __str__(self):
        return self.name
