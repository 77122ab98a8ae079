#!/usr/bin/env python3
"""Kill fine-tuning runs at random moments, resume them, and compare their models with that of an unbroken run.

    cargo build -p figa-finetune && python3 finetune/tests/kill.py target/debug/finetune [KILLS] [SEED] [METHOD]

Trains the tiny model of the tests on a few records, with a checkpoint after each step. The process is killed with
SIGKILL after a random time and started again with --resume, until it has been killed KILLS times (100) and has ended. METHOD is that of training (figa).
Exits with 1 if a resumed run fails, or if its model differs in one byte. Needs nothing but Python's standard library.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_model import record, tokenizer

MODEL = Path(__file__).parent / "fixtures/checkpoints/llama3"
OPTIONS = "--cpu --steps 40 --save-every 1 --batch 3 --micro-batch 2 --lr 0.01 --max-length 12 --prompt plain".split()


class Runs:
    """Runs of one program on one model, in a folder."""

    def __init__(self, program: str, folder: Path, chance: random.Random, method: str):
        self.program, self.folder, self.method = str(Path(program).absolute()), folder, method
        shutil.copytree(MODEL, folder / "model")
        (folder / "model/tokenizer.json").write_text(json.dumps(tokenizer()))
        (folder / "pairs.jsonl").write_text("".join(json.dumps(record(chance)) + "\n" for _ in range(10)))

    def start(self, out: str) -> subprocess.Popen:
        command = [self.program, "--model", "model", "--data", "pairs.jsonl", "--out", out, "--method", self.method, *OPTIONS]
        if (self.folder / out / "run.json").exists():
            command = [self.program, "--resume", out]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, process: subprocess.Popen) -> None:
        errors = process.communicate()[1]
        if process.returncode != 0:
            sys.exit(f"{' '.join(process.args)}: exit code {process.returncode}: {errors.strip()}")

    def model(self, out: str) -> bytes:
        return (self.folder / out / "model/model.safetensors").read_bytes()

    def steps(self, out: str) -> int:
        """The step of the latest checkpoint."""
        names = [path.name.removeprefix("checkpoint-") for path in (self.folder / out).glob("checkpoint-*")]
        return max((int(name) for name in names if name.isdigit()), default=0)


def main() -> None:
    if not 2 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    kills, seed = (int(sys.argv[at]) if len(sys.argv) > at else default for at, default in ((2, 100), (3, 0)))
    method = sys.argv[4] if len(sys.argv) > 4 else "figa"
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(sys.argv[1], Path(folder), chance, method)
        start = time.monotonic()
        runs.finish(runs.start("unbroken"))
        seconds = time.monotonic() - start
        killed, compared, at_steps = 0, 0, set()
        while killed < kills or compared == 0:
            process = runs.start("killed")
            if killed < kills:
                try:
                    process.wait(chance.uniform(0, seconds))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    killed += 1
                    at_steps.add(runs.steps("killed"))
                    continue
            runs.finish(process)
            if runs.model("killed") != runs.model("unbroken"):
                sys.exit(f"seed {seed}: after {killed} kills, the model differs from that of the unbroken run")
            left = sorted(path.name for path in (runs.folder / "killed").iterdir() if "partial" in path.name)
            if left:
                sys.exit(f"seed {seed}: after {killed} kills, these are left: {', '.join(left)}")
            compared += 1
            shutil.rmtree(runs.folder / "killed")
    print(f"seed {seed}: {killed} kills, after checkpoints of {len(at_steps)} different steps; {compared} resumed runs ended")
    print("all with the bytes of the unbroken one's model")


if __name__ == "__main__":
    main()
