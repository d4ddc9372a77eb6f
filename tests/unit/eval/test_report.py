"""The report's page: the numbers of metrics.json, no external resources, no way for a model's text to run code."""

import base64
import errno
import hashlib
import html.parser
import json
import os
import shutil
from pathlib import Path

import pytest
from evaluation_folder import question, sample, write_evaluation, write_random
from PIL import Image

from eval import report

SIZES = {"aime24": 12, "amc23": 9, "math500": 15}
HOSTILE = [
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "<!--<script>",
    "]]>{{ 7 * 7 }}{% raw %}${document.title='run'}",
    "a\u2028b\u2029c\x00d\x85e\r\nf\ufeff\u202eg",
    "🙂 naïve 你好 \ud800 \\u003c &lt;b&gt; \\",
    "x" * 5000,
]


class Page(html.parser.HTMLParser):
    """The page as a browser parses it: elements, tables, the text of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": [], "h3": []}
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)
        if tag in self.texts:
            self.texts[tag].append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        tag = self._open[-1] if self._open else ""
        if tag in self.texts:
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data

    @property
    def data(self):
        return json.loads(self.texts["script"][0])


def make(target: Path, *folders: Path, **options) -> Page:
    """Run the command; return the parsed page."""
    more = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert report.main([*map(str, folders), "--output", str(target), *more]) == 0
    return Page((target / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Evaluate two models on three benchmarks; return folders, metrics, the page's folder, and the page."""
    root = tmp_path_factory.mktemp("two")
    metrics = [
        write_random(root / name, SIZES, 4, skill, i) for i, (name, skill) in enumerate([("a", 0.4), ("b", 0.6)])
    ]
    return [root / "a", root / "b"], metrics, root / "page", make(root / "page", root / "a", root / "b")


def rows(page: Page, benchmark: str) -> list[list[str]]:
    """Return a benchmark's table; tables have the order of the headings."""
    return page.tables[page.texts["h3"].index(benchmark)]


@pytest.mark.parametrize("benchmark", SIZES)
def test_numbers_are_those_of_metrics_json(two, benchmark):
    _, metrics, _, page = two
    header, *lines = rows(page, benchmark)
    assert header[1:4] == ["Pass@1 (greedy)", "Avg@4", "Pass@4"]
    for line, label, values in zip(lines, "ab", [m["benchmarks"][benchmark] for m in metrics], strict=True):
        assert line[0] == label
        for cell, name in zip(line[1:4], ["pass@1", "avg@4", "pass@4"], strict=True):
            low, high = values["ci95"][name]
            expected = f"{100 * values[name]:.2f} {100 * low:.1f} to {100 * high:.1f}"
            expected += f" lenient {100 * values['lenient'][name]:.2f}"
            assert " ".join(cell.split()) == expected
        shares = [f"{100 * values[name]:.1f}" for name in ("truncated", "no_answer", "timeout", "error")]
        assert line[4:] == [*shares, str(SIZES[benchmark]), str(SIZES[benchmark] * 5)]


def test_average_overview_and_pass_at_k(two):
    _, metrics, _, page = two
    average = rows(page, "Average over benchmarks")
    overview = rows(page, "All benchmarks")
    curves = page.tables[5:8]
    for i, values in enumerate(metrics, start=1):
        for cell, name in zip(average[i][1:4], ["pass@1", "avg@4", "pass@4"], strict=True):
            assert cell.split()[0] == f"{100 * values['average'][name]:.2f}"
        places = [*values["benchmarks"].values(), values["average"]]
        expected = ["/".join(f"{100 * place[name]:.2f}" for name in ("pass@1", "avg@4", "pass@4")) for place in places]
        assert overview[i][1:] == expected
        for name, curve in zip(SIZES, curves, strict=True):
            assert curve[i][1:] == [f"{100 * v:.2f}" for v in values["benchmarks"][name]["pass@k"].values()]


def test_the_browser_holds_every_sample_greedy_first(two):
    folders, _, _, page = two
    data = page.data
    assert len(data["items"]) == 2 * sum(SIZES.values())
    found = {}
    for model, number, samples in data["items"]:
        benchmark, name, *_ = data["questions"][number]
        named = [dict(zip(data["fields"], row, strict=True)) for row in samples]
        assert [(row["greedy"], row["sample"]) for row in named] == [(True, 0), *((False, i) for i in range(4))]
        found[model, benchmark, name] = [(row["response"], row["status"], row["extracted"]) for row in named]
    for model, folder in enumerate(folders):
        for benchmark in SIZES:
            for line in (folder / "samples" / f"{benchmark}.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                assert (row["response"], row["status"], row["extracted"]) in found[model, benchmark, row["question"]]


def test_nothing_is_loaded_from_outside(two):
    page = two[3]
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "style", *(n for n in attributes if n[:2] == "on")):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base"}
    style, script = page.texts["style"][0], page.texts["script"][1]
    assert "url(" not in style and "@import" not in style
    assert not [
        word for word in ("http", "eval(", "innerHTML", "insertAdjacent", "outerHTML", "write(") if word in script
    ]


