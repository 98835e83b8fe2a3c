"""Reads and writes safetensors files one tensor at a time, and checks all that a file says.

A file is an 8-byte little-endian header length, a JSON header, and the tensors' bytes without a gap
(https://github.com/huggingface/safetensors#format). Files are never memory-mapped, so only the tensors in use take
memory.
"""

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from slidesparse.errors import CheckpointError
from slidesparse.files import open_regular, parse_json, sync_directory

ITEMSIZE = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1},
    **{"U16": 2, "I16": 2, "F16": 2, "BF16": 2},
    **{"U32": 4, "I32": 4, "F32": 4},
    **{"U64": 8, "I64": 8, "F64": 8},
}
HEADER_LIMIT = 8 << 20
"""Bytes of the longest header, enough for some 60,000 tensors. The reference implementation allows 100 MB, which take
2 GB of memory to parse."""

NAME_LIMIT, DIMENSIONS_LIMIT, NUMBER_LIMIT = 512, 8, 1 << 62
"""Most characters of a tensor's name, most dimensions, and the largest number in a header."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's place in its file: bytes `start` to `stop`, counted from the beginning of the file."""

    dtype: str
    shape: tuple
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """The header of a file: `metadata` {str: str} and `tensors` {name: Tensor}, in the order of the bytes."""

    metadata: dict
    tensors: dict


def write(path, entries, metadata=None):
    """Write a safetensors file that is complete or absent; returns its {"size": bytes, "sha256": hex}.

    entries: list of (name, dtype, shape, produce). The dtype is a name of the format: "BF16", "I8", "F8_E4M3", "F32" ….
    produce() returns the tensor as a C-contiguous buffer (bytes, memoryview, NumPy array …), little-endian and of the
    exact length. Each is called when its tensor is written, and its result is dropped before the next call.
    metadata: {str: str}.

    ValueError for entries that no reader could load; OSError if the disk fails.
    """
    path = Path(path)
    header, length = _header(entries, metadata)
    state = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            for piece in _pieces(header, entries):
                state.update(piece)
                _write_all(stream, piece)
                del piece
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return {"size": len(header) + length, "sha256": state.hexdigest()}


def _header(entries, metadata):
    """(encoded header of `entries` with its length in front, length of the data behind it)."""
    table = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape, _ in entries:
        if name in table or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} is used twice or reserved")
        if position % ITEMSIZE[dtype]:
            raise ValueError(f"tensor {name!r} would not be aligned to its type: put larger types first")
        stop = position + math.prod(shape) * ITEMSIZE[dtype]
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, stop]}
        position = stop
    encoded = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data begins at a multiple of 8
    if len(encoded) > HEADER_LIMIT:
        raise ValueError(f"a header of {len(encoded)} bytes is over the format's limit of {HEADER_LIMIT}")
    return len(encoded).to_bytes(8, "little") + encoded, position


def _pieces(header, entries):
    """The bytes of the file in order: the header, then one tensor after the other."""
    yield memoryview(header)
    for name, dtype, shape, produce in entries:
        expected = math.prod(shape) * ITEMSIZE[dtype]
        data = memoryview(produce())
        if data.nbytes != expected:
            raise ValueError(f"tensor {name!r} has {data.nbytes} bytes, but {dtype} {tuple(shape)} needs {expected}")
        if expected:
            yield data.cast("B")
        del data


def _write_all(stream, piece):
    """Write all of `piece` to an unbuffered stream. One call may write only a part (write(2): at most 2 GiB)."""
    written = 0
    while written < len(piece):
        written += stream.write(piece[written:])


def read_header(path):
    """The checked Header of the safetensors file `path`; CheckpointError if it is not valid."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise _broken(path, "its header length is beyond the file or the format's limit")
            encoded = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    try:
        table = parse_json(encoded.decode())
    except ValueError as error:
        cause = "names something twice" if "twice" in str(error) else "is no JSON"
        raise _broken(path, f"its header {cause}") from None
    if not isinstance(table, dict):
        raise _broken(path, "its header is no JSON object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "its __metadata__ is not a mapping of strings")
    base = 8 + length
    tensors = {name: _tensor(path, name, value, base) for name, value in table.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    position = base
    for name, tensor in tensors.items():
        if tensor.start != position:
            raise _broken(path, f"tensor {name!r} does not begin where the one before it ends")
        position = tensor.stop
    if position != size:
        raise _broken(path, f"its tensors end at byte {position}, but the file has {size} bytes")
    return Header(metadata, tensors)


def _tensor(path, name, value, base):
    """The Tensor that the header's `value` describes, with offsets counted from the beginning of the file."""
    try:
        dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [len(shape), start, stop]
    except (KeyError, TypeError, ValueError):
        raise _broken(path, f"tensor {name!r} lacks dtype, shape or data_offsets") from None
    if len(name) > NAME_LIMIT or not isinstance(shape, list) or len(shape) > DIMENSIONS_LIMIT:
        raise _broken(path, f"tensor {name!r:.80} has a name of over {NAME_LIMIT} characters or no usable dimensions")
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise _broken(path, f"tensor {name!r} has the unknown dtype {dtype!r:.80}")
    if not all(type(number) is int and 0 <= number < NUMBER_LIMIT for number in (*shape, *numbers)):
        raise _broken(path, f"tensor {name!r} has a shape or an offset that is no natural number")
    if stop - start != math.prod(shape) * ITEMSIZE[dtype]:
        raise _broken(path, f"tensor {name!r} has {stop - start} bytes, which is not {dtype} of shape {shape}")
    return Tensor(dtype, tuple(shape), base + start, base + stop)


def read(path, header, name):
    """The bytes of tensor `name` as a writable one-dimensional uint8 array of NumPy; CheckpointError if missing."""
    import numpy  # here, so that reading a header needs no NumPy

    if name not in header.tensors:
        raise CheckpointError(f"{path} has no tensor {name!r}: it is not the checkpoint that was expected")
    tensor = header.tensors[name]
    data = numpy.empty(tensor.stop - tensor.start, dtype=numpy.uint8)
    view, filled = memoryview(data), 0
    try:
        with open_regular(path) as stream:
            stream.seek(tensor.start)
            while filled < len(view):
                count = stream.readinto(view[filled:])
                if not count:
                    raise _broken(path, f"it ends inside tensor {name!r}")
                filled += count
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return data


def _broken(path, cause):
    return CheckpointError(f"{path} is not a valid safetensors file ({cause}): fetch or convert it again")
