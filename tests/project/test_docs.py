"""The pages of this project: as long as they may be, with links that lead somewhere and recipes that work."""

import re
import subprocess

import pytest

from places import ROOT
from slidesparse.machine import hardware
from workflow_clone import PATIENCE, Clone

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "config" / "README.md"])


def anchors(text):
    """What a link to a heading of a page may name, by GitHub's rules."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            other = page.parent / name if name else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other.read_text()), target


@pytest.mark.parametrize(("page", "lines"), [("README.md", 110), ("docs/contributing.md", 90)])
def test_a_page_is_as_long_as_a_reader_has_time(page, lines):
    assert len((ROOT / page).read_text().splitlines()) <= lines


def test_the_readme_answers_its_question_at_once():
    first = (ROOT / "README.md").read_text().splitlines()[:40]
    rows = [line for line in first if line.startswith("| 2:")]
    assert len(rows) >= 3 and all(re.search(r"\| \d\.\d\d \|", row) for row in rows)
    assert all(len(line) <= 120 for line in first)
    assert "?" in first[2]


@pytest.mark.workflow
@pytest.mark.skipif(hardware.detect().gpu, reason="one of the commands is for a CPU")
def test_the_commands_of_the_readme_can_be_pasted(tmp_path):
    """Snakemake plans what each of them asks for. Those that only read do what they do."""
    clone = Clone.of_working_tree(tmp_path / "clone")
    section = (ROOT / "README.md").read_text().partition("## Run a part of it")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    commands = [command for row in rows for command in re.findall(r"`((?:snakemake|python) [^`]+)`", row)]
    assert len(commands) == 6 and not any("{" in command for command in commands)
    for command in commands:
        command = command.replace("snakemake --cores 1", "snakemake --dry-run")
        done = subprocess.run(
            ["bash", "-euc", command], cwd=clone.directory, env=clone.environment, capture_output=True, text=True
        )
        nothing_yet = "show_status.py: results/*/plan.json is not there: nothing has been run yet"
        assert done.returncode == 0 or nothing_yet in done.stderr, command + done.stdout[-2000:] + done.stderr[-2000:]
        assert "MissingRuleException" not in done.stdout + done.stderr
        if "--quiet" in command or "--plan" in command:
            assert len(done.stdout.splitlines()) <= 45


def test_a_decision_is_read_in_half_a_minute():
    rooms = re.split(r"^## ", (ROOT / "docs" / "decisions.md").read_text(), flags=re.MULTILINE)[1:]
    entries = [entry for room in rooms for entry in re.split(r"^### ", room, flags=re.MULTILINE)[1:]]
    assert len(entries) > 50
    long = [entry.splitlines()[0] for entry in entries if len(entry.partition("\n")[2].split()) > 80]
    assert not long


@pytest.mark.workflow
@pytest.mark.engine
@pytest.mark.skipif(hardware.detect().gpu, reason="the recipes measure on the CPU")
def test_the_recipes_of_contributing_work(tmp_path):
    """A backend that somebody adds is planned, tuned, checked, timed and reported in all three stages."""
    clone = Clone.of_working_tree(tmp_path / "clone")
    blocks = re.findall(
        r"^```bash\n(.*?)^```$", (clone.directory / "docs" / "contributing.md").read_text(), re.M | re.S
    )
    assert len(blocks) == 4
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=clone.directory,
            env=clone.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, block + done.stdout[-4000:] + done.stderr[-4000:]
    made = {path.split("/")[2]: path for path in clone.points() if "/mine/dense/" in path}
    assert made.keys() == {"kernel", "prefill", "decode"}
    assert "mine/dense" in clone.report()
    assert any("mine" in figure.read_text() for figure in clone.directory.glob("results/*/report/*.svg"))
