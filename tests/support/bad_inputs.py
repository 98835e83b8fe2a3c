"""What the tests of bad inputs share: a folder for them, and what is asked of every refusal."""

import json

import pytest

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 300,
}
GENERATED = {"source": "generated", "seed": 1, "shape": SHAPE}
SHA = "0" * 64


class Place:
    """A folder in which something is damaged and then used."""

    def __init__(self, directory):
        self.directory = directory

    def write(self, name, content):
        """Path of a new file with `content`: bytes, text or something to write as JSON."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        return path


def refused(place, use, kind, sentence):
    """`use`(place) raises exactly `kind` with one sentence that matches, and writes nothing outside of the place."""
    before = set(place.directory.parent.iterdir())
    with pytest.raises(kind, match=sentence) as error:
        use(place)
    message = str(error.value)
    assert type(error.value) is kind
    assert "\n" not in message and 20 < len(message) < 700
    assert set(place.directory.parent.iterdir()) == before, "something was written outside"
    assert not list(place.directory.rglob("up"))
