"""A quality point: a checkpoint's scores on a text, beside those of what it is compared with.

There are two references. R is the model itself: absmean-ternary weights times their scale, activations not quantised. A
dense checkpoint is compared with R. So KL(R || dense W8A8) is what quantised activations cost. A pruned one is compared
with the dense one of its type. So KL(dense W8A8 || pruned) is what the pattern costs.

The states of references are kept below `resources/quality`. Who finds none makes them again.
"""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import torch

from slidesparse.engine import engine
from slidesparse.engine.quality import scores
from slidesparse.engine.quality.states import UNQUANTISED
from slidesparse.engine.quality.windows import cut
from slidesparse.errors import CheckpointError, MeasurementError
from slidesparse.files import digest, inside, read_bytes, read_json, sha256_file, write_atomic
from slidesparse.machine import vllm
from slidesparse.models import checkpoints, texts

HEAD = "model.embed_tokens.weight"
"""The output head, which is the embedding."""

KEPT_LIMIT = 16 << 30
"""Bytes of the largest file of kept states."""


def measure(request):
    """Results of one quality point.

    request: as of engine.measure; also hardware, model, dtype, sparsity and peers, the dense backend that a pruned
    checkpoint is compared with and its tuning table: {backend: path or None}. parameters: context, time_limit_s, and
    the text: a path with its sha256, or a hub's, whose name says its commit.
    """
    root, parameters = request["root"], request["parameters"]
    manifest = read_json(request["manifest"])
    directory = checkpoints.ensure(manifest, root)
    text = texts.place(parameters["text"], root)
    if "sha256" in parameters:
        refuse_other(text, parameters["sha256"])
    windows = cut(directory, text, request["M"], parameters["context"])
    request = request | {"windows": windows}
    states, ran = engine.measure(request)
    if request["sparsity"] == "dense":
        _keep(_place(request, manifest), states)
    theirs = _reference(request, manifest)
    begin = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head = checkpoints.read_tensor(directory, HEAD)
    targets = torch.tensor(windows.tokens).flatten()
    scored = scores.scored(*(each.to(device) for each in (head, states, theirs, targets)))
    return {
        "reference": "R" if request["sparsity"] == "dense" else "dense",
        "tokens": request["M"],
        "context": parameters["context"],
        "bytes": sum(windows.bytes),
        "vocabulary": len(head),
        **scores.summary(scored, windows.bytes),
        "scoring_s": ran.pop("states_s") + time.monotonic() - begin,
        **ran,
    }


def refuse_other(text, planned):
    """Raise MeasurementError unless the file `text` has the sha256 `planned`."""
    try:
        there = sha256_file(text)
    except OSError as error:
        raise MeasurementError(f"quality.text is {text}, which cannot be read ({error.strerror})") from None
    if there != planned:
        raise MeasurementError(f"{text} is not the text that was planned: run again")


def _reference(request, manifest):
    """The states of what a checkpoint is compared with: those that are kept, or new ones."""
    if request["sparsity"] == "dense":
        asked = request | {"backend": UNQUANTISED, "tuning": None}
    else:
        (backend, tuning), *_ = request["peers"].items()
        path = Path(request["manifest"]).with_name("dense.json")
        if not path.is_file():
            raise CheckpointError(f"{path} is not there, which a pruned checkpoint is compared with: convert it first")
        manifest = read_json(path)
        asked = request | {"backend": backend, "tuning": tuning, "manifest": str(path)}
    asked |= {"others": ()}
    place = _place(asked, manifest)
    kept = _kept(place, request["M"])
    if kept is None:
        kept, _ = engine.measure(asked)
        _keep(place, kept)
    return kept


def _place(request, manifest):
    """Where the states of a request are kept: by all that decides them."""
    dense = request["backend"] != UNQUANTISED
    decides = {
        "weights": checkpoints.content_digest(manifest) if dense else digest(manifest["model_manifest"]["files"]),
        "backend": request["backend"],
        "inputs": request["windows"].inputs,
        "hardware": request["hardware"],
        "versions": [torch.__version__, vllm.version()],
    }
    return inside(Path(request["root"], "quality"), request["model"], f"{digest(decides)}.bf16", error=CheckpointError)


def _keep(path, states):
    data = states.contiguous().view(torch.uint8).numpy().tobytes()
    write_atomic(path, hashlib.sha256(data).digest() + data)


def _kept(path, tokens):
    """The states [tokens, hidden] that were kept at `path`; None if they are not there, or damaged."""
    with suppress(OSError, ValueError, RuntimeError):
        whole = read_bytes(path, KEPT_LIMIT)
        data = bytearray(whole[32:])
        if hashlib.sha256(data).digest() == whole[:32]:
            return torch.frombuffer(data, dtype=torch.bfloat16).reshape(tokens, -1)
    return None
