"""The text that BitNet-small is trained on, in three parts, and how well others predict its held-out part.

    bible -f Gen1:1-Rev22:21 | python benchmarks/small_text.py --prepare   # makes resources/text anew
    python benchmarks/small_text.py                                       # sizes of the parts, and the rivals

The first command needs Debian's packages `bible-kjv` and `bible-kjv-text`. resources/text/README.md has the licence.
"""

import argparse
import bz2
import hashlib
import lzma
import sys
from pathlib import Path

import numpy as np

from slidesparse.files import write_atomic

FOLDER = Path(__file__).parents[1] / "resources" / "text"
TEXT, HELD_OUT = FOLDER / "kjv.txt.xz", FOLDER / "held_out.txt"
SHA256 = "82a24e4e23c644fe579ed387b20e54eb529cc0a87a25e0810064edb2216780c2"
"""Of the whole text, unpacked."""


def prepare(lines: list[str]) -> str:
    """The text from lines such as `Ge1:1 In the beginning`: a verse a line, and an empty line between chapters."""
    chapters: dict[str, list[str]] = {}
    for line in lines:
        reference, _, verse = line.partition(" ")
        chapters.setdefault(reference.partition(":")[0], []).append(verse.rstrip("\n"))
    return "\n\n".join("\n".join(verses) for verses in chapters.values()) + "\n"


def split(text: str) -> dict[str, bytes]:
    """The three parts. Chapters 20, 40, 60 … are held out, and chapters 10, 30, 50 … say when to stop."""
    parts: dict[str, list[str]] = {"train": [], "stop": [], "held_out": []}
    for number, chapter in enumerate(text.removesuffix("\n").split("\n\n"), 1):
        parts[{0: "held_out", 10: "stop"}.get(number % 20, "train")].append(chapter)
    return {name: ("\n\n".join(chapters) + "\n").encode() for name, chapters in parts.items()}


def count_bits(train: bytes, test: bytes, order: int) -> float:
    """Bits per byte of a model that counts in `train` which byte follows the last `order` bytes.

    Orders are interpolated as by Witten and Bell. In a context seen N times before T different bytes, a byte seen n
    times has the probability (n + T * lower) / (N + T). `lower` is its probability in the next shorter context.
    """
    texts = [np.frombuffer(text, np.uint8).astype(np.uint64) for text in (train, test)]
    probability = np.full(len(test), 1 / 256)
    contexts = [np.zeros_like(text) for text in texts]
    for length in range(order + 1):
        seen, asked = (context << np.uint64(8) | text for context, text in zip(contexts, texts, strict=True))
        pairs, n = np.unique(seen, return_counts=True)
        known, first, T = np.unique(pairs >> np.uint64(8), return_index=True, return_counts=True)
        at = np.searchsorted(known, contexts[1]).clip(max=len(known) - 1)
        T = np.where(known[at] == contexts[1], T[at], 0)
        N = np.add.reduceat(n, first)[at]
        at = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
        n = np.where(pairs[at] == asked, n[at], 0)
        probability = np.where(T > 0, (n + T * probability) / (N + T), probability)
        shifted = [np.concatenate([np.zeros(length + 1, np.uint64), text[: -length - 1]]) for text in texts]
        contexts = [context | byte << np.uint64(8 * length) for context, byte in zip(contexts, shifted, strict=True)]
    return float(-np.log2(probability).mean())


def rivals(parts: dict[str, bytes]) -> dict[str, float]:
    """Bits per byte that others need for the held-out text."""
    train, held_out = parts["train"], parts["held_out"]
    packers = {"bzip2": bz2.compress, "xz": lambda data: lzma.compress(data, preset=9)}
    bits = {f"{name}, held-out text alone": pack(held_out) for name, pack in packers.items()}
    bits = {name: 8 * len(packed) / len(held_out) for name, packed in bits.items()}
    for name, pack in packers.items():
        added = len(pack(train + held_out)) - len(pack(train))
        bits[f"{name}, what it adds to the packed training text"] = 8 * added / len(held_out)
    return bits | {f"byte counts of order {n}, Witten-Bell": count_bits(train, held_out, n) for n in (3, 5)}


def read(path: Path = TEXT) -> dict[str, bytes]:
    """The parts of the text that is kept here; ValueError if it is another text."""
    text = lzma.decompress(path.read_bytes())
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the text that the figures of BitNet-small are about")
    return split(text.decode("ascii"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="make the text from standard input")
    arguments = parser.parse_args()
    if arguments.prepare:
        text = prepare(sys.stdin.readlines())
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_atomic(TEXT, lzma.compress(text.encode("ascii"), preset=9 | lzma.PRESET_EXTREME))
        write_atomic(HELD_OUT, split(text)["held_out"])
        print(f"{len(text):>9,} bytes, sha256 {hashlib.sha256(text.encode()).hexdigest()}")
    parts = read()
    for name, part in parts.items():
        print(f"{len(part):>9,} bytes  {name}")
    for name, bits in rivals(parts).items():
        print(f"{bits:9.4f} bits per byte  {name}")


if __name__ == "__main__":
    main()
