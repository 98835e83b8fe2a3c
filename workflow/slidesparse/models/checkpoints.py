"""W8A8 checkpoints: quantises, prunes and slides a model tensor by tensor, and remakes it from its manifest.

A checkpoint is a directory `<root>/checkpoints/<model>/<dtype>/<sparsity>` with config.json, model.safetensors, the
tokenizer and manifest.json. It is complete or absent. There are two kinds:

- The dense one is a standard compressed-tensors W8A8 checkpoint, so stock vLLM loads it. It has int8 or E4M3
  `<linear>.weight` [N, K], float32 `<linear>.weight_scale` [N, 1] and dynamic per-token activations.
- A slid one has weights [N, K']. The block `slidesparse` in its quantization_config says all that a reader needs.
"""

import os
import re
import shutil
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from slidesparse import models
from slidesparse.errors import CheckpointError
from slidesparse.files import (
    OWN,
    digest,
    directory_at_once,
    inside,
    leads_out,
    sha256_file,
    write_json,
)
from slidesparse.models import bitnet, safetensors_io
from slidesparse.models.shape import read_config
from slidesparse.models.ternary import TORCH, check_stored, from_latent, from_scaled
from slidesparse.plan.key import is_pattern
from slidesparse.program import locked
from slidesparse.sparsity.patterns import ALIGNMENT, WINDOW, Pattern
from slidesparse.sparsity.prune import prune
from slidesparse.sparsity.quantize import store_as
from slidesparse.sparsity.slide import slide

CONVERTER = 1
"""Version of all code that decides the bytes of a checkpoint. If it changes, every checkpoint is made anew."""

