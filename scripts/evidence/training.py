"""Train a model with a recipe: one method of finetune, or several one after the other."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runs import Runs

ROOT = Path(__file__).resolve().parents[2]
WORK = Path(os.environ.get("EVIDENCE", ROOT / "target/evidence"))
EXPERIMENTS = ROOT / "docs/experiments"
RUNS = Runs(EXPERIMENTS / "runs.jsonl")
MODEL = WORK / "model"
FINETUNE = ROOT / "target/release/finetune"
FIGA = ROOT / "target/release/figa"
BATCH = 4
# How matrices are multiplied; the trained parameters are in f32. Without instructions for bf16, a CPU is faster in f32.
COMPUTE = {"bf16": ["--bf16"], "f32": []}
# In front of a method that takes the original answers for the revised ones: a control.
REVERSED = "reversed-"


@cache
def gpu():
    """The name of the first GPU, on which the programs run then; nothing on a machine without one."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    # Without a driver, it prints an error instead.
    return process.stdout.split("\n")[0].strip() if process.returncode == 0 else ""


def at_a_time():
    """How many answers commands measure or generate at a time."""
    return ["--micro-batch", 16 if gpu() else 8]


@dataclass(frozen=True)
class Recipe:
    """Methods of finetune, in the order in which they train. None of them: the base model."""

    name: str

    @property
    def stages(self):
        return [] if self.name == "base" else self.name.split("--")


class Diverged(Exception):
    """A loss or gradient that is not finite ended a run."""


def call(command, log):
    """Runs a command with its output in a file, and returns the seconds that it has kept cores busy."""
    parts = [str(part) for part in command]
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(parts, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=ROOT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            process.kill()
    if status := os.waitstatus_to_exitcode(status):
        last = Path(log).read_text(encoding="utf-8").strip().split("\n")[-1]
        if "is not finite" in last:
            raise Diverged(last)
        raise SystemExit(f"{' '.join(parts)}\nfailed with {status}: {last}")
    return usage.ru_utime + usage.ru_stime


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def write_lines(path, records):
    write(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def write(path, text):
    """Writes a file that is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def reverse(data, out):
    records = read_lines(data)
    for record in records:
        record["original_output"], record["revised_output"] = record["revised_output"], record["original_output"]
    write_lines(out, records)
    return out


@dataclass(frozen=True)
class Training:
    """One experiment: a recipe with a learning rate and a seed, measured on a set of its task."""

    task: object
    recipe: Recipe
    lr: str
    seed: int
    # "dev", to choose a learning rate, or "held-out".
    set: str
    precision: str = "bf16"

    @property
    def name(self):
        rate = f"-lr{self.lr}-seed{self.seed}" if self.recipe.stages else ""
        precision = "" if self.precision == "bf16" else f"-{self.precision}"
        return f"{self.task.name}-{self.recipe.name}{rate}{precision}"

    def __str__(self):
        return f"{self.name}-{self.set}"

    def folder(self):
        """Where its files are until it has ended."""
        return WORK / "runs" / self.name

    def result(self):
        """What is recorded of it, or nothing."""
        lr, seed = (self.lr, self.seed) if self.recipe.stages else ("", 0)
        return RUNS.get(self.task.name, self.recipe.name, lr, seed, self.set, self.precision)

    def run(self):
        """Trains and measures. The result of a run that diverged says so, and has no scores."""
        start = time.time()
        try:
            result = self.train_and_measure()
        except Diverged as error:
            result = {"diverged": shown(error), "scores": None}
        what = {"task": self.task.name, "recipe": self.recipe.name, "set": self.set, "date": time.strftime("%Y-%m-%d")}
        if gpu():
            what["gpu"] = gpu()
        if self.recipe.stages:
            what.update(lr=self.lr, seed=self.seed)
        if self.precision != "bf16":
            what["precision"] = self.precision
        return {**what, **result, "wall_seconds": round(time.time() - start)}

    def train_and_measure(self):
        folder = self.folder()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        model, trained = MODEL, {"stages": [], "steps": 0, "tokens": 0, "cpu_seconds": 0}
        for number, method in enumerate(self.recipe.stages):
            data = self.task.data(self.seed, number, model, folder, log)
            if method.startswith(REVERSED):
                method, data = method.removeprefix(REVERSED), reverse(data, folder / f"reversed-{number}.jsonl")
            out = folder / f"stage-{number}"
            command = [FINETUNE, "--model", model, "--data", data, "--method", method, "--lr", self.lr]
            command += ["--budget", self.task.budget(len(self.recipe.stages)), "--batch", BATCH, "--seed", self.seed]
            command += ["--max-length", self.task.max_length, "--save-every", 1000000, *COMPUTE[self.precision]]
            command += ["--out", out]
            cost = folder / f"cost-{number}.json"
            if not cost.exists():
                shutil.rmtree(out, ignore_errors=True)
                write(cost, json.dumps(call(command, log)))
            steps = read_lines(out / "metrics.jsonl")
            trained["stages"].append(" ".join(shown(part) for part in command))
            trained["steps"] += len(steps)
            trained["tokens"] += sum(step["computed"] for step in steps)
            trained["cpu_seconds"] += round(json.loads(cost.read_text()))
            model = out / "model"
        measured = self.task.measure(model, self.set, folder, log, COMPUTE[self.precision])
        if self.set != "dev":
            shutil.rmtree(folder)
        return {**trained, **measured}


def shown(part):
    """A part of a command without the place of this clone."""
    return str(part).replace(f"{ROOT}/", "").replace(f"{WORK}/", "target/evidence/")
