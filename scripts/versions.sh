#!/bin/sh
# Type-checks the crate with the newest tch that Cargo.toml allows, and with the oldest version that it allows of each dependency.
# In a copy, because Cargo.lock holds neither. Needs no libtorch.
set -eu
cd "$(dirname "$0")/.."
target=$PWD/target
copy=$target/versions
rm -rf "$copy"
mkdir -p "$copy"
cp -R Cargo.toml Cargo.lock README.md build.rs src examples tests benches docs atomic-file cli xtask "$copy"
cd "$copy"
check() {
    CARGO_TARGET_DIR=$target cargo check -p figa-loss --no-default-features --features data,rayon,torch,doc-only
    CARGO_TARGET_DIR=$target cargo check -p figa-cli
}

echo "versions: the newest tch"
cargo update tch torch-sys
grep -A 1 '^name = "tch"' Cargo.lock
check

# The resolver's flag is unstable, what it resolves is not.
echo "versions: the oldest of each"
rm Cargo.lock
RUSTC_BOOTSTRAP=1 cargo generate-lockfile -Z direct-minimal-versions
grep -A 1 '^name = "tch"' Cargo.lock
check
