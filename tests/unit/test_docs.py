"""The documents' statements about options and files are true."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrlhf_mel.method import guard
from openrlhf_mel.method.construction import DROP_REASONS
from openrlhf_mel.run import records
from openrlhf_mel.settings import flags, mel_options

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*REPO.glob("*.md"), *(REPO / "docs").glob("*.md"), *(REPO / "benchmarks").glob("*.md")])
COLUMNS = 120


def test_every_option_is_documented_with_its_default():
    text = (REPO / "docs" / "options.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    shown = {line.split()[0].removeprefix("--mel."): line for line in mel_options.help_lines().splitlines()}
    assert rows.keys() == shown.keys()
    assert all(f"(default: {default})" in shown[name] for name, default in rows.items())


def test_drop_reasons_are_documented():
    text = (REPO / "docs" / "method.md").read_text()
    assert all(f"`{reason}`" in text for reason in DROP_REASONS)


def test_the_guards_warnings_are_documented_and_name_flags_that_exist():
    text = (REPO / "docs" / "troubleshooting.md").read_text()
    known = set(flags.actions()) | {f"mel.{name}" for name in mel_options.option_names()}
    for sign in guard.SIGNS:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{sign.meaning}` |"))
        assert all(f"`{key}`" in row for key in sign.quantity.split(" / "))
        named = set(re.findall(r"\b(?:mel|actor|algo|reward|rollout|train)\.[a-z_.]+[a-z]", sign.advice))
        assert named and named <= known


def test_flags_that_the_documents_name_exist():
    known = set(flags.actions()) | {f"mel.{name}" for name in mel_options.option_names()}
    for path in DOCUMENTS:
        text = path.read_text()
        for name in re.findall(
            r"(?<![\w/.])(?:mel|data|actor|rollout|ckpt|algo|vllm|ds|eval|reward|logger)\.[a-z0-9_.]+\w", text
        ):
            file = f"{name.replace('.', '/')}.py"
            # A file that a recipe creates does not exist here.
            module = name.startswith(("data.", "eval.")) and ((REPO / file).is_file() or f"`{file}`:" in text)
            module = module or name.startswith(("vllm.entrypoints.", "vllm.model_executor.", "vllm.v1."))
            if not module and not name.endswith((".py", ".md", ".yaml", ".txt")):
                assert name in known, f"{path.name}: {name}"


def test_links_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            file, _, heading = target.partition("#")
            page = path.parent / file if file else path
            assert target.startswith("http") or page.exists(), f"{path.name}: {target}"
            assert target.startswith("http") or not heading or heading in anchors(page), f"{path.name}: {target}"


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines that are neither code nor table rows."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        if not fenced and not fence and not line.startswith(("|", "    ")):
            yield number, line
        fenced ^= fence


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_no_line_of_prose_is_long(path):
    long = {number: len(line) for number, line in prose(path.read_text()) if len(line) > COLUMNS}
    assert not long, f"{path.name}: lines longer than {COLUMNS} columns: {long}"


def test_what_is_prose():
    page = "text\n| row |\n\n```sh\ncommand\n```\n- item\n  more\n\n    indented code\nend"
    assert [line for _, line in prose(page) if line] == ["text", "- item", "  more", "end"]


def commands(text: str) -> list[list[str]]:
    """Yield the words of each command in a page's shell blocks; comments and continuations are resolved."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_commands_of_the_readme_name_modules_files_and_flags_that_exist():
    known = set(flags.actions()) | {f"mel.{name}" for name in mel_options.option_names()}
    modules = []
    for words in commands((REPO / "README.md").read_text()):
        scripts = [word for word in words if word.startswith(("slurm/", "data/")) and word != "slurm/site.env"]
        assert all((REPO / script).exists() for script in scripts), words
        if words[:2] == ["python", "-m"]:
            stem = REPO / words[2].replace(".", "/")
            file = stem / "__main__.py" if stem.is_dir() else stem.with_suffix(".py")
            assert file.is_file(), words
            modules.append(words[2])
            written = set(re.findall(r"--[a-z-]+", "".join(path.read_text() for path in file.parent.glob("*.py"))))
            assert {word for word in words if word.startswith("--") and "." not in word} <= written, words
        given = {word.removeprefix("--") for word in words if word.startswith("--") and "." in word}
        assert given <= known, words
    assert {"openrlhf_mel.train", "eval.run", "data.prepare_train", "openrlhf_mel.verifier"} <= set(modules)


def test_every_file_that_a_run_leaves_is_documented():
    text = (REPO / "docs" / "run-folder.md").read_text()
    names = {value for name, value in vars(records).items() if name.isupper() and isinstance(value, str)}
    assert {"metrics.jsonl", "logs/warnings.jsonl"} <= names
    assert {name for name in names if f"`{name}`" not in text} == set()
    assert {key for sign in guard.SIGNS for key in sign.quantity.split(" / ") if f"`{key}`" not in text} == set()
