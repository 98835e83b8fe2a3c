"""The HTML page and the languages: whole without a network, sortable, and nothing left untranslated."""

import ast
import hashlib
import re
import shutil
import subprocess
from base64 import b64encode
from html.parser import HTMLParser
from string import Formatter

import pytest

from places import LIBRARY
from reports import HARDWARE, PUBLISHED, markdown
from slidesparse.report.document.languages import available, catalogue
from slidesparse.report.write import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REPORT = LIBRARY / "report"

PROBE = """
<script>
const lines = [];
addEventListener("error", (event) => lines.push("error " + event.message));
addEventListener("securitypolicyviolation", (event) => lines.push("request " + event.blockedURI));
addEventListener("load", () => {
  const table = [...document.querySelectorAll("table")].find((t) => t.tHead.textContent.includes("requests/s"));
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[2].textContent).join(" ");
  const button = table.tHead.rows[0].cells[2].querySelector("button");
  lines.push("before " + column());
  button.click();
  lines.push("up " + column());
  button.click();
  lines.push("down " + column());
  const shown = (name) => [...document.querySelectorAll(`figure > ${name}`)].filter((e) => e.clientHeight).length;
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
  lines.push(`whole ${shown(".whole") > 0} parts ${shown(".parts") > 0}`);
  lines.push("resources " + performance.getEntriesByType("resource").length);
  lines.push("wider " + (document.documentElement.scrollWidth - document.documentElement.clientWidth));
  const output = document.createElement("pre");
  output.id = "probe";
  output.textContent = lines.join("\\n");
  document.body.append(output);
});
</script>
</head>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_report(HARDWARE, [PUBLISHED], folder, ("en", "zh"))
    return folder


class Links(HTMLParser):
    """Everything in a page that a browser might fetch or follow."""

    def __init__(self):
        super().__init__()
        self.fetched, self.followed, self.ids = [], [], set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name in ("src", "href", "xlink:href", "data", "srcset", "poster"):
            value = attributes.get(name)
            if value and not (value.startswith(("data:", "#"))):
                (self.followed if tag == "a" else self.fetched).append(value)
        self.ids.add(attributes.get("id"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_needs_nothing_else(pages, language):
    text = (pages / f"report.{language}.html").read_text()
    links = Links()
    links.feed(text)
    assert links.fetched == []
    assert all((pages / target).is_file() for target in links.followed)
    assert {target[1:] for target in re.findall(r'<a class="l\d" href="([^"]+)"', text)} <= links.ids
    assert "url(http" not in text
    assert "@import" not in text
    assert f'<html lang="{language}">' in text
    assert text.count("<figure aria-label=") == len(list((pages / "report").glob("*.svg")))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(pages, tmp_path, width):
    page = tmp_path / "page.html"
    script = re.search("<script>(.*?)</script>", PROBE, re.DOTALL)[1].encode()
    allowed = f"script-src 'sha256-{b64encode(hashlib.sha256(script).digest()).decode()}' "
    text = (pages / "report.en.html").read_text().replace("script-src ", allowed, 1)
    page.write_text(text.replace("</head>", PROBE, 1))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--window-size={width},1000", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1].splitlines()
    values = ["7,790", "16,034", "31,494", "47,154", "53,580", "53,233", "54,528"]
    rising = ["7,790", "16,034", "31,494", "47,154", "53,233", "53,580", "54,528"]
    assert found[:3] == [f"before {' '.join(values)}", f"up {' '.join(rising)}", f"down {' '.join(rising[::-1])}"]
    wide = width > 600
    assert found[3:] == [f"whole {str(wide).lower()} parts {str(not wide).lower()}", "resources 0", "wider 0"]


def test_on_narrow_screens_the_panels_of_a_figure_lie_below_one_another(pages):
    """Each piece shows a part of the whole, which is in the page once."""
    text = (pages / "report.en.html").read_text()
    figures = re.findall(
        r'<div class="whole"><svg id="([^"]+)"(.*?)</div><div class="parts" [^>]*>(.*?)</div>', text, re.S
    )
    assert figures
    for name, whole, parts in figures:
        pieces = re.findall(r'<svg viewBox="([^"]+)" style="width: ([0-9.]+)%"><use href="#([^"]+)"', parts)
        assert {target for *_, target in pieces} == {name}
        assert len(pieces) >= whole.count('<g class="axes"') and len(pieces) >= 2
        assert all(0 < float(share) <= 100 for _, share, _ in pieces)
        width, height = map(float, re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', whole).groups())
        for box in (list(map(float, box.split())) for box, *_ in pieces):
            assert box[0] >= 0 and box[1] >= -1 and box[0] + box[2] <= width + 5 and box[1] + box[3] <= height + 1


# Languages.


def said():
    """Every sentence that the report's modules and templates say."""
    found = set()
    for path in REPORT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say"
            if called and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    for path in (REPORT / "document" / "templates").glob("*.jinja"):
        found |= set(re.findall(r'say\("([^"]+)"\)', path.read_text()))
    return found


def names(sentence):
    return sorted(name for _, name, _, _ in Formatter().parse(sentence) if name)


@pytest.mark.parametrize("language", [language for language in available() if language != "en"])
def test_every_sentence_has_its_translation(language):
    known = catalogue(language)
    assert said() - known.keys() == set()
    assert {english for english, other in known.items() if names(english) != names(other)} == set()


def test_the_chinese_report_has_the_same_figures():
    english, _ = markdown(PUBLISHED)
    chinese, _ = markdown(PUBLISHED, language="zh")
    assert "总计 70/70" in chinese
    assert "6 成功、0 失败、2 跳过；总耗时 7927.3 秒（2.20 小时）。" in chinese

    def cells(text):
        return [re.findall(r"\d[\d,.]*", line) for line in text.splitlines() if re.match(r"\| \d", line)]

    assert cells(english) == cells(chinese)
    heads = {line for line in chinese.splitlines() if line.startswith("|") and "---" not in line}
    words = {"stage", "reason", "bound", "duration (s)", "backend/sparsity", "hardware", "failed", "success"}
    assert not {word for line in heads for word in re.split(r"\s*\|\s*", line)} & words
