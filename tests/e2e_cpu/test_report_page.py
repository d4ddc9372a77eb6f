"""The report's page in a real browser, from a file and without a network."""

import html.parser
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from evaluation_folder import question, sample, write_evaluation, write_random
from PIL import Image

from eval import report
from eval.page.content_policy import source_hash

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT = 90  # seconds per browser run

pytestmark = [
    pytest.mark.skipif(
        BROWSER is None, reason="needs a browser: no chromium, chromium-browser or google-chrome on PATH"
    ),
    pytest.mark.timeout(400),
]
RUN = "document.title='an injected script ran'"
HOSTILE = (
    f'</script><script>{RUN}</script><img src=x onerror="{RUN}"><svg onload="{RUN}">\n'
    f'<a href="javascript:{RUN}">a\u2028b\u2029c</a> &lt;b&gt; <!--<script> 🙂 你好 \u202eabc\u202c ' + "long" * 400
)


class Dom(html.parser.HTMLParser):
    """Texts of the page after its script has run, by tag and class."""

    def __init__(self, text: str):
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[str] = []
        self.scripts = 0
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        name = f"{tag}.{dict(attributes).get('class') or dict(attributes).get('id') or ''}".rstrip(".")
        self.scripts += tag == "script"
        self.attributes += [f"{key}={value}" for key, value in attributes]
        self.texts.setdefault(name, []).append("")
        if tag not in ("meta", "link", "img", "input", "source", "br"):
            self._open.append((tag, name))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for name in {name for _, name in self._open}:
            self.texts[name][-1] += data


def browse(tmp_path: Path, page: Path, *options: str) -> str:
    """Run the browser on a page; after LIMIT seconds kill it and all its processes."""
    argv = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    argv += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run"]
    argv += [*options, page.as_uri()]
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the browser was not done after {LIMIT} s: {(tmp_path / 'err').read_text(errors='replace')}")
        finally:
            _end(process)
    assert code == 0, (tmp_path / "err").read_text(errors="replace")
    return (tmp_path / "out").read_text(encoding="utf-8")


