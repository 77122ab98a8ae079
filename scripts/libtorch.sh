#!/bin/sh
# Makes sure that there is a libtorch to build against. LIBTORCH and LIBTORCH_USE_PYTORCH are respected, and then nothing is installed.
# Otherwise PyTorch's wheels go to .libtorch, where .cargo/config.toml looks: the libraries that the CPU needs, or all of CUDA where
# nvidia-smi lists a GPU. They are put together aside and renamed when complete, so that .libtorch is whole or absent.
set -eu

version=2.11.0 # what the tch in Cargo.lock is written for
own_or_python="or set LIBTORCH to the folder of a libtorch $version"

fail() {
    echo "libtorch: $*" >&2
    exit 1
}

check_version() { # found, where, remedy
    [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ] || [ "${1%%+*}" = "$version" ] ||
        fail "$2 is version $1, but $version is needed; $3 (LIBTORCH_BYPASS_VERSION_CHECK=1 skips this check)"
}

if [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    python=python3
    [ -z "${VIRTUAL_ENV:-}" ] || python=python
    found=$($python -c 'import torch; print(torch.__version__)' 2>/dev/null) ||
        fail "LIBTORCH_USE_PYTORCH is set, but $python cannot import torch; install torch==$version there, or unset the variable"
    check_version "$found" "the torch of $python" "install torch==$version there, or unset LIBTORCH_USE_PYTORCH"
    exit
fi

if [ -n "${LIBTORCH:-}" ]; then
    header=$LIBTORCH/include/torch/headeronly/version.h
    [ -d "$LIBTORCH/lib" ] && [ -d "$LIBTORCH/include" ] ||
        fail "LIBTORCH=$LIBTORCH has no folders lib and include; name the folder of a libtorch $version, or unset the variable"
    if [ -f "$header" ]; then
        found=$(sed -nE 's/^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+).*/\2/p' "$header" | paste -sd. -)
    else # before 2.9
        found=$(cat "$LIBTORCH/build-version" 2>/dev/null || echo unknown)
    fi
    check_version "$found" "LIBTORCH=$LIBTORCH" "name the folder of a libtorch $version, or unset the variable"
    exit
fi

cd "$(dirname "$0")/.."
for left_over in .libtorch.partial.*; do # of a run that was killed
    kill -0 "${left_over##*.}" 2>/dev/null || rm -rf "$left_over"
done
kind=cpu
if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then kind=cuda; fi
installed=$(cat .libtorch/installed 2>/dev/null || true)
[ "$installed" != "$version $kind" ] || exit 0
# An install with CUDA serves the CPU as well.
[ "$installed" != "$version cuda" ] || exit 0

python3 -c '' 2>/dev/null || fail "python3 was not found; install Python 3 with pip, $own_or_python"
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip; install pip (python3 -m ensurepip), $own_or_python"

partial=.libtorch.partial.$$
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT TERM
mkdir "$partial"

if [ "$kind" = cuda ]; then
    set -- "torch==$version"
elif [ "$(uname -sm)" = "Linux x86_64" ]; then
    # The wheel's CPU library needs two small CUDA libraries to load, and none of the other packages it asks for.
    set -- --no-deps "torch==$version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
else
    set -- --no-deps "torch==$version"
fi
echo "libtorch: installing torch $version ($kind) into .libtorch" >&2
if ! python3 -m pip install --no-user --disable-pip-version-check --target "$partial" "$@" 2>"$partial/errors" >&2; then
    reason=$(grep '^ERROR' "$partial/errors" | tail -n 1)
    fail "pip could not install torch==$version (${reason:-no reason given}); check the network and the free space, $own_or_python"
fi
echo "$version $kind" >"$partial/installed"
rm -rf .libtorch
mv "$partial" .libtorch
