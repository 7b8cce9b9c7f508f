#!/bin/sh
# Writes requirements/*.txt anew from pyproject.toml: every package with its version and hashes, for every platform.
# The resolver itself is installed from a lock as well, and writes the next one of its own at the end.
# Usage: scripts/lock.sh [--upgrade]. The resolver (uv) lives in a virtual environment of its own and is needed for
# this only; installing takes nothing but pip.
set -eu
cd "$(dirname "$0")/.."

uv_home=.make/uv
lock=requirements/lock.txt
if [ ! -x "$uv_home/bin/uv" ] || [ "$(cat "$uv_home/.ready" 2>/dev/null)" != "$(cksum <"$lock")" ]; then
    echo "==> Installing the resolver (uv)"
    rm -rf "$uv_home"
    "${PYTHON:-python3}" -m venv "$uv_home"
    "$uv_home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: --requirement "$lock"
    cksum <"$lock" >"$uv_home/.ready"
fi

compile() {
    output=$1
    shift
    echo "==> Locking $output"
    # The index is pip's and uv's own default: the lock must not carry the address of anybody's mirror.
    "$uv_home/bin/uv" pip compile --quiet --system-certs --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
        --output-file "$output" "$@"
}

project="pyproject.toml requirements/build.in"
# shellcheck disable=SC2086 # Two files, neither with a space in its name.
compile requirements/runtime.txt --extra all "$@" $project
# shellcheck disable=SC2086
compile requirements/dev.txt --extra all --extra django --extra jwt --group dev \
    --constraint requirements/runtime.txt "$@" $project
compile "$lock" "$@" requirements/lock.in
