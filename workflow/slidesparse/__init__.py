"""SlideSparse for BitNet: from a BF16 checkpoint to measured GEMM, prefill and decode points.

The rooms read from the ground up (docs/architecture.md); importing this package imports nothing heavy.
"""

__version__ = "0.1.0"
