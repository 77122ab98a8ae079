#!/usr/bin/env python3
"""Makes target/release-tree, a copy of the files that git tracks in which the address of the repository is filled in.

    python3 scripts/release.py            # the copy alone, which .github/workflows/release.yml publishes
    python3 scripts/release.py --check    # then runs the further checks of a release; what a tool is missing for is skipped

With --tag, the version of the manifest must be that of the tag.

The address has one place, `repository` of [workspace.package] in Cargo.toml. From it come the keys of all manifests, the
links of the Python package, those of CITATION.cff and CHANGELOG.md, and those of the pages that registries show, where a
relative link leads nowhere. Publishes nothing.
"""

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "target/release-tree"
BLANK = "[FILL IN"
# Where blanks are looked for.
TEXTS = (".cff", ".md", ".toml", ".yml")
IMAGES = (".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp")

# Fenced code, comments and code in backticks: what looks like a link there is none.
CODE = re.compile(r"^ *(```+|~~~+).*?^ *\1|<!--.*?-->|(?<!`)(`+)(?!`).+?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)
# The target of `](target)`, of `[name]: target`, and of an attribute of HTML.
TARGETS = re.compile(
    r"""\]\(\s*<?(?P<inline>[^()\s<>]+)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)"""
    r"""|^ {0,3}\[[^\]]+\]:\s*<?(?P<reference>[^\s<>]+)>?"""
    r"""|\b(?:href|src|srcset)\s*=\s*["'](?P<html>[^"']+)["']""",
    re.MULTILINE,
)


class Refusal(Exception):
    """One line that says what to do before the release."""


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.split("\0") if (ROOT / path).is_file()]


def read_toml(path: Path) -> dict:
    try:
        import tomllib
    except ImportError:
        raise Refusal(f"expected Python 3.11 or later, found {sys.version.split()[0]}") from None
    return tomllib.loads(path.read_text(encoding="utf-8"))


def address(package: dict) -> str:
    """The repository that the manifest of the workspace names."""
    repository = package.get("repository")
    if not repository:
        raise Refusal('Cargo.toml: expected repository = "https://HOST/OWNER/NAME" in [workspace.package], found none')
    if not re.fullmatch(r"https://[\w.-]+(/[\w.-]+){2,}(?<!\.git)", repository):
        raise Refusal(f"Cargo.toml: expected a repository like https://HOST/OWNER/NAME, found {repository}")
    return repository


