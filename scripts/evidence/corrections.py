"""Corrections of sentences: real pairs, where the original answer repeats the mistake."""

import json
import random
import sys
from dataclasses import dataclass
from hashlib import sha256

from training import FINETUNE, ROOT, WORK, at_a_time, call, read_lines, write_lines

sys.path.insert(0, str(ROOT / "examples"))
from fetch_pairs import folded  # noqa: E402

PAIRS = WORK / "pairs"
DEV = 120
# More than any method sees.
PAIRS_OF_STAGE = 400


@dataclass(frozen=True)
class Corrections:
    # Records to measure on, in place of the sets of the task.
    eval: str = ""
    name = "corrections"
    max_length = 128

    def budget(self, stages):
        """Tokens to compute in each stage: about 60 steps of FIGA in all."""
        return 24_000 // stages

    def split(self):
        """The pairs to train on, and those to choose learning rates by. Pairs with the same answer stay together."""

        def digest(record):
            return sha256(folded(record["revised_output"]).encode()).hexdigest()

        records = sorted(read_lines(PAIRS / "train.jsonl"), key=digest)
        end = DEV
        while digest(records[end]) == digest(records[end - 1]):
            end += 1
        return records[end:], records[:end]

    def data(self, seed, stage, model, folder, log):
        train, _ = self.split()
        random.Random(seed).shuffle(train)
        path = folder / f"data-{stage}.jsonl"
        write_lines(path, train[stage * PAIRS_OF_STAGE : (stage + 1) * PAIRS_OF_STAGE])
        return path

    def records_of(self, name, folder):
        if name == "held-out":
            return PAIRS / "eval.jsonl"
        if name == "other":
            return self.eval
        path = folder / "dev.jsonl"
        write_lines(path, self.split()[1])
        return path

    def measure(self, model, name, folder, log, compute):
        out = folder / f"{name}.json"
        command = [FINETUNE, "evaluate", "--model", model, "--eval", self.records_of(name, folder), "--out", out]
        call(command + ["--answers", 100_000, "--max-length", self.max_length, *at_a_time(), *compute], log)
        measured = json.loads(out.read_text(encoding="utf-8"))
        records = measured["records"]

        def flags(key):
            return "".join("01"[record[key]] for record in records)

        return {
            "scores": {key: value and round(value, 5) for key, value in measured["scores"].items()},
            "records": {
                "margin": [round(record["margin"], 2) for record in records],
                "exact_match": flags("exact_match"),
                "copied": flags("copied"),
                "edit_distance": [record["edit_distance"] for record in records],
                **{key: [record["word_edits"][key] for record in records] for key in ("correct", "made", "wanted")},
            },
        }

    def loss(self, scores, base):
        """What a learning rate is chosen by: F0.5 of word edits."""
        return -(scores["word_edits"] or 0.0)