def _end(process: subprocess.Popen) -> None:
    """End the browser's process group, including helpers that briefly outlive it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("report")
    rows = [
        sample("q1", 0, True, HOSTILE, status="no_answer", extracted=None, lenient_status="correct", tokens=1234),
        sample("q1", 0, False, "So \\boxed{2}."),
        sample("q1", 1, False, "So \\boxed{3}", status="wrong", extracted=f"<b>{RUN}</b>", finish_reason="length"),
    ]
    asked = [(question("q1", f"What is 1 + 1? {HOSTILE}", "2</pre>"), rows)]
    asked += [(question(f"q{i}"), [sample(f"q{i}", 0, True), *(sample(f"q{i}", j) for j in (0, 1))]) for i in (2, 3)]
    write_evaluation(root / "a", {"hostile": asked}, 2, model=HOSTILE)
    write_random(root / "b", {"hostile": 20, "aime24": 15, "amc23": 20}, 2, 0.5)
    assert report.main([str(root / "a"), str(root / "b"), "--output", str(root / "page")]) == 0
    return root / "page" / "index.html"


def test_the_question_and_its_samples_are_shown_and_nothing_hostile_runs(page, tmp_path):
    dom = Dom(browse(tmp_path, page, "--dump-dom", "--virtual-time-budget=3000"))
    assert dom.texts["title"] == ["Evaluation report: a, b"]
    assert dom.texts["pre.problem"] == [f"What is 1 + 1? {HOSTILE}"]
    assert dom.texts["pre.reference"] == ["2</pre>"]
    assert dom.texts["pre.response"] == [HOSTILE, "So \\boxed{2}.", "So \\boxed{3}"]
    assert dom.texts["span.count"] == ["of 58"]
    summaries = dom.texts["summary"][-4:-1]  # the last one belongs to the settings
    for summary, words in zip(
        summaries,
        (
            ["∅", "greedy", "no answer", "lenient: correct", "stop", "1,234 tokens"],
            ["✓", "sample 0", "correct", "answer 2", "stop", "9 tokens"],
            ["✗", "sample 1", "wrong", f"answer <b>{RUN}</b>", "cut at the limit (length)"],
        ),
        strict=True,
    ):
        for word in words:
            assert word in summary
    assert dom.scripts == 2
    assert not [value for value in dom.attributes if RUN in value]


def test_the_policy_stops_what_is_not_the_page_s_own(page, tmp_path):
    """Simulates markup that escaping missed."""
    injected = f'<main><script>{RUN}</script><img src="x" onerror="{RUN}"><a href="javascript:{RUN}" autofocus>x</a>'
    target = tmp_path / "injected.html"
    target.write_text(page.read_text(encoding="utf-8").replace("<main>", injected), encoding="utf-8")
    dom = Dom(browse(tmp_path, target, "--dump-dom", "--virtual-time-budget=3000"))
    assert (
        dom.scripts == 3 and dom.texts["title"] == ["Evaluation report: a, b"] and dom.texts["span.count"] == ["of 58"]
    )


def drive(page: Path, target: Path, steps: str) -> Path:
    """Add a second script that operates the page; the policy allows only this addition."""
    text = page.read_text(encoding="utf-8")
    script = f"addEventListener('load', () => {{ {steps} }});"
    digest = source_hash(script).replace("'", "&#39;")
    assert text.count("script-src ") == 1
    text = text.replace("script-src ", f"script-src {digest} ").replace("</body>", f"<script>{script}</script></body>")
    target.write_text(text, encoding="utf-8")
    return target


PRESS = "const press = (key) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));"
CHOOSE = (
    "const choose = (id, value) => { const e = document.getElementById(id); e.value = value;"
    " e.dispatchEvent(new Event('input', {bubbles: true})); };"
)


@pytest.mark.parametrize(
    "steps, count, title",
    [
        ("press('ArrowRight'); press('ArrowRight'); press('ArrowLeft');", "of 58", "hostileq2"),
        ("press('ArrowLeft'); for (let i = 0; i < 99; i++) press('ArrowRight');", "of 58", "amc23amc23-019"),
        ("choose('model', '0'); choose('outcome', 'all right');", "of 2", "hostileq2"),
        ("choose('model', '0'); choose('outcome', 'mixed');", "of 1", "hostileq1"),
        ("choose('model', '0'); choose('outcome', 'greedy wrong');", "of 1", "hostileq1"),
        ("choose('model', '0'); choose('outcome', 'all wrong');", "of 0", None),
        ("choose('benchmark', '1');", "of 15", "aime24aime24-000"),
        ("choose('search', '\\x3c!--\\x3cSCRIPT> 🙂 你好');", "of 1", "hostileq1"),
        ("choose('search', 'amc23-01');", "of 10", "amc23amc23-010"),
        ("choose('search', '.*');", "of 0", None),
    ],
)
def test_keys_filters_and_search(page, tmp_path, steps, count, title):
    driven = drive(page, tmp_path / "driven.html", PRESS + CHOOSE + steps)
    dom = Dom(browse(tmp_path, driven, "--dump-dom", "--virtual-time-budget=5000"))
    assert dom.texts["span.count"] == [count]
    assert dom.texts["h3"][-1:] == [title] if title else "No question fits" in dom.texts["p.about"][-1]


@pytest.mark.parametrize("width, theme", [(1280, "light"), (390, "light"), (1280, "dark")])
def test_screenshot(page, tmp_path, width, theme):
    target = tmp_path / "page.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
    browse(tmp_path, page, f"--screenshot={target}", f"--window-size={width},3600", *dark)
    with Image.open(target) as image:
        assert image.size == (width, 3600)
        pixels = image.convert("L")
        assert len(image.convert("RGB").getcolors(1 << 24)) > 200
        ground = pixels.getpixel((2, 2))
        assert ground < 60 if theme == "dark" else ground > 200
        for top in range(0, 3600, 600):  # no part is blank
            low, high = pixels.crop((0, top, width, top + 600)).getextrema()
            assert high - low > 60


def test_nothing_is_wider_than_a_phone(page, tmp_path):
    """Tested at 500 pixels, the browser's smallest window (screenshots can be smaller)."""
    steps = "document.title = document.documentElement.scrollWidth + ' of ' + innerWidth;"
    driven = drive(page, tmp_path / "driven.html", steps)
    dom = Dom(browse(tmp_path, driven, "--dump-dom", "--window-size=500,800", "--virtual-time-budget=3000"))
    assert dom.texts["title"] == ["500 of 500"]


def test_a_servers_reasoning_is_folded_beside_its_response(tmp_path):
    rows = [sample("q1", 0, True, "", status="no_answer", extracted=None, reasoning=HOSTILE), sample("q1", 0)]
    write_evaluation(tmp_path / "a", {"b": [(question("q1"), rows)]}, 1)
    assert report.main([str(tmp_path / "a"), "--output", str(tmp_path / "page")]) == 0
    dom = Dom(browse(tmp_path, tmp_path / "page" / "index.html", "--dump-dom", "--virtual-time-budget=3000"))
    assert dom.texts["pre.response reasoning"] == [HOSTILE]
    assert dom.texts["pre.response"] == ["", "It is \\boxed{2}."]
    assert "thinking, not graded" in dom.texts["summary"]
    assert dom.texts["title"] == ["Evaluation report: a"] and not [v for v in dom.attributes if RUN in v]
    driven = drive(
        tmp_path / "page" / "index.html", tmp_path / "driven.html", CHOOSE + "choose('search', 'x onerror');"
    )
    assert Dom(browse(tmp_path, driven, "--dump-dom", "--virtual-time-budget=5000")).texts["span.count"] == ["of 1"]
