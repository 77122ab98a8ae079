"""Tests of what numbers are computed from without numpy.

python3 -m unittest discover -s scripts/evidence
"""

import tempfile
import unittest
from pathlib import Path

from data import edits, seen
from holm import holm
from page import Page


def record(original, revised):
    return {"original_output": original, "revised_output": revised}


class NumbersTest(unittest.TestCase):
    def test_edits_are_words_without_case_and_punctuation(self):
        self.assertEqual(edits(record("He could of won.", "He could have won.")), {("of", "have")})
        self.assertEqual(edits(record("a b c d", "x y c d e")), {("a b", "x y"), ("", "e")})
        self.assertEqual(edits(record("Could OF, he asked", "Could have, he asked")), {("of", "have")})

    def test_a_pair_is_seen_if_one_of_its_edits_is(self):
        train = [record("We could of come", "We could have come")]
        held_out = [record("I should of", "I should have"), record("a of b", "z have b"), record("of", "off")]
        self.assertEqual(seen(train, held_out), "100")

    def test_holm_multiplies_the_smallest_most_and_keeps_the_order(self):
        adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
        wanted = {"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5}
        self.assertEqual({name: round(p, 9) for name, p in adjusted.items()}, wanted)
        self.assertEqual(holm({"a": 0.6, "b": 0.9}), {"a": 1.0, "b": 1.0})

    def test_a_page_takes_tables_and_their_cells(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "page.md")
            mark = "<!-- cell: a (b); sft; F1 % -->"
            path.write_text(f"It is {mark}old<!-- end --> %.\n<!-- a (b) -->\nold<!-- end -->\n", encoding="utf-8")
            for value in "1.0 ± 0.2", "**2.0**":
                page = Page(path)
                page.table("a (b)", ["recipe", "F1 % ↑"], [["`sft`, the default", value]])
                page.write()
            table = "| recipe | F1 % ↑ |\n| --- | ---: |\n| `sft`, the default | **2.0** |"
            self.assertEqual(
                path.read_text(encoding="utf-8"),
                f"It is {mark}2.0<!-- end --> %.\n<!-- a (b) -->\n\n{table}\n\n<!-- end -->\n",
            )
            with self.assertRaisesRegex(SystemExit, "no table has cell: a .b.; sft; F1"):
                Page(path).write()
            with self.assertRaisesRegex(SystemExit, "expected <!-- other -->"):
                Page(path).table("other", ["recipe"], [])


if __name__ == "__main__":
    unittest.main()
