#!/usr/bin/env python3
"""Builds the command figa for this machine, and packs it with its licences and a checksum into target/binary.

    python3 scripts/binary.py

On Linux, zig links with the glibc that the wheel needs, or an older one.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "target/binary"
BESIDE = ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "cli/README.md", "python/THIRD-PARTY-NOTICES.txt"]
ZIGBUILD = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"]
GLIBC = "2.28"


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def build(host: str) -> Path:
    """Builds the program, and returns its path."""
    metadata = json.loads(output("cargo", "metadata", "--no-deps", "--format-version", "1"))
    target = Path(metadata["target_directory"])
    command = ["cargo", "build", "--release", "--locked", "--package", "figa-cli", "--target", host]
    environment = os.environ.copy()
    if "linux-gnu" in host:
        venv = ROOT / "target/zigbuild"
        if not (venv / "bin/cargo-zigbuild").exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *ZIGBUILD]
            subprocess.run(pip, check=True)
        environment["PATH"] = f"{venv / 'bin'}{os.pathsep}{environment['PATH']}"
        command[1] = "zigbuild"
        command[-1] = f"{host}.{GLIBC}"
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return target / host / "release" / ("figa.exe" if platform.system() == "Windows" else "figa")


def pack(name: str, files: list[Path]) -> Path:
    """Packs files into a folder of an archive; one for Windows is a zip file."""
    if platform.system() == "Windows":
        archive = OUT / f"{name}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, f"{name}/{file.name}")
    else:
        archive = OUT / f"{name}.tar.gz"
        with tarfile.open(archive, "w:gz") as packed:
            for file in files:
                packed.add(file, f"{name}/{file.name}")
    return archive


def main() -> None:
    [host] = [line.split()[1] for line in output("rustc", "-vV").splitlines() if line.startswith("host:")]
    program = build(host)
    version = output(str(program), "--version").split()[-1]
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    archive = pack(f"figa-{version}-{host}", [program, *(ROOT / path for path in BESIDE)])
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    Path(f"{archive}.sha256").write_text(f"{checksum}  {archive.name}\n", encoding="utf-8", newline="\n")
    print(f"binary: {archive.name}, {archive.stat().st_size} bytes, sha256 {checksum}")


if __name__ == "__main__":
    main()
