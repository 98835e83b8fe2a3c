"""Reads all of one hardware key below one root: files in our layout, in the published one, and tidy tables."""

from pathlib import Path

from slidesparse.report.sources import measured, published, tidy
from slidesparse.report.sources.rows import Source
from slidesparse.report.tables.gather import hardware_directories


def read_source(root, hardware):
    """The Source of one root. It names the refused files, of which nothing is used."""
    source = Source(str(root))
    measured.read(source, hardware)
    published.read(source, hardware)
    tidy.read(source, hardware)
    if source.model_names():
        measured.read_manifests(source)
    return source


def hardware_keys(roots):
    """Hardware keys of which any root has something, sorted."""
    keys = set()
    for root in roots:
        keys |= {*hardware_directories(root), *published.hardware_keys(Path(root)), *tidy.hardware_keys(root)}
    return sorted(keys)
