"""The pairs that a first stage trains on, counted: how much their revisions change, what EOS is of the reward, and in
corrections which held-out pairs have an edit that these pairs have as well.

The report needs these numbers and no pairs, so they are in docs/experiments/data.jsonl.
"""

import re
import tempfile
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

from grid import CORRECTIONS, SEEDS
from house_style_task import HouseStyle
from training import EXPERIMENTS, FIGA, MODEL, WORK, call, read_lines, shown, write_lines

DATA = EXPERIMENTS / "data.jsonl"
# A weight for each class of tokens, so that the rows tell them apart.
ADDED, KEPT, EOS, REMOVED = 4, 2, 3, -1


def edits(record):
    """What replaces which words, without case and punctuation. Adjacent edits are one."""
    old, new = (record[key].split() for key in ("original_output", "revised_output"))
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return {(folded(old[i:j]), folded(new[k:n])) for tag, i, j, k, n in codes if tag != "equal"}


def folded(words):
    return " ".join(re.sub(r"^[\W_]+|[\W_]+$", "", word.lower()) for word in words)


def seen(train, held_out):
    """For each held-out pair, whether an edit of it is one of the pairs to train on."""
    known = set().union(*map(edits, train))
    return "".join("01"[bool(edits(record) & known)] for record in held_out)


def counts(pairs, task, log):
    """The tokens of the pairs by class, and the command that labels them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "labels.jsonl")
        command = [FIGA, "label", pairs, "--tokenizer", MODEL, "--max-length", task.max_length]
        command += ["--alpha", ADDED, "--beta", -REMOVED, "--gamma", KEPT, "--eos-weight", EOS]
        call([*command, "--out", out], log)
        rows = read_lines(out)
    tokens, eos_alone = Counter(), 0
    for row in rows:
        revised = Counter(row["revised_weights"])
        eos_alone += not revised[ADDED] and revised[EOS] > 0
        tokens.update(added=revised[ADDED], kept=revised[KEPT], eos=revised[EOS])
        tokens["removed"] += row["original_weights"].count(REMOVED)
    return {
        "pairs": len(rows),
        "tokens": dict(tokens),
        # Pairs whose only reward is EOS if kept tokens weigh nothing.
        "eos_alone": eos_alone,
        "command": " ".join(map(shown, command)),
    }


def write():
    lines = []
    # To count, answers to some prompts will do, and in f32, which any CPU computes fast.
    for task, seeds in (CORRECTIONS, SEEDS), (HouseStyle(precision="f32", prompts_of_stage=160), SEEDS[:1]):
        for seed in seeds:
            folder = WORK / "data" / f"{task.name}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            log = folder / "log.txt"
            print(f"{task.name}, seed {seed}; the programs write to {log}", flush=True)
            pairs = task.data(seed, 0, MODEL, folder, log)
            line = {"task": task.name, "seed": seed, **counts(pairs, task, log)}
            if task == CORRECTIONS:
                line["seen"] = seen(read_lines(pairs), read_lines(task.records_of("held-out", folder)))
            lines.append(line)
    write_lines(DATA, lines)
