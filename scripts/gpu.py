#!/usr/bin/env python3
"""Run everything that needs a GPU; on a machine without one, the same on the CPU with small sizes.

    python3 scripts/gpu.py                  # make gpu
    python3 scripts/gpu.py --pack FOLDER    # make gpu-pack: build into a folder, in place of target/gpu

Each stage prints whether it passed, and how long it took; with a GPU, a stage that ran on the CPU has failed. The exit
code is 1 if a stage failed. The stages: a program as a user writes it; the losses against their dense expressions in
f64, f32, bf16 and f16; autocast and loss scale; waits for the GPU; the benchmark against other libraries; the demo;
fine-tuning in bf16.

cargo builds what is run. Where there is no cargo, it is taken from the folder of a pack that the variable FIGA_GPU_PACK
names (target/gpu), with the libtorch that python3 imports, and with the packages of the benchmark. A pack is built on a
machine with the same processor and the same version of libtorch, and needs no network.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "finetune/tests"))
import random_model  # noqa: E402

GPU = "Cuda(0)"
# What is built, as cargo names it.
TARGETS = [
    ("test", "family"), ("test", "linear"), ("test", "mixed_precision"), ("bench", "loss"), ("example", "device"),
    ("example", "train"), ("bin", "finetune"),
]  # fmt: skip
REQUIREMENTS = ROOT / "benches/gpu_losses.txt"


class Failure(Exception):
    pass


class Skipped(Exception):
    pass


def build(folder: Path) -> dict[str, Path]:
    """The programs, and the library that counts waits, which goes into the folder."""
    subprocess.run(["sh", "scripts/libtorch.sh"], cwd=ROOT, check=True)
    targets = [word for kind, name in TARGETS for word in (f"--{kind}", name)]
    command = ["cargo", "build", "--workspace", *targets, "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    programs = {}
    for message in map(json.loads, output.splitlines()):
        if message.get("executable"):
            programs[message["target"]["name"]] = Path(message["executable"])
    folder.mkdir(parents=True, exist_ok=True)
    programs["waits.so"] = folder / "waits.so"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", programs["waits.so"], "tests/waits.c", "-ldl"]
    subprocess.run(command, cwd=ROOT, check=True)
    return programs


def pack(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, program in build(folder).items():
        if name != "waits.so":
            subprocess.run(["strip", "-o", folder / name, program], check=True)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", REQUIREMENTS]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "--dest", folder / "wheels"], check=True)
    size = sum(file.stat().st_size for file in folder.rglob("*"))
    print(f"{folder}: {size / 2**20:.0f} MiB")


class Run:
    """What the stages share."""

    def __init__(self, scratch: Path):
        self.scratch, self.env = scratch, dict(os.environ)
        self.on_gpu = shutil.which("nvidia-smi") is not None and "GPU 0" in self.output(["nvidia-smi", "-L"])
        if shutil.which("cargo"):
            self.programs = build(ROOT / "target/gpu-build")
            return
        folder = Path(os.environ.get("FIGA_GPU_PACK", ROOT / "target/gpu")).absolute()
        if not folder.is_dir():
            sys.exit(f"gpu: no cargo, and no pack in {folder}; make one with make gpu-pack, and name it with FIGA_GPU_PACK")
        self.programs = {file.name: file for file in folder.iterdir() if file.is_file()}
        torch = importlib.util.find_spec("torch")
        if torch is None:
            sys.exit(f"gpu: {sys.executable} has no torch, whose libraries the programs of a pack need")
        self.extend("LD_LIBRARY_PATH", Path(torch.origin).parent / "lib")
        wheels = sorted((folder / "wheels").glob("*.whl"))
        if wheels:
            options = ["--quiet", "--no-index", "--no-deps", "--target", scratch / "site"]
            subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
            self.extend("PYTHONPATH", scratch / "site")

    def extend(self, variable: str, path: Path) -> None:
        self.env[variable] = os.pathsep.join(filter(None, [str(path), os.environ.get(variable)]))

    def output(self, command: list) -> str:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=self.env).stdout

    def run(self, command: list, expected: str = "", **env: str) -> None:
        """Runs a command, shows its output, and checks that the output contains a text, and the name of the GPU if there is one."""
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        seen = []
        for line in process.stdout:
            print(line, end="", flush=True)
            seen.append(line)
        if process.wait() != 0:
            raise Failure(f"exit code {process.returncode}")
        for text in [expected, GPU if self.on_gpu else ""]:
            if text not in "".join(seen):
                raise Failure(f"the output does not contain {text}")

    def test(self, program: str, *names: str, expected: str = "", **env: str) -> None:
        # One test at a time: they share the GPU, and the counter of waits.
        options = ["--exact", *names, "--nocapture", "--test-threads=1"]
        self.run([self.programs[program], *options], expected or f"{max(len(names), 1)} passed", **env)

    def program(self) -> None:
        self.run([self.programs["device"]], expected=f"on {GPU if self.on_gpu else 'Cpu'}")

    def losses(self) -> None:
        self.test("family", "no_loss_is_less_exact_than_its_dense_expression")
        self.test("linear", "no_path_is_less_exact_than_the_dense_expression")

    def mixed_precision(self) -> None:
        names = ["gradients_are_right_under_a_loss_scale", "gradients_are_right_under_autocast_and_a_loss_scale"]
        self.test("mixed_precision", *names)

    def waits(self) -> None:
        counter = str(self.programs["waits.so"])
        self.test("family", "with_rows_on_the_host_no_loss_waits_for_the_gpu", expected="waits counted", LD_PRELOAD=counter)

    def benchmark(self) -> None:
        if importlib.util.find_spec("torch") is None or not self.output([sys.executable, "-c", "import torch; print(1)"]):
            raise Skipped(f"{sys.executable} cannot import torch")
        self.run([sys.executable, "benches/gpu_losses.py", "--bench", self.programs["loss"]])

    def demo(self) -> None:
        size = [] if self.on_gpu else ["--learn-steps", "4", "--figa-steps", "4"]
        data = ["--data", "examples/data/spa_tiny.jsonl"]
        self.run([self.programs["train"], *data, *size, "--device", "cuda" if self.on_gpu else "cpu"])

    def finetune(self) -> None:
        config = random_model.SMOL_LM2 | ({} if self.on_gpu else random_model.SMALL)
        random_model.write(self.scratch / "smol", config)
        files = ["--model", self.scratch / "smol/model", "--data", self.scratch / "smol/pairs.jsonl"]
        options = "--bf16 --method sft,figa --steps 20 --lr 1e-3 --max-length 32 --prompt plain --out".split()
        self.run([self.programs["finetune"], *files, *options, self.scratch / "run"])
        runs = {path.parent.name: path for path in (self.scratch / "run").rglob("metrics.jsonl")}
        losses = {name: [json.loads(line)["loss"] for line in path.open()] for name, path in runs.items()}
        if len(losses) != 2 or any(loss is None for values in losses.values() for loss in values):
            raise Failure(f"losses: {losses}")
        first, last = losses["sft-0"][0], losses["sft-0"][-1]
        if not last < first:
            raise Failure(f"the loss of sft is {first} at first, and {last} in the end")


STAGES = {
    "a program as a user writes it": Run.program,
    "losses against their dense expressions": Run.losses,
    "autocast and loss scale": Run.mixed_precision,
    "waits for the GPU": Run.waits,
    "benchmark against other libraries": Run.benchmark,
    "demo": Run.demo,
    "fine-tuning in bf16": Run.finetune,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="build into this folder instead of running")
    args = parser.parse_args()
    if args.pack:
        return pack(args.pack.absolute())
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        print(f"gpu: on {'a GPU' if run.on_gpu else 'the CPU, with small sizes'}", flush=True)
        for name, stage in STAGES.items():
            print(f"\ngpu: {name}", flush=True)
            begin, result = time.monotonic(), "pass"
            try:
                stage(run)
            except Skipped as reason:
                result = f"skipped: {reason}"
            except (Failure, OSError, KeyError) as reason:
                result = f"FAIL: {reason}"
            lines.append(f"gpu: {name}: {result} ({time.monotonic() - begin:.0f} s)")
            print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))
    sys.exit(any("FAIL" in line for line in lines))


if __name__ == "__main__":
    main()
