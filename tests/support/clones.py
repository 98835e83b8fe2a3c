"""Clones of the project in several states: a plugin of pytest that a test module names."""

import shutil

import pytest

from workflow_clone import ONE_PATTERN, TINY, Clone, point


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """Makes places for clones, and ends what is left of those that were made there."""
    made = []

    def make(of, name="clone"):
        made.append(of(tmp_path_factory.mktemp(name) / "clone"))
        return made[-1]

    yield make
    for clone in made:
        clone.stop()


@pytest.fixture(scope="session")
def bare(directory):
    """A clone in which nothing has been run. Not to be changed."""
    return directory(Clone.of_working_tree, "bare")


@pytest.fixture(scope="session")
def default(bare, directory):
    """A clone in which one pattern of the default configuration has been run, and that call. Not to be changed."""
    clone = directory(bare.copy, "default")
    return clone, clone.run("all", config=ONE_PATTERN)


@pytest.fixture(scope="session")
def single(bare, directory):
    """A clone in which one point was asked for by its path, and that call. Not to be changed."""
    clone = directory(bare.copy, "single")
    return clone, clone.run(point("prefill", "reference", "2_8", 32), config=TINY)


@pytest.fixture(scope="session")
def tiny(single, directory):
    """A clone in which the tiny configuration has been run, and that call. Not to be changed."""
    clone = directory(single[0].copy, "tiny")
    return clone, clone.run("all", config=TINY)


@pytest.fixture
def copy(directory):
    """Makes copies of clones for one test; then ends what is left of them and makes room."""
    made = []

    def make(clone):
        made.append(directory(clone.copy, "copy"))
        return made[-1]

    yield make
    for clone in made:
        clone.stop()
        shutil.rmtree(clone.directory / "resources")


@pytest.fixture
def fresh(bare, copy):
    """A clone in which nothing has been run."""
    return copy(bare)


@pytest.fixture
def finished(tiny, copy):
    """A clone in which the tiny configuration has been run."""
    return copy(tiny[0])
