"""Opens the report in a real browser, by Chromium's debugging pipe: the first screen, tabs, keys, contrast, print,
downloads, requests, overflow, nothing hostile runs; the interactive plot by pointer and keys."""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from mnprobe.analysis.figures.curve import draw_curve
from mnprobe.analysis.report import write_report
from mnprobe.analysis.tables.alignment import write_table
from mnprobe.analysis.tsne.embedding import TsneConfig
from mnprobe.analysis.tsne.maps import TsneInput, draw_tsne
from mnprobe.core.rundir import RunDir
from mnprobe.probe import load_pair

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += [
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
EVIL = '<script>document.title="hacked"</script><img src="http://127.0.0.1:9/x" onerror="document.title=\'hacked\'">'

MEASURE = """JSON.stringify({
  title: document.title,
  images: [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth]),
  wide: document.documentElement.scrollWidth, inner: document.documentElement.clientWidth,
  out: [...document.querySelectorAll('body *')].filter(n => !n.closest('.scroll, pre, nav')
        && n.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
       .map(n => n.tagName + '.' + n.className),
  scripts: document.scripts.length,
  dark: getComputedStyle(document.body).backgroundColor,
  hit: [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href'))),
})"""


class Browser:
    """The least of Chromium's DevTools protocol that is needed here; messages end with a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        child_in, self._write = self._pipe()
        self._read, child_out = self._pipe()

        # Chromium reads commands from descriptor 3 and answers on 4.
        command = f'exec "$@" 3<&{child_in} 4>&{child_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(child_in, child_out),
        )
        os.close(child_in)
        os.close(child_out)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, object]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    @staticmethod
    def _pipe():
        """Both ends with numbers above 4, which the child needs for itself."""
        ends = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends]
        for end in ends:
            os.close(end)
        return high

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, event):
        while not any(one.get("method") == event for one in self.events):
            self.events.append(self._next())

    def _go(self, address):
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")

    def open(self, address, width, *, height=900, dark=False, measure=True):
        self._go("about:blank")  # from the same page with another fragment, nothing would be loaded
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._go(address)
        if not measure:
            return None
        found = json.loads(self.call("Runtime.evaluate", expression=MEASURE)["result"]["value"])
        sent = [
            one["params"]["request"]["url"] for one in self.events if one.get("method") == "Network.requestWillBeSent"
        ]
        return found, sent

    def run(self, script):
        """The value of a script in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script):
        """Wait until the script gives something true, and give it."""
        deadline = time.monotonic() + 60
        while not (found := self.run(script)):
            if time.monotonic() > deadline:
                raise AssertionError(f"never true: {script}")
            time.sleep(0.05)
        return found

    def move(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x, y):
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys):
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9}
        for key in keys:
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            code = {"windowsVirtualKeyCode": codes.get(key, ord(key[0])), "key": key}
            self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def complaints(self):
        """What the console would show in red: errors, uncaught exceptions, refusals of the policy."""
        found = []
        for one in self.events:
            about = one.get("params", {})
            if one.get("method") == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
            elif one.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(about["entry"]["text"])
            elif one.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                found.append(str(about["args"]))
        return found

    def close(self):
        self._session = None
        os.write(self._write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next(self):
        deadline = time.monotonic() + 60
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._read, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError("the browser does not answer")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None or shutil.which("bash") is None:
        pytest.skip("no Chromium on the PATH: the report is not opened in a browser")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory, write_trained, write_pair, alignment_table, many_instructions):
    """A report with hostile names, two figures, 54 instructions and long words."""
    run = RunDir(write_trained(tmp_path_factory.mktemp("report") / ("long-name-" * 12 + "'\"onload=x <b>")))
    pairs = [(task, instruction if i else EVIL) for i, (task, instruction) in enumerate(many_instructions)]
    paths = write_pair(run.path, pairs, each=2)
    table = alignment_table(steps=(0, 1000)).replace({"execution": {"arp": EVIL.replace("/", "")}})
    write_table(table, run.results("alignment"))
    write_table(pd.DataFrame({"x" * 300: ["y" * 900], EVIL: [EVIL]}), run.results("words"))
    draw_curve(run.results("alignment"), stem=run.figures / "curve", table=run.results("curve"), command="z" * 400)
    quick = TsneConfig(iterations=20, exaggeration_iterations=20)
    inputs = [TsneInput(pair=load_pair(*paths))]
    draw_tsne(inputs, stem=run.figures / "tsne", table=run.results("tsne"), space="raw", config=quick)
    return write_report(run).path


