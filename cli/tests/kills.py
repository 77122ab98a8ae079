"""Kills figa at random moments and at every step that reaches the disk, resumes it, and compares with an unbroken run.

    cargo build --release -p figa-cli
    python3 cli/tests/kills.py target/release/figa [--kills 100] [--seed 0]

For rows as JSON lines, for rows in Parquet and for curated records, this checks that

* the output is complete or absent after each kill, and a resumed run writes the bytes of an unbroken one;
* the same holds if the run is killed in front of any sync, rename or removal (needs strace);
* each file is synced before it gets its name, whatever a state counts is synced before the state, and the folder of a
  renamed file is synced before the next one is renamed (needs strace).
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "slept"]
STEPS = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,ftruncate"
WRITES = "write,writev,pwrite64,copy_file_range,sendfile,splice"
REVISER = """while read -r line; do echo '{"revised_output": "the mat"}'; done"""
SCORER = "while read -r line; do echo $((${#line} % 7)); done"


def write_inputs(folder):
    tokens = {word: at for at, word in enumerate(["<unk>", "</s>", *WORDS])}
    model = {"type": "WordLevel", "vocab": tokens, "unk_token": "<unk>"}
    tokenizer = {"model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    rng = random.Random(1)
    for name, count in [("pairs.jsonl", 20_000), ("few.jsonl", 2_000)]:
        with open(folder / name, "w") as file:
            for number in range(count):
                words = rng.choices(WORDS, k=rng.randint(1, 30))
                record = {"instruction": f"Correct {number}.", "original_output": " ".join(words)}
                if number % 100:
                    words[rng.randrange(len(words))] = rng.choice(WORDS)
                    record["revised_output"] = " ".join(words)
                elif name == "few.jsonl":
                    record["original_output"] = 1
                print(json.dumps(record), file=file)


class Case:
    """A command that can be resumed, and what it writes."""

    def __init__(self, figa, folder, name, out, arguments):
        self.folder, self.name, self.out = folder, name, out
        self.outputs = [out, "bad.jsonl", "bad.jsonl.why.jsonl"]
        self.beside = [f"{out}.partial", f"{out}.answers"]
        self.command = [figa, *arguments, "--out", out, "--skip-bad", "bad.jsonl", "--resume"]
        self.reset()
        begin = time.monotonic()
        self.finish()
        self.seconds = time.monotonic() - begin
        self.expected = self.contents()
        assert len(self.expected) == len(self.outputs)

    def start(self, *wrapper):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen([*wrapper, *self.command], cwd=self.folder, **quiet)

    def finish(self):
        run = self.start()
        _, errors = run.communicate()
        assert run.returncode == 0, f"{self.name}: {errors.decode()}"

    def contents(self):
        return {name: (self.folder / name).read_bytes() for name in self.outputs if (self.folder / name).exists()}

    def reset(self):
        for name in [*self.outputs, *self.beside]:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        # Temporary files that a killed run leaves behind.
        for path in self.folder.glob("*.partial-*"):
            path.unlink()

    def check_no_half(self):
        for name, content in self.contents().items():
            assert content == self.expected[name], f"{self.name}: half of {name} has its name"

    def check_whole(self):
        assert self.contents() == self.expected, f"{self.name}: the bytes differ"
        for name in self.beside:
            assert not (self.folder / name).exists(), f"{self.name}: {name} is left"


def kill_at_random(case, kills, rng):
    done = finished = 0
    while done < kills:
        run = case.start()
        time.sleep(case.seconds * rng.uniform(0, 1.2))
        run.send_signal(signal.SIGKILL)
        _, errors = run.communicate()
        if run.returncode == 0:
            case.check_whole()
            case.reset()
            finished += 1
        else:
            assert run.returncode == -signal.SIGKILL, errors.decode()
            case.check_no_half()
            done += 1
    case.finish()
    case.check_whole()
    print(f"{case.name}: killed {done} times at random, finished {finished + 1} times")


def kill_at_every_step(case):
    step = 0
    while True:
        step += 1
        case.reset()
        inject = f"inject={STEPS}:signal=KILL:when={step}"
        run = case.start("strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={STEPS}", "-e", inject)
        _, errors = run.communicate()
        case.check_no_half()
        if run.returncode == 0:
            break
        assert run.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), errors.decode()
        case.finish()
        case.check_whole()
    print(f"{case.name}: killed in front of each of {step - 1} steps")


def check_order(case):
    """Reads the system calls of a run."""
    case.reset()
    log = case.folder / "strace.log"
    run = case.start("strace", "-f", "-y", "-qq", "-s", "0", "-o", str(log), "-e", f"trace={STEPS},{WRITES}")
    _, errors = run.communicate()
    assert run.returncode == 0, errors.decode()
    dirty, unsynced_folders, renames, pending = set(), set(), 0, {}
    for line in log.read_text().splitlines():
        thread, call = line.split(maxsplit=1)
        if call.endswith("<unfinished ...>"):
            # A write counts from its beginning, everything else from its end.
            pending[thread] = call
            if call.split("(")[0] not in WRITES.split(","):
                continue
        elif call.startswith("<..."):
            call = pending.pop(thread) + call
        name = call.split("(")[0]
        files = [str(case.folder / path) for path in re.findall(r"\d+<([^>]*)>", call)]
        if name in WRITES.split(","):
            written = files[-1] if name == "copy_file_range" else files[0] if files else ""
            if written.startswith(str(case.folder)):
                dirty.add(written)
        elif name in ("fsync", "fdatasync"):
            dirty.discard(files[0])
            unsynced_folders.discard(files[0])
        elif name.startswith(("rename", "link")) and " = 0" in call:
            source, target = (str(case.folder / path) for path in re.findall(r'"([^"]*)"', call))
            assert source not in dirty, f"{case.name}: {source} gets the name {target} before it is synced"
            assert not unsynced_folders, f"{case.name}: {target} gets its name before {unsynced_folders} is synced"
            if target.endswith("state.json"):
                counted = [path for path in dirty if path.startswith(os.path.dirname(target))]
                assert not counted, f"{case.name}: the state comes before {counted} is synced"
            unsynced_folders.add(os.path.dirname(target))
            renames += 1
    assert renames and not unsynced_folders, f"{case.name}: {unsynced_folders} is not synced after its last rename"
    log.unlink()
    print(f"{case.name}: all of {renames} renames come after the sync of what they name")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("figa", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder).resolve()
        write_inputs(folder)
        label = ["label", "pairs.jsonl", "--tokenizer", ".", "--eos", "</s>"]
        curate = ["curate", "few.jsonl", "--scorer", SCORER, "--max-original", "5", "--reviser", REVISER]
        program = args.figa.resolve()
        for name, out, arguments in [
            ("label, JSON lines", "l.jsonl", label),
            ("label, Parquet", "l.parquet", label),
            ("curate", "k.jsonl", curate),
        ]:
            case = Case(program, folder, name, out, arguments)
            if shutil.which("strace"):
                check_order(case)
                kill_at_every_step(case)
            case.reset()
            kill_at_random(case, args.kills, random.Random(args.seed))
            case.reset()


if __name__ == "__main__":
    main()
