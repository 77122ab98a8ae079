#!/bin/sh
# Type-checks every crate that is published with the oldest Rust that the manifests allow, which rustup installs. Needs no
# libtorch.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rustup toolchain install "$version" --profile minimal >/dev/null 2>&1 || {
    echo "oldest Rust: rustup could not install $version; run rustup toolchain install $version --profile minimal where it can be fetched" >&2
    exit 1
}
check() {
    echo "oldest Rust: $version, $*"
    cargo "+$version" check --quiet --locked "$@"
}
check -p figa-loss --no-default-features
check -p figa-loss --no-default-features --features data,parquet,rayon,torch,doc-only
check -p figa-cli -p figa-atomic-file
check -p tch-c10d -p figa-finetune --features tch-c10d/doc-only
