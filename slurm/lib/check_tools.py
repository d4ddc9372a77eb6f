"""Checks this node's tools for compilations during a job (docs/slurm.md, "What is compiled").

DeepSpeed compiles its Adam; Triton and torch's inductor compile kernels for vLLM; FlashInfer compiles its own. When
something is missing they fail minutes later, inside a Ray actor, or choose something slower.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slurm.lib import this_node

_INSTALL = "as the head of requirements.txt says, or in a container (slurm/Dockerfile)"
_PYTHON_SOURCE = "#include <Python.h>\n"
# Headers that torch's own headers include.
_CUDA_SOURCE = "".join(f"#include <{name}.h>\n" for name in ("cuda_runtime", "cublas_v2", "cusparse", "cusolverDn"))
# Folders from which compiled code is loaded.
_FOLDERS = ("TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR")
_GPU_FOLDERS = ("TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "FLASHINFER_WORKSPACE_BASE")
_MINOR_FITS = (10, 11, 12)  # CUDAs whose minor versions DeepSpeed (0.19) mixes: cuda_minor_mismatch_ok of its builder


def problems(trains: bool, deadline: float) -> Iterator[str]:
    """What is missing, and what to do. `trains`: else inference alone. Ends by `deadline`, of time.monotonic()."""
    cuda = constants("torch", "version.py").get("cuda") if this_node.GPUS else None
    if trains:
        yield from ninja(deadline)
    if trains or this_node.GPUS:
        yield from compiler(deadline)
        for name in (*_FOLDERS, *(_GPU_FOLDERS if this_node.GPUS else ())):
            yield from folder(name, os.environ.get(name))
    if cuda:
        yield from c_compiler()
        yield from driver(cuda)
        built = constants("deepspeed", "git_version_info_installed.py").get("installed_ops", {})
        if trains and not built.get("fused_adam"):
            yield from nvcc(cuda, deadline)


def ninja(deadline: float) -> Iterator[str]:
    """Ninja, which builds torch's extensions such as DeepSpeed's Adam; it is called by its name."""
    if error := run(["ninja", "--version"], deadline):
        yield f"ninja cannot be run ({error}): install it {_INSTALL}"


def compiler(deadline: float) -> Iterator[str]:
    """The C++ compiler with Python's headers, both in the way that torch's extensions need them."""
    name = os.environ.get("CXX") or "c++"
    command = [*shlex.split(name), "-shared", "-fPIC", f"-I{sysconfig.get_path('include', scheme='posix_prefix')}"]
    if error := build(command, "probe.cpp", _PYTHON_SOURCE, deadline):
        yield f"{name} cannot build an extension of Python ({error}): install g++ and python3-dev, or set CXX"


def c_compiler() -> Iterator[str]:
    """The C compiler, searched as Triton does."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    if not any(which(name) for name in names):
        yield f"Triton finds no C compiler ({' or '.join(names)}): install gcc, or set CC"


def folder(name: str, value: str | None) -> Iterator[str]:
    """The folder of a variable, or its first existing parent, is writable, and code in it can be loaded."""
    if not value:
        return
    path = Path(value)
    try:
        path = next(path for path in (path, *path.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=path):
            pass
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            yield f"{name}={value}: {path} is mounted noexec, so that what is compiled there cannot be loaded: set {name}"
    except OSError as error:
        yield f"{name}={value}: {path} cannot be written: {error.strerror}"


def driver(cuda: str, library: str = "libcuda.so.1") -> Iterator[str]:
    """NVIDIA's driver runs torch's CUDA: any minor version of the same or an older major one."""
    version = ctypes.c_int()
    try:
        if code := ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version)):
            yield f"NVIDIA's driver does not tell its version (cuDriverGetVersion: {code}): nvidia-smi on the node"
            return
    except (OSError, AttributeError) as error:
        yield f"no driver of NVIDIA's ({error}): a node without GPUs, or a container without them"
        return
    major, minor = version.value // 1000, version.value % 1000 // 10
    if major < int(cuda.split(".")[0]):
        yield (
            f"the driver runs CUDA up to {major}.{minor}, but torch was built for {cuda}: other nodes, a newer driver, or "
            f"a torch for CUDA {major}"
        )


def nvcc(cuda: str, deadline: float) -> Iterator[str]:
    """CUDA's compiler, searched as torch does, of a version that DeepSpeed accepts, with the libraries' headers."""
    found = which("nvcc")
    asked = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    home = Path(asked or (Path(found).parents[1] if found else "/usr/local/cuda"))
    program = home / "bin" / "nvcc"
    advice = f"DeepSpeed compiles its Adam with it; `module load cuda/{cuda}` in slurm/site.env, or {_INSTALL}"
    said: list[str] = []
    if error := run([str(program), "--version"], deadline, said):
        yield f"{program} cannot be run ({error}): {advice}"
        return
    release = re.search(r"release (\d+)\.(\d+)", "".join(said))
    version = f"{release[1]}.{release[2]}" if release else "unknown"
    mixed = release and int(release[1]) in _MINOR_FITS and release[1] == cuda.split(".")[0]
    if not (mixed or version == ".".join(cuda.split(".")[:2]) or os.environ.get("DS_SKIP_CUDA_CHECK") == "1"):
        yield f"{program} is of CUDA {version}, but torch was built for {cuda}: {advice}"
        return
    include = [f"-I{path}" for path in (home / "include", os.environ.get("CUDA_INC_PATH")) if path]
    host = ["-ccbin", os.environ["CC"]] if os.environ.get("CC") else []
    command = [str(program), "-shared", "-Xcompiler", "-fPIC", "-cudart", "shared", *host, *include]
    if error := build(command, "probe.cu", _CUDA_SOURCE, deadline):
        yield f"{program} cannot build a library of CUDA ({error}): the whole toolkit is needed: {advice}"


def constants(package: str, module: str) -> dict[str, Any]:
    """The constants of a module, without importing its package, which would take seconds."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).with_name(module) if spec and spec.origin else None
    return runpy.run_path(str(path)) if path and path.is_file() else {}


def which(name: str) -> str | None:
    """The command's file on the trainer's PATH."""
    return shutil.which(name, path=this_node.path())


def build(command: list[str], name: str, source: str, deadline: float) -> str:
    """Compile and link a library. Returns the error, or nothing."""
    try:
        with tempfile.TemporaryDirectory() as made:
            Path(made, name).write_text(source)
            return run([*command, str(Path(made, name)), "-o", str(Path(made, "probe.so"))], deadline)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def run(command: list[str], deadline: float, said: list[str] | None = None) -> str:
    """Run a command with the trainer's PATH; `said` gets its output. Returns the error, or nothing."""
    environment = os.environ | {"PATH": this_node.path()}
    patience = max(1.0, deadline - time.monotonic())
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=environment)
    except subprocess.TimeoutExpired:
        return f"no answer within {patience:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    if said is not None:
        said.append(done.stdout)
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line), (lines or [f"exit code {done.returncode}"])[-1])
    return first[:200] if done.returncode else ""
