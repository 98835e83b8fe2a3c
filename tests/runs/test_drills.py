"""Kills and stops at seeded moments: 7 in every run of the tests, 300 with `pytest -m drills`, two a drill."""

import pytest

import drills
from local_hub import Hub, serving
from slidesparse.machine import hardware
from workflow_clone import Clone

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(hardware.detect().gpu, reason="these clones measure a tiny model on the CPU"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, request):
    """The clone of the drills; what they added up to is printed when they are over."""
    hub = Hub()
    drills.publish(hub, tmp_path_factory.mktemp("published"))
    clone = Clone.of_working_tree(tmp_path_factory.mktemp("drills") / "clone")
    with serving(hub) as endpoint:
        try:
            place = drills.Range(clone, endpoint)
            yield place
        finally:
            clone.stop()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{place.tally}")


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.drills)])
def test_kills_and_stops_lose_nothing(place, seed):
    """Every other victim once; the rest with -m drills."""
    place.drill(seed, drills.ALL[seed::2])


def test_the_token_is_in_no_file(place):
    """Nor in a command line, which every drill looks at."""
    for folder in (place.clone.directory, place.clone.beside):
        for path in folder.rglob("*"):
            assert not path.is_file() or drills.TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.drills
@pytest.mark.parametrize("seed", range(1000, 1150))
def test_more_kills_and_stops_lose_nothing(place, seed):
    place.drill(seed)