WEIGHTS = "model.safetensors"
STORED = {"INT8": "I8", "FP8": "F8_E4M3"}
TYPES = TORCH | {"U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn}
POSITIONS = (
    "the linears are ternary already: pruning goes by position, because the latent weights by whose magnitude it would"
    " go are not there"
)
COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def directory(manifest, root="resources"):
    """The directory of the weights that belong to a checkpoint's manifest."""
    names = (manifest["model"], manifest["dtype"], manifest["sparsity"])
    return inside(Path(root, "checkpoints"), *names, error=CheckpointError)


def convert(model_manifest, dtype, sparsity, root="resources", progress=True):
    """Make a model's checkpoint (dtype INT8 or FP8; sparsity dense or 2_L) and return its manifest.

    Peak memory is a few times the largest tensor. Raises CheckpointError if the model's tensors do not agree with its
    configuration, and all that `models.ensure` raises.
    """
    pattern = _pattern(sparsity)
    models.check(model_manifest)
    manifest = {
        "schema": 1,
        "model": model_manifest["model"],
        "dtype": dtype,
        "sparsity": sparsity,
        "converter": CONVERTER,
        "model_manifest": model_manifest,
    }
    target = directory(manifest, root)
    with _only_writer(target):
        source = models.ensure(model_manifest, root)
        with directory_at_once(target) as temporary:
            files = [inside(source, name, error=CheckpointError) for name in sorted(model_manifest["files"])]
            try:
                said = read_config(source / "config.json")
                divides = bitnet.scale_of(said) == "divides"
                weights, layers = _convert_weights(files, temporary / WEIGHTS, dtype, pattern, progress, divides)
            except CheckpointError as error:
                raise CheckpointError(f"{error}{_origin(model_manifest['source'])}") from None
            except (ValueError, RuntimeError) as error:  # tensors that do not fit each other or the format
                cause = " ".join(str(error).split())
                raise CheckpointError(f"model {manifest['model']} cannot be converted: {cause:.300}") from None
            config = _config(said, dtype, pattern, layers)
            write_json(temporary / "config.json", config)
            for path in files:
                if path.name in COPIED:
                    shutil.copyfile(path, temporary / path.name)
            manifest["files"] = {
                item.name: weights
                if item.name == WEIGHTS
                else {"size": item.stat().st_size, "sha256": sha256_file(item)}
                for item in sorted(temporary.iterdir())
                if item.name != OWN
            }
            manifest["layers"] = layers
            manifest["weights"] = sum(layer["N"] * layer["K"] for layer in layers)
            manifest["zeros_before"] = sum(layer["zeros_before"] for layer in layers)
            manifest["changed"] = sum(layer["changed"] for layer in layers)
            write_json(temporary / "manifest.json", manifest)
    return manifest


def _origin(source):
    """Where a model is from, in brackets, if a hub has it."""
    return f" ({source['repository']} at {source['revision']})" if source["kind"] == "hub" else ""


def ensure(manifest, root="resources"):
    """The directory of a manifest's checkpoint; if it is missing or damaged, it is made again from the manifest.

    Raises CheckpointError if the files then differ from the manifest's sha256.
    """
    check(manifest)
    target = directory(manifest, root)
    try:
        models.verify(target, manifest["files"])
    except CheckpointError as error:
        if target.exists():
            print(f"making {target} again: {error}", file=sys.stderr)
    else:
        _check_weights(target / WEIGHTS, manifest)
        return target
    if manifest["converter"] != CONVERTER:
        raise CheckpointError(
            f"the weights of {target} are gone and were made by converter {manifest['converter']}, this is converter"
            f" {CONVERTER}: delete results/checkpoints/{manifest['model']} to convert and measure anew"
        )
    made = convert(manifest["model_manifest"], manifest["dtype"], manifest["sparsity"], root)
    if made["files"] != manifest["files"]:
        different = sorted(n for n, f in manifest["files"].items() if made["files"].get(n) != f)
        raise CheckpointError(
            f"converting {manifest['model']} to {manifest['dtype']} {manifest['sparsity']} again gave other bytes for"
            f" {', '.join(different) or 'its file list'} than its manifest: delete the manifest to measure anew"
        )
    return target


def check(manifest):
    """Raise CheckpointError unless `manifest` is plausible and no name in it leads out of its directory."""
    try:
        dtype, converter, model = manifest["dtype"], manifest["converter"], manifest["model_manifest"]
        named, sparsity, files = manifest["model"], manifest["sparsity"], manifest["files"]
        layers = [(each["name"], each["N"], each["K"]) for each in manifest["layers"]]
        if not all(type(number) is int and 0 < number < 1 << 24 for _, *shape in layers for number in shape):
            raise ValueError("a shape")
        if not all(isinstance(name, str) and len(name) <= 200 and name.isprintable() for name, *_ in layers):
            raise ValueError("a name")
    except (KeyError, TypeError, ValueError):
        raise CheckpointError("a checkpoint's manifest lacks a key: delete it to convert again") from None
    models.check(model)
    models.check_files(files, f"the manifest of checkpoint {named} {dtype} {sparsity}")
    known = isinstance(dtype, str) and dtype in STORED and isinstance(converter, int)
    if named != model["model"] or not known or not layers:
        raise CheckpointError(
            f"a checkpoint's manifest names model {named!r}, dtype {dtype!r} and converter {converter!r}, which do not"
            " fit: delete it to convert again"
        )
    _pattern(sparsity)


def _check_weights(path, manifest):
    """Raise CheckpointError unless the weights at `path` fit the manifest's dtype, pattern and layers."""
    header, pattern = safetensors_io.read_header(path), Pattern(manifest["sparsity"])
    for layer in manifest["layers"]:
        name, N, K = f"{layer['name']}.weight", layer["N"], pattern.K_slid(layer["K"])
        for tensor, expected in ((name, (STORED[manifest["dtype"]], (N, K))), (f"{name}_scale", ("F32", (N, 1)))):
            stored = header.tensors.get(tensor)
            if stored is None or (stored.dtype, stored.shape) != expected:
                held = f"{stored.dtype} {list(stored.shape)}" if stored else "nothing"
                raise CheckpointError(
                    f"{path} holds {held} as {tensor}, but {manifest['dtype']} {pattern.title} of {layer['K']} inputs"
                    f" needs {expected[0]} {list(expected[1])}: delete the checkpoint and its manifest to convert again"
                )
        scale = torch.from_numpy(safetensors_io.read(path, header, f"{name}_scale")).view(torch.float32)
        if not bool((scale.isfinite() & (scale > 0)).all()):
            raise CheckpointError(
                f"{path}, tensor {name}_scale: a scale is not a positive number; delete the checkpoint and its manifest"
                " to convert again"
            )


def _pattern(name):
    if not isinstance(name, str) or not is_pattern(name):
        raise CheckpointError(f"no such checkpoint: {name!r:.80} is not one of dense, 2_inf, and 2_L with an even L")
    return Pattern(name)


def content_digest(manifest):
    """sha256 over the checkpoint's files, on which a measurement depends."""
    return digest(manifest["files"])


def read_tensor(directory, name):
    """One tensor from the directory of a checkpoint or model, e.g. `model.layers.0.self_attn.q_proj.weight`."""
    for file in sorted(Path(directory).glob("*.safetensors")):
        header = safetensors_io.read_header(file)
        if name in header.tensors:
            return _typed(safetensors_io.read(file, header, name), header.tensors[name])
    raise CheckpointError(f"{directory} has no tensor {name}; it is not complete, delete it to make it anew")


@contextmanager
def _only_writer(target):
    """Hold a checkpoint's lock, so that one process at a time makes it. It is free when the holder dies."""
    if leads_out(target.parents[2], target.parent):
        raise CheckpointError(f"{target.parent} is a link out of {target.parents[2]}, through which nothing is written")
    with locked(target.parent / f".{target.name}.lock"):
        yield


def _convert_weights(files, path, dtype, pattern, progress, divides=False):
    """Write the converted tensors of a model's `files` to `path`; returns (size and sha256, a report per linear).

    divides: whether the scales of ternary matrices divide (`bitnet.scale_of`).
    """
    headers = {file: safetensors_io.read_header(file) for file in files if file.suffix == ".safetensors"}
    where = {name: (file, header) for file, header in headers.items() for name in header.tensors}
    names = sorted(where, key=_natural)
    layers, scales, entries = [], {}, []

    def read(name):
        return safetensors_io.read(*where[name], name)

    def copied(name):
        file, header = where[name]
        data, stored = read(name), header.tensors[name].dtype
        if stored in TORCH and not torch.from_numpy(data).view(TORCH[stored]).isfinite().all():
            raise CheckpointError(f"{file}, tensor {name}: it holds NaN or infinity; fetch the model again")
        return data

    def weight(name):
        codes, layer, scales[name] = converted.next()
        layers.append(layer)
        return codes

    def weight_scale(name, N):
        # The scale of the original matrix, once for each output channel, so that merged projections stay ternary.
        return torch.full((N, 1), scales.pop(name), dtype=torch.float32).numpy()

    jobs, scaled = [], {f"{name}_scale" for name in names if bitnet.LINEAR.fullmatch(name)} & set(names)
    for name in [name for name in names if name not in scaled]:
        file, header = where[name]
        stored = header.tensors[name]
        if not bitnet.LINEAR.fullmatch(name):
            jobs.append(partial(copied, name))
            entries.append((name, stored.dtype, stored.shape, lambda: converted.next()))
            continue
        beside = where[f"{name}_scale"][1].tensors[f"{name}_scale"] if f"{name}_scale" in scaled else None
        check_stored(file, name, stored, beside)
        N, K = bitnet.held_shape(name, stored.dtype, stored.shape)
        how = (beside, divides) if beside else None
        jobs.append(partial(_convert, read, name, stored, dtype, pattern, f"{file}, tensor {name}", how))
        entries.append((name, STORED[dtype], (N, pattern.K_slid(K)), partial(weight, name)))
        entries.append((f"{name}_scale", "F32", (N, 1), partial(weight_scale, name, N)))
    quiet = None if progress else True  # None: only if standard error is no terminal
    if scaled and pattern.Z:
        print(f"note: {files[0].parent}: {POSITIONS}", file=sys.stderr)
    bar = tqdm(total=len(jobs), unit="tensor", desc=f"{dtype} {pattern.title}", disable=quiet)
    with bar, _Ahead(jobs, bar.update) as converted:
        written = safetensors_io.write(path, entries, {"format": "pt"})
    return written, layers


def _convert(read, name, tensor, dtype, pattern, where, scaled=None):
    """(codes as bytes [N, K'], a report, scale) of one linear's stored matrix.

    scaled: (the stored scale, whether it divides), of a matrix that is ternary already; else None.
    """
    stored = _typed(read(name), tensor)
    if scaled:
        scale, divides = scaled
        weight = from_scaled(stored, _typed(read(f"{name}_scale"), scale), divides, where)
    else:
        weight = from_latent(stored, where)
    N, K = weight.codes.shape
    codes, changed = prune(weight.codes, weight.latent, pattern)
    layer = {"name": name.removesuffix(".weight"), "N": N, "K": K, "K_slid": pattern.K_slid(K)}
    if scaled and pattern.Z:
        layer["pruned_by"] = "position"
    stored_codes = slide(store_as(codes, dtype).view(torch.int8), pattern).view(torch.uint8).numpy()
    return stored_codes, layer | {"zeros_before": weight.zeros, "changed": changed}, weight.scale


def _typed(data, tensor):
    """The bytes `data` as the tensor that they are, by a file's header."""
    return torch.from_numpy(data).view(TYPES[tensor.dtype]).view(tensor.shape)


class _Ahead:
    """Results of jobs in order, computed a few ahead of their use. Each core runs one job on one thread.

    Many small operations gain nothing from torch's own threads. Converting whole tensors side by side, and while
    others are written, takes a third of the time.
    """

    def __init__(self, jobs, done):
        self.jobs, self.done = iter(jobs), done
        self.workers = len(os.sched_getaffinity(0))
        self.pending = deque()

    def __enter__(self):
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,))
        for _ in range(self.workers + 1):
            self._submit()
        return self

    def _submit(self):
        for job in islice(self.jobs, 1):
            self.pending.append(self.pool.submit(job))

    def next(self):
        result = self.pending.popleft().result()
        self._submit()
        self.done()
        return result

    def __exit__(self, *error):
        self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.threads)


def _natural(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _config(model, dtype, pattern, layers):
    """config.json of the checkpoint: the `model`'s own (a dict), and how its linears are quantised and slid."""
    config = {name: value for name, value in model.items() if name != "auto_map"}
    number = "int" if dtype == "INT8" else "float"
    common = {"num_bits": 8, "type": number, "symmetric": True}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": f"{number}-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": common | {"strategy": "channel", "dynamic": False},
                "input_activations": common | {"strategy": "token", "dynamic": True},
            }
        },
        "ignore": ["lm_head"],
    }
    if not pattern.dense:
        quantization["slidesparse"] = {
            "version": CONVERTER,
            "sparsity": pattern.name,
            "Z": pattern.Z,
            "L": pattern.L,
            "window": WINDOW,
            "window_order": "even-odd",
            "alignment": ALIGNMENT,
            "K_slid": {str(layer["K"]): layer["K_slid"] for layer in layers},
        }
    return config | {"architectures": [bitnet.ARCHITECTURE], "quantization_config": quantization}
