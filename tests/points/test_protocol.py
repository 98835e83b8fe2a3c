"""No figure changes its meaning unnoticed: code that measures changes only together with its protocol's version.

protocol.json, beside this file, holds for every stage the version and the sha256 of the code that decides its figures.
Comments, docstrings and layout do not count. `python tests/points/test_protocol.py --write` stores what is there now.
"""

import ast
import hashlib
import json
import re
import sys

import pytest

from places import ROOT
from slidesparse.points.request import PROTOCOL

STORED = ROOT / "tests" / "points" / "protocol.json"

LIBRARY = "workflow/slidesparse"
ALL = (
    "timing/**/*",
    "gemm/**/*",
    "operators/**/*",
    "tuning/search.py",
    "tuning/table.py",
    "worker/handlers.py",
    "machine/settings.py",
)
ALL += ("sparsity/patterns.py", "sparsity/quantize.py", "sparsity/slide.py")
GEMM = tuple(f"{LIBRARY}/{name}" for name in (*ALL, "kernel/**/*", "sparsity/prune.py")) + ("csrc/**/*",)
OF_ENGINES = ("engine/*", "vllm_plugin/**/*", "tuning/choices.py", "plan/stock.py")
ENGINE = tuple(f"{LIBRARY}/{name}" for name in (*ALL, *OF_ENGINES)) + ("csrc/**/*",)
QUALITY = (*ENGINE, f"{LIBRARY}/engine/quality/*")
TASK = (*ENGINE, f"{LIBRARY}/engine/tasks/*")
CODE = {"tune": GEMM, "kernel": GEMM, "prefill": ENGINE, "decode": ENGINE, "quality": QUALITY, "task": TASK}
"""stage: patterns of the files that decide its figures. Checkpoints are inputs; what converts is not among them."""


def files(patterns, root=ROOT):
    """The files that match, sorted; a folder may be absent, a named file may not."""
    found = set()
    for pattern in patterns:
        matches = [path for path in root.glob(pattern) if path.is_file()]
        assert matches or "*" in pattern, f"{pattern}, which decides figures, is gone: correct this test"
        found.update(path for path in matches if path.suffix not in (".md", ".pyc"))
    return sorted(found)


def sha256(patterns, root=ROOT):
    """sha256 of the names and contents of the files that match, of Python files without comments and docstrings."""
    state = hashlib.sha256()
    for path in files(patterns, root):
        text = path.read_text()
        content = json.dumps(structure(ast.parse(text))) if path.suffix == ".py" else text
        state.update(json.dumps([path.relative_to(root).as_posix(), content]).encode())
    return state.hexdigest()


def structure(node):
    """A syntax tree as lists, the same in every Python from 3.11 on, without strings that stand for themselves."""
    if isinstance(node, list):
        return [structure(item) for item in node if not is_remark(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    values = {name: getattr(node, name, None) for name in sorted(node._fields) if name != "type_comment"}
    return [type(node).__name__] + [
        [name, structure(value)] for name, value in values.items() if value not in (None, [])
    ]


def is_remark(node):
    """Whether a statement is a string, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def current():
    """What tests/points/protocol.json should hold."""
    return {"versions": dict(PROTOCOL), "sha256": {stage: sha256(CODE[stage]) for stage in PROTOCOL}}


def complaint(stage, stored, now):
    """What is wrong with a stage and what to do about it, or None."""
    old, new = (both["versions"].get(stage) for both in (stored, now))
    changed = stored["sha256"].get(stage) != now["sha256"][stage]
    write = "run `python tests/points/test_protocol.py --write`"
    if changed and old == new:
        return (
            f"code that decides the figures of {stage} has changed since protocol version {old} was recorded: raise"
            f' PROTOCOL["{stage}"] in workflow/slidesparse/points/request.py, so that no old figure is taken for a new'
            f" one, and {write}"
        )
    if changed or old != new:
        return f"version {new} of the protocol of {stage} is not recorded yet: {write}"
    return None


@pytest.mark.parametrize("stage", PROTOCOL)
def test_the_protocol_has_a_new_version_when_its_code_changes(stage):
    problem = complaint(stage, json.loads(STORED.read_text()), current())
    assert not problem, problem


def test_every_stage_has_its_code():
    assert CODE.keys() == PROTOCOL.keys()


def test_a_change_without_a_version_gets_its_sentence():
    recorded = {"versions": {"decode": 3}, "sha256": {"decode": "a"}}
    changed = {"versions": {"decode": 3}, "sha256": {"decode": "b"}}
    raised = {"versions": {"decode": 4}, "sha256": {"decode": "b"}}
    assert complaint("decode", recorded, recorded) is None
    assert re.search(r'raise PROTOCOL\["decode"\] .* run `python .* --write`', complaint("decode", recorded, changed))
    assert "version 4" in complaint("decode", recorded, raised)
    assert complaint("decode", raised, raised) is None


BASE = 'LIMIT = 3\n\n\ndef f(x):\n    """Doc."""\n    return x * LIMIT\n'


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (BASE, True),
        (BASE.replace("Doc", "Other"), True),
        (BASE.replace("= 3\n", '= 3  # a comment\n"""What it is."""\n'), True),
        (BASE.replace("x * LIMIT", "(x * LIMIT)"), True),
        (BASE.replace("3", "4"), False),
        (BASE.replace("3", '"""3"""'), False),
        (BASE.replace("return x", "return -x"), False),
    ],
)
def test_remarks_and_layout_do_not_count(tmp_path, text, same):
    hashes = []
    for version in (BASE, text):
        (tmp_path / "m.py").write_text(version)
        hashes.append(sha256(("*.py",), tmp_path))
    assert (hashes[0] == hashes[1]) == same


def test_other_files_and_names_count_whole(tmp_path):
    hashes = set()
    for name, text in (("a.cu", "int a;\n"), ("a.cu", "int a;  // b\n"), ("b.cu", "int a;\n")):
        path = tmp_path / name
        path.write_text(text)
        hashes.add(sha256(("*",), tmp_path))
        path.unlink()
    assert len(hashes) == 3


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("test_protocol.py: say --write to record the versions and the code that are there now")
    STORED.write_text(json.dumps(current(), indent=1) + "\n")
