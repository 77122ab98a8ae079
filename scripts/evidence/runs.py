"""The file of recorded runs: one run a line, as JSON, sorted. docs/experiments/README.md has its fields."""

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path


def line(run):
    return json.dumps(run, separators=(",", ":"), ensure_ascii=False) + "\n"


def key(run):
    """What tells a run from others. A run that is in no table may share it with one that is."""
    return run["task"], run["recipe"], run.get("lr", ""), run.get("seed", 0), run["set"], run.get("precision", "bf16")


def order(run):
    task, recipe, lr, *others = key(run)
    return task, recipe, float(lr or 0), *others, run.get("left_out", "")


class Runs:
    """The runs of a file that several threads and processes read and add to."""

    def __init__(self, path):
        self.path = Path(path)
        # What the file was when it was read last, and its runs: replaced at once, so that threads see one or the other.
        self.last = None, [], {}

    def all(self):
        """In their order, those that are in no table included."""
        return self.read()[0]

    def get(self, *wanted):
        """The run with this task, recipe, rate, seed, set and precision, or nothing."""
        return self.read()[1].get(wanted)

    def read(self):
        """All runs, and by their keys those that count. Reads the file if another one has taken its place."""
        seen, runs, found = self.last
        try:
            if state(os.stat(self.path)) != seen:
                with open(self.path, encoding="utf-8") as file:
                    seen, runs = state(os.fstat(file.fileno())), [json.loads(text) for text in file]
                found = {key(run): run for run in runs if "left_out" not in run}
                self.last = seen, runs, found
        except FileNotFoundError:
            return [], {}
        return runs, found

    def add(self, run):
        """Puts a file with this run in place of the file. A run that another process has recorded meanwhile stays."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent):
            runs, found = self.read()
            if key(run) in found:
                return
            partial = self.path.with_name(self.path.name + ".partial")
            with open(partial, "w", encoding="utf-8") as file:
                file.writelines(map(line, sorted([*runs, run], key=order)))
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.path)


def state(status):
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def locked(folder):
    """Waits until no other thread or process holds the folder. A process that is killed lets go of it."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
