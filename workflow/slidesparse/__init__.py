"""SlideSparse for BitNet: from a BF16 checkpoint to measured GEMM, prefill and decode points.

Each folder is a room, one layer of the library (docs/architecture.md). Importing this package imports nothing heavy.
"""

__version__ = "0.1.0"
