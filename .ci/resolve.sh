#!/usr/bin/env bash
# Do the requirements files resolve, for Python 3.11 and 3.12 on Linux x86_64? Needs a package index, installs nothing.
# No override is in play: flash-attn, which is source only, states its needs in its PKG-INFO, so nothing of it is built.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export UV_PYTHON_DOWNLOADS=never # a missing 3.12 does not matter: 3.11 then reads the metadata of the few source packages
log=$(mktemp)
trap 'rm -f "$log"' EXIT

status=0
for file in requirements.txt requirements-cpu.txt; do
    for python in 3.11 3.12; do
        if .venv/bin/uv pip compile --no-progress --color never --python-version "$python" \
            --python-platform x86_64-manylinux_2_28 "$file" >"$log" 2>&1; then
            echo "$file resolves for Python $python: $(grep -c == "$log") packages"
        elif grep -qiE "error sending request|failed to fetch|dns error" "$log" && [[ -z ${CI:-} ]]; then
            echo "$file for Python $python: skipped, no package index within reach"
        else
            echo "$file does NOT resolve for Python $python:" >&2
            tail -n 20 "$log" >&2
            status=1
        fi
    done
done
exit $status
