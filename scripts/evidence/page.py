"""A page with tables and numbers that a program writes.

A table stands between `<!-- NAME -->` and `<!-- end -->`. A number in a sentence is a cell of a table, between
`<!-- cell: TABLE; ROW; COLUMN -->` and `<!-- end -->`, without its standard deviation.
"""

import re


class Page:
    """The tables of a page, and their cells by table, row and column."""

    def __init__(self, path):
        self.path, self.text = path, path.read_text(encoding="utf-8")
        self.cells = {}

    def table(self, name, head, rows, alignment=None):
        """Puts a table between its marks. The first cell of a row is its name."""
        for row in rows:
            for column, cell in zip(head[1:], row[1:]):
                self.cells[name, plain(row[0]), plain(column)] = cell.strip("*")
        lines = [head, alignment or ["---"] + ["---:"] * (len(head) - 1), *rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        self.put(re.escape(name), f"\n{table}\n\n", "\n")

    def put(self, mark, text, gap=""):
        pattern = rf"(<!-- {mark} -->{gap}).*?(<!-- end -->)"
        self.text, count = re.subn(pattern, lambda match: match[1] + text + match[2], self.text, flags=re.DOTALL)
        if not count:
            raise SystemExit(f"{self.path}: expected <!-- {mark} --> and <!-- end -->")

    def write(self):
        """Fills in the numbers of sentences, and writes the page."""
        for mark in sorted(set(re.findall(r"<!-- (cell: .*?) -->", self.text))):
            place = tuple(mark.removeprefix("cell: ").split("; "))
            if place not in self.cells:
                raise SystemExit(f"{self.path}: no table has {mark}")
            self.put(re.escape(mark), self.cells[place].split(" ±")[0])
        self.path.write_text(self.text, encoding="utf-8")


def plain(text):
    """A name of a row or column as marks have it."""
    return re.sub(r"[`*]| [↑↓]$|, the default\b", "", text)
