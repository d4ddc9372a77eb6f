"""The command eval.audit with its page in a real browser: keys, saved verdicts, resume, hostile responses."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from browser_tab import BROWSER, Tab
from evaluation_folder import question, sample, write_evaluation
from PIL import Image

pytestmark = [
    pytest.mark.skipif(
        BROWSER is None, reason="needs a browser: no chromium, chromium-browser or google-chrome on PATH"
    ),
    pytest.mark.timeout(300),
]
REPO = Path(__file__).resolve().parents[2]
RUN = "document.title='an injected script ran'"
HOSTILE = (
    f'</script><script>{RUN}</script><img src=x onerror="{RUN}"><svg onload="{RUN}">\n'
    f'<a href="javascript:{RUN}">a\u2028b\u2029c</a> &lt;b&gt; <!--<script> 🙂 你好 \u202eabc\u202c ${{{RUN}}} '
)
SOLUTION = (
    "First, note that the sum of the interior angles of a triangle is $180^\\circ$, so the third angle is "
    "$180^\\circ - 35^\\circ - 65^\\circ = 80^\\circ$.\n\n"
) * 12


class Command:
    """The running command, and the address that it prints."""

    def __init__(self, folder: Path, *more: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eval.audit", str(folder), "--per-class", "4", *more],
            cwd=REPO,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        found = re.fullmatch(r"(\d+) responses, (\d+) of them to judge: open (http://127\.0\.0\.1:\d+/\S+/)\n", line)
        assert found, line
        self.responses, self.left, self.url = int(found[1]), int(found[2]), found[3]

    def end(self) -> str:
        """Interrupt it, as Ctrl-C does; return what it printed."""
        self.process.send_signal(signal.SIGINT)
        printed, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return printed


@pytest.fixture
def out(tmp_path: Path) -> Path:
    asked = []
    for number in range(6):
        name = f"triangle-{number}"
        rows = [
            sample(name, 0, True, f"{SOLUTION}So the answer is $\\boxed{{80^\\circ}}$.", extracted="80^\\circ"),
            sample(name, 0, False, "So \\boxed{79}", status="wrong", extracted="79", lenient_status="wrong"),
            sample(name, 1, False, "I cannot.", status="no_answer", extracted=None, lenient_status="wrong"),
        ]
        problem = (
            "In triangle $ABC$, $\\angle A = 35^\\circ$ and $\\angle B = 65^\\circ$. What is $\\angle C$ in degrees?"
        )
        asked.append((question(name, problem, "80"), rows))
    hostile = {"status": "wrong", "extracted": HOSTILE, "lenient_status": "correct", "tokens": None}
    drawn = (0, True), (0, False), (1, False)
    rows = [sample("hostile", number, greedy, HOSTILE, **hostile) for number, greedy in drawn]
    asked.append((question("hostile", f"What is 1 + 1? {HOSTILE}", f"</pre>{HOSTILE}"), rows))
    write_evaluation(tmp_path / "out", {"geometry": asked}, 2)
    return tmp_path / "out"


@pytest.fixture
def tab(tmp_path: Path):
    found = Tab(tmp_path / "profile")
    yield found
    found.close()


@pytest.fixture
def command(out):
    found = Command(out)
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


def saved(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "audit.jsonl").read_text().splitlines()]


def progress(place: int, judged: int, responses: int) -> str:
    return f"document.getElementById('progress').textContent === 'response {place} of {responses}, {judged} judged'"


def test_keys_judge_and_a_reload_and_a_restart_resume(out, tab, command):
    n = command.responses
    assert command.left == n > 8
    tab.open(command.url)
    tab.wait(progress(1, 0, n))
    first = tab.evaluate("JSON.parse(document.getElementById('data').textContent).responses.map((r) => r.key)")
    tab.press("1")
    tab.wait(progress(2, 1, n))
    assert tab.text("#saved") == "saved: right"
    assert [(row["key"], row["verdict"], row["revealed"]) for row in saved(out)] == [(first[0], "right", False)]

    assert tab.text(".verifier") is None
    tab.press("v")
    assert tab.text(".verifier").startswith("The verifier: ")
    tab.press("0")
    tab.wait(progress(3, 2, n))
    tab.press("?")
    tab.wait(progress(4, 3, n))
    tab.reload()
    tab.wait(progress(4, 3, n))
    assert tab.text(".verifier") is None

    tab.press("ArrowLeft")
    tab.press("ArrowLeft")
    assert tab.text(".own") == "judged wrong" and tab.text(".verifier")
    assert tab.text("[aria-pressed=true]") == "0 wrong"
    tab.press("1")
    tab.wait("document.querySelector('.own')?.textContent === 'judged right'")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    tab.wait(progress(5, 3, n))
    tab.press("n")
    tab.evaluate("document.querySelector('[data-verdict=wrong]').click()")
    tab.wait(progress(7, 4, n))
    rows = [(row["key"], row["verdict"], row["revealed"]) for row in saved(out)]
    assert rows[1:] == [
        (first[1], "wrong", True),
        (first[2], "unsure", False),
        (first[1], "right", True),
        (first[5], "wrong", False),
    ]

    printed = command.end()
    assert "false positives among" in printed and (out / "audit.json").exists()
    tab.press("1")
    tab.wait("!document.getElementById('alarm').hidden")
    assert tab.text("#alarm").startswith("Not saved: ")
    tab.wait(progress(7, 4, n))
    again = Command(out)
    try:
        assert again.left == n - 4
        tab.open(again.url)
        tab.wait(progress(4, 4, n))
    finally:
        again.end()


@pytest.mark.release
def test_all_judged_and_the_figures(out, tab, command):
    n = command.responses
    tab.open(command.url)
    for judged in range(1, n + 1):
        tab.press("0")
        tab.wait(f"document.getElementById('progress').textContent.endsWith(', {judged} judged')")
    tab.wait("!document.getElementById('done').hidden")
    command.end()
    result = json.loads((out / "audit.json").read_text())
    assert result["false_positives"]["value"] == 1 and result["false_negatives"]["value"] == 0
    assert len(saved(out)) == n == sum(row["judged"] for row in result["classes"].values())


def test_hostile_responses_are_text_and_the_beginning_is_shown_by_a_key(out, tab, command):
    tab.open(command.url)
    seen = {}
    for place in range(1, command.responses + 1):
        tab.wait(f"document.getElementById('progress').textContent.startsWith('response {place} ')")
        name = tab.text(".where bdi")
        seen[name] = {key: tab.text(key) for key in ("pre.problem", "pre.end", ".answers pre")}
        if name.startswith("triangle") and tab.text("pre.end").endswith("\\circ}$."):
            end = tab.text("pre.end")
            in_sight = "(e) => e.scrollHeight > e.clientHeight && e.scrollTop + e.clientHeight >= e.scrollHeight - 1"
            assert tab.evaluate(f"({in_sight})(document.querySelector('pre.end'))")
            assert 700 < len(end) <= 1500 and tab.text("pre.before") is None
            tab.press("b")
            assert tab.text("pre.before") + end == f"{SOLUTION}So the answer is $\\boxed{{80^\\circ}}$."
            assert tab.evaluate(
                "document.querySelector('pre.end').getBoundingClientRect().bottom"
                " <= document.querySelector('pre.before').getBoundingClientRect().top"
            )
            seen["long"] = True
        tab.press("ArrowRight")
    assert seen["long"] and seen["hostile"] == {
        "pre.problem": f"What is 1 + 1? {HOSTILE}",
        "pre.end": HOSTILE,
        ".answers pre": f"</pre>{HOSTILE}",
    }
    assert tab.evaluate("document.scripts.length") == 2 and tab.evaluate("document.images.length") == 0
    assert tab.evaluate("document.title") == "Audit of out"


@pytest.mark.release
def test_the_policy_stops_what_is_not_the_page_s_own(tab, command):
    """Simulates markup that escaping missed."""
    tab.open(command.url)
    tab.evaluate(
        "(() => { const s = document.createElement('script'); s.textContent = \"document.title = 'ran'\";"
        " document.body.append(s); const d = document.createElement('div');"
        " d.innerHTML = '<img src=x onerror=\"document.title = 1\">'; document.body.append(d); })()"
    )
    assert tab.evaluate("fetch('http://127.0.0.1:1/').then(() => 'sent', (e) => e.message)") == "Failed to fetch"
    blocked = "new Promise((r) => { addEventListener('securitypolicyviolation', (e) => r(e.effectiveDirective));"
    assert tab.evaluate(f"{blocked} fetch('http://127.0.0.1:1/').catch(() => 0); }})") == "connect-src"
    assert tab.evaluate("document.title") == "Audit of out"


@pytest.mark.release
@pytest.mark.parametrize("width, height", [(1280, 900), (390, 844)])
def test_screenshot(out, tab, command, tmp_path, width, height):
    tab.resize(width, height)
    tab.open(command.url)
    tab.press("v")
    tab.screenshot(tmp_path / "page.png")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    keys = tab.evaluate("[...document.querySelectorAll('footer kbd')].map((k) => k.textContent)")
    assert keys == ["1", "0", "?", "←", "→", "n", "v", "b"]
    assert tab.evaluate(  # the keyboard's help is always in sight
        "[...document.querySelectorAll('footer button')].every((b) => { const r = b.getBoundingClientRect();"
        " return r.width > 0 && r.left >= 0 && r.right <= innerWidth && r.top >= 0 && r.bottom <= innerHeight; })"
    )
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (width, height)
        pixels = image.convert("L")
        assert pixels.getpixel((2, height // 2)) > 200  # light
        for top in (0, height // 4, height - 100):  # header, response, footer
            low, high = pixels.crop((0, top, width, top + 100)).getextrema()
            assert low < 90 and high > 240
