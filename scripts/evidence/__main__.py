#!/usr/bin/env python3
"""Run the experiments behind docs/results.md, and write its tables and figures.

    python3 scripts/evidence list                      what there is to run, what is done, and the hours that remain
    python3 scripts/evidence run                       run what is not done; Ctrl-C stops, and the next call continues
    python3 scripts/evidence data                      count what the pairs to train on change, for the report
    python3 scripts/evidence report                    the tables and figures of what is done
    python3 scripts/evidence try RECIPE --lr 3e-5 ...  one recipe on other records (--eval) or prompts (--prompts)

`run` needs target/release/finetune and target/release/figa, and the model and the pairs that the examples fetch; see
`make evidence`. A run that is done is a line of docs/experiments/runs.jsonl; README.md beside it has the design.
"""

import argparse
import json
import os
import shutil
import sys
import time
from threading import Condition, Thread

import data
from corrections import Corrections
from grid import plan
from house_style_task import HouseStyle
from training import RUNS, Recipe, Training


def show_plan():
    planned = plan()
    for training in planned:
        print(f"{'done' if training.result() else '    '}  {training}")
    seconds = [training.result()["wall_seconds"] for training in planned if training.result()]
    left = len(planned) - len(seconds)
    mean = sum(seconds) / len(seconds) if seconds else 300
    print(
        f"{len(seconds)} of {len(planned)} runs are done; {left * mean / 3600:.1f} hours remain at {mean:.0f} s a run"
    )
    print("A run that depends on the choice of a learning rate is in the list once the rates have been compared.")


class Runner:
    """Runs what the plan holds until nothing is left: a choice of a learning rate adds to it."""

    def __init__(self, jobs, minutes):
        self.jobs, self.end = jobs, time.time() + 60 * minutes if minutes else None
        self.changed, self.running, self.failed = Condition(), set(), False
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))

    def run(self):
        workers = [Thread(target=self.work) for _ in range(self.jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self.failed:
            sys.exit(1)

    def next(self):
        """An experiment that is due and does not run yet."""
        with self.changed:
            while not self.failed and not (self.end and time.time() > self.end):
                missing = [training for training in plan() if not training.result()]
                free = [training for training in missing if training.name not in self.running]
                if free:
                    self.running.add(free[0].name)
                    print(f"{time.strftime('%H:%M')} {free[0]} ({len(missing)} left)", flush=True)
                    return free[0]
                if not self.running:
                    break
                # What is running may add to the plan.
                self.changed.wait()
        return None

    def work(self):
        while training := self.next():
            try:
                RUNS.add(training.run())
            except BaseException as error:  # Also those of a thread that SystemExit would end in silence.
                self.failed = True
                print(error, file=sys.stderr)
            with self.changed:
                self.running.discard(training.name)
                self.changed.notify_all()


def try_recipe(args):
    task = HouseStyle(prompts=args.prompts) if args.prompts else Corrections(eval=args.eval)
    training = Training(task, Recipe(args.recipe), args.lr, args.seed, "other")
    # That of a call that was interrupted, perhaps with other records.
    shutil.rmtree(training.folder(), ignore_errors=True)
    print(f"this takes minutes; the programs write to {training.folder() / 'log.txt'}", file=sys.stderr)
    result = training.run()
    print(json.dumps(result["scores"], indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="print the plan")
    run = commands.add_parser("run", help="run what is not done")
    run.add_argument("--jobs", type=int, default=1, help="how many to run side by side; they share the cores [1]")
    run.add_argument("--minutes", type=float, help="begin none after this many minutes")
    commands.add_parser("data", help="count what the pairs to train on change")
    commands.add_parser("report", help="write tables and figures")
    single = commands.add_parser("try", help="train with a recipe, and print its scores")
    single.add_argument("recipe", help="a method of finetune, or several with -- between them, one after the other")
    single.add_argument("--lr", type=float, required=True, help="peak learning rate")
    single.add_argument("--seed", type=int, default=0, help="seed of the data and their order")
    sets = single.add_mutually_exclusive_group(required=True)
    sets.add_argument("--eval", help="records to measure on, as corrections")
    sets.add_argument("--prompts", help="prompts to answer, in the house style")
    args = parser.parse_args()
    if args.command == "list":
        show_plan()
    elif args.command == "run":
        Runner(args.jobs, args.minutes).run()
    elif args.command == "data":
        data.write()
    elif args.command == "report":
        import report  # Needs numpy, scipy and matplotlib, which nothing else does.

        report.write()
    else:
        try_recipe(args)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
