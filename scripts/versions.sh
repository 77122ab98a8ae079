#!/bin/sh
# Type-checks the libraries and the command with the newest tch that Cargo.toml allows, then with the oldest version of
# each direct dependency. Works on a copy of the repository, because both change Cargo.lock. Needs no libtorch.
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
    cargo check -p tch-c10d --features doc-only
    cargo check -p figa-cli
}

cargo update tch torch-sys
check "the newest tch"

# The flag that resolves the oldest versions is unstable, but its lock file is an ordinary one.
rm Cargo.lock
RUSTC_BOOTSTRAP=1 cargo generate-lockfile -Z direct-minimal-versions
check "the oldest version of each direct dependency"
