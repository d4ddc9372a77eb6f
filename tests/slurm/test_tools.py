"""check_tools.py finds the needs of a compile at run time: commands, compilers, folders, NVIDIA's driver and nvcc."""

import importlib.metadata
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)
LIB = Path(__file__).resolve().parents[2] / "slurm" / "lib"
PATIENCE_S = 60


@pytest.fixture
def tools(monkeypatch):
    """The module slurm/lib/check_tools.py, with none of its environment variables set."""
    for name in ("CC", "CXX", "CUDA_HOME", "CUDA_PATH", "CUDA_INC_PATH", "DS_SKIP_CUDA_CHECK"):
        monkeypatch.delenv(name, raising=False)
    from slurm.lib import check_tools

    return check_tools


@pytest.fixture
def deadline():
    """Far enough away for any command."""
    return time.monotonic() + PATIENCE_S


@pytest.fixture
def script(tmp_path):
    """Make an executable from shell commands."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def library(tmp_path):
    """Make a shared library from C source."""

    def make(name, source):
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / name]
        subprocess.run(command, input=source, text=True, check=True, timeout=PATIENCE_S)
        return str(tmp_path / name)

    return make


def test_this_machine_has_what_the_cpu_runtime_compiles_with(tools, deadline):
    assert list(tools.problems(True, deadline)) == []


def test_a_command_of_the_environment_that_nobody_has_activated(tools, deadline, monkeypatch, script):
    ninja = script("venv/bin/ninja", "exit 0")
    monkeypatch.setattr(tools.this_node.sys, "executable", str(ninja.with_name("python")))
    monkeypatch.setenv("PATH", "/nowhere")
    assert list(tools.ninja(deadline)) == []
    ninja.unlink()
    (said,) = tools.ninja(deadline)
    assert said.startswith("ninja cannot be run (No such file or directory): install it")
    script("venv/bin/ninja", "exec sleep 60")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "no answer within 1 s" in next(tools.ninja(time.monotonic() + 0.6))


def test_the_compiler_and_pythons_headers(tools, deadline, monkeypatch, tmp_path, script):
    monkeypatch.setattr(tools.sysconfig, "get_path", lambda *_, **__: str(tmp_path))
    assert "Python.h: No such file" in next(tools.compiler(deadline))
    (tmp_path / "Python.h").touch()
    assert list(tools.compiler(deadline)) == []
    cache = script("cache", 'exec "$@"')
    monkeypatch.setenv("CXX", f"{cache} c++")
    assert list(tools.compiler(deadline)) == []
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert next(tools.compiler(deadline)).startswith("/nowhere/g++ cannot build an extension of Python (No such file")
    monkeypatch.setattr(tools.tempfile, "tempdir", str(tmp_path / "gone"))
    assert "gone" in next(tools.compiler(deadline))


def test_tritons_c_compiler(tools, monkeypatch, script):
    assert list(tools.c_compiler()) == []
    monkeypatch.setenv("CC", "/nowhere/gcc")
    assert next(tools.c_compiler()).startswith("Triton finds no C compiler (/nowhere/gcc)")
    monkeypatch.delenv("CC")
    clang = script("bin/clang", "exit 0")
    monkeypatch.setattr(tools.this_node, "path", lambda: str(clang.parent))
    assert list(tools.c_compiler()) == []
    clang.unlink()
    assert "(gcc or clang)" in next(tools.c_compiler())


def test_folders_of_what_is_compiled(tools, tmp_path):
    assert list(tools.folder("X", None)) == [] == list(tools.folder("X", str(tmp_path / "not" / "yet")))
    assert list(tmp_path.iterdir()) == []  # Ray creates it
    assert next(tools.folder("X", "/proc/1/not/there")).startswith("X=/proc/1/not/there: /proc/1 cannot be written: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")
def test_a_folder_that_code_cannot_be_loaded_from(tools, tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", tmp_path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
    try:
        assert f"{tmp_path} is mounted noexec" in next(tools.folder("TORCH_EXTENSIONS_DIR", str(tmp_path / "x")))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("version", "torch", "fits"),
    [(13000, "13.0", True), (13010, "13.0", True), (12080, "13.0", False), (12020, "12.8", True), (13000, "12.6", True),
     (11080, "12.1", False)],
)  # fmt: skip
def test_the_driver(tools, library, version, torch, fits):
    """A driver runs all minor versions of its major version, and all older versions."""
    source = f"int cuDriverGetVersion(int *v) {{ *v = {version}; return 0; }}"
    said = list(tools.driver(torch, library("libcuda.so.1", source)))
    assert said == [] if fits else f"up to {version // 1000}.{version % 1000 // 10}, but torch was built for" in said[0]


def test_no_driver_at_all(tools, library):
    assert "no driver of NVIDIA's" in next(tools.driver("13.0", "/nowhere/libcuda.so.1"))
    assert "no driver of NVIDIA's" in next(tools.driver("13.0", library("stub.so", "int other;")))
    source = "int cuDriverGetVersion(int *v) { return 34; }"  # the toolkit's stub library
    assert "(cuDriverGetVersion: 34)" in next(tools.driver("13.0", library("stub2.so", source)))


RELEASE = '[ "$1" != --version ] || echo "Cuda compilation tools, release {}, V1"'


@pytest.mark.parametrize(
    ("release", "torch", "environment", "fits"),
    [
        ("13.0", "13.0", {}, True),
        ("12.4", "12.6", {}, True),
        ("12.4", "13.0", {}, False),
        ("13.1", "13.0", {}, False),  # DeepSpeed 0.19 accepts other minor versions only for 10, 11 and 12
        ("13.1", "13.0", {"DS_SKIP_CUDA_CHECK": "1"}, True),
        ("9.0", "13.0", {}, False),
        ("13.0", "13.0.2", {}, True),
    ],
)
def test_the_version_of_nvcc(tools, deadline, monkeypatch, script, release, torch, environment, fits):
    program = script("cuda/bin/nvcc", RELEASE.format(release))
    for name, value in (environment | {"CUDA_HOME": str(program.parents[1])}).items():
        monkeypatch.setenv(name, value)
    said = list(tools.nvcc(torch, deadline))
    assert said == [] if fits else f"{program} is of CUDA {release}, but torch was built for {torch}" in said[0]


def test_where_nvcc_is_looked_for(tools, deadline, monkeypatch, script):
    """The order is torch's: CUDA_HOME, CUDA_PATH, PATH."""
    good, bad = script("a/bin/nvcc", RELEASE.format("13.0")), script("b/bin/nvcc", "exit 3")
    monkeypatch.setenv("PATH", f"{good.parent}:/usr/bin:/bin")
    assert list(tools.nvcc("13.0", deadline)) == []
    monkeypatch.setenv("CUDA_PATH", str(bad.parents[1]))
    assert f"{bad} cannot be run (exit code 3): DeepSpeed compiles its Adam" in next(tools.nvcc("13.0", deadline))
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    assert next(tools.nvcc("13.0", deadline)).startswith("/nowhere/bin/nvcc cannot be run (No such file")


