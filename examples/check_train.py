"""Checks the demo: that its held-out sentences are new to the model, and that the model corrects them all the same.

    cargo run --release --example train | python3 examples/check_train.py

The content words of the held-out records must not occur in the training records, nor may another form of them. All
words count that are not in FUNCTION_WORDS. Of the output, which is passed on, the table at the end must show that the
correction carries over to the held-out pairs.
"""

import json
import re
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data/agreement.jsonl"

# Pronouns, determiners, numerals, auxiliaries, conjunctions, prepositions and particles: words of closed classes.
FUNCTION_WORDS = """
i you he she it we they me him us them my your his her its our their mine yours hers ours theirs themselves
who whom whose what which where when why how whether everyone everybody everything someone somebody something
anyone anybody anything nobody nothing none
a an the this that these those each every both either neither all some any no many much more most few several such
same own other others another one ones two three four ten forty fifty first third twice once
be am is are was were been being do does did has have had will would shall should can could may might must
and or but nor so as if than because since though although while until unless for yet
of in on at by with without to from about after before over under between behind beside along among above below
across through into out off up down near during like
not yes there too very then
""".split()

# The forms of a word that differ in more than its ending.
IRREGULAR = """
bend bent, bind bound, bite bit bitten, break broke broken, bring brought, build built, burn burnt, buy bought,
catch caught, choose chose chosen, cling clung, come came, dig dug, draw drew drawn, dream dreamt, drink drank drunk,
drive drove driven, eat ate eaten, fall fallen, feed fed, feel felt, fight fought, find found, fly flew flown flight,
forbid forbade, forget forgot, forgive forgave, freeze froze frozen, get got, give gave, go went gone, grow grew, hang hung,
hear heard, hide hid, hold held, keep kept, know knew, lay laid lain, lead led, leave left, lend lent, lie lay, light lit,
lose lost, make made, mean meant, meet met, pay paid, ride rode ridden, ring rang rung, rise rose, run ran, say said,
see saw, sell sold, send sent, shake shook, shine shone, shoot shot, sing sang sung, sink sank sunk, sit sat,
sleep slept asleep, speak spoke, spell spelt, smell smelt, spend spent, spin spun, stand stood, steal stole, stick stuck,
sting stung, stink stank stunk, swear swore, sweep swept, swell swollen, swim swam swum, take took, teach taught,
tear tore torn, tell told, think thought, throw threw, understand understood, wake woke awake, wear wore worn, win won,
write wrote written, rot rotten, child children, man men, woman women, foot feet, tooth teeth, mouse mice, goose geese,
ox oxen, wolf wolves, leaf leaves, loaf loaves, life lives, wife wives, shelf shelves, knife knives, thief thieves,
good better best, bad worse worst, far further, little less least
"""
BASES = {form: forms.split()[0] for forms in IRREGULAR.split(",") for form in forms.split()}
ENDINGS = {
    "s": [""], "es": ["", "e"], "ies": ["y"], "ed": ["", "e"], "ied": ["y"], "ing": ["", "e"], "en": ["", "e"],
    "er": ["", "e"], "ier": ["y"], "est": ["", "e"], "iest": ["y"], "ly": [""], "ily": ["y"], "y": ["", "e"],
}  # fmt: skip
CONTRACTED = re.compile(r"n't$|'(s|re|m|ll|ve|d)$")

SCORES = ["p of added tokens", "p of removed tokens", "p of kept tokens", "revised likelier"]


def stems(word: str) -> set[str]:
    """All that the word may be a form of: too many rather than too few."""
    found = {word}
    for ending, replacements in ENDINGS.items():
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word.removesuffix(ending)
            found |= {stem + replacement for replacement in replacements}
            if stem[-1] == stem[-2]:
                found.add(stem[:-1])
    return found | {BASES[stem] for stem in found if stem in BASES}


def content_words(records: list[dict]) -> set[str]:
    texts = (record[field] for record in records for field in ("instruction", "input", "original_output", "revised_output"))
    words = {CONTRACTED.sub("", word) for text in texts for word in re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())}
    # "won't" and "can't"
    return words.difference(FUNCTION_WORDS, ["wo", "ca"])


def check_data() -> list[str]:
    records = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    cut = len(records) - len(records) // 6  # as in examples/train.rs
    train, held_out = content_words(records[:cut]), content_words(records[cut:])
    known = {stem: word for word in train for stem in stems(word)}
    seen = [(word, known[stem]) for word in sorted(held_out) for stem in sorted(stems(word)) if stem in known]
    print(
        f"demo: {cut} training records with {len(train)} content words, {len(records) - cut} held-out records with "
        f"{len(held_out)}, of which {len({word for word, _ in seen})} occur in training"
    )
    return [f"{word!r} is held out, and {other!r} is in a training record" for word, other in seen]


def check_scores(output: str) -> list[str]:
    rows = [re.search(rf"^{name}, \w+" + r"\s+([\d.]+)" * 4 + "$", output, re.MULTILINE) for name in SCORES]
    if None in rows:
        return [f"no table with {', '.join(SCORES)}"]
    added, removed, kept, likelier = ([float(number) for number in row.groups()[2:]] for row in rows)
    expected = {
        "p of added tokens rises by at least 0.2": added[1] >= added[0] + 0.2,
        "p of removed tokens drops to a half or less": removed[1] <= removed[0] / 2,
        "p of kept tokens falls by 20 % at most": kept[1] >= 0.8 * kept[0],
        "the share of likelier revisions rises by at least 0.5": likelier[1] >= likelier[0] + 0.5,
    }
    return [f"on the held-out pairs, expected: {what}" for what, holds in expected.items() if not holds]


def main() -> None:
    output = ""
    for line in sys.stdin:
        print(line, end="", flush=True)
        output += line
    problems = check_data() + check_scores(output)
    sys.exit("\n".join(f"demo: {problem}" for problem in problems) or 0)


if __name__ == "__main__":
    main()
