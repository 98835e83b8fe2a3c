"""How figures are measured: samples, statistics, clocks. Nothing here depends on GEMMs."""
