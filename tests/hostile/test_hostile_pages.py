"""Names and figures of others in a report: nothing of them runs, becomes a link or a heading, or ends the report."""

import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import synthetic
from reports import ours
from slidesparse.files import write_json
from slidesparse.report.document import drawing
from slidesparse.report.document.model import Table
from slidesparse.report.document.render import code, markdown_block, markdown_cell, to_csv
from slidesparse.report.write import write_reports

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\n# a heading\n",
    "a | b | c",
    "`` <img src=x onerror=alert(1)> `",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "https://evil.example/?leak",
    "www.evil.example",
    "me@evil.example",
    "\x1b[2J\u202eevil",
    "&lt;script&gt;",
    "$\\frac{",
    "{0.__class__}",
    "=HYPERLINK(1)",
    "___",
    "1. a list",
    "'\" onmouseover=alert(1) x='",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "</title><base href=//evil.example>",
    "]]><svg onload=alert(1)>",
]


class Active(HTMLParser):
    """What of a page could run, load or lead elsewhere."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag in ("script", "img", "iframe", "object", "embed", "form", "base", "image", "foreignobject", "animate"):
            self.found.append(tag)
        if tag == "meta" and names.get("http-equiv", "").lower() == "refresh":
            self.found.append("refresh")
        self.found += [f"{tag} {name}" for name in names if name.startswith("on")]
        for name in ("href", "xlink:href", "src", "action"):
            if re.match(r"\s*(?:[a-z]+:|//)", names.get(name) or "", re.I) and not names[name].startswith("data:,"):
                self.found.append(f"{tag} {name}={names[name]}")


def active(page):
    parser = Active()
    parser.feed(page)
    return parser.found


@pytest.mark.parametrize("text", EVIL)
def test_text_of_others_is_text_in_markdown_and_in_html(text):
    for line in (markdown_cell(text), markdown_block(text), markdown_block(f"before `{text}` after")):
        outside = "".join(re.split(r"`[^`]+`", line)[::2])
        assert "\n" not in line and line.isprintable()
        assert not re.search(r"[<>\[\]]|(?<!\\)\||https?://|www\.|@", outside), line
        assert all(not set("<>&|") & set(span) for span in re.findall(r"`([^`]+)`", line))
    assert not re.match(r"[#+*=~-]", markdown_block(text))
    assert active(f"<p>{code(text)}</p>") == []


def test_text_of_ours_stays_as_it_is():
    text = "`results/x_y`: 2:4 over our dense, M = 512 (1.2-1.3), qkv and gate_up"
    assert markdown_cell(text) == markdown_block(text) == text


@pytest.mark.parametrize("text", ["y;=1+1", "y\t@x", "a;b;-2", "=1;=2"])
def test_a_text_is_no_formula_behind_another_separator(text):
    table = Table("x", ("a",), [(text,)], "l")
    for separator in (",", ";", "\t"):
        for row in csv.reader(to_csv(table).splitlines(), delimiter=separator):
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


def test_heads_of_tables_are_no_formulas_either():
    table = Table("x", ("M", "=cmd|x!a1/dense", "＝1"), [(1, "@x", "-1")])
    assert to_csv(table).splitlines() == ["M,'=cmd|x!a1/dense,'＝1", "1,'@x,'-1"]


def evil(root, text):
    """Results in which everything that can hold text holds `text`."""
    plain = "".join(character for character in text if character not in "/\0\n")[:60]
    names = {"model": f"m{plain}", "backend": f"b{plain}", "sparsity": f"s{plain}"}
    for stage in ("prefill", "decode", "kernel"):
        for M in (512, 1024):
            for place in ({}, names):
                file = synthetic.path(root, stage, M, **place)
                point = synthetic.point(file)
                point["hardware"] |= {"driver": text} | (
                    {} if stage == "decode" else {"name": text}
                )  # or all are refused
                point["software"] |= {"torch": text, "vllm": text}
                write_json(file, point)
        failed = synthetic.path(root, stage, 2048)
        write_json(failed.with_suffix(".failed.json"), {"reason": text, "log": text, "utc": text})
    folder = root / synthetic.HARDWARE
    (folder / "tuning" / f"m{plain}" / "INT8" / "x").mkdir(parents=True)
    (folder / "tuning" / f"m{plain}" / "INT8" / "x" / f"{plain}.csv").write_text(f"{text}\n")
    write_json(root / "models" / f"m{plain}" / "manifest.json", {"source": {"kind": text}, "files": {text: {}}})
    write_json(root / "models" / f"m{plain}" / "shape.json", {"linears": [text]})
    write_json(root / "checkpoints" / "BitNet-2B" / "INT8" / "2_8.json", {"layers": text, "weights": text})
    left = [{"what": text, "reason": text}]
    write_json(folder / "plan.json", {"points": {}, "left_out": left, "parameters": {}, "shapes": {}})


@pytest.mark.parametrize("text", EVIL)
def test_a_report_of_hostile_results_runs_nothing(tmp_path, text, monkeypatch):
    monkeypatch.setattr(drawing, "draw", lambda panels, path, key: drawn_quickly(panels, path))
    root = tmp_path / "results"
    evil(root, text)
    write_reports(root, [root], languages=["en", "zh"])
    pages = [*root.rglob("*.html")]
    assert len(pages) == 4
    for page in pages:
        assert active(page.read_text()) == ["script"], page
        assert "script-src 'sha256-" in page.read_text()
    for page in root.rglob("*.md"):
        lines = page.read_text().splitlines()
        outside = [re.sub(r"`[^`]+`", "", line) for line in lines]
        assert not any(re.search(r"<|https?://|\]\(javascript|^# a heading", line) for line in outside), page
    for file in root.rglob("report/*.csv"):
        for row in csv.reader(file.read_text().splitlines()):
            assert not any(cell.startswith(("=", "@")) for cell in row), file


def drawn_quickly(panels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<svg></svg>")


def test_a_report_draws_hostile_names(tmp_path):
    root = tmp_path / "results"
    evil(root, "$\\frac{<script>alert(1)</script><img src=x onerror=alert(1)>")
    write_reports(root, [root])
    figures = [*root.rglob("*.svg")]
    assert figures
    assert all(active(figure.read_text()) == [] for figure in figures)
    assert all(active(page.read_text()) == ["script"] for page in root.rglob("*.html"))


# Figures.

SCRIPT = '<svg xmlns="http://www.w3.org/2000/svg"><script>document.title = "run"</script><!-- {key} --></svg>'


def test_a_figure_that_somebody_else_drew_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = ours(tmp_path / "results")
    write_reports(root, [root])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.svg")}
    write_reports(root, [root])
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.svg")} == before
    for path, (svg, _) in before.items():
        key = re.search(rb"<dc:identifier>(\w+)", svg)[1].decode()
        path.write_text(SCRIPT.format(key=key))
    write_reports(root, [root])
    assert {path: path.read_bytes() for path in before} == {path: svg for path, (svg, _) in before.items()}
    assert not any("document.title" in page.read_text() for page in root.rglob("*.html"))


def test_a_folder_with_figures_of_others_is_not_taken_for_ours(tmp_path):
    root = ours(tmp_path / "results")
    folder = root / synthetic.HARDWARE / "report"
    folder.mkdir()
    (folder / "evil.svg").write_text(SCRIPT)
    with pytest.raises(Exception, match=r"evil\.svg was not made by this program"):
        write_reports(root, [root])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_runs_nothing_of_others(tmp_path):
    root = tmp_path / "results"
    evil(root, "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>")
    write_reports(root, [root])
    page = root / synthetic.HARDWARE / "report.en.html"
    forced = tmp_path / "forced.html"  # as if escaping had been forgotten
    forced.write_text(page.read_text().replace("<main>", "<main><script>document.title = 'run'</script>", 1))
    for file in (page, forced):
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "<title>run" not in done.stdout
        assert Path(file).stem and "<h1>" in done.stdout
