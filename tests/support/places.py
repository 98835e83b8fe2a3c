"""Where this project lies."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "workflow" / "slidesparse"
PROGRAMS = ROOT / "workflow" / "scripts"
SUPPORT = Path(__file__).parent
