#!/bin/sh
# Builds the wheel of the Python package, and checks its types and runs its tests in a fresh venv, with the torch that the other tests
# use. Prints the size of the wheel, the oldest glibc it works with, and the seconds that each step took. FIGA_FINETUNE names the program
# whose training one of the tests compares with; without it, the test takes what is built, and is skipped if there is nothing.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/target/python
start=$(date +%s)

took() { # what has been done
    now=$(date +%s)
    echo "python: $1 in $((now - start)) s"
    start=$now
}

install() { # folder of a venv, what pip installs there
    venv=$1
    shift
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$@"
}

rm -rf "$out/venv"
sh scripts/wheel.sh
wheel=$(ls "$out"/wheels/*.whl)
took "wheel built and tried"

python3 -m venv "$out/venv"
install "$out/venv" "$wheel"
install "$out/venv" --no-deps --requirement python/tests/requirements.txt
took "installed, with what the tests use,"

# The torch that the crate links with, without the libraries for a GPU: empty ones have their names, and nothing of them is called.
if [ -z "${LIBTORCH_USE_PYTORCH:-}" ]; then
    site=$(dirname "${LIBTORCH:-$PWD/.libtorch/torch}")
    packages=$("$out/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\nimport os, sys; sys.setdlopenflags(os.RTLD_LAZY)\n' "$site" >"$packages/torch.pth"
    mkdir -p "$out/missing"
    for library in $(ldd "$site"/torch/lib/*.so | sed -n 's/^[[:space:]]*\([^ ]*\) => not found$/\1/p' | sort -u); do
        cc -shared -Wl,-soname,"$library" -o "$out/missing/$library" -x c /dev/null
    done
    export LD_LIBRARY_PATH="$out/missing${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
else
    install "$out/venv" torch==2.11.0
fi
"$out/venv/bin/python" -m mypy --config-file python/pyproject.toml --cache-dir "$out/mypy" python/figa_loss
# The stub of the extension module, beside the module.
"$out/venv/bin/python" -m mypy.stubtest --mypy-config-file python/pyproject.toml figa_loss._core
took "types checked"
# Each program of a test has a core or two, as it is.
OMP_NUM_THREADS=1 "$out/venv/bin/python" -m pytest -q -rs -p no:cacheprovider python/tests
took tested
