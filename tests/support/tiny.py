"""BitNet-tiny as the configuration has it."""

import yaml

from places import ROOT

ENTRY = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["registry"]["BitNet-tiny"]
SHAPE = ENTRY["shape"]
