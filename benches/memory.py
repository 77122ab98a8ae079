"""Compares the peak memory of training steps of finetune with that of transformers, on a random model.

    make bench-memory
    python3 benches/memory.py --finetune BINARY --figa BINARY [--shape 1b] [--tokens 512] [--batch 2]

Each line is a process that takes two steps of SFT on rows of about so many tokens: model, optimizer, gradients and activations together,
as the system reports them. `bf16 weights` are those of both: in finetune, their updates are rounded stochastically and the moments are
f32; in transformers, both are bf16. `recomputed` is activation checkpointing. Needs torch and transformers, and for 1b 24 GiB of memory.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "finetune/tests"))
import random_model

IGNORE_INDEX = -100
STEPS = 2
# TinyLlama-1.1B; and something small, to try the script.
SHAPES = {
    "1b": {
        "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4,
    },
    "tiny": {
        "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
# Name, flags of finetune, and bf16 and checkpointing for transformers.
SETTINGS = [
    ("f32", [], False, False),
    ("f32, recomputed", ["--checkpoint-activations"], False, True),
    ("bf16 weights", ["--bf16", "--bf16-weights"], True, False),
    ("bf16 weights, recomputed", ["--bf16", "--bf16-weights", "--checkpoint-activations"], True, True),
]


def transformers_steps(model_folder, rows_file, bf16, recompute):
    """Prints the seconds of the last step."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = [json.loads(line) for line in open(rows_file, encoding="utf-8")]
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16 if bf16 else torch.float32)
    model.train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)
    examples = [(row["revised_input_ids"], row["revised_labels"]) for row in rows]
    length = max(len(ids) for ids, _ in examples)
    ids, labels = (
        torch.tensor([lists[at] + [fill] * (length - len(lists[at])) for lists in examples])
        for at, fill in ((0, 0), (1, IGNORE_INDEX))
    )
    for _ in range(STEPS):
        begin = time.perf_counter()
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(time.perf_counter() - begin)


def peak(command):
    """Runs a command. Returns what it prints, and the most memory that it took, in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: {process.stderr.read()}")
    return output, usage.ru_maxrss / 1024


def records(count, tokens):
    chance = random.Random(0)
    for _ in range(count):
        prompt, answer = (chance.choices(random_model.WORDS[3:], k=size) for size in (tokens // 4, tokens - tokens // 4))
        revised = [word if chance.random() < 0.9 else chance.choice(random_model.WORDS[3:]) for word in answer]
        fields = {"instruction": prompt, "original_output": answer, "revised_output": revised}
        yield json.dumps({name: " ".join(words) for name, words in fields.items()})


def main():
    if sys.argv[1:2] == ["transformers"]:
        model, rows, *flags = sys.argv[2:]
        return transformers_steps(model, rows, *(flag == "True" for flag in flags))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--finetune", required=True, help="the built program")
    parser.add_argument("--figa", required=True, help="the built program")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{'step':<42}{'seconds':>9}{'peak, MiB':>11}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        random_model.write(folder, random_model.SMOL_LM2 | SHAPES[arguments.shape])
        model, pairs, rows = str(folder / "model"), folder / "pairs.jsonl", str(folder / "rows.jsonl")
        pairs.write_text("\n".join(records(arguments.batch, arguments.tokens)))
        longest = str(arguments.tokens + 8)
        label = [arguments.figa, "label", pairs, "--tokenizer", model, "--out", rows, "--prompt", "plain", "--json"]
        subprocess.run([*label, "--max-length", longest], check=True, stdout=subprocess.DEVNULL)
        for name, flags, bf16, recompute in SETTINGS:
            out = folder / "out"
            command = [
                arguments.finetune, "--model", model, "--data", str(pairs), "--out", str(out), "--steps", str(STEPS),
                "--batch", str(arguments.batch), "--micro-batch", str(arguments.batch), "--max-length", longest,
                "--prompt", "plain", "--method", "sft", "--cpu", *flags,
            ]  # fmt: skip
            _, memory = peak(command)
            last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
            seconds = sum(last["seconds"].values())
            shutil.rmtree(out)
            print(f"{'finetune, ' + name:<42}{seconds:>9.2f}{memory:>11.0f}", flush=True)
            command = [sys.executable, __file__, "transformers", model, rows, str(bf16), str(recompute)]
            seconds, memory = peak(command)
            print(f"{'transformers, ' + name:<42}{float(seconds):>9.2f}{memory:>11.0f}", flush=True)


if __name__ == "__main__":
    main()
