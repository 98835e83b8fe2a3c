"""Names that lead elsewhere, and what is no file: a pipe, a device, an endless file, text that is a trap."""

import os
from pathlib import Path

import pytest

import synthetic
from hostile import CLIMBING
from reports import ours
from slidesparse import files
from slidesparse.errors import RecordError, SlideSparseError
from slidesparse.points import strict
from slidesparse.report.write import write_reports


@pytest.mark.parametrize("name", [*CLIMBING, None, 7, "\ud800", "\u202egnp.exe"])
def test_a_name_in_data_never_leads_out_of_its_folder(tmp_path, name):
    with pytest.raises(RecordError, match="is no plain name of a file"):
        files.inside(tmp_path, "a", name)
    assert files.inside(tmp_path, "a", "BitNet-2B.json") == tmp_path / "a" / "BitNet-2B.json"


@pytest.fixture(params=["pipe", "link to a pipe", "device", "endless file", "folder"])
def no_file(request, tmp_path):
    """Makes something at a path that never ends when it is read."""

    def make(path):
        path.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "folder":
            path.mkdir()
        else:
            with open(path, "wb") as stream:
                stream.truncate(files.READ_LIMIT + 1)

    return make


def test_reports_name_what_is_no_file_and_go_on(tmp_path, no_file):
    root = ours(tmp_path / "results")
    other = synthetic.path(root, "prefill", 99)
    no_file(other)
    refused = write_reports(root, [root])
    assert any(str(other) in sentence for sentence in refused)
    assert "BitNet-2B" in (root / synthetic.HARDWARE / "report.en.md").read_text()


@pytest.mark.parametrize(
    "read",
    [files.read_json, strict.read_json, files.read_text, strict.read_text],
    ids=["json", "strict json", "text", "strict text"],
)
def test_what_is_no_file_is_not_read(tmp_path, no_file, read):
    no_file(tmp_path / "x.json")
    with pytest.raises((SlideSparseError, OSError)):
        read(tmp_path / "x.json")


def test_what_is_no_file_is_not_hashed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        files.sha256_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[" * 100_000, "nests deeper"),
        ('{"a": ' * 70 + "1" + "}" * 70, "nests deeper"),
        ('{"a": 1, "a": 2}', "a name twice"),
        ("1" * 5000, "5000 digits"),
        ('{"a": ' + "1" * 5000 + "}", "5000 digits"),
        ('{"a": 1e999}', "beyond all numbers"),
        ('{"a": NaN}', "is no number"),
        ('{"a": "\\ud800"}', "half a character"),
    ],
    ids=["brackets", "objects", "twice", "digits", "digits inside", "infinity", "no number", "surrogate"],
)
def test_json_that_is_a_trap_is_one_sentence(tmp_path, text, cause):
    (tmp_path / "x.json").write_text(text)
    for read in (files.read_json, strict.read_json):
        with pytest.raises(SlideSparseError, match=cause) as error:
            read(tmp_path / "x.json")
        assert "\n" not in str(error.value)


def test_library_reads_files_of_others_in_one_way_only():
    """Bare reads are left only where the file is the program's own, the system's, or has been checked before."""
    import ast

    own = {"files.py", "machine/hardware.py", "machine/visible.py", "worker/resident.py", "worker/devices.py"}
    own |= {"tuning/table.py", "gemm/build.py", "gemm/library.py", "plan/schema.py", "points/validate.py"}
    own |= {"report/document/render.py", "report/document/languages/__init__.py"}
    root = Path(files.__file__).parent
    found = set()
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            reads = name.endswith((".read_text", ".read_bytes", "json.load")) or name == "open"
            writes = name == "open" and len(node.args) > 1 and ast.unparse(node.args[1]) in ("'wb'", "'ab'")
            if reads and not writes and not name.startswith("files."):
                found.add(f"{path.relative_to(root).as_posix()}: {ast.unparse(node)}")
    left = {line for line in found if line.partition(":")[0] not in own}
    assert left == {
        "models/store.py: open(item, 'rb')",
        "program.py: Path(f'/proc/{int(pid)}/stat').read_text(encoding='utf-8')",
        "program.py: (entry / 'cmdline').read_bytes()",
        "report/tables/gather.py: path.read_bytes()",
    }, left
