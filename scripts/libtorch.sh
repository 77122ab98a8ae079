#!/bin/sh
# Makes sure that there is a libtorch to build against. If LIBTORCH or LIBTORCH_USE_PYTORCH is set, the script only
# checks its version. Otherwise it installs PyTorch's wheels, whose hashes are in libtorch/, into .libtorch, which
# .cargo/config.toml names: with CUDA if nvidia-smi lists a GPU, else for the CPU. It installs into a temporary folder
# and then renames the folder, so that .libtorch is complete or absent. It removes only folders that it has made.
set -eu

version=2.11.0 # the version that the tch in Cargo.lock needs
or_set_libtorch="or set LIBTORCH to the folder of a libtorch $version"
name_or_unset="name the folder of a libtorch $version, or unset the variable"

fail() {
    echo "libtorch: $*" >&2
    exit 1
}

check_version() { # version, its place, what to do
    [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ] || [ "${1%%+*}" = "$version" ] ||
        fail "$2 is version $1, but $version is needed; $3 (LIBTORCH_BYPASS_VERSION_CHECK=1 skips this check)"
}

if [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    python=python3
    [ -z "${VIRTUAL_ENV:-}" ] || python=python
    found=$($python -c 'import torch; print(torch.__version__)' 2>/dev/null) ||
        fail "LIBTORCH_USE_PYTORCH is set, but $python cannot import torch;" \
            "install torch==$version there, or unset the variable"
    check_version "$found" "the torch of $python" "install torch==$version there, or unset LIBTORCH_USE_PYTORCH"
    exit
fi

if [ -n "${LIBTORCH:-}" ]; then
    header=$LIBTORCH/include/torch/headeronly/version.h
    [ -d "$LIBTORCH/lib" ] && [ -d "$LIBTORCH/include" ] ||
        fail "LIBTORCH=$LIBTORCH has no folders lib and include; $name_or_unset"
    if [ -f "$header" ]; then
        found=$(sed -nE 's/^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+).*/\2/p' "$header" | paste -sd. -)
    else # libtorch before 2.9
        found=$(cat "$LIBTORCH/build-version" 2>/dev/null || echo unknown)
    fi
    check_version "$found" "LIBTORCH=$LIBTORCH" "$name_or_unset"
    exit
fi

cd "$(dirname "$0")/.."
for stale in .libtorch.partial.*; do # killed runs leave their folders behind
    [ ! -f "$stale/made-by-libtorch.sh" ] || kill -0 "${stale##*.}" 2>/dev/null || rm -rf "$stale"
done
platform=$(uname -sm)
kind=cpu
if [ "$platform" = "Linux x86_64" ] && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then kind=cuda; fi
installed=$(cat .libtorch/installed 2>/dev/null || true)
[ "$installed" != "$version $kind" ] || exit 0
# An installation with CUDA works on a CPU too.
[ "$installed" != "$version cuda" ] || exit 0

[ ! -e .libtorch ] || [ -n "$installed" ] ||
    fail ".libtorch is not from this script; move it away, $or_set_libtorch"
python3 -c '' 2>/dev/null || fail "python3 was not found; install Python 3 with pip, $or_set_libtorch"
python3 -m pip --version >/dev/null 2>&1 ||
    fail "python3 has no pip; install pip (python3 -m ensurepip), $or_set_libtorch"

partial=.libtorch.partial.$$
trap 'exit 130' INT TERM
mkdir "$partial"
trap 'rm -rf "$partial"' EXIT
touch "$partial/made-by-libtorch.sh"

set -- --requirement scripts/libtorch/torch.txt
[ "$platform" != "Linux x86_64" ] || set -- "$@" --requirement scripts/libtorch/cpu.txt
[ "$kind" != cuda ] || set -- "$@" --requirement scripts/libtorch/cuda.txt
echo "libtorch: installing torch $version ($kind) into .libtorch" >&2
# Only libraries are used, so the Python packages that torch depends on are left out.
if ! python3 -m pip install --no-user --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    --target "$partial" "$@" 2>"$partial/errors" >&2; then
    reason=$(grep '^ERROR' "$partial/errors" | tail -n 1)
    fail "pip could not install torch==$version (${reason:-no reason given});" \
        "check the network and the free space, $or_set_libtorch"
fi
echo "$version $kind" >"$partial/installed"
rm -rf .libtorch
mv "$partial" .libtorch
