"""Fixtures of the tests of reports."""

import shutil
from pathlib import Path

import pytest

from reports import PUBLISHED


@pytest.fixture
def copy(tmp_path):
    """A copy of the published files of the RTX 4090 that a test may change."""
    return Path(shutil.copytree(PUBLISHED, tmp_path / "published", ignore=shutil.ignore_patterns("tidy")))
