"""Tests of the file of runs, and of what it holds.

python3 -m unittest discover -s scripts/evidence
"""

import json
import multiprocessing
import re
import tempfile
import unittest
from pathlib import Path
from threading import Barrier, Thread
from unittest import mock

from grid import plan, varied
from runs import Runs, key, line, order
from training import RUNS

WRITERS, RUNS_OF_WRITER = 4, 8


def run_of(seed, **fields):
    return {"task": "t", "recipe": "sft", "set": "dev", "lr": "1e-5", "seed": seed, **fields}


def add(path, first):
    runs = Runs(path)
    for seed in range(first, first + RUNS_OF_WRITER):
        runs.add(run_of(seed))


def add_in_threads(path, first):
    # Threads of a process share the runs, as those of `run` do.
    runs, start = Runs(path), Barrier(WRITERS)

    def work(first):
        start.wait()
        for seed in range(first, first + RUNS_OF_WRITER):
            runs.add(run_of(seed))
            assert runs.get("t", "sft", "1e-5", seed, "dev", "bf16")

    threads = [Thread(target=work, args=[first + RUNS_OF_WRITER * place]) for place in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class RunsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "runs.jsonl")

    def seeds(self):
        return [json.loads(text)["seed"] for text in self.path.read_text(encoding="utf-8").splitlines()]

    def test_writers_at_once_lose_nothing(self):
        count = WRITERS * RUNS_OF_WRITER
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=add_in_threads, args=(self.path, count * place)) for place in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        self.assertEqual([process.exitcode for process in processes], [0] * 3)
        self.assertEqual(self.seeds(), list(range(3 * count)))
        self.assertEqual([path.name for path in self.path.parent.iterdir()], ["runs.jsonl"])

    def test_a_writer_that_fails_leaves_the_file(self):
        add(self.path, 0)
        before = self.path.read_bytes()
        with mock.patch.object(Path, "rename", side_effect=OSError), self.assertRaises(OSError):
            Runs(self.path).add(run_of(100))
        self.assertEqual(self.path.read_bytes(), before)
        # The lock is free, and the partial file of the failed one is in nobody's way.
        add(self.path, 200)
        self.assertEqual(self.seeds(), [*range(RUNS_OF_WRITER), *range(200, 200 + RUNS_OF_WRITER)])

    def test_a_recorded_run_stays_and_one_that_counts_not_does_not_hide_it(self):
        runs = Runs(self.path)
        self.assertEqual((runs.all(), runs.get("t", "sft", "1e-5", 0, "dev", "bf16")), ([], None))
        runs.add(run_of(0, left_out="a reason"))
        self.assertIsNone(runs.get("t", "sft", "1e-5", 0, "dev", "bf16"))
        for tokens in 1, 2:
            runs.add(run_of(0, tokens=tokens))
        self.assertEqual(runs.get("t", "sft", "1e-5", 0, "dev", "bf16")["tokens"], 1)
        self.assertEqual(len(runs.all()), 2)


class RecordedTest(unittest.TestCase):
    def test_lines_are_sorted_and_differ(self):
        runs = RUNS.all()
        self.assertEqual("".join(map(line, runs)), RUNS.path.read_text(encoding="utf-8"))
        self.assertEqual(runs, sorted(runs, key=order))
        counted = [key(run) for run in runs if "left_out" not in run]
        self.assertEqual(len(counted), len(set(counted)))

    def test_the_plan_holds_each_run_that_counts(self):
        planned = {key(training.result()) for training in plan() if training.result()}
        self.assertEqual(planned, {key(run) for run in RUNS.all() if "left_out" not in run})

    def test_recipes_say_what_their_commands_did(self):
        for run in RUNS.all():
            methods = [re.search(r" --method (\S+) ", stage)[1] for stage in run["stages"]]
            names = [] if run["recipe"] == "base" else run["recipe"].replace("reversed-", "").split("--")
            self.assertEqual(methods, names)
            for stage in run["stages"]:
                self.assertIn(run.get("lr"), re.search(r" --lr (\S+) ", stage)[1])
            # No name depends on a default of the two methods whose default has changed.
            for method in methods:
                name, *settings = method.split("+")
                keys = [setting.split("=")[0] for setting in settings]
                if name in ("figa", "unlikelihood"):
                    self.assertTrue(keys[0] == "paper" or {"gamma", "eos"} <= set(keys), method)

    def test_a_variant_replaces_a_setting_where_it_is(self):
        self.assertEqual(varied("figa+gamma=0.3+eos=1", "gamma=0.5"), "figa+gamma=0.5+eos=1")
        self.assertEqual(varied("figa+gamma=0.3+eos=1", "beta=0"), "figa+gamma=0.3+eos=1+beta=0")


if __name__ == "__main__":
    unittest.main()
