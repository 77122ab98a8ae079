#!/usr/bin/env python3
"""Packages the crates and the sdist of the Python package, and checks and prints what is in them.

    python3 scripts/package.py             # make package
    python3 scripts/package.py --verify    # compile what is packaged as well, minutes

Each package must hold both licences as files, and no experiments; the library must stay below 1.5 MiB unpacked. Changes
that are not committed are packaged as well, with a line that says so.
"""

import argparse
import json
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LICENCES = {"LICENSE-MIT", "LICENSE-APACHE"}
MAX_BYTES = {"figa-loss": 3 << 19}


def output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"package: {' '.join(command)}: exit code {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def make_crates(verify: bool) -> list[Path]:
    changes = output("git", "status", "--porcelain")
    if changes:
        print(f"package: {len(changes.splitlines())} changes that are not committed are packaged as well", flush=True)
    options = [option for option, wanted in (("--allow-dirty", changes), ("--no-verify", not verify)) if wanted]
    output("cargo", "package", "--workspace", *options)
    metadata = json.loads(output("cargo", "metadata", "--no-deps", "--format-version", "1"))
    folder = Path(metadata["target_directory"], "package")
    published = [package for package in metadata["packages"] if package["publish"] is None]
    return [folder / f"{package['name']}-{package['version']}.crate" for package in published]


def make_sdist() -> Path:
    folder = ROOT / "target/python/sdist"
    for old in folder.glob("*.tar.gz"):
        old.unlink()
    maturin = Path(output("sh", "scripts/maturin.sh").strip(), "maturin")
    output(str(maturin), "sdist", "--manifest-path", "python/Cargo.toml", "--out", str(folder))
    [sdist] = folder.glob("*.tar.gz")
    return sdist


def check(archive: Path) -> list[str]:
    """Prints the size of an archive, and returns its problems."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if not member.isdir()]
    top = archive.name.removesuffix(".tar.gz").removesuffix(".crate")
    names = {member.name.removeprefix(f"{top}/"): member for member in members}
    unpacked = sum(member.size for member in members)
    print(f"package: {archive.name:<28} {len(names):>4} files {archive.stat().st_size:>9} bytes {unpacked:>9} unpacked")
    problems = [f"no {name}" for name in sorted(LICENCES - names.keys())]
    problems += [f"{name} is a link" for name, member in names.items() if not member.isfile()]
    problems += [f"{name} is a recorded experiment" for name in names if "docs/experiments/" in name]
    limit = MAX_BYTES.get(top.rsplit("-", 1)[0]) if archive.suffix == ".crate" else None
    if limit and unpacked > limit:
        problems.append(f"{unpacked} bytes unpacked, expected at most {limit}")
    return [f"package: {archive.name}: {problem}" for problem in problems]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verify", action="store_true", help="compile each crate from its package")
    archives = [*make_crates(parser.parse_args().verify), make_sdist()]
    sys.exit("\n".join(problem for archive in archives for problem in check(archive)) or 0)


if __name__ == "__main__":
    main()