def check_blanks(files: list[str], version: str) -> str:
    """Refuses what nobody has filled in yet, and returns the date of the version."""
    for path in (path for path in files if path.endswith(TEXTS)):
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            if BLANK in line:
                blank = line[line.index(BLANK) :].split("]")[0] + "]"
                raise Refusal(f"{path}:{number}: expected text in place of {blank}")
    for number, line in enumerate((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith(f"## [{version}]"):
            date = re.fullmatch(r"## \[[^\]]+\] - (\d{4}-\d\d-\d\d)", line)
            if date is None:
                raise Refusal(f"CHANGELOG.md:{number}: expected ## [{version}] - YYYY-MM-DD, found {line}")
            return date[1]
    raise Refusal(f"CHANGELOG.md: expected the heading ## [{version}] - YYYY-MM-DD, found none")


def insert(text: str, after: str, lines: str, path: str) -> str:
    """Inserts lines after the line that is `after`."""
    head, found, tail = text.partition(f"\n{after}\n")
    if not found:
        raise Refusal(f"{path}: expected the line {after}")
    return f"{head}{found}{lines}{tail}"


def absolute_links(page: str, text: str, files: list[str], repository: str, version: str) -> str:
    """A page whose relative links and images lead into the repository, at the tag of the version."""
    folders = {parent for path in files for parent in map(str, Path(path).parents)}
    masked = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)

    def absolute(target: str, line: int) -> str:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", target):
            return target
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        if path in folders:
            kind = "tree"
        elif path in files:
            kind = "raw" if path.lower().endswith(IMAGES) else "blob"
        else:
            raise Refusal(f"{page}:{line}: the link {target} leads to no file that git tracks")
        return f"{repository}/{kind}/v{version}/{path}" + (f"#{anchor}" if anchor else "")

    pieces, end = [], 0
    for match in TARGETS.finditer(masked):
        start, stop = match.span(match.lastgroup)
        target = text[start:stop]
        pieces += [text[end:start], absolute(target, text.count("\n", 0, start) + 1)]
        end = stop
    return "".join([*pieces, text[end:]])


def make_tree(tag: str | None) -> None:
    """Writes the tree."""
    files = tracked()
    workspace = read_toml(ROOT / "Cargo.toml")
    package = workspace["workspace"]["package"]
    repository, version = address(package), package["version"]
    if tag not in (None, f"v{version}"):
        raise Refusal(f"Cargo.toml: expected version {tag.removeprefix('v')}, as the tag is {tag}, found {version}")
    date = check_blanks(files, version)

    at_tag = f"{repository}/blob/v{version}"
    changed: dict[str, str] = {}

    def change(path: str, lines: str, after: str | None = None) -> None:
        text = changed.get(path) or (ROOT / path).read_text(encoding="utf-8")
        changed[path] = insert(text, after, lines, path) if after else f"{text.rstrip()}\n{lines}"

    change("Cargo.toml", f'homepage = "{repository}"\n', after=f'repository = "{repository}"')
    pages = []
    for folder in [".", *workspace["workspace"]["members"]]:
        path = posixpath.normpath(f"{folder}/Cargo.toml")
        member = read_toml(ROOT / path)["package"]
        if member.get("publish") is False:
            continue
        page = posixpath.normpath(posixpath.join(folder, member["readme"]))
        keys = "homepage.workspace = true\nrepository.workspace = true\n"
        # Registries link to the documentation of libraries by themselves.
        if "command-line-utilities" in member["categories"]:
            keys += f'documentation = "{at_tag}/{page}"\n'
        change(path, keys, after=f'name = "{member["name"]}"')
        pages.append(page)
    urls = {
        "Homepage": repository,
        "Repository": repository,
        "Documentation": f"{at_tag}/python/README.md",
        "Changelog": f"{at_tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    change("python/pyproject.toml", f"\n[project.urls]\n{lines}")
    pages.append(posixpath.join("python", read_toml(ROOT / "python/pyproject.toml")["project"]["readme"]))
    change("CITATION.cff", f'repository-code: "{repository}"\ndate-released: {date}\n')
    change("CHANGELOG.md", f"\n[{version}]: {repository}/releases/tag/v{version}\n")
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        changed[page] = absolute_links(page, text, files, repository, version)

    if TREE.exists():
        shutil.rmtree(TREE)
    for path in files:
        copy = TREE / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path in changed:
            copy.write_text(changed[path], encoding="utf-8", newline="\n")
        else:
            shutil.copy2(ROOT / path, copy)
    print(f"release: {version} of {repository} is in {TREE.relative_to(ROOT)}, with the links of {', '.join(pages)}")


def run_checks(tag: str | None) -> None:
    """The checks of a release that each change does not get."""
    tags = subprocess.run(["git", "tag", "--list", "v*", "--sort=-v:refname"], cwd=ROOT, check=True, capture_output=True, text=True)
    last = [other for other in tags.stdout.split() if other != tag]
    environment = os.environ.copy()
    if not {"LIBTORCH", "LIBTORCH_USE_PYTORCH"} & environment.keys():
        environment["LIBTORCH"] = str(ROOT / ".libtorch/torch")

    def check(tool: str, folder: Path, *command: str) -> None:
        if shutil.which(tool) is None:
            if os.environ.get("STRICT", "0") != "0":
                raise Refusal(f"{tool} is missing, which runs: {' '.join(command)}")
            print(f"release: skipped, as {tool} is missing: {' '.join(command)}", flush=True)
            return
        print(f"release: {' '.join(command)}", flush=True)
        done = subprocess.run(command, cwd=folder, env=environment)
        if done.returncode != 0:
            raise Refusal(f"{' '.join(command)}: exit code {done.returncode}")

    check("rustup", ROOT, "make", "oldest-rust")
    check("make", ROOT, "make", "audit")
    check("cargo-about", ROOT, "python3", "scripts/notices.py", "--check")
    if last:
        features = ["--only-explicit-features", "--features", "data,parquet,rayon,torch,doc-only"]
        baseline = ["--baseline-rev", last[0]]
        check("cargo-semver-checks", ROOT, "cargo", "semver-checks", "-p", "figa-loss", *features, *baseline)
    else:
        print("release: the API is compared with no other, as there is no tag of an earlier release", flush=True)
    check("cargo", TREE, "cargo", "package", "--workspace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="run the further checks of a release as well")
    parser.add_argument("--tag", help="the tag of the release, such as v0.1.0")
    arguments = parser.parse_args()
    try:
        make_tree(arguments.tag)
        if arguments.check:
            run_checks(arguments.tag)
    except Refusal as refusal:
        sys.exit(f"release: {refusal}")


if __name__ == "__main__":
    main()
