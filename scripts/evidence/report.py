"""Tables and figures of the experiments that are done.

Intervals are those of the bootstrap, 95 %: records and seeds are drawn anew with replacement, the same ones for all
recipes, so that a difference of two recipes is one of pairs. Needs numpy and matplotlib.
"""

import json
import re
from dataclasses import dataclass

import matplotlib
import numpy
from grid import CORRECTIONS, HOUSE_STYLE, plan
from matplotlib import pyplot
from training import EXPERIMENTS, ROOT

RESULTS = ROOT / "docs/results.md"
FIGURES = ROOT / "docs/figures"
DRAWS = 4000
BASELINE = "sft"


@dataclass(frozen=True)
class Metric:
    """A ratio of two sums over the records of all seeds."""

    key: str
    name: str
    digits: int
    higher_is_better: bool
    above: object
    below: object


def flags(key):
    return lambda records: numpy.array([flag == "1" for flag in records[key]], float)


def numbers(key):
    return lambda records: numpy.array(records[key], float)


def ones(key):
    return lambda records: numpy.ones(len(records[key]))


METRICS = {
    CORRECTIONS.name: [
        Metric(
            "word_edits",
            "F0.5",
            3,
            True,
            lambda records: 1.25 * numbers("correct")(records),
            # 1.25 P R / (0.25 P + R) with P = correct / made and R = correct / wanted.
            lambda records: numbers("made")(records) + 0.25 * numbers("wanted")(records),
        ),
        Metric("exact_match", "exact match", 3, True, flags("exact_match"), ones("exact_match")),
        Metric("edit_distance", "edit distance", 2, False, numbers("edit_distance"), ones("edit_distance")),
        Metric("copied", "copied", 3, False, flags("copied"), ones("copied")),
        Metric("revised_likelier", "revised likelier", 3, True, lambda r: numbers("margin")(r) > 0, ones("margin")),
    ],
    HOUSE_STYLE.name: [
        Metric("violations", "violations", 2, False, lambda r: 100 * numbers("violations")(r), numbers("words")),
        Metric("words", "words", 1, True, numbers("words"), ones("words")),
        Metric("distance", "distance", 1, False, lambda r: 100 * numbers("distance")(r), numbers("words_of_base")),
    ],
}
# Means over tokens, which have no records.
SCORES = {
    CORRECTIONS.name: ("p_added", "p_removed", "p_kept", "ppl_revised", "ppl_control"),
    HOUSE_STYLE.name: ("revised_likelier", "p_added", "p_removed", "p_kept", "ppl_control"),
}


