#!/bin/sh
# Type-checks the libraries and the programs with the newest version of each dependency that the manifests allow, as
# `cargo add` and `cargo install` choose them, then with the oldest of each direct one. Works on a copy of the repository,
# because both change Cargo.lock. Needs no libtorch.
set -eu
cd "$(dirname "$0")/.."
copy=$PWD/target/versions
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | xargs -0 tar -cf - | tar -xf - -C "$copy"
cd "$copy"

check() { # description of the versions
    echo "versions: $1, $(sed -n '/^name = "tch"$/{n;s/version = "\(.*\)"/tch \1/p;}' Cargo.lock)"
    cargo check -p figa-loss --no-default-features --features data,parquet,rayon,torch,doc-only
    cargo check -p figa-cli
    # With its own features and those of tch-c10d, which it depends on.
    cargo check -p figa-finetune --features tch-c10d/doc-only
}

rm Cargo.lock
cargo generate-lockfile
check "the newest version of each dependency"

# The flag that resolves the oldest versions is unstable, but its lock file is an ordinary one.
rm Cargo.lock
RUSTC_BOOTSTRAP=1 cargo generate-lockfile -Z direct-minimal-versions
check "the oldest version of each direct dependency"
