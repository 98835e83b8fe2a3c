"""How a figure is taken: samples, statistics, clocks. It knows no GEMM."""