def test_a_toolkit_that_is_not_whole(tools, deadline, monkeypatch, script):
    program = script(
        "cuda/bin/nvcc",
        f"{RELEASE.format('13.0')}; [ $1 = --version ] || {{ echo 'fatal error: cusparse.h' >&2; exit 1; }}",
    )
    monkeypatch.setenv("CUDA_HOME", str(program.parents[1]))
    assert "cannot build a library of CUDA (fatal error: cusparse.h)" in next(tools.nvcc("13.0", deadline))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_a_real_nvcc(tools, deadline, monkeypatch):
    """It builds a library, and reports a header that is missing."""
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=PATIENCE_S).stdout
    release = said.split("release ")[1].split(",")[0]
    monkeypatch.setattr(tools, "_CUDA_SOURCE", "#include <cuda_runtime.h>\n__global__ void kernel() {}\n")
    assert list(tools.nvcc(release, deadline)) == []
    monkeypatch.setattr(tools, "_CUDA_SOURCE", "#include <no_such_part_of_cuda.h>\n")
    assert "no_such_part_of_cuda.h: No such file" in next(tools.nvcc(release, deadline))


def test_what_is_looked_at(tools, deadline, monkeypatch, tmp_path):
    """Check CUDA if GPUs are requested and torch is built for it; check nvcc if training compiles."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "/proc/1/x")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    monkeypatch.setattr(tools, "build", lambda *_: "")
    modules = {"torch": {"cuda": "13.0"}, "deepspeed": {"installed_ops": {"fused_adam": False}}}
    monkeypatch.setattr(tools, "constants", lambda package, _: modules[package])

    def found(trains, gpus):
        monkeypatch.setattr(tools.this_node, "GPUS", gpus)
        words = ("TRITON_CACHE_DIR", "driver", "nvcc")
        return [word for said in tools.problems(trains, deadline) for word in words if word in said]

    assert found(True, 0) == [] == found(False, 0)
    assert found(True, 8) == ["TRITON_CACHE_DIR", "driver", "nvcc"]
    assert found(False, 8) == ["TRITON_CACHE_DIR", "driver"]
    modules["deepspeed"]["installed_ops"]["fused_adam"] = True
    assert found(True, 8) == ["TRITON_CACHE_DIR", "driver"]
    modules["torch"]["cuda"] = None
    assert found(True, 8) == ["TRITON_CACHE_DIR"]


def test_constants_of_what_is_installed(tools):
    found = tools.constants("torch", "version.py")
    assert "cuda" in found and found["__version__"].split("+")[0] == importlib.metadata.version("torch").split("+")[0]
    assert "fused_adam" in tools.constants("deepspeed", "git_version_info_installed.py")["installed_ops"]
    assert tools.constants("no_such_package", "version.py") == {} == tools.constants("torch", "no_such.py")


def test_infiniband_without_its_libraries(tools, tmp_path, library):
    from slurm.lib import check_node

    devices = tmp_path / "infiniband"
    for name in ("mlx5_0", "mlx5_1"):
        (devices / name).mkdir(parents=True)
    count = "int devices; void *ibv_get_device_list(int *n) {{ *n = {}; return &devices; }}"
    rdma = library("librdmacm.so.1", "int rdma;")
    both, one = (library(f"libibverbs{n}.so.1", count.format(n)) for n in (2, 1))
    assert check_node.without_verbs(tmp_path / "none") == ""
    assert check_node.without_verbs(devices, (both, rdma)) == ""
    said = check_node.without_verbs(devices, (one, rdma))
    assert "InfiniBand (mlx5_0, mlx5_1)" in said and "lacks a provider for 1 of 2 devices: between nodes NCCL" in said
    said = check_node.without_verbs(devices, ("/nowhere/libibverbs.so.1", "/nowhere/librdmacm.so.1"))
    assert "lacks /nowhere/libibverbs.so.1, /nowhere/librdmacm.so.1: between nodes NCCL" in said


def test_the_image_has_infinibands_libraries():
    text = (LIB.parent / "Dockerfile").read_text()
    for package in ("libibverbs1", "ibverbs-providers", "librdmacm1", "g++", "python3-dev"):
        assert package in text.split()
