"""A text as windows of tokens, which are scored one apart from the other."""

from pathlib import Path
from typing import NamedTuple

from slidesparse.errors import MeasurementError
from slidesparse.files import read_json, read_text

TOKENIZER = "tokenizer.json"


class Windows(NamedTuple):
    """What is scored: rows of `tokens` [windows, context], and the bytes of text that each row stands for."""

    tokens: list
    bytes: list
    begin: int
    """Token that begins a text. It stands before every window, and nothing else does."""

    @property
    def inputs(self):
        """Tokens of each window as a model reads them: the token at i is predicted from the inputs up to i."""
        return [[self.begin, *window[:-1]] for window in self.tokens]


def cut(directory, path, tokens, context):
    """Windows of `context` tokens of the text at `path`, `tokens` in all, spread evenly over it.

    directory: of the model or checkpoint, whose tokenizer and token of begin are taken.

    Raises MeasurementError if the text has fewer tokens or is no UTF-8, and OSError if it cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        text = read_text(path)
    except ValueError:
        raise MeasurementError(f"{path} is no text in UTF-8: convert it, or name another quality.text") from None
    tokenizer = Path(directory, TOKENIZER)
    if not tokenizer.is_file():
        raise MeasurementError(f"{tokenizer} is not there, without which no text is scored: set quality.tokens to 0")
    encoded = Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False)
    there, count = len(encoded.ids), tokens // context
    if not 0 < count * context <= there:
        raise MeasurementError(
            f"{path} has {there} tokens, fewer than the {tokens} to be scored: lower quality.tokens or name another"
            " quality.text"
        )
    begins = [start for start, _ in encoded.offsets] + [len(text)]  # in characters
    firsts = [i * (there - context) // max(1, count - 1) for i in range(count)]
    return Windows(
        [encoded.ids[first : first + context] for first in firsts],
        [len(text[begins[first] : begins[first + context]].encode()) for first in firsts],
        read_json(Path(directory, "config.json"))["bos_token_id"],
    )
