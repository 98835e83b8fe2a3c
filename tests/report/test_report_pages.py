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
from slidesparse.report.document.languages import available, catalogue, speaker
from slidesparse.report.document.model import joined, say
from slidesparse.report.document.render import breakable
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
    assert text.count("<figure aria-label=") == len(
        [path for path in (pages / "report").glob("*.svg") if "@" not in path.name]
    )


def test_those_who_hear_the_page_know_each_table_and_can_skip_the_contents(pages):
    text = (pages / "report.en.html").read_text()
    assert text.count("<table") == len(re.findall(r"<table[^>]*><caption>[^<]+", text)) > 9
    assert re.search('<body>\\s*<a class="skip" href="#main">[^<]+</a>', text)
    assert '<main id="main"' in text


def test_without_a_script_nothing_is_offered_that_does_nothing(pages):
    """Column heads become buttons by the script. Links open folded parts, and keys scroll wide tables."""
    text = (pages / "report.en.html").read_text().partition("<script>")[0]
    assert "<button" not in text
    assert "<details id" not in text  # a link opens a folded part that holds its target, and none that is its target
    assert (
        len(re.findall('<div class="table[ "]', text)) == text.count('role="group"') == text.count('tabindex="0"') > 9
    )


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("580.159.04", ["580.159.04"]),
        ("1.20 (1.18–1.22)", ["1.20 (1.18–1.22)"]),
        ("cusparselt/2_10", ["cusparselt/2_10"]),
        ("m/INT8/cusparselt/2_10", ["m/", "INT8/", "cusparselt/", "2_10"]),
        ("H200_cc90_py312_cu130", ["H200_", "cc90_", "py312_", "cu130"]),
        ("0c17f3b0eb09e5e3973f", ["0c17f3b0eb", "09e5e3973f"]),
    ],
)
def test_on_paper_only_long_words_are_broken(text, pieces):
    assert breakable(text).split("<wbr>") == pieces


@pytest.mark.skipif(not (CHROMIUM and shutil.which("pdftotext")), reason="no Chromium or no pdftotext here")
def test_a_print_is_on_A4_and_breaks_no_number(pages, tmp_path):
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={tmp_path / 'page.pdf'}"]
    subprocess.run([*command, (pages / "report.en.html").as_uri()], capture_output=True, timeout=60, check=True)
    run = subprocess.run(["pdftotext", "-bbox", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True)
    sizes = {
        tuple(round(float(each)) for each in size)
        for size in re.findall('page width="(.*?)" height="(.*?)"', run.stdout)
    }
    assert sizes == {(595, 842)}
    words = set(re.findall(">([^<]+)</word>", run.stdout))
    assert {"cusparselt/2_8", "Python", "capability"} <= words
    ends = [float(end) for end in re.findall('xMax="([0-9.]+)"', run.stdout)]
    assert max(ends) <= 595


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


def test_chinese_sentences_have_full_width_marks_and_leave_the_words_of_others_alone():
    chinese = speaker("zh")
    times = say("{span} times as fast", span="1.1")
    some = say(
        "{times} (some from M={first} on, {early} below {last})", times=times, first=1024, early="1.03", last=2048
    )
    pays = say("{names} pay, from M={since} on, {times}", names="2:4, 2:4 auto", since=2048, times=some)
    lose = say("{names} lose", names="2:6, 2:8")
    both = joined([joined([pays, lose]), lose], " ")
    since = "2:4、2:4 auto 自 M=2048 起划算，1.1 倍（部分自 M=1024 起，2048 以下为 1.03）"
    assert chinese(both) == f"{since}；2:6、2:8 不划算 2:6、2:8 不划算"
    log = "error: no such file, or it is empty; see the log"
    assert log in chinese(say("{names} unknown", names=log))


def test_one_thing_has_one_name_in_chinese():
    texts = [*catalogue("zh").values()]
    assert not [
        text for text in texts if re.search("挂钟|按时钟|整个线性层|完整线性(?!层)|词元/秒|(?<![/a-z])token(?!s)", text)
    ]
    assert not [text for text in texts if re.search("[\u4e00-\u9fff][;,]|[;,] ?[\u4e00-\u9fff]", text)]


def test_a_figure_that_a_chinese_page_links_is_chinese(pages):
    linked = re.findall(r"\]\((report/[^)]+\.svg)\)", (pages / "report.zh.md").read_text())
    assert len(linked) > 9
    drawn = "".join((pages / name).read_text() for name in linked)
    assert ">相对 cublaslt/dense 的加速比</text>" in drawn and ">speed-up" not in drawn


def test_words_inside_a_figure_are_in_the_language_of_the_page(pages):
    english, chinese = ((pages / f"report.{language}.html").read_text() for language in ("en", "zh"))
    for text in (">speed-up over cublaslt/dense</text>", ">tokens/s</text>"):
        assert text in english
    assert ">相对 cublaslt/dense 的加速比</text>" in chinese
    assert ">speed-up" not in chinese
    assert re.findall(r">([\d.]+)</text>", english) == re.findall(r">([\d.]+)</text>", chinese)