def read_all():
    """The file of each experiment and what it holds, those that diverged included."""
    return [(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(EXPERIMENTS.glob("*.json"))]


def load():
    """The planned results on held-out records by task and recipe, each ordered by seed."""
    tasks, planned = {}, {training.path().name for training in plan()}
    for file, result in read_all():
        if file in planned and result["set"] == "held-out" and result["scores"]:
            tasks.setdefault(result["task"], {}).setdefault(result["recipe"], []).append(result)
    for recipes in tasks.values():
        for results in recipes.values():
            results.sort(key=lambda result: result.get("seed", 0))
    return tasks


class Draws:
    """How often each seed and each record is in each draw of the bootstrap. The first draw holds each once."""

    def __init__(self, seeds, records):
        random = numpy.random.default_rng(0)
        self.records = random.multinomial(records, numpy.full(records, 1 / records), DRAWS)
        self.seeds = random.multinomial(seeds, numpy.full(seeds, 1 / seeds), DRAWS)
        self.records[0], self.seeds[0] = 1, 1

    def values(self, metric, results):
        """The metric in each draw."""
        seeds = self.seeds if len(results) > 1 else numpy.ones((DRAWS, 1))

        def sums(column):
            columns = numpy.array([column(result["records"]) for result in results], float)
            return ((seeds @ columns) * self.records).sum(1)

        return sums(metric.above) / sums(metric.below)


def interval(values):
    low, high = numpy.percentile(values, [2.5, 97.5])
    return float(values[0]), float(low), float(high)


def in_text(values, digits):
    mean, low, high = interval(values)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def difference(values, digits):
    """Bold if the interval does not hold 0."""
    mean, low, high = interval(values)
    text = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def table(head, rows, alignment=None):
    lines = [head, alignment or ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_of(results, key):
    return sum(result[key] for result in results) / len(results)


def tables(task, recipes):
    """The scores, and how they differ from those of SFT."""
    metrics = METRICS[task]
    counts = {len(results) for results in recipes.values() if len(results) > 1}
    complete = {name: results for name, results in recipes.items() if len(results) in {1, max(counts, default=1)}}
    records = len(next(iter(complete.values()))[0]["records"]["margin" if task == CORRECTIONS.name else "words"])
    draws = Draws(max(counts, default=1), records)
    values = {name: {m.key: draws.values(m, results) for m in metrics} for name, results in complete.items()}
    scores, differences = [], []
    for name, results in complete.items():
        cost = [results[0].get("lr", "–"), f"{mean_of(results, 'tokens') / 1000:.1f}k", f"{mean_of(results, 'cpu_seconds'):.0f}"]
        cells = [in_text(values[name][metric.key], metric.digits) for metric in metrics]
        for key in SCORES[task]:
            cells.append(f"{mean_of([result['scores'] for result in results], key):.3g}")
        scores.append([f"`{name}`", *cost, *cells])
        if BASELINE in values and name not in ("base", BASELINE):
            pairs = [(values[name][metric.key] - values[BASELINE][metric.key], metric.digits) for metric in metrics]
            differences.append([f"`{name}`", *(difference(*pair) for pair in pairs)])
    names = [metric.name + (" ↑" if metric.higher_is_better else " ↓") for metric in metrics]
    head = ["recipe", "rate", "tokens", "CPU seconds", *names, *(key.replace("_", " ") for key in SCORES[task])]
    draw(task, values)
    return {"scores": table(head, scores), "differences": table(["recipe", *names], differences)}


def draw(task, values):
    """A figure for each metric: the recipes with their intervals."""
    matplotlib.rcParams["svg.hashsalt"] = "evidence"
    for metric in METRICS[task]:
        order = sorted(values, key=lambda name: values[name][metric.key][0], reverse=not metric.higher_is_better)
        figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.27 * len(order)))
        for place, name in enumerate(order):
            mean, low, high = interval(values[name][metric.key])
            colour = {"base": "#888888", BASELINE: "#d1495b"}.get(name, "#00798c")
            axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
            axes.plot([mean], [place], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(order)), order)
        better = "higher is better" if metric.higher_is_better else "lower is better"
        axes.set_xlabel(f"{metric.name}, held out, 95 % intervals ({better})")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        figure.savefig(FIGURES / f"{task}-{metric.key}.svg", bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)


def log():
    """A line for each experiment, the failed ones included. Its commands are in its file."""
    rows = []
    for file, result in read_all():
        question = f"{result['task']}: {result['recipe']}"
        if "lr" in result:
            question += f" at {result['lr']}, seed {result['seed']}"
        question += ", to choose a rate" if result["set"] == "dev" else ", held out"
        metrics = [(metric.key, metric.name) for metric in METRICS[result["task"]]]
        scores = result["scores"] and ", ".join(f"{name} {result['scores'][key]}" for key, name in metrics)
        rows.append([result["date"], question, f"[commands]({file})", scores or result["diverged"]])
    rows.sort(key=lambda row: (row[0], row[1]))
    return table(["date", "question", "commands", "outcome"], rows, ["---"] * 4)


def replace(path, mark, lines):
    """Puts lines between the marks `<!-- MARK -->` and `<!-- end -->` of a page."""
    text = path.read_text(encoding="utf-8")
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, text, re.DOTALL):
        print(f"{path} has no mark for {mark}:\n\n{lines}\n")
    text = re.sub(pattern, lambda match: f"{match[1]}\n{lines}\n\n{match[2]}", text, flags=re.DOTALL)
    path.write_text(text, encoding="utf-8")


def write():
    FIGURES.mkdir(exist_ok=True)
    for task, recipes in load().items():
        for name, lines in tables(task, recipes).items():
            replace(RESULTS, f"{task} {name}", lines)
    replace(EXPERIMENTS / "README.md", "log", log())