def test_only_its_own_script_and_style_may_work(two):
    page = two[3]
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for rule, text in (("script-src", page.texts["script"][1]), ("style-src", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    scripts = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert scripts == ["application/json", None]


def test_hostile_text_stays_text(tmp_path):
    asked = []
    for number, text in enumerate(HOSTILE):
        name = f"q{number}{text[:60]}"
        row = sample(name, 0, False, text, extracted=text[:200], status="wrong", lenient_extracted=text[:200])
        asked.append((question(name, text, text[:200]), [row]))
    settings = {"step": HOSTILE[1], "run": HOSTILE[0], "versions": {HOSTILE[1]: [HOSTILE[0]]}}
    write_evaluation(tmp_path / "a", {HOSTILE[2]: asked}, 1, model=HOSTILE[0] + HOSTILE[4], settings=settings)
    page = make(tmp_path / "page", tmp_path / "a", labels=HOSTILE[1].replace(",", ""))
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert [a["src"][:15] for tag, a in page.elements if tag == "img"] == ["data:image/png;"] * 2
    assert [fields[2] for fields in page.data["questions"]] == HOSTILE
    assert [samples[0][-1] for _, _, samples in page.data["items"]] == HOSTILE
    assert page.texts["title"] == [f"Evaluation report: {HOSTILE[1]}"]


def test_long_responses_are_shortened_and_the_page_says_so(tmp_path):
    text = "".join(f"{i:05d}" for i in range(400))
    write_evaluation(tmp_path / "a", {"b": [(question("q"), [sample("q", 0, False, text)])]}, 1)
    page = make(tmp_path / "page", tmp_path / "a", max_characters=300)
    assert page.data["items"][0][2][0][-1] == [text[:150], 1700, text[-150:]]
    assert "1 of them are longer than 300 characters" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("counted", [True, False])
def test_length_is_in_tokens_where_all_are_counted(tmp_path, counted):
    lines = [sample("q", i, False, "y" * (100 + i), tokens=7) for i in range(3)]
    lines[1]["tokens"] = 7 if counted else None
    write_evaluation(tmp_path / "a", {"b": [(question("q"), lines)]}, 3)
    table = make(tmp_path / "page", tmp_path / "a").tables[2]
    assert table[1][1:5] == (["7 to 7", "7", "3", "1"] if counted else ["100 to 102", "101", "3", "1"])


def pictures(folder: Path) -> set[str]:
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 300 and len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert not list(folder.glob(".*"))
    return {path.name for path in folder.iterdir()} - {"index.html"}


def test_pictures(two, tmp_path):
    folders, _, page_folder, _ = two
    assert pictures(page_folder) == {"pass_at_k.png", "accuracy_by_length.png", "radar.png"}
    steps = []
    for run, step in (("$x_", 20), ("$x_", 40), ("other", 20), ("other", 40)):
        steps.append(tmp_path / f"{run}{step}")
        write_random(steps[-1], SIZES, 2, step / 60, step, settings={"model": {"step": step, "run": run}})
    page = tmp_path / "page"
    make(page, *steps, folders[0])
    assert pictures(page) == {"pass_at_k.png", "accuracy_by_length.png", "radar.png", "score_by_step.png"}
    make(page, steps[1])  # pictures of the previous page are removed
    assert pictures(page) == {"pass_at_k.png", "accuracy_by_length.png"}


@pytest.mark.slow
def test_the_folder_of_a_run_stands_for_its_checkpoints(tmp_path):
    for run in ("mel", "grpo"):
        for step in (100, 20):
            place, name = tmp_path / run / f"global_step{step}", f"{run}/global_step{step}"
            write_random(place, {"b": 3}, 2, 0.5, model=name, manifest={"step": step, "started": "2001-02-03"})
    page = make(tmp_path / "page", tmp_path / "mel")
    assert page.data["labels"] == ["global_step20", "global_step100"]
    assert "score_by_step.png" in pictures(tmp_path / "page")
    page = make(tmp_path / "page", tmp_path / "mel", tmp_path / "grpo")
    assert page.data["labels"] == [f"{run}/global_step{step}" for run in ("mel", "grpo") for step in (20, 100)]


def test_notes_of_intervals_are_shown(tmp_path):
    write_evaluation(tmp_path / "a", {"b": [(question("q"), [sample("q", i) for i in range(2)])]}, 2)
    note = {"avg@2": "covers <less>", "pass@2": "covers <less>"}
    edit(tmp_path / "a" / "metrics.json", lambda m: m["benchmarks"]["b"].update(ci95_note=note))
    make(tmp_path / "page", tmp_path / "a")
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "Avg@2; Pass@2: covers &lt;less&gt;." in text


def test_greedy_alone(tmp_path):
    write_evaluation(tmp_path / "a", {"b": [(question("q"), [sample("q", 0, True)])]}, 0)
    page = make(tmp_path / "page", tmp_path / "a")
    assert page.tables[0][0][1] == "Pass@1 (greedy)" and len(page.data["items"][0][2]) == 1
    assert pictures(tmp_path / "page") == {"accuracy_by_length.png"}


def test_samples_that_the_metrics_are_not_of_are_left_out(tmp_path):
    """This happens after a run was continued with fewer samples or questions."""
    asked = [(question("q"), [sample("q", i) for i in range(2)])]
    write_evaluation(tmp_path / "a", {"b": asked}, 2)
    with open(tmp_path / "a" / "samples" / "b.jsonl", "a", encoding="utf-8") as file:
        for row in (sample("q", 2), sample("q", 0, True), sample("gone", 0)):
            file.write(json.dumps(row) + "\n")
        file.write('{"question": "q", "sam')  # as while it is being written
    assert [len(item[2]) for item in make(tmp_path / "page", tmp_path / "a").data["items"]] == [2]


def test_same_evaluations_same_page(two, tmp_path):
    folders, _, page, _ = two
    make(tmp_path, *folders)
    for path in page.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert b"2001-02-03" not in (tmp_path / "index.html").read_bytes()


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values) + "\n", encoding="utf-8")


