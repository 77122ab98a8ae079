#!/usr/bin/env python3
"""Download real pairs of a sentence with an error and its minimal correction.

    python3 examples/fetch_pairs.py OUT_DIR

Writes OUT_DIR/train.jsonl, OUT_DIR/eval.jsonl (400 records) and OUT_DIR/NOTICE.txt. A record is

    {"instruction": ..., "input": ..., "output": ..., "original_output": ..., "revised_output": ...}

where `input` and `original_output` are the text with the error, and `output` and
`revised_output` are its correction.

The pairs come from the unit tests of the grammar checker Harper, which assert the correction of a
text. The script reads them from the source of the crate harper-core, which Cargo downloads from
crates.io (2 MB, without dependencies). The same crate always gives the same files. If OUT_DIR is
complete, the script does nothing.

Requires Python 3.8 or newer and Cargo 1.82 or newer (for `cargo info`).
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Dict, Iterator, List, NoReturn, Set, Tuple

CRATE = "harper-core"
VERSION = "3.0.0"
CRATE_SHA256 = "f3e3c3af455f1325a03746c19efa0bbd60a2cf65da3fa93505e4ac675184ebda"
MARKER = "made-by-fetch_pairs"  # in a folder that the script may remove
EVAL_RECORDS = 400
INSTRUCTION = (
    "Correct the errors of spelling, grammar and word choice in this text, "
    "changing as little as possible."
)
NOTICE = f"""\
train.jsonl and eval.jsonl hold sentences and their corrections, taken from the unit tests of the
Rust crate {CRATE} {VERSION} (https://github.com/Automattic/harper),
Copyright Automattic and contributors, licensed under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

Changes: the sentences were selected, put into records, given an instruction, and split in two.
"""

# Harper's test helpers that take a text, a linter and the corrected text; the last one takes a
# list of good corrections instead.
HELPERS = {
    "assert_suggestion_result",
    "assert_first_suggestion_result",
    "assert_markdown_suggestion_result",
    "assert_good_and_bad_suggestions",
}

# Harper's rules that prefer one style, spelling or name to another: the texts in their tests have
# no error, and some of these rules contradict each other.
STYLE_RULES = {
    "analog_acoustic_bike",
    "another_thing_coming",
    "another_think_coming",
    "avoid_contractions",
    "avoid_curses",
    "expand_memory_shorthands",
    "expand_time_shorthands",
    "foot_inch_minute_second_symbols",
    "initialisms",
    "no_oxford_comma",
    "numeric_range_en_dash",
    "pleaded_pled",
    "regionalisms",
    "sneaked_snuck",
    "spelled_numbers",
    "update_place_names",
    "use_title_case",
    "vicious_loop",
}

Token = Tuple[str, str]  # kind ("string", "name" or "mark") and value
Pair = Tuple[str, str]  # text with an error, corrected text

RUST_TOKEN = re.compile(
    r"""
      (?P<skip>    \s+ | //[^\n]* | /\*.*?\*/ )
    | (?P<raw>     [bc]?r(?P<hashes>\#*)"(?P<raw_text>.*?)"(?P=hashes) )
    | (?P<string>  [bc]?"(?P<text>(?:[^"\\]|\\.)*)" )
    | (?P<char>    b?'(?:[^'\\]|\\(?:u\{[0-9a-fA-F_]+\}|x[0-9a-fA-F]{2}|.))' )
    | (?P<name>    (?:r\#)?\w+ )
    | (?P<mark>    . )
    """,
    re.VERBOSE | re.DOTALL,
)
RUST_ESCAPE = re.compile(r"\\(?:\n\s*|u\{([0-9a-fA-F_]+)\}|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
RUST_ESCAPED_CHARS = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}


def fail(message: str) -> NoReturn:
    """Print one line to standard error and exit with code 1."""
    sys.exit(f"fetch_pairs: {message}")


def crate_file() -> Path:
    """The archive of the crate in Cargo's cache, downloaded if it is missing.

    `cargo info` downloads a single crate without its dependencies. It follows the user's Cargo
    configuration, such as a mirror or a proxy.
    """
    cargo_home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo").absolute()

    def cached() -> List[Path]:
        archives = cargo_home.glob(f"registry/cache/*/{CRATE}-{VERSION}.crate")
        return [path for path in archives if sha256(path.read_bytes()) == CRATE_SHA256]

    if not cached():
        command = ["cargo", "info", "--quiet", "--registry", "crates-io", f"{CRATE}@{VERSION}"]
        environment = {**os.environ, "CARGO_HOME": str(cargo_home), "CARGO_TERM_COLOR": "never"}
        # In an empty folder, Cargo does not read the package of the current one.
        with tempfile.TemporaryDirectory() as empty:
            try:
                done = subprocess.run(
                    command, cwd=empty, env=environment, capture_output=True, text=True
                )
            except FileNotFoundError:
                fail("cargo is missing; install a Rust toolchain")
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            reason = next((line for line in lines if line.startswith("error")), lines[-1])
            fail(f"cargo cannot download {CRATE}: {reason}; check the connection to crates.io")
    found = cached()
    if not found:
        fail(f"Cargo's cache has no {CRATE}-{VERSION}.crate with the SHA-256 {CRATE_SHA256}")
    return found[0]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rust_sources(archive: Path) -> Iterator[str]:
    """The text of each Rust file in the crate, except those of STYLE_RULES."""
    with tarfile.open(archive) as crate:
        for member in crate:
            path = PurePosixPath(member.name)
            if path.suffix == ".rs" and not STYLE_RULES & {path.stem, path.parent.name}:
                yield crate.extractfile(member).read().decode("utf-8")


def unescape(text: str) -> str:
    """The value of a Rust string literal, given the text between its quotes."""

    def value(match) -> str:
        unicode_digits, hex_digits, char = match.groups()
        if unicode_digits or hex_digits:
            return chr(int((unicode_digits or hex_digits).replace("_", ""), 16))
        if char:
            return RUST_ESCAPED_CHARS.get(char, char)
        return ""  # a backslash at the end of a line skips the whitespace after it

    return RUST_ESCAPE.sub(value, text)


def tokenize(source: str) -> List[Token]:
    """Split Rust source into tokens, without comments and character literals."""
    tokens = []
    for match in RUST_TOKEN.finditer(source):
        if match["raw"]:
            tokens.append(("string", match["raw_text"]))
        elif match["string"]:
            tokens.append(("string", unescape(match["text"])))
        elif match["name"]:
            tokens.append(("name", match["name"]))
        elif match["mark"]:
            tokens.append(("mark", match["mark"]))
    return tokens


def enclosed(tokens: List[Token], start: int) -> List[Token]:
    """The tokens between the bracket at `start` and the bracket that closes it."""
    depth = 0
    for end in range(start, len(tokens)):
        kind, value = tokens[end]
        if kind == "mark" and value in "([{":
            depth += 1
        elif kind == "mark" and value in ")]}":
            depth -= 1
            if depth == 0:
                return tokens[start + 1 : end]
    return []


def passing_tests(tokens: List[Token]) -> Iterator[List[Token]]:
    """The body of each test function that is not ignored and should pass."""
    attributes: Set[str] = set()
    for position, token in enumerate(tokens):
        if token == ("mark", "#"):
            attributes.update(value for kind, value in enclosed(tokens, position + 1)[:1])
        elif token == ("name", "fn"):
            if "test" in attributes and not attributes & {"ignore", "should_panic"}:
                yield enclosed(tokens, tokens.index(("mark", "{"), position))
            attributes = set()


def arguments(tokens: List[Token]) -> List[List[Token]]:
    """Split the tokens between the parentheses of a call into its arguments."""
    parts: List[List[Token]] = [[]]
    depth = 0
    for kind, value in tokens:
        if kind == "mark":
            depth += (value in "([{") - (value in ")]}")
            if value == "," and depth == 0:
                parts.append([])
                continue
        parts[-1].append((kind, value))
    return parts


def only_literal(argument: List[Token]) -> str:
    """The string in an argument such as "text" or &["text"]; empty for any other argument.

    That includes a list of several good corrections, because none of them is the only one.
    """
    rest = [token for token in argument if token[0] != "mark"]
    return rest[0][1] if len(rest) == 1 and rest[0][0] == "string" else ""


def asserted_pairs(body: List[Token]) -> Iterator[Pair]:
    """The pairs that a test function asserts with string literals."""
    for position, (kind, value) in enumerate(body[:-1]):
        if kind != "name" or value not in HELPERS or body[position + 1] != ("mark", "("):
            continue
        text, _, correction = map(only_literal, arguments(enclosed(body, position + 1))[:3])
        if text and correction:
            yield text, correction


def edited_words(before: str, after: str) -> int:
    """The edit distance of two texts in words."""
    old, new = before.split(), after.split()
    row = list(range(len(new) + 1))
    for i, old_word in enumerate(old, 1):
        diagonal, row[0] = row[0], i
        for j, new_word in enumerate(new, 1):
            substituted = diagonal + (old_word != new_word)
            diagonal = row[j]
            row[j] = min(substituted, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def is_usable(text: str, correction: str) -> bool:
    """Whether both sides are one line of prose and at most half of the words differ."""
    for side in (text, correction):
        words = [word for word in side.split() if re.search(r"[^\W\d_]", word)]
        if len(words) < 3 or re.search(r"[\x00-\x1f\x7f]", side) or side != side.strip():
            return False
    longer = max(len(text.split()), len(correction.split()))
    return 0 < edited_words(text, correction) <= longer / 2


def folded(text: str) -> str:
    """The text without case and punctuation, to find sentences that are nearly the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def select(pairs: List[Pair]) -> List[Pair]:
    """The usable pairs with an unambiguous correction, each text once."""
    usable = sorted({pair for pair in pairs if is_usable(*pair)})
    times = Counter(text for text, _ in usable)
    return [
        (text, correction)
        for text, correction in usable
        # Another test may correct the text differently, or correct the correction further.
        if times[text] == 1 and correction not in times
    ]


def split(pairs: List[Pair]) -> Tuple[List[Pair], List[Pair]]:
    """Split the pairs into a training set and an evaluation set of EVAL_RECORDS pairs.

    Pairs with the same corrected sentence stay together, so that training sees no answer of the
    evaluation. The order comes from hashes: it looks random and is always the same.
    """

    def digest(text: str) -> str:
        return sha256(text.encode("utf-8"))

    groups: Dict[str, List[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[folded(pair[1])].append(pair)
    train: List[Pair] = []
    held_out: List[Pair] = []
    for key in sorted(groups, key=digest):
        fits = len(held_out) + len(groups[key]) <= EVAL_RECORDS
        (held_out if fits else train).extend(groups[key])
    if len(held_out) != EVAL_RECORDS:
        fail(f"expected {EVAL_RECORDS} pairs for the evaluation, found {len(held_out)}")
    for part in (train, held_out):
        part.sort(key=lambda pair: digest(pair[0]))
    return train, held_out


def write_records(path: Path, pairs: List[Pair]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for text, correction in pairs:
            record = {
                "instruction": INSTRUCTION,
                "input": text,
                "output": correction,
                "original_output": text,
                "revised_output": correction,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def make_scratch(scratch: Path) -> None:
    """Make the folder, in place of one that a killed run has left behind."""
    if (scratch / MARKER).is_file():
        shutil.rmtree(scratch)
    try:
        scratch.mkdir(parents=True)
    except FileExistsError:
        fail(f"{scratch} is not from this script; move it away or choose another folder")
    (scratch / MARKER).touch()


def fetch(out_dir: Path, scratch: Path) -> None:
    """Write the files to `scratch`, then rename it to `out_dir`."""
    pairs: List[Pair] = []
    for source in rust_sources(crate_file()):
        for body in passing_tests(tokenize(source)):
            pairs.extend(asserted_pairs(body))
    train, held_out = split(select(pairs))
    make_scratch(scratch)
    try:
        write_records(scratch / "train.jsonl", train)
        write_records(scratch / "eval.jsonl", held_out)
        (scratch / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
        (scratch / MARKER).unlink()
        scratch.rename(out_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{out_dir}: {len(train)} records to train on, {len(held_out)} to evaluate on")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        fail("usage: fetch_pairs.py OUT_DIR")
    out_dir = Path(sys.argv[1]).absolute()
    if all((out_dir / name).is_file() for name in ("train.jsonl", "eval.jsonl", "NOTICE.txt")):
        print(f"{out_dir}: already complete")
        return
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        fail(f"{out_dir} exists but is not complete; remove it or choose another folder")
    # A terminated run cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: fail("terminated"))
    try:
        fetch(out_dir, out_dir.with_name(out_dir.name + ".part"))
    except KeyboardInterrupt:
        fail("interrupted")
    except OSError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
