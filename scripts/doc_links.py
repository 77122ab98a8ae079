"""Checks generated documentation: each relative link and image of a crate's pages leads to a file, and to an anchor in it.

    python3 scripts/doc_links.py target/doc figa_loss figa_cli
"""

import argparse
import functools
import html.parser
import pathlib
import re
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
    """The links of a page, each with its line, and its anchors."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.links: list[tuple[int, str]] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append((self.getpos()[0], value))


read = functools.cache(Page)


def problem(path: pathlib.Path, link: str) -> str | None:
    """What is wrong with a link of a page."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no file"
    if target.suffix != ".html":
        return None
    anchors = read(target).anchors
    anchor = parts.fragment
    # Source pages have an anchor for each line, and a script that shows a range of them.
    if re.fullmatch(r"\d+-\d+", anchor):
        return None if anchors.issuperset(anchor.split("-")) else "no anchor"
    # Like a browser, which looks for the anchor as it is written, and then decoded.
    return None if not anchor or anchor in anchors or urllib.parse.unquote(anchor) in anchors else "no anchor"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("crates", nargs="+")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    count = 0
    problems = []
    for crate in arguments.crates:
        pages = [page for part in (crate, f"src/{crate}") for page in sorted((folder / part).rglob("*.html"))]
        if not pages:
            problems.append(f"{folder / crate}: no pages")
        for page in pages:
            for line, link in read(page).links:
                count += 1
                if what := problem(page, link):
                    problems.append(f"{page.relative_to(folder)}:{line}: {link[:200]} leads to {what}")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    if problems:
        sys.exit(f"doc: {len(problems)} of {count} links are dead")
    print(f"doc: {count} links lead somewhere")


if __name__ == "__main__":
    main()
