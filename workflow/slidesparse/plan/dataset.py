"""A text of a hub's data set as the configuration names it: hf://datasets/{owner}/{name}@{commit}/{file}.

This is how huggingface_hub writes paths of files (HfFileSystem). The revision is a commit, because a branch could come
to mean another text, and points of both would look alike.
"""

import re
from typing import NamedTuple

from slidesparse.errors import ConfigurationError

BEGIN = "hf://"
PATH = re.compile(
    r"hf://datasets/([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)@([0-9a-f]{40})"
    r"/([A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*)"
)


class Dataset(NamedTuple):
    """A file of a data set. repository: owner/name. commit: 40 hexadecimal digits. file: its path there."""

    repository: str
    commit: str
    file: str

    @classmethod
    def of(cls, text, path="quality.text"):
        """The file that `text` names, or None if it is a path here. path: of the key, for a ConfigurationError."""
        if not text.startswith(BEGIN):
            return None
        if not (match := PATH.fullmatch(text)):
            raise ConfigurationError(
                f"{path} is {text!r:.200}, but a text of a hub is hf://datasets/OWNER/NAME@COMMIT/FILE, with a commit"
                " of 40 hexadecimal digits, and a file of letters, digits and the characters . _ + - between slashes"
            )
        return cls(*match.groups())
