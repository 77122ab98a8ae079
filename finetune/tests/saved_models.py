#!/usr/bin/env python3
"""Train a tiny model of each family for two steps, load what finetune saved in transformers, and compare the perplexities.

    python3 finetune/tests/saved_models.py target/release/finetune target/release/figa

Needs torch and transformers. Prints a line for each model; the exit code says whether all of them agree.
"""

import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from random_model import record, tokenizer
from transformers import AutoModelForCausalLM

CHECKPOINTS = Path(__file__).parent / "fixtures/checkpoints"
TOLERANCE = 1e-5


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def perplexity(model, rows):
    """Of the revised answers."""
    total = count = 0.0
    for row in rows:
        ids, labels = torch.tensor([row["revised_input_ids"]]), torch.tensor(row["revised_labels"])
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1].double().log_softmax(-1)
        nll = torch.nn.functional.nll_loss(log_probs, labels[1:], ignore_index=-100, reduction="sum")
        total, count = total + nll.item(), count + (labels[1:] != -100).sum().item()
    return math.exp(total / count)


def check(name, finetune, figa, folder):
    base, pairs, rows = folder / "base", folder / "pairs.jsonl", folder / "rows.jsonl"
    base.mkdir()
    for file in (CHECKPOINTS / name).iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    (base / "tokenizer.json").write_text(json.dumps(tokenizer()))
    chance = random.Random(0)
    pairs.write_text("".join(json.dumps(record(chance)) + "\n" for _ in range(10)))
    common = ["--cpu", "--prompt", "plain", "--max-length", "20"]
    data = ["--data", pairs, "--steps", "2", "--lr", "0.01"]
    run(finetune, "--model", base, *data, "--out", folder / "run", *common)
    saved = folder / "run/model"
    run(finetune, "evaluate", "--model", saved, "--eval", pairs, "--answers", "1", "--out", folder / "scores.json", *common)
    run(figa, "label", pairs, "--tokenizer", saved, "--out", rows, "--prompt", "plain", "--json")
    model, report = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True, attn_implementation="eager")
    ours = json.loads((folder / "scores.json").read_text())["scores"]["ppl_revised"]
    theirs = perplexity(model.eval(), [json.loads(line) for line in rows.read_text().splitlines()])
    problems = [f"{kind}: {keys}" for kind, keys in report.items() if keys]
    agrees = abs(ours / theirs - 1) < TOLERANCE and not problems
    print(f"{name:<16}{ours:>14.6f}{theirs:>14.6f}  {'agrees' if agrees else 'differs'} {' '.join(problems)}".rstrip())
    return agrees


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    results = []
    for name in sorted(path.name for path in CHECKPOINTS.iterdir()):
        with tempfile.TemporaryDirectory() as folder:
            results.append(check(name, *map(Path, sys.argv[1:]), Path(folder)))
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