def test_a_bad_page_would_be_caught(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<title>t</title><p style='width:3000px'>wide</p><img src='http://127.0.0.1:9/x'><script>1</script>"
    )
    found, sent = browser.open(page.as_uri(), 400)
    assert found["wide"] > 400
    assert found["out"] == ["P."]
    assert found["scripts"] == 1
    assert found["images"][0][1] == 0
    assert "http://127.0.0.1:9/x" in sent


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_whole_asks_for_nothing_and_never_overflows(browser, report, width):
    found, sent = browser.open(report.as_uri() + "#alignment", width)
    assert [image[0] for image in found["images"]] == [True, True]
    for _, natural, high, _ in found["images"]:
        assert natural > 300
        assert high > 300
    natural, shown = found["images"][0][1], found["images"][0][3]  # the other is in another tab
    assert 200 < shown <= max(width, 0.45 * natural + 1)  # a wide figure scrolls in its frame, readable
    assert found["inner"] == width
    assert found["wide"] <= width
    assert found["out"] == []
    assert found["hit"]
    assert [url[:40] for url in sent if not url.startswith("data:")] == [report.as_uri()[:40]]


def test_nothing_hostile_runs(browser, report):
    found, sent = browser.open(report.as_uri(), 1280)
    assert found["scripts"] == 4  # of the page, data, the packed library, of the plot
    assert found["title"].endswith("mnprobe report")
    assert not [url for url in sent if url.startswith("http")]


def test_it_follows_light_and_dark(browser, report):
    light, dark = (browser.open(report.as_uri(), 1280, dark=dark)[0]["dark"] for dark in (False, True))
    assert light == "rgb(255, 255, 255)"
    assert dark == "rgb(20, 24, 28)"


# ---- the page of a study --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_trained, write_pair, many_instructions):
    """The report of a study with two trainings, in which all five questions were measured, with three figures."""
    run = RunDir(write_trained(tmp_path_factory.mktemp("study") / "run"))
    for training in ("baseline", "joint"):
        write_pair(run.path, many_instructions[:12], understanding=f"viclip-{training}", execution=f"arp-{training}")
    tables = {"recognition": run.results("recognition"), "success": run.results("success")}
    draw_curve(run.results("alignment"), stem=run.figures / "curve", table=run.results("curve"), **tables)
    for name in ("controls", "success"):
        for end in ("png", "svg"):
            shutil.copyfile(run.figures / f"curve.{end}", run.figures / f"{name}.{end}")
    return write_report(run).path


TABS = ("overview", "alignment", "outcomes", "controls", "models", "tsne", "similarity", "ablation", "method")
BOXES = "(names => names.map(name => document.querySelector(name).getBoundingClientRect().toJSON()))"


def test_the_first_screen_holds_five_answers_and_the_curve(browser, study):
    browser.open(study.as_uri(), 1280, height=800)
    assert browser.run("[document.documentElement.scrollHeight, innerHeight]") == [800, 800]
    cards = browser.run("[...document.querySelectorAll('.card')].map(n => n.getBoundingClientRect().toJSON())")
    assert len(cards) == 5
    for box in [*cards, *browser.run(BOXES + "(['#curve > svg', '.facts-line', '.warnings'])")]:
        assert box["width"] > 200
        assert box["height"] > 15
        assert box["top"] >= 0
        assert box["bottom"] <= 800
    words = browser.run("[...document.querySelectorAll('.answer-word')].map(n => n.innerText.trim())")
    assert all(len(one.split()) >= 2 for one in words)  # a sign and a word: color is not needed to read them
    assert browser.run("document.querySelectorAll('.card .range').length") > 8
    assert browser.run("[...document.querySelectorAll('section.tab')].filter(n => n.clientHeight > 0).length") == 1
    assert browser.complaints() == []


