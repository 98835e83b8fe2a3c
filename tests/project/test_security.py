"""What SECURITY.md promises of the code as it stands: nothing unpickles, runs a model's code or feeds a shell."""

import ast
import re

import pytest

from places import ROOT

PROGRAMS = sorted((ROOT / "workflow").rglob("*.py"))
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "torch.load",
    "numpy.load",
    "np.load",
    "os.system",
    "os.popen",
    "yaml.load",
    "eval",
    "exec",
    "pandas.read_pickle",
}
KEYWORDS = {"shell", "trust_remote_code", "allow_pickle", "unsafe_load"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_unpickles_or_runs_what_it_reads(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & CALLS
            found |= {word.arg for word in node.keywords} & KEYWORDS
    assert not found


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_free_text_reaches_a_shell_quoted(path):
    """What comes from the configuration is quoted; wildcards, and paths made of them, have an alphabet."""
    text = path.read_text()
    free = r"params\.(?:entry|parameters|sources|languages|peers|candidates)|config\[[^}:]*|LANGUAGES"
    assert re.findall(r"(?<!\{)\{(?:" + free + r")\}", text) == []
    assert "os.environ" not in text
    assert not re.search(r"\brun:|\bscript:", text)


def test_every_promise_names_tests_that_exist():
    page = (ROOT / "SECURITY.md").read_text()
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
    named = re.findall(r"`(test_\w+)(…?)`", page)
    assert len(named) > 25
    for name, more in named:
        assert any(other.startswith(name) if more else other == name for other in defined), name
    for pattern in re.findall(r"`(tests/[^`]+)`", page):
        first, _, rest = pattern.partition("{")
        choices, _, last = rest.partition("}")
        for choice in choices.split(",") if rest else [""]:
            assert list(ROOT.glob(f"{first}{choice}{last}".rstrip("/"))), pattern