def shorten_file(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")


DAMAGE = {
    "no such folder": (shutil.rmtree, "no such folder"),
    "no metrics": (
        lambda f: (f / "metrics.json").unlink(),
        "metrics.json: no such file; the evaluation is not finished",
    ),
    "half": (lambda f: (f / "metrics.json").write_text('{"model"'), "metrics.json: cannot be read"),
    "list": (lambda f: (f / "metrics.json").write_text("[]"), "metrics.json: found a list"),
    "no average": (lambda f: edit(f / "metrics.json", lambda m: m.pop("average")), "'average' is missing"),
    "no benchmark": (lambda f: edit(f / "metrics.json", lambda m: m["benchmarks"].clear()), "has no benchmark"),
    "not a number": (
        lambda f: edit(f / "metrics.json", lambda m: m["benchmarks"]["b"].update({"avg@2": "x"})),
        "b: avg@2 is 'x'",
    ),
    "bad interval": (
        lambda f: edit(f / "metrics.json", lambda m: m["benchmarks"]["b"]["ci95"].update({"avg@2": [0.5]})),
        "avg@2 (ci95) is ''",
    ),
    "no questions": (lambda f: (f / "questions" / "b.jsonl").unlink(), "questions/b.jsonl: no such file"),
    "odd question": (
        lambda f: edit(f / "questions" / "b.jsonl", lambda q: q.pop("answer")),
        "questions/b.jsonl, line 1: not a question",
    ),
    "odd answer": (
        lambda f: edit(f / "questions" / "b.jsonl", lambda q: q.update(answer=2)),
        "questions/b.jsonl, line 1: not a question",
    ),
    "lost question": (
        lambda f: shorten_file(f / "questions" / "b.jsonl"),
        "metrics.json counts 1 questions of b, questions/b.jsonl has 0",
    ),
    "no samples": (lambda f: (f / "samples" / "b.jsonl").unlink(), "samples/b.jsonl: no such file"),
    "lost sample": (lambda f: shorten_file(f / "samples" / "b.jsonl"), "question 'q' lacks 1 of the 2 samples"),
    "garbage": (lambda f: (f / "samples" / "b.jsonl").write_text("\x00\n"), "samples/b.jsonl, line 1"),
    "bad status": (
        lambda f: (f / "samples" / "b.jsonl").write_text(json.dumps(sample("q", 0, status="fine")) + "\n"),
        "samples/b.jsonl, line 1: status: found 'fine'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_missing_and_damaged_folders_are_named(tmp_path, capsys, damage):
    folder = tmp_path / "a"
    write_evaluation(folder, {"b": [(question("q"), [sample("q", i) for i in range(2)])]}, 2)
    change, message = DAMAGE[damage]
    change(folder)
    assert report.main([str(folder), "--output", str(tmp_path / "page")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(folder) in error and message in error
    assert not (tmp_path / "page").exists()


def test_names(two, tmp_path, capsys):
    folders, page = two[0], ["--output", str(tmp_path / "page")]
    for arguments, message in (
        ([*folders, "--labels", "x"], "--labels 'x': expected 2 names"),
        ([*folders, "--labels", "x,x"], "two evaluations would be called 'x'"),
        ([folders[0], folders[0]], f"two evaluations would be called '{folders[0].parent.name}/a'"),
        ([folders[0], "--max-characters", "9"], "--max-characters 9: expected at least 200"),
        ([folders[0], "--max-megabytes", "0"], "--max-megabytes 0: expected at least 1"),
    ):
        assert report.main([*map(str, arguments), *page]) == 2
        assert message in capsys.readouterr().err
    assert make(tmp_path / "page", *folders, labels="left, right").data["labels"] == ["left", "right"]


def test_a_full_disk_leaves_the_page_before(two, tmp_path, monkeypatch, capsys):
    (tmp_path / "index.html").write_text("before", encoding="utf-8")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert report.main([str(two[0][0]), "--output", str(tmp_path)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "before"


def test_the_output_folder_is_a_file(two, tmp_path, capsys):
    (tmp_path / "page").touch()
    assert report.main([str(two[0][0]), "--output", str(tmp_path / "page")]) == 2
    assert f"--output {tmp_path / 'page'}" in capsys.readouterr().err