def test_a_click_on_a_question_leads_to_its_answer(browser, study):
    browser.open(study.as_uri(), 1280, height=800)
    for number in range(5):
        browser.run("location.hash = '#overview'")
        browser.until("document.querySelector('#overview').clientHeight > 0")
        link = f"document.querySelectorAll('.card h3 a')[{number}]"
        browser.run(f"{link}.click()")
        shown = "document.querySelector(location.hash).getBoundingClientRect()"
        browser.until(f"location.hash.startsWith('#answer-') && {shown}.height > 20 && {shown}.top < innerHeight")
        assert browser.run(f"document.querySelector(location.hash + ' h3').textContent === {link}.textContent")


@pytest.mark.parametrize("width", [1280, 400])
def test_no_tab_scrolls_sideways(browser, study, width):
    browser.open(study.as_uri(), width, height=800)
    for tab in TABS:
        browser.run(f"location.hash = '#{tab}'")
        browser.until(f"document.getElementById('{tab}').clientHeight > 0")
        found = json.loads(browser.run(MEASURE))
        assert found["wide"] <= width, tab
        assert found["out"] == [], tab
    assert browser.complaints() == []


FOCUSABLE = "a[href], button, input, select, summary, textarea, [tabindex='0']"


@pytest.mark.parametrize("tab", ["overview", "alignment", "models"])
def test_every_control_is_reached_by_keyboard(browser, study, tab):
    browser.open(f"{study.as_uri()}#{tab}", 1280, height=800)
    browser.until(f"document.getElementById('{tab}').clientHeight > 0")
    wanted = browser.run(
        f'[...document.querySelectorAll("{FOCUSABLE}")].filter(n => n.checkVisibility({{visibilityProperty: true}})'
        " && !(n.type === 'radio' && !n.checked)).map((n, i) => { n.dataset.spot = i; return i; })"
    )
    assert len(wanted) > 15
    browser.run("document.activeElement.blur()")
    reached = []
    for _ in range(len(wanted) + 2):
        browser.press("Tab")
        spot = browser.run("document.activeElement.dataset.spot")
        reached += [] if spot is None else [int(spot)]
        assert browser.run(
            "(n => n === document.body || getComputedStyle(n).outlineStyle !== 'none')(document.activeElement)"
        )
    assert set(reached) == set(wanted)
    assert browser.complaints() == []


def test_arrow_keys_tell_the_numbers_of_the_curve(browser, study):
    browser.open(study.as_uri(), 1280, height=800)
    browser.run("document.querySelector('#curve > svg').focus()")
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        browser.press(key)
        said.append(browser.run("document.querySelector('#curve .readout').textContent"))
    assert said[0].startswith("baseline: demonstrations (the claim), step 0: ")
    assert "step 200: " in said[1]
    assert said[2].startswith("joint")
    assert "step 0: " in said[3]
    assert all("% " in one and "n = " in one for one in said)
    last = "document.querySelector('#curve .claim-1 circle:last-of-type')"
    x, y = browser.run(f"(r => [r.left + r.width / 2, r.top + r.height / 2])({last}.getBoundingClientRect())")
    browser.move(x, y)
    browser.until("document.querySelector('#curve .readout').textContent.includes('step 2000')")


