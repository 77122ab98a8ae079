#!/usr/bin/env python3
"""Writes the licences of the crates that are compiled into the programs, as cargo-about reads them from the sources.

    python3 scripts/notices.py            # writes the files
    python3 scripts/notices.py --check    # fails if one is not what would be written

The wheel contains all that `figa` does, so its file goes with the binaries of `figa` as well. `xtask/tests/notices.rs` checks
without cargo-about that the files name the crates of Cargo.lock.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ABOUT = "0.9.3"
NAME = "THIRD-PARTY-NOTICES.txt"
HEAD = """\
Third-party notices

{program} contains these crates. The texts of their licences follow. It also contains the standard library of Rust,
by the Rust project developers, under the Apache License 2.0 or the MIT License.

"""
PROGRAMS = {"python": "The Python package figa-loss, and the command figa,", "finetune": "The program finetune"}


def licences(folder: str) -> list[dict]:
    """The licences that cargo-about finds for the package in a folder, each with the crates under it."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "licences.json")
        command = ["cargo", "about", "generate", "--frozen", "--fail", "--config", "about.toml", "--format", "json"]
        command += ["--manifest-path", f"{folder}/Cargo.toml", "--output-file", str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"notices: {' '.join(command)}: exit code {done.returncode}\n{done.stderr.strip()}")
        return json.loads(out.read_text(encoding="utf-8"))["licenses"]


def notices(folder: str) -> str:
    # Texts by licence; copies that differ in white space alone are shown once.
    texts: dict[tuple[str, str], str] = {}
    users: dict[tuple[str, str], set[str]] = {}
    names: dict[str, set[str]] = {}
    for licence in licences(folder):
        for crate in (use["crate"] for use in licence["used_by"]):
            if crate["source"] is None:
                continue
            name = f"{crate['name']} {crate['version']}"
            names.setdefault(name, set()).add(licence["id"])
            # Without a file in the sources, the text is the usual one, and names nobody.
            authors = [] if licence["source_path"] else [author.split(" <")[0] for author in crate["authors"]]
            key = (licence["id"], " ".join(licence["text"].split()))
            texts.setdefault(key, licence["text"].strip("\r\n"))
            users.setdefault(key, set()).add(f"{name}, by {', '.join(authors)}" if authors else name)
    pieces = [HEAD.format(program=PROGRAMS[folder])]
    pieces += [f"* {name}: {', '.join(sorted(ids))}\n" for name, ids in sorted(names.items())]
    for key in sorted(texts):
        pieces += [f"\n{'=' * 80}\n{key[0]}, for\n\n", *(f"* {name}\n" for name in sorted(users[key])), f"\n{texts[key]}\n"]
    return "".join(f"{line.rstrip()}\n" for line in "".join(pieces).splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file would change")
    check = parser.parse_args().check
    if shutil.which("cargo-about") is None:
        sys.exit(f"notices: cargo-about is missing; run: cargo install cargo-about --version {ABOUT} --features cli --locked")
    # Sources of all platforms, as nothing else is read.
    subprocess.run(["cargo", "fetch", "--locked", "--quiet"], cwd=ROOT, check=True)
    for folder in PROGRAMS:
        path = Path(ROOT, folder, NAME)
        text = notices(folder)
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            sys.exit(f"notices: {folder}/{NAME} is out of date; run: make notices")
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
        print(f"notices: {folder}/{NAME} has {len(text) >> 10} KiB")


if __name__ == "__main__":
    main()
