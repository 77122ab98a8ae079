"""Compares the training steps of finetune with those of transformers: same model, pairs, threads and dtype.

    make bench-step
    python3 benches/step.py MODEL PAIRS --finetune BINARY --figa BINARY [--batches 3] [--batch 4] [--max-length 128]

A step is forward pass, loss, backward pass, clipping and AdamW. For each batch, all programs take turns; the numbers are means over
the batches of the median steps. In finetune, a pair is packed into one row, or two rows of its own; in transformers two rows of a padded
batch, with cross_entropy times weights. `sft` is cross-entropy on the revised answers. Peak memory is what a step adds to
model and optimizer (Linux). Needs torch and transformers.
"""

import argparse
import ctypes
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

IGNORE_INDEX = -100
WARM_UP, STEPS = 1, 5
METHODS = ("sft", "figa")


def memory(field):
    """A field of /proc/self/status, in MiB."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def transformers_steps(model_folder, rows_file):
    """Prints a line of JSON for each method. Runs in a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = [json.loads(line) for line in open(rows_file, encoding="utf-8")]
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

    def batch(method):
        examples = []
        for row in rows:
            for side in ("original", "revised") if method == "figa" else ("revised",):
                ids, labels = row[f"{side}_input_ids"], row[f"{side}_labels"]
                weights = row[f"{side}_weights"] if method == "figa" else [float(y != IGNORE_INDEX) for y in labels]
                examples.append((ids, labels, weights))
        length = max(len(ids) for ids, _, _ in examples)
        pad = lambda at, value: torch.tensor([x[at] + [value] * (length - len(x[at])) for x in examples])
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _, _ in examples])
        return pad(0, 0), mask, pad(1, IGNORE_INDEX), pad(2, 0.0)

    for method in METHODS:
        ids, mask, labels, weights = batch(method)
        targets, weights = labels[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
        times, peak = [], 0.0
        for step in range(WARM_UP + STEPS):
            # As finetune does: free memory that is not given back would hide the growth of the step.
            ctypes.CDLL(None).malloc_trim(0)
            pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            before, begin = memory("VmRSS:"), time.perf_counter()
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            nll = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), targets, reduction="none", ignore_index=IGNORE_INDEX
            )
            loss = (nll * weights).sum() / (weights != 0).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            del logits, nll, loss
            if step >= WARM_UP:
                times.append(time.perf_counter() - begin)
                peak = max(peak, memory("VmHWM:") - before)
        seconds = statistics.median(times)
        print(json.dumps({"name": f"transformers, {method}", "seconds": seconds, "tokens": ids.numel(), "peak": peak}))


def finetune_steps(arguments, pairs, method):
    """The columns of the table that `finetune --profile` prints, each a dictionary."""
    command = [
        arguments.finetune, "--model", arguments.model, "--data", pairs, "--method", method, "--profile", "--cpu",
        "--batch", str(arguments.batch), "--micro-batch", str(arguments.batch), "--max-length", str(arguments.max_length),
    ]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    table = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    start = next(at for at, cells in enumerate(table) if cells[0] == "seconds per step")
    columns = {name: {} for name in table[start][1:]}
    for name, *cells in table[start + 1 :]:
        for column, cell in zip(columns.values(), cells):
            column[name] = float(cell.split()[0])
    return columns


def label(arguments, pairs, rows):
    """Writes the rows of the pairs as finetune encodes them."""
    command = [arguments.figa, "label", pairs, "--tokenizer", arguments.model, "--out", rows]
    subprocess.run([*command, "--max-length", str(arguments.max_length), "--json"], check=True, stdout=subprocess.DEVNULL)


def main():
    if sys.argv[1:2] == ["transformers"]:
        return transformers_steps(sys.argv[2], sys.argv[3])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a model")
    parser.add_argument("pairs", help="records in JSON lines")
    parser.add_argument("--finetune", required=True, help="the built program")
    parser.add_argument("--figa", required=True, help="the built program")
    for name, default in [("batches", 3), ("batch", 4), ("max-length", 128), ("seed", 0)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    records = pathlib.Path(arguments.pairs).read_text(encoding="utf-8").splitlines()
    random.Random(arguments.seed).shuffle(records)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.batches):
            pairs, rows = f"{folder}/pairs.jsonl", f"{folder}/rows-{number}.jsonl"
            chosen = records[number * arguments.batch : (number + 1) * arguments.batch]
            pathlib.Path(pairs).write_text("\n".join(chosen), encoding="utf-8")
            label(arguments, pairs, rows)
            for method in METHODS:
                for layout, column in finetune_steps(arguments, pairs, method).items():
                    results.setdefault(f"finetune, {method}, {layout}", []).append(
                        (column["total"], column["tokens"], column["peak memory"])
                    )
            command = [sys.executable, __file__, "transformers", arguments.model, rows]
            for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
                result = json.loads(line)
                results.setdefault(result["name"], []).append((result["seconds"], result["tokens"], result["peak"]))
            print(f"batch {number + 1} of {arguments.batches}", file=sys.stderr)
    show(results)


def show(results):
    """Means over the batches, and ratios."""
    print(f"{'step':<36}{'seconds':>9}{'tokens':>8}{'peak, MiB':>11}")
    seconds = {}
    for name, batches in results.items():
        means = [statistics.fmean(values) for values in zip(*batches)]
        seconds[name] = means[0]
        print(f"{name:<36}{means[0]:>9.2f}{means[1]:>8.0f}{means[2]:>11.0f}")
    for ours, theirs in [
        ("finetune, figa, packed", "finetune, sft, packed"),
        ("finetune, figa, packed", "finetune, figa, separate"),
        ("finetune, figa, packed", "transformers, figa"),
        ("finetune, sft, packed", "transformers, sft"),
    ]:
        print(f"{ours} takes {seconds[ours] / seconds[theirs]:.2f} times as long as {theirs}")


if __name__ == "__main__":
    main()
