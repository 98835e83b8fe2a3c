"""BitNet-tiny as the configuration has it."""

from pathlib import Path

import yaml

ENTRY = yaml.safe_load((Path(__file__).parents[1] / "config" / "config.yaml").read_text())["registry"]["BitNet-tiny"]
SHAPE = ENTRY["shape"]
