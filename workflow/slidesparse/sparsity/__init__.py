"""The method: pure tensor functions, and the arithmetic of Z:L, windows and K'."""
