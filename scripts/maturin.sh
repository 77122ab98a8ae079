#!/bin/sh
# Prints the folder with maturin and zig, in the versions that build the Python package. Installs them if they are missing.
set -eu
cd "$(dirname "$0")/.."
build=$PWD/target/python/build
bin=$build/bin
# On Windows, a venv has its programs elsewhere.
[ "${OS:-}" != Windows_NT ] || bin=$build/Scripts
[ -x "$bin/maturin" ] || {
    python3 -m venv "$build"
    "$bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: maturin==1.16.0 ziglang==0.17.1 >&2
}
echo "$bin"
