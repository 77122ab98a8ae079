#!/bin/sh
# Tests the wheel of `make wheel` in a fresh venv, with what pip resolves: the versions of python/tests/oldest.txt (oldest), the
# newest ones (newest), the same with Ray and Spark (clients), or NumPy and pyarrow alone (portable). PYTHON is the Python of the venv. Tests of what is not installed
# are skipped; types and exact versions are the work of `make python`.
set -eu
cd "$(dirname "$0")/.."
case $1 in
oldest) set -- "$1" --requirement python/tests/oldest.txt ;;
newest) set -- "$1" accelerate datasets numpy pyarrow torch transformers trl ;;
clients) set -- "$1" accelerate datasets numpy pyarrow pyspark ray torch transformers ;;
portable) set -- "$1" numpy pyarrow ;;
*) echo "python_versions: expected oldest, newest, clients or portable, found $1" >&2 && exit 1 ;;
esac
venv=$PWD/target/python/$1
shift
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
bin=$venv/bin
[ -d "$bin" ] || bin=$venv/Scripts
"$bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: pytest target/python/wheels/*.whl "$@"
"$bin/python" -m pip list --disable-pip-version-check | grep -iE '^(accelerate|datasets|numpy|pyarrow|pyspark|ray|torch|transformers|trl) ' || true
OMP_NUM_THREADS=1 "$bin/python" -m pytest -q -rs -p no:cacheprovider python/tests
