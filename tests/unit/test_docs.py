"""What the documents say of options and files is so."""

import re
from pathlib import Path

from openrlhf_mel.method import guard
from openrlhf_mel.method.construction import DROP_REASONS
from openrlhf_mel.settings import flags, mel_options

REPO = Path(__file__).resolve().parents[2]


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
    for path in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        for name in re.findall(
            r"(?<![\w/.])(?:mel|data|actor|rollout|ckpt|algo|vllm|ds|eval|reward|logger)\.[a-z0-9_.]+\w",
            path.read_text(),
        ):
            module = name.startswith(("data.", "eval.")) and (REPO / f"{name.replace('.', '/')}.py").is_file()
            module = module or name.startswith(("vllm.entrypoints.", "vllm.model_executor."))
            if not module and not name.endswith((".py", ".md", ".yaml", ".txt")):
                assert name in known, f"{path.name}: {name}"


def test_links_lead_somewhere():
    for path in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"
