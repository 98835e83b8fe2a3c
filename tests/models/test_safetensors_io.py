"""safetensors files: what we write others read, what others write we read, and nothing damaged is believed."""

import json
import math
import weakref

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from slidesparse.errors import CheckpointError
from slidesparse.files import sha256_file
from slidesparse.models import safetensors_io

NUMPY = {"U8": "<u1", "I8": "<i1", "I16": "<i2", "F16": "<f2", "I32": "<i4", "F32": "<f4", "I64": "<i8", "F64": "<f8"}


def entries_of(arrays, dtypes):
    return [(name, dtypes[name], array.shape, lambda array=array: array) for name, array in arrays.items()]


@given(
    plan=st.lists(st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 5), max_size=3)), max_size=6),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
def test_round_trip_and_agreement_with_the_safetensors_library(tmp_path_factory, plan, metadata):
    plan.sort(key=lambda item: -np.dtype(NUMPY[item[0]]).itemsize)
    generator = np.random.default_rng(len(plan))
    dtypes = {f"tensor {i} é": dtype for i, (dtype, _) in enumerate(plan)}
    arrays = {
        name: generator.integers(0, 100, size=shape).astype(NUMPY[dtype])
        for (name, dtype), (_, shape) in zip(dtypes.items(), plan, strict=True)
    }
    path = tmp_path_factory.mktemp("round") / "a.safetensors"
    facts = safetensors_io.write(path, entries_of(arrays, dtypes), metadata)
    assert facts == {"size": path.stat().st_size, "sha256": sha256_file(path)}
    header = safetensors_io.read_header(path)
    assert header.metadata == metadata
    assert list(header.tensors) == list(arrays)
    for name, array in arrays.items():
        tensor = header.tensors[name]
        assert (tensor.dtype, tensor.shape) == (dtypes[name], array.shape)
        assert safetensors_io.read(path, header, name).tobytes() == array.tobytes()
    theirs = safetensors.numpy.load_file(path)
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in theirs.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
    }


def test_reads_what_the_safetensors_library_writes(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.int8).reshape(2, 3), "a": np.arange(4, dtype=np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", {"format": "pt"})
    header = safetensors_io.read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"format": "pt"}
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {"a": (4,), "b": (2, 3)}
    assert safetensors_io.read(tmp_path / "a.safetensors", header, "b").view(np.int8).tolist() == [0, 1, 2, 3, 4, 5]


def test_data_begins_at_a_multiple_of_eight(tmp_path):
    for length in range(1, 10):
        path = tmp_path / f"{length}.safetensors"
        safetensors_io.write(path, [("x" * length, "F32", (1,), lambda: b"\0" * 4)])
        assert safetensors_io.read_header(path).tensors["x" * length].start % 8 == 0


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    produced = []

    def produce():
        assert [reference() for reference in produced] == [None] * len(produced)
        array = np.zeros(1000, dtype=np.int8)
        produced.append(weakref.ref(array))
        return array

    safetensors_io.write(tmp_path / "a.safetensors", [(str(i), "I8", (1000,), produce) for i in range(5)])
    assert len(produced) == 5


def test_a_failing_producer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors_io.write(path, [("old", "I8", (1,), lambda: b"1")])
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        safetensors_io.write(path, [("new", "I8", (1,), lambda: b"1"), ("bad", "I8", (1,), lambda: 1 // 0)])
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("entries", "cause"),
    [
        ([("a", "I8", (2,), lambda: b"1")], "has 1 bytes"),
        ([("a", "I8", (1,), lambda: b"1"), ("a", "I8", (1,), lambda: b"1")], "twice"),
        ([("a", "I8", (1,), lambda: b"1"), ("b", "F32", (1,), lambda: b"1234")], "aligned"),
    ],
)
def test_entries_that_no_reader_could_load_are_refused(tmp_path, entries, cause):
    with pytest.raises(ValueError, match=cause):
        safetensors_io.write(tmp_path / "a.safetensors", entries)
    assert list(tmp_path.iterdir()) == []


def tensor(dtype="I8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def raw(table, data=b"1234"):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data


DAMAGED = {
    "empty": (b"", "header length"),
    "a pointer to a file elsewhere": (b"version https://git-lfs.github.com/spec/v1\n", "header length"),
    "header beyond the file": ((1 << 40).to_bytes(8, "little") + b"{}", "header length"),
    "header not JSON": (raw(b"{"), "no JSON"),
    "header not text": (raw(b"\xff\xfe"), "no JSON"),
    "header nested too deeply": (raw(b"[" * 100_000), "no JSON"),
    "header not an object": (raw([]), "no JSON object"),
    "metadata not strings": (raw({"__metadata__": {"a": 1}, "a": tensor()}), "__metadata__"),
    "name twice": (raw(b'{"a":%s,"a":%s}' % ((json.dumps(tensor()).encode(),) * 2)), "twice"),
    "unknown dtype": (raw({"a": tensor("I7")}), "unknown dtype 'I7'"),
    "dtype not text": (raw({"a": tensor(["I8"])}), "unknown dtype"),
    "no offsets": (raw({"a": {"dtype": "I8", "shape": [4]}}), "lacks"),
    "three offsets": (raw({"a": tensor(offsets=(0, 2, 4))}), "lacks"),
    "not a tensor": (raw({"a": 1}), "lacks"),
    "negative shape": (raw({"a": tensor(shape=(-2, -2))}), "natural number"),
    "fractional offset": (raw({"a": tensor(offsets=(0, 4.0))}), "natural number"),
    "shape and length differ": (raw({"a": tensor(shape=(5,))}), "4 bytes, which is not I8"),
    "gap": (raw({"a": tensor(shape=(3,), offsets=(1, 4))}), "does not begin"),
    "overlap": (raw({"a": tensor(), "b": tensor(shape=(1,), offsets=(3, 4))}), "does not begin"),
    "data missing": (raw({"a": tensor()}, b"123"), "end at byte"),
    "data left over": (raw({"a": tensor()}, b"12345"), "end at byte"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named_with_its_cause(tmp_path, case):
    content, cause = DAMAGED[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=cause) as error:
        safetensors_io.read_header(path)
    assert str(path) in str(error.value)


def test_missing_files_missing_tensors_and_files_cut_later(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="No such file"):
        safetensors_io.read_header(path)
    safetensors_io.write(path, [("a", "I8", (4,), lambda: b"1234")])
    header = safetensors_io.read_header(path)
    with pytest.raises(CheckpointError, match="no tensor 'b'"):
        safetensors_io.read(path, header, "b")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="ends inside"):
        safetensors_io.read(path, header, "a")


@pytest.mark.parametrize("dtype", sorted(safetensors_io.ITEMSIZE))
def test_every_dtype_is_known_to_the_safetensors_library(tmp_path, dtype):
    size = math.prod((2, 3)) * safetensors_io.ITEMSIZE[dtype]
    path = tmp_path / "a.safetensors"
    safetensors_io.write(path, [("a", dtype, (2, 3), lambda: bytes(size))])
    with safetensors.safe_open(path, "np") as file:
        assert file.get_slice("a").get_shape() == [2, 3]
        assert file.get_slice("a").get_dtype() == dtype
