"""A house style: the model's own answers to prompts, revised by a program."""

import json
import shlex
import sys
from collections import defaultdict
from dataclasses import dataclass
from threading import Lock

from training import COMPUTE, FIGA, FINETUNE, MODEL, ROOT, WORK, at_a_time, call, read_lines, write_lines

sys.path.insert(0, str(ROOT / "examples/python"))
import house_style  # noqa: E402

PROMPTS = ROOT / "examples/data/house_prompts.jsonl"
HELD_OUT = ROOT / "examples/data/house_prompts_held_out.jsonl"
DEV = 93
MAX_TOKENS = 120


# Experiments that run side by side share the answers of the base model.
LOCKS = defaultdict(Lock)


def call_once(command, out, log):
    with LOCKS[out]:
        if not out.exists():
            call(command, log)


def distance(one, other):
    """The Levenshtein distance of two lists."""
    last = list(range(len(other) + 1))
    for row, item in enumerate(one, 1):
        current = [row]
        for column, candidate in enumerate(other, 1):
            changed = last[column - 1] + (item != candidate)
            current.append(min(changed, last[column] + 1, current[-1] + 1))
        last = current
    return last[-1]


def repeated(words):
    """How many of the sequences of four words have occurred before, and how many sequences there are."""
    sequences = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
    return len(sequences) - len(set(sequences)), len(sequences)


@dataclass(frozen=True)
class HouseStyle:
    # Prompts to measure on, in place of the sets of the task.
    prompts: str = ""
    # Of the answers that are sampled to train on.
    precision: str = "bf16"
    prompts_of_stage: int = 200
    name = "house-style"
    max_length = 256

    def budget(self, stages):
        """Tokens to compute in each stage."""
        return 24_000

    def rollout(self, model, prompts, out, seed, log):
        """The answers of a model to prompts: sampled to train on, or greedy to measure, if there is no seed.

        Greedy answers are computed in f32. In bf16, other rounding alone changes most of them.
        """
        command = [FINETUNE, "rollout", "--model", model, "--prompts", prompts, "--out", out, *at_a_time()]
        command += ["--max-tokens", MAX_TOKENS, "--max-length", self.max_length]
        command += [] if seed is None else ["--temperature", 0.7, "--seed", seed, *COMPUTE[self.precision]]
        call_once(command, out, log)
        return out

    def revise(self, answers, out, log):
        """Pairs of an answer and its revision, of the answers that violate a rule."""
        script = f"{shlex.quote(sys.executable)} examples/python/house_style.py"
        command = [FIGA, "curate", answers, "--scorer", f"{script} score", "--max-original", "0"]
        call_once(command + ["--reviser", f"{script} revise", "--out", out], out, log)
        return out

    def data(self, seed, stage, model, folder, log):
        prompts = folder / f"prompts-{stage}.jsonl"
        start = DEV + stage * self.prompts_of_stage
        write_lines(prompts, read_lines(PROMPTS)[start : start + self.prompts_of_stage])
        # The base model answers once for all recipes.
        place = WORK / "base" if model == MODEL else folder
        place.mkdir(parents=True, exist_ok=True)
        name = f"{stage}-{seed}.jsonl" if self.precision == "bf16" else f"{stage}-{seed}-{self.precision}.jsonl"
        answers = self.rollout(model, prompts, place / f"answers-{name}", seed, log)
        return self.revise(answers, place / f"pairs-{name}", log)

    def prompts_of(self, name, folder):
        if name == "dev":
            path = folder / "dev.jsonl"
            write_lines(path, read_lines(PROMPTS)[:DEV])
            return path
        return HELD_OUT if name == "held-out" else self.prompts

    def measure(self, model, name, folder, log, compute):
        # The base model answers once for all recipes. Other prompts are those of one run.
        prompts, base = self.prompts_of(name, folder), folder / "base" if name == "other" else WORK / "base"
        base.mkdir(parents=True, exist_ok=True)
        before = self.rollout(MODEL, prompts, base / f"answers-{name}.jsonl", None, log)
        pairs = self.revise(before, base / f"pairs-{name}.jsonl", log)
        after = before if model == MODEL else self.rollout(model, prompts, folder / f"answers-{name}.jsonl", None, log)
        measured = {"scores": {}, "records": []}
        # Other prompts may have no answer of the base model that violates a rule.
        if read_lines(pairs):
            scores = folder / f"{name}.json"
            command = [FINETUNE, "evaluate", "--model", model, "--eval", pairs, "--answers", 0, *at_a_time()]
            call(command + ["--max-length", self.max_length, "--out", scores], log)
            measured = json.loads(scores.read_text(encoding="utf-8"))

        lists = {"violations": [], "words": [], "words_of_base": [], "distance": [], "repeated": [], "sequences": []}
        rules = dict.fromkeys(house_style.RULES, 0)
        for old, new in zip(read_lines(before), read_lines(after)):
            _, counts = house_style.corrected(new["original_output"])
            old, new = old["original_output"].split(), new["original_output"].split()
            repeats, sequences = repeated(new)
            rules = {rule: rules[rule] + counts[rule] for rule in rules}
            lists["violations"].append(sum(counts.values()))
            lists["words"].append(len(new))
            lists["words_of_base"].append(len(old))
            lists["distance"].append(distance(old, new))
            lists["repeated"].append(repeats)
            lists["sequences"].append(sequences)
        likelihoods = measured["scores"]
        kept = ("revised_likelier", "p_added", "p_removed", "p_kept", "ppl_revised", "ppl_control")
        return {
            "scores": {
                "violations": round(100 * sum(lists["violations"]) / max(1, sum(lists["words"])), 4),
                "words": round(sum(lists["words"]) / len(lists["words"]), 2),
                "distance": round(100 * sum(lists["distance"]) / max(1, sum(lists["words_of_base"])), 2),
                "repeated": round(100 * sum(lists["repeated"]) / max(1, sum(lists["sequences"])), 2),
                **{key: likelihoods.get(key) and round(likelihoods[key], 5) for key in kept},
            },
            "rules": rules,
            "records": {**lists, "margin": [round(record["margin"], 2) for record in measured["records"]]},
        }

    def loss(self, scores, base):
        """What a learning rate is chosen by: the violations of a model whose control text stays as likely as it was, and
        whose answers keep their length and variety. Neither an empty answer nor a loop violates a rule."""
        is_sound = (
            scores["ppl_control"] < 1.05 * base["ppl_control"]
            and scores["words"] > 0.8 * base["words"]
            and scores["repeated"] < 2 * base["repeated"]
        )
        return scores["violations"] if is_sound else float("inf")
