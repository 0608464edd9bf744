"""Opens the report in a real browser, by Chromium's debugging pipe: sizes, requests, overflow, nothing executed."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from mnprobe.analysis.draw_curve import draw_curve
from mnprobe.analysis.draw_tsne import TsneInput, draw_tsne
from mnprobe.analysis.embedding import TsneConfig
from mnprobe.analysis.pairs import load_pair
from mnprobe.analysis.report import write_report
from mnprobe.analysis.tables import write_table
from mnprobe.core.rundir import RunDir

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
        for domain in ("Page", "Network", "Runtime"):
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

    def open(self, address, width, *, dark=False):
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")
        found = json.loads(self.call("Runtime.evaluate", expression=MEASURE)["result"]["value"])
        sent = [
            one["params"]["request"]["url"] for one in self.events if one.get("method") == "Network.requestWillBeSent"
        ]
        return found, sent

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
    found, sent = browser.open(report.as_uri(), width)
    assert [image[0] for image in found["images"]] == [True, True]
    for _, natural, high, shown in found["images"]:
        assert natural > 300
        assert high > 300
        assert 200 < shown <= max(width, 0.45 * natural + 1)  # a wide figure scrolls in its frame, readable
    assert found["inner"] == width
    assert found["wide"] <= width
    assert found["out"] == []
    assert found["hit"]
    assert [url[:40] for url in sent if not url.startswith("data:")] == [report.as_uri()[:40]]


def test_nothing_hostile_runs(browser, report):
    found, sent = browser.open(report.as_uri(), 1280)
    assert found["scripts"] == 0
    assert found["title"].endswith("mnprobe report")
    assert not [url for url in sent if url.startswith("http")]


def test_it_follows_light_and_dark(browser, report):
    light, dark = (browser.open(report.as_uri(), 1280, dark=dark)[0]["dark"] for dark in (False, True))
    assert light == "rgb(255, 255, 255)"
    assert dark == "rgb(20, 24, 28)"