CONTRASTS = """(() => {
  const parse = (text) => {
    const v = text.match(/[\\d.]+/g).map(Number);
    return [v[0], v[1], v[2], v.length > 3 ? v[3] : 1];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (color) =>
    color.slice(0, 3).reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.textContent.trim() || node.closest('script, style, title')) continue;
    if (!node.checkVisibility({visibilityProperty: true})) continue;
    const style = getComputedStyle(node);
    const back = ground(node);
    const front = over(parse(node.closest('svg') ? style.fill : style.color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([text.textContent.trim().slice(0, 40), ratio.toFixed(2)]);
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_a_contrast_of_at_least_four_and_a_half(browser, study, dark):
    browser.open(study.as_uri(), 1280, height=800, dark=dark)
    for tab in TABS:
        browser.run(f"location.hash = '#{tab}'")
        browser.until(f"document.getElementById('{tab}').clientHeight > 0")
        browser.run("document.querySelectorAll('details').forEach(n => { n.open = true; })")
        assert browser.run(CONTRASTS) == [], tab


def test_too_little_contrast_would_be_found(browser, tmp_path):
    page = tmp_path / "pale.html"
    page.write_text("<body style='background:#fff'><p style='color:#999'>pale</p><p style='color:#444'>dark</p>")
    browser.open(page.as_uri(), 400)
    assert [text for text, _ in browser.run(CONTRASTS)] == ["pale"]


def test_all_tabs_are_printed_one_after_another(browser, study):
    browser.open(study.as_uri(), 1280, height=800)
    browser.call("Emulation.setEmulatedMedia", media="print")
    tops = browser.run("[...document.querySelectorAll('section.tab')].map(n => n.getBoundingClientRect())"
                       ".map(r => r.height > 20 ? r.top : null)")  # fmt: skip
    assert len(tops) == len(TABS)
    assert None not in tops
    assert tops == sorted(tops)
    assert browser.run("['nav', 'button.small', '.theme'].map(name => document.querySelector(name).offsetHeight)") == [
        0,
        0,
        0,
    ]
    browser.call("Emulation.setEmulatedMedia", media="")
    pdf = base64.b64decode(browser.call("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") >= len(TABS)


def test_figures_are_downloaded_as_they_are(browser, study):
    browser.open(f"{study.as_uri()}#alignment", 1280, height=800)
    browser.run("window.kept = []; URL.createObjectURL = (blob) => { kept.push(blob); return '#'; };"
                "HTMLAnchorElement.prototype.click = function () { kept.at(-1).title = this.download; };")  # fmt: skip
    buttons = "[...document.querySelectorAll('button.small')].filter(n => n.textContent.startsWith('Download'))"
    pressed = browser.run(f"(found => {{ found.forEach(n => n.click()); return found.length; }})({buttons})")
    assert pressed == 2 * browser.run("document.querySelectorAll('figure').length")
    browser.until(f"kept.length === {pressed}")
    texts = browser.run(
        "Promise.all(kept.map(async b => [b.title, b.type, b.size, b.type === 'image/svg+xml' ? await b.text() : '']))"
    )
    names = {name for name, *_ in texts}
    assert {"curve.png", "curve.svg", "success.svg", "controls.png", "progress-1.svg", "progress-2.png"} <= names
    drawn = (study.parent / "figures" / "curve.svg").read_text(encoding="utf-8")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    for name, kind, size, text in texts:
        assert size > 2000, name
        assert kind == ("image/png" if name.endswith("png") else "image/svg+xml")
        assert name.endswith("png") or "<svg" in text
    curve = next(text for name, _, _, text in texts if name == "curve.svg" and "matplotlib" in text.lower())
    assert words
    assert re.findall(r"<text[^>]*>([^<]*)</text>", curve) == words
    assert len(curve) < len(drawn)
    shapes = [re.sub(r"[-\d.]+", "0", text) for text in (curve, drawn)]
    assert shapes[0] == shapes[1]
    assert browser.complaints() == []


def test_tables_sort_inside_their_groups_and_copy_as_csv(browser, study):
    browser.open(f"{study.as_uri()}#alignment", 1280, height=800)
    head = "[...document.querySelectorAll('.headline thead th')].find(n => n.textContent.startsWith('Recall'))"
    bodies = "[...document.querySelectorAll('.headline tbody')].map(body => [...body.rows].slice(1))"
    cells = f"{bodies}.map(rows => rows.map(row => Number(row.cells[2].textContent)))"
    before = browser.run(cells)
    browser.run(f"{head}.querySelector('button').click()")
    assert browser.run(cells) == [sorted(group) for group in before]
    browser.run(f"{head}.querySelector('button').click()")
    assert browser.run(cells) == [sorted(group, reverse=True) for group in before]
    browser.run(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text; }}})"
    )
    browser.run("document.querySelector('.headline').closest('.scroll').nextElementSibling.click()")
    lines = browser.until("window.copied").split("\n")
    assert lines[0].startswith("group,features,step,Recall@1 %")
    assert len(lines) == 1 + sum(map(len, before))
    assert all(line.count(",") >= 12 for line in lines)


def test_without_scripts_every_section_figure_and_table_is_there(browser, study):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(study.as_uri(), 1280, measure=False)
        browser.call("DOM.enable")
        time.sleep(0.5)
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        for name in [f"#{tab}" for tab in TABS] + ["#curve > svg", "figure img", ".headline", ".shaped"]:
            for node in browser.call("DOM.querySelectorAll", nodeId=root, selector=name)["nodeIds"]:
                box = browser.call("DOM.getBoxModel", nodeId=node)["model"]
                assert box["height"] > 20, name
        assert not browser.call("DOM.querySelectorAll", nodeId=root, selector="button.small")["nodeIds"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


# ---- the interactive plot -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explored(tmp_path_factory, write_pair, write_demo):
    """A report whose plot has two checkpoints, raw features, thumbnails, and one hostile instruction."""
    run = RunDir.create(tmp_path_factory.mktemp("explored") / "run")
    pairs = [("close_jar", "close the red jar"), ("close_jar", EVIL), ("open_drawer", "open the top drawer")]
    inputs = []
    for step in (0, 500):
        paths = write_pair(run.path, pairs, each=6, step=step, seed=step)
        inputs.append(TsneInput(pair=load_pair(*paths), title=f"joint, step {step}"))
    for row in inputs[0].pair.episodes.itertuples(index=False):
        task, variation, name = row.id.split("/")
        number = int(name.removeprefix("episode"))
        write_demo(run.demos, task, int(variation), "", number, row.instruction, 3)
    quick = TsneConfig(iterations=60, exaggeration_iterations=60, perplexity=8)
    draw_tsne(inputs, stem=run.figures / "tsne", table=run.results("tsne"), config=quick)
    draw_tsne(inputs[-1:], stem=run.figures / "tsne-raw", table=run.results("tsne-raw"), space="raw", config=quick)
    for name in ("tsne-raw", "tsne"):
        table = pd.read_csv(run.results(name))
        table["success"] = (table["id"].str.extract(r"(\d+)$")[0].astype(int) % 3 != 0).astype(int)
        write_table(table, run.results(name))
    return write_report(run).path, table


@pytest.fixture
def plot(browser, explored):
    """The browser with the plot drawn and in view."""
    path, _ = explored
    browser.open(path.as_uri() + "#tsne", 1280)
    browser.run("document.getElementById('explorer').scrollIntoView({behavior: 'instant'})")
    browser.until("document.getElementById('explorer').dataset.ready === 'true'")
    browser.run("document.getElementById('x-plot').scrollIntoView({block: 'center', behavior: 'instant'})")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    yield browser
    assert browser.complaints() == []


def _choose(browser, name, value):
    browser.run(
        f"(() => {{ const s = document.getElementById({name!r}); s.value = {value!r};"
        f" s.dispatchEvent(new Event(s.type === 'search' || s.type === 'range' ? 'input' : 'change')); }})()"
    )


READ = """var read = async () => {
  const bytes = Uint8Array.from(atob(document.getElementById('explorer-data').textContent), one => one.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
};"""


def _drawn(browser):
    """Ids and sides of the points that the plot draws."""
    return browser.run(
        READ
        + """(async () => {
      const data = await read();
      const view = data.views.find(one => one.title === 'joint, step 500');
      return document.getElementById('x-plot').data.slice(0, 2).flatMap(
        trace => trace.customdata.map(i => [data.episodes[view.episode[i]][0], view.side[i]]));
    })()"""
    )


def _wanted(table, step=500):
    return table[table["panel"] == f"joint, step {step}"]


def _panel(browser):
    return browser.run("document.getElementById('x-panel').innerText")


def _spot(browser, number, trace=0):
    """Where a drawn point lies in the window, and its id."""
    return browser.run(
        READ
        + f"""(async () => {{
      const plot = document.getElementById('x-plot');
      const {{xaxis, yaxis}} = plot._fullLayout;
      const trace = plot.data[{trace}];
      const box = plot.getBoundingClientRect();
      const data = await read();
      const view = data.views.find(one => one.title === 'joint, step 500');
      return [box.left + xaxis._offset + xaxis.d2p(trace.x[{number}]),
              box.top + yaxis._offset + yaxis.d2p(trace.y[{number}]),
              data.episodes[view.episode[trace.customdata[{number}]]][0]];
    }})()"""
    )


def test_pointing_shows_thumbnail_instruction_outcome_and_neighbors(plot, explored):
    table = _wanted(explored[1])
    for trace, side in ((0, "understanding"), (1, "execution")):
        x, y, _ = _spot(plot, 2, trace)
        plot.move(5, 5)
        plot.move(x - 1, y)
        plot.move(x, y)
        plot.until(f"document.getElementById('x-panel').textContent.includes('({side})')")
        shown = plot.run("[...document.querySelectorAll('#x-panel dd')].at(-1).textContent")
        row = table[(table["id"] == shown) & (table["side"] == side)].iloc[0]  # points may lie on each other
        text = _panel(plot)
        assert row["instruction"] in text
        assert ("success" if row["success"] else "failure") in text
        assert row["model"] in text
        for k in (1, 2, 3):
            assert f"{k}. cosine {row[f'cosine_{k}']:.3f}" in text
            assert row[f"neighbour_{k}"] in text
        pictures = plot.run(
            "[...document.querySelectorAll('#x-panel .thumb')].map(n => [n.clientWidth, n.getAttribute('aria-label'),"
            " getComputedStyle(n).backgroundImage.slice(0, 22)])"
        )
        assert len(pictures) == 4
        assert all(width > 50 and image.startswith('url("data:image/webp') for width, _, image in pictures)
        assert shown in pictures[0][1]
    assert plot.run("document.getElementById('x-sheet').naturalWidth") > 100


@pytest.mark.parametrize(
    ("name", "value", "keep"),
    [
        ("x-task", "=close_jar", lambda row: row["task"] == "close_jar"),
        ("x-instruction", "=" + EVIL, lambda row: row["instruction"] == EVIL),
        ("x-outcome", "=failure", lambda row: row["success"] == 0),
        ("x-model", "=arp", lambda row: row["side"] == "execution"),
        ("x-fitted", "=fitted on", lambda row: row["fitted"]),
        ("x-find", "TOP DRAWER", lambda row: row["task"] == "open_drawer"),
    ],
)
def test_each_filter_leaves_what_it_says(plot, explored, name, value, keep):
    table = _wanted(explored[1])
    assert len(_drawn(plot)) == len(table)
    _choose(plot, name, value)
    kept = table[table.apply(keep, axis=1)]
    sides = {"understanding": 0, "execution": 1}
    assert sorted(_drawn(plot)) == sorted([row["id"], sides[row["side"]]] for _, row in kept.iterrows())
    assert plot.run("document.getElementById('x-count').textContent").startswith(f"{len(kept)} of {len(table)} points")
    plot.run("document.getElementById('x-clear').click()")
    assert len(_drawn(plot)) == len(table)


def test_zoom_and_whole_picture(plot):
    def width():
        low, high = plot.run("document.getElementById('x-plot')._fullLayout.xaxis.range")
        return high - low

    whole = width()
    plot.run("document.getElementById('x-in').click()")
    assert width() == pytest.approx(0.6 * whole, rel=1e-3)
    plot.run("document.getElementById('x-out').click()")
    plot.run("document.getElementById('x-in').click()")
    plot.run("document.getElementById('x-reset').click()")
    assert width() == pytest.approx(whole, rel=1e-3)
    box = plot.run("document.getElementById('x-plot').getBoundingClientRect().toJSON()")
    x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
    plot.move(x, y)
    plot.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    for far in (20, 60, 90):
        plot.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + far, y=y + far, button="left", buttons=1)
    plot.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + 90, y=y + 90, button="left", clickCount=1)
    plot.until(f"(r => r[1] - r[0] < {0.5 * whole})(document.getElementById('x-plot')._fullLayout.xaxis.range)")


def test_everything_can_be_done_with_keys_alone(plot, explored):
    table = _wanted(explored[1])
    plot.run("document.getElementById('x-task').focus()")
    order = []
    for _ in range(11):
        order.append(plot.run("document.activeElement.id"))
        plot.press("Tab")
    wanted = ["x-task", "x-instruction", "x-outcome", "x-model", "x-fitted", "x-colour", "x-find", "x-clear", "x-plot"]
    assert order == [*wanted, "x-in", "x-out"]
    plot.run("document.getElementById('x-plot').focus()")
    assert plot.run("getComputedStyle(document.getElementById('x-plot')).outlineStyle") != "none"
    seen = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        plot.press(key)
        seen.add(plot.run("document.querySelector('#x-panel dl').textContent"))
    assert len(seen) > 2
    plot.press("Enter")
    before = plot.run("document.getElementById('x-plot')._fullLayout.xaxis.range")
    plot.press("+")
    assert plot.run("document.getElementById('x-plot')._fullLayout.xaxis.range") != before
    plot.press("0")
    for _ in range(4):  # three buttons of the zoom, then the first neighbour
        plot.press("Tab")
    name = plot.run("document.activeElement.closest('li') && document.activeElement.textContent")
    plot.press("Enter")
    shown = plot.run("[...document.querySelectorAll('#x-panel dd')].at(-1).textContent")
    assert shown in name
    plot.run("document.getElementById('x-plot').focus()")
    plot.press("Escape")
    assert "Point at an episode" in _panel(plot)
    plot.run("document.querySelector('#x-table-box > summary').focus()")
    plot.press("Enter")
    plot.until("document.querySelectorAll('#x-rows tr').length")
    cells = plot.run("[...document.querySelectorAll('#x-rows tr')].map(r => [...r.children].map(c => c.textContent))")
    assert [row[0] for row in cells] == table["id"].tolist()
    assert [float(row[7]) for row in cells] == pytest.approx(table["cosine_1"].tolist(), abs=6e-4)
    plot.run("document.querySelector('#x-rows tr:nth-child(5) button').focus()")
    plot.press("Enter")
    assert table["id"].iloc[4] in _panel(plot)


def test_the_slider_goes_over_the_checkpoints_and_raw_features_have_no_neighbors(plot, explored):
    assert plot.run("document.getElementById('x-step-name').textContent") == "step 500"
    _choose(plot, "x-step", "0")
    assert plot.run("document.getElementById('x-step-name').textContent") == "step 0"
    first = _wanted(explored[1], 0)
    plot.until(f"Math.abs(document.getElementById('x-plot').data[0].x[0] - {first['x'].iloc[0]}) < 1e-3")
    plot.run("document.getElementById('x-play').click()")
    plot.until("document.getElementById('x-step-name').textContent === 'step 500'")
    _choose(plot, "x-view", "1")
    assert plot.run("document.getElementById('x-step-box').hidden")
    plot.run("document.getElementById('x-plot').focus()")
    plot.press("ArrowRight")
    assert "no common space" in _panel(plot)


def test_strings_of_the_data_stay_text_everywhere(plot):
    _choose(plot, "x-instruction", "=" + EVIL)
    plot.run("document.getElementById('x-table-box').open = true")
    plot.until("document.querySelectorAll('#x-rows tr').length === 12")
    plot.run("document.querySelector('#x-rows button').click()")
    assert EVIL in plot.run("document.getElementById('x-panel').textContent")
    assert EVIL in plot.run("document.getElementById('x-key').textContent")
    assert plot.run("document.querySelectorAll('#explorer img:not(#x-sheet), #explorer script').length") == 0
    assert plot.run("document.title").endswith("mnprobe report")
    blocked = plot.run("(() => { const s = document.createElement('script'); s.textContent = 'document.title = 1';"
                       " document.body.append(s); return document.title; })()")  # fmt: skip
    assert blocked.endswith("mnprobe report")  # the policy lets no other script run
    refused = plot.complaints()
    assert len(refused) == 1
    assert "Content Security Policy" in refused[0]
    plot.events.clear()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_plot_fits_wide_and_narrow_screens(plot, explored, width):
    plot.open(explored[0].as_uri() + "#tsne", width, dark=width == 400)
    plot.run("document.getElementById('explorer').scrollIntoView()")
    plot.until("document.getElementById('explorer').dataset.ready === 'true'")
    plot.run("document.getElementById('x-plot').focus()")
    plot.press("ArrowRight")
    found = json.loads(plot.run(MEASURE))
    assert found["out"] == []
    assert found["wide"] <= width
    box, panel = plot.run(
        "['x-plot', 'x-panel'].map(name => document.getElementById(name).getBoundingClientRect().toJSON())"
    )
    assert box["width"] > 0.55 * width
    assert (panel["left"] >= box["right"]) == (width == 1280)  # beside it, or below
    assert plot.run("document.querySelector('#x-plot svg.main-svg').clientWidth") == pytest.approx(box["width"], abs=4)


def test_the_switch_of_colors_reaches_page_and_plot(plot):
    look = (
        "[getComputedStyle(document.body).backgroundColor, document.getElementById('x-plot').data[0].marker.line.color]"
    )
    assert plot.run(look) == ["rgb(255, 255, 255)", "#1d2227"]
    plot.run("document.getElementById('theme-dark').click()")
    plot.until(f"{look}[1] === '#e6e9ec'")
    assert plot.run(look)[0] == "rgb(20, 24, 28)"
    plot.run("document.getElementById('theme-light').click()")
    plot.until(f"{look}[1] === '#1d2227'")


def test_print_shows_the_drawn_figure_instead_of_the_plot(plot):
    def seen():
        height = "document.querySelector(name).getBoundingClientRect().height"
        return plot.run(f"['#explorer', '.printed img', '.theme'].map(name => {height} > 0)")

    assert seen() == [True, False, True]
    plot.call("Emulation.setEmulatedMedia", media="print")
    assert seen() == [False, True, False]
    plot.call("Emulation.setEmulatedMedia", media="")


def test_without_scripts_the_figure_is_there(browser, explored):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url="about:blank")
        browser.open(explored[0].as_uri(), 1280, measure=False)
        browser.call("DOM.enable")
        height = 0.0
        for _ in range(
            100
        ):  # until the page stands: without scripts it cannot tell, and its nodes change while it loads
            try:
                root = browser.call("DOM.getDocument")["root"]["nodeId"]
                node = browser.call("DOM.querySelector", nodeId=root, selector=".printed img")["nodeId"]
                height = browser.call("DOM.getBoxModel", nodeId=node)["model"]["height"]
            except AssertionError:
                pass
            if height > 200:
                break
            time.sleep(0.1)
        assert height > 200
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
