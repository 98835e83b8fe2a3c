"""Configurations for tests: the files of config/, and changes laid over them."""

import copy

import yaml

from places import ROOT

RTX4090 = "RTX4090_cc89_py312_cu129_x86_64"
A100 = "A100_cc80_py312_cu129_x86_64"
CPU = "cpu-AMD-EPYC_cc0_py311_cu0_x86_64"


def overlaid(base, change):
    """What Snakemake makes of two configuration files: sections merge, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return copy.deepcopy(change)
    return base | {key: overlaid(base.get(key), value) for key, value in change.items()}


def read(name="config.yaml"):
    return yaml.safe_load((ROOT / "config" / name).read_text())


def with_change(text):
    return overlaid(read(), yaml.safe_load(text))
