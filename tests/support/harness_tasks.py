"""Tasks of the lm-evaluation-harness from the held-out text, as files, and the mark of tests that need the harness."""

import json

import pytest

from places import ROOT
from slidesparse.engine.quality.windows import cut
from slidesparse.files import write_atomic
from slidesparse.machine import harness

TEXT = ROOT / "resources" / "text" / "held_out.txt"
NEEDS_HARNESS = pytest.mark.skipif(
    harness.version() is None, reason="the environment envs/quality is not installed: bash envs/install.sh quality"
)

PERPLEXITY = """\
task: held_out
dataset_path: json
dataset_kwargs: {data_files: {test: windows.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]
metadata: {version: 1}
"""

CHOICE = """\
task: which_end
dataset_path: json
dataset_kwargs: {data_files: {test: ends.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: begin
doc_to_choice: ends
doc_to_target: right
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1}
"""


def perplexity_task(folder, directory, tokens, context):
    """Write a task of the text's windows, as the stage quality cuts them; returns its path.

    directory: of the model or checkpoint. Each window is a document, before which the harness puts the token of begin.
    """
    windows = cut(directory, TEXT, tokens, context)
    rows = [{"text": bytes(window).decode()} for window in windows.tokens]  # a token of BitNet-small is a byte
    return _task(folder, "held_out", PERPLEXITY, "windows.jsonl", rows)


def choice_task(folder, count, letters=40):
    """Write a task whose answer is how a verse goes on, among the ends of three other verses; returns its path."""
    verses = [line for line in TEXT.read_text().splitlines() if 2 * letters < len(line) < 3 * letters]
    chosen = verses[:: len(verses) // count][:count]
    rows = []
    for i, verse in enumerate(chosen):
        others = [chosen[(i + step) % count][-letters:] for step in (1, 2, 3)]
        ends = [*others[: i % 4], verse[-letters:], *others[i % 4 :]]
        rows.append({"begin": verse[:-letters], "ends": ends, "right": i % 4})
    return _task(folder, "which_end", CHOICE, "ends.jsonl", rows)


def _task(folder, name, text, data, rows):
    write_atomic(folder / data, "".join(json.dumps(row) + "\n" for row in rows))
    write_atomic(folder / f"{name}.yaml", text)
    return folder / f"{name}.yaml"
