"""Does what the README tells a newcomer, each door in an empty folder, and compares what is printed with what the README shows.

This repository stands for the registry of crates, and the wheel that `make python` has built for that of Python packages. PyTorch is
that of `make python`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILT = ROOT / "target" / "python"
# A block of code, and the file that the line in front of it names.
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(section: str) -> list[tuple[str, str, str]]:
    """The name of the file, the language and the text of each block in a section of the README."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {section}\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    if not found:
        sys.exit(f"doors: README.md has no section {section}")
    return BLOCK.findall(found[1])


def run(code: str, folder: pathlib.Path, wheel: pathlib.Path) -> str:
    """What commands print, with what stands for the registries."""
    torch = BUILT / "venv" / "lib"
    link = f"""python -c 'import pathlib, sysconfig
site = next(pathlib.Path("{torch}").glob("python*/site-packages"))
pathlib.Path(sysconfig.get_path("purelib"), "torch.pth").write_text(f"import site; site.addsitedir({{str(site)!r}})")'"""
    for command, stand_in in {
        "cargo add figa-loss": f"cargo add figa-loss --path '{ROOT}'",
        "pip install figa-loss torch": f"pip install '{wheel}'\n{link}",
        "pip install figa-loss\n": f"pip install '{wheel}'\n",
    }.items():
        code = code.replace(command, stand_in)
    strange = ("CARGO_TARGET_DIR", "LIBTORCH", "LIBTORCH_USE_PYTORCH", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in strange}
    environment["PATH"] = f"{folder.parent / 'venv' / 'bin'}:{environment['PATH']}"
    environment["LD_LIBRARY_PATH"] = str(BUILT / "missing")
    environment |= {"PIP_QUIET": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "CARGO_TERM_QUIET": "true"}
    done = subprocess.run(["sh", "-e", "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"doors: failed with {done.returncode}:\n{code}")
    return done.stdout


def enter(section: str, wheel: pathlib.Path) -> None:
    """Follows one door."""
    printed = None
    shown = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "folder"
        folder.mkdir()
        # Users name a model of theirs.
        model = folder.parent / "MODEL"
        model.mkdir()
        shutil.copy(ROOT / "tests" / "fixtures" / "labels-tokenizer.json", model / "tokenizer.json")
        (model / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
        venv.create(folder.parent / "venv", with_pip=True)
        for name, language, text in blocks(section):
            if language == "sh":
                printed = run(text.replace("MODEL", str(model)), folder, wheel)
            elif language == "text":
                shown += 1
                if printed != text:
                    sys.exit(f"doors: {section}: README.md shows\n{text}\nbut the commands print\n{printed}")
            elif name:
                file = folder / name
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
            else:
                sys.exit(f"doors: {section}: expected the name of a file in front of the block\n{text}")
    if not shown:
        sys.exit(f"doors: {section}: README.md shows no output")
    print(f"doors: {section}: as README.md says")


def main() -> None:
    wheels = sorted((BUILT / "wheels").glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"doors: expected one wheel in {BUILT / 'wheels'}, got {len(wheels)}: run make python")
    for section in ("Rust", "Python", "Command line"):
        enter(section, wheels[0])


if __name__ == "__main__":
    main()
