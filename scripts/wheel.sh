#!/bin/sh
# Builds the wheel of the Python package into target/python/wheels, and tries it in a fresh venv: the module, the command, and the
# licences that have to travel with it. TARGET names the platform in place of this machine's, and is then built but not tried.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/target/python
target=${TARGET:-}

PATH=$(sh scripts/maturin.sh):$PATH
rm -rf "$out/wheels" "$out/try"
set -- --quiet --release --locked --manifest-path python/Cargo.toml --out "$out/wheels"
# Zig links with an older glibc than that of this machine, or with musl.
case ${target:-$(uname -s)} in
*-musl) set -- "$@" --zig --compatibility musllinux_1_2 --target "$target" ;;
Linux) set -- "$@" --zig --compatibility manylinux_2_28 ;;
*-*) set -- "$@" --target "$target" ;;
esac
maturin build "$@"
wheel=$(ls "$out"/wheels/*.whl)
echo "wheel: $(basename "$wheel"), $(du -h "$wheel" | cut -f1)"
[ -z "$target" ] || exit 0

python3 -m venv "$out/try"
bin=$out/try/bin
[ -d "$bin" ] || bin=$out/try/Scripts
"$bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$wheel"
"$bin/python" -c 'import figa_loss; assert figa_loss.distance("kitten", "sitting") == 3'
"$bin/figa" --version
"$bin/python" - <<'END'
from importlib.metadata import distribution
files = {file.name: file for file in distribution("figa-loss").files}
for name, text in {"LICENSE-MIT": "MIT License", "LICENSE-APACHE": "Apache License", "THIRD-PARTY-NOTICES.txt": "SIL Open Font License"}.items():
    assert name in files, f"the wheel has no {name}"
    assert text.lower() in files[name].read_text().lower(), f"{name} of the wheel lacks: {text}"
END
