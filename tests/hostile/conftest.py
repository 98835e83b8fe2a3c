"""A folder of the user's, which no test of hostile data may touch."""

import pytest

from hostile import content


@pytest.fixture
def victim(tmp_path):
    """A folder of the user's, which must be at the end what it was; a link in the attacker's hands leads there."""
    folder = tmp_path / "home" / "victim"
    folder.mkdir(parents=True)
    for name in ("thesis.txt", "figure.svg", "figure.png", "table.csv", "M99.log", "model.safetensors"):
        (folder / name).write_text(f"my {name}")
    before = content(folder)
    yield folder
    assert content(folder) == before
