#!/usr/bin/env python3
"""Fine-tune a tiny random model with two processes under torchrun, one of which is killed on the way.

    python3 finetune/tests/torchrun.py target/debug/finetune

torchrun restarts them, the run continues from its checkpoint, and its losses are those of a run with one process. Needs a
Python with torch.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import random_model

STEPS = 60
LIMIT = 120


def losses(folder):
    with open(folder / "metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["loss"] for line in file if line.endswith("\n")]


def workers(folder):
    """The processes that train in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"finetune") and str(folder).encode() in command:
            found.append(int(entry.name))
    return sorted(found)


def main(finetune):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        random_model.write(scratch / "small", random_model.SMOL_LM2 | random_model.SMALL)
        command = [finetune, "--model", scratch / "small/model", "--data", scratch / "small/pairs.jsonl", "--cpu"]
        command += f"--steps {STEPS} --save-every 10 --lr 1e-3 --max-length 32 --prompt plain --out".split()
        command = [str(part) for part in command]
        subprocess.run([*command, scratch / "one"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2"]
        two = scratch / "two"
        log = open(scratch / "log", "w+", encoding="utf-8")
        launcher = subprocess.Popen([*torchrun, "--max-restarts", "1", *command, two], stdout=log, stderr=log)
        end = time.time() + LIMIT
        try:
            while not (two / "checkpoint-10").exists() and not (two / "checkpoint-20").exists():
                if launcher.poll() is not None or time.time() > end:
                    raise SystemExit(f"no checkpoint\n{Path(log.name).read_text()}")
                time.sleep(0.01)
            killed = workers(two)
            os.kill(killed[-1], signal.SIGKILL)
            launcher.wait(LIMIT)
        finally:
            launcher.kill()
        if launcher.returncode:
            raise SystemExit(f"torchrun ended with {launcher.returncode}\n{Path(log.name).read_text()}")
        one, two = losses(scratch / "one"), losses(two)
        difference = max(abs(a - b) for a, b in zip(one, two))
        print(f"torchrun: {len(killed)} processes, one killed; {len(two)} losses, at most {difference:.1e} from one process")
        if len(killed) != 2 or len(one) != STEPS or len(two) != STEPS or difference > 1e-4:
            raise SystemExit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
