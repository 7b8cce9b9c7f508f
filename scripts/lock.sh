#!/bin/sh
# Writes requirements/*.txt anew from pyproject.toml: every package with its version and hashes, for every platform.
# Usage: scripts/lock.sh [--upgrade]. The resolver (uv) lives in a virtual environment of its own and is needed for
# this only; installing takes nothing but pip.
set -eu
cd "$(dirname "$0")/.."

uv_home=.make/uv
if [ ! -x "$uv_home/bin/uv" ]; then
    echo "==> Installing the resolver (uv)"
    "${PYTHON:-python3}" -m venv "$uv_home"
    "$uv_home/bin/python" -m pip install --quiet --disable-pip-version-check uv
fi

compile() {
    output=$1
    shift
    echo "==> Locking $output"
    # The index is pip's and uv's own default: the lock must not carry the address of anybody's mirror.
    "$uv_home/bin/uv" pip compile --quiet --system-certs --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
        --output-file "$output" "$@" pyproject.toml requirements/build.in
}

compile requirements/runtime.txt --extra all "$@"
compile requirements/dev.txt --extra all --extra django --extra jwt --group dev --constraint requirements/runtime.txt "$@"
