"""Tables and figures of the experiments that are done.

Intervals are those of the bootstrap, 95 %: records and seeds are drawn anew with replacement, the same ones for all
recipes, so that a difference of two recipes is one of pairs. Needs numpy and matplotlib.
"""

import json
import re
from dataclasses import dataclass

import matplotlib
import numpy
from grid import BASELINE, CORRECTIONS, HOUSE_STYLE, RECIPES, SEEDS, follow_ups, plan_and_best
from matplotlib import pyplot
from training import EXPERIMENTS, ROOT

RESULTS = ROOT / "docs/results.md"
FIGURES = ROOT / "docs/figures"
DRAWS = 4000


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


REVISED_LIKELIER = Metric(
    "revised_likelier", "revised likelier", 3, True, lambda records: numbers("margin")(records) > 0, ones("margin")
)
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
        REVISED_LIKELIER,
    ],
    HOUSE_STYLE.name: [
        Metric("violations", "violations", 2, False, lambda r: 100 * numbers("violations")(r), numbers("words")),
        Metric("words", "words", 1, True, numbers("words"), ones("words")),
        Metric("distance", "distance", 1, False, lambda r: 100 * numbers("distance")(r), numbers("words_of_base")),
        Metric("repeated", "repeated", 1, False, lambda r: 100 * numbers("repeated")(r), numbers("sequences")),
        REVISED_LIKELIER,
    ],
}
# Means over tokens, which have no records.
SCORES = ("p_added", "p_removed", "p_kept", "ppl_control")


def read_all():
    """The file of each experiment and what it holds: those that diverged included, and those in folders, which are in no
    table."""
    paths = sorted(EXPERIMENTS.rglob("*.json"))
    return [(path.relative_to(EXPERIMENTS), json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def load(planned):
    """The results of planned experiments on held-out records by task and recipe, those of all seeds, in their order."""
    tasks = {task: {} for task in RECIPES}
    for training in planned:
        if training.set == "held-out":
            result = training.result() if training.path().exists() else {"scores": None}
            tasks[training.task].setdefault(training.recipe.name, []).append(result)
    return {
        task: {name: results for name, results in recipes.items() if all(result["scores"] for result in results)}
        for task, recipes in tasks.items()
    }


class Draws:
    """How often each seed and each record is in each draw of the bootstrap. The first draw holds each once."""

    def __init__(self, seeds):
        self.random = numpy.random.default_rng(0)
        self.seeds, self.records = self.of(seeds), {}

    def of(self, count):
        drawn = self.random.multinomial(count, numpy.full(count, 1 / count), DRAWS)
        drawn[0] = 1
        return drawn

    def values(self, metric, results):
        """The metric in each draw."""
        seeds = self.seeds if len(results) > 1 else numpy.ones((DRAWS, 1))

        def sums(column):
            columns = numpy.array([column(result["records"]) for result in results], float)
            count = columns.shape[1]
            if count not in self.records:
                self.records[count] = self.of(count)
            return ((seeds @ columns) * self.records[count]).sum(1)

        return sums(metric.above) / sums(metric.below)


def interval(values):
    low, high = numpy.percentile(values, [2.5, 97.5])
    return float(values[0]), float(low), float(high)


def difference(values, digits):
    """Bold if the interval does not hold 0."""
    mean, low, high = interval(values)
    text = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def spread(values, form):
    """Mean and sample standard deviation over the seeds, in this format."""
    deviation = f" ± {numpy.std(values, ddof=1):{form}}" if len(values) > 1 else ""
    return f"{numpy.mean(values):{form}}{deviation}"


def table(head, rows, alignment=None):
    lines = [head, alignment or ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def named(metric):
    return metric.name + (" ↑" if metric.higher_is_better else " ↓")


def cpu_seconds(planned, task, name):
    """Of all experiments with a recipe on a CPU, those to choose a rate included."""
    trainings = [training for training in planned if (training.task, training.recipe.name) == (task, name)]
    results = [training.result() for training in trainings if training.path().exists()]
    return [result["cpu_seconds"] for result in results if result["scores"] and "gpu" not in result]


def labelled(name):
    """A recipe as tables name it."""
    first, *others = name.split("--")
    is_repeated = others and set(others) == {first}
    return f"`{first}`, {1 + len(others)} rounds" if is_repeated else f"`{name}`"


def scores(task, recipes, planned, names):
    """Mean scores of recipes."""
    rows = []
    for name in names:
        if name not in recipes:
            continue
        results = recipes[name]
        cells = [labelled(name), results[0].get("lr", "–")]
        found = [result["scores"] for result in results]
        cells += [spread([score[metric.key] for score in found], f".{metric.digits}f") for metric in METRICS[task.name]]
        cells += [spread([score[key] for score in found], ".3f" if key.startswith("p_") else ".2f") for key in SCORES]
        costs = [f"{numpy.mean([result['tokens'] for result in results]) / 1000:.1f}k"]
        seconds = cpu_seconds(planned, task, name)
        costs += [spread(seconds, ".0f") if seconds else "–"]
        rows.append(cells + (costs if name != "base" else ["–", "–"]))
    head = ["recipe", "rate", *map(named, METRICS[task.name]), *(key.replace("_", " ") for key in SCORES)]
    return table([*head, "tokens", "CPU seconds"], rows)


def differences(task, values, pairs):
    """How recipes differ from others, for pairs of names."""
    rows = []
    for name, other in pairs:
        if name in values and other in values:
            cells = [difference(values[name][m.key] - values[other][m.key], m.digits) for m in METRICS[task.name]]
            rows.append([labelled(name), labelled(other), *cells])
    return table(["recipe", "compared with", *map(named, METRICS[task.name])], rows)


def draw(task, values):
    """A figure for each metric: the recipes of the grid with their intervals."""
    values = {name: values[name] for name in ["base", *RECIPES[task]] if name in values}
    matplotlib.rcParams["svg.hashsalt"] = "evidence"
    for metric in METRICS[task.name]:
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
        figure.savefig(FIGURES / f"{task.name}-{metric.key}.svg", bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)


def log():
    """A line for each experiment, the failed ones included. Its commands are in its file."""
    rows = []
    for file, result in read_all():
        question = f"{result['task']}: {result['recipe']}"
        if "lr" in result:
            question += f" at {result['lr']}, seed {result['seed']}"
        question += ", to choose a rate" if result["set"] == "dev" else ", held out"
        if file.parent.name:
            question += f" ({file.parent.name.replace('-', ' ')})"
        outcome = result.get("diverged")
        if scores := result["scores"]:
            outcome = ", ".join(f"{m.name} {scores[m.key]}" for m in METRICS[result["task"]] if m.key in scores)
        rows.append([result["date"], question, f"[commands]({file})", outcome])
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
    planned, best = plan_and_best()
    for task, recipes in load(planned).items():
        draws = Draws(len(SEEDS))
        values = {name: {m.key: draws.values(m, found) for m in METRICS[task.name]} for name, found in recipes.items()}
        draw(task, values)
        names = RECIPES[task]
        replace(RESULTS, f"{task.name} scores", scores(task, recipes, planned, ["base", *names]))
        pairs = [(name, BASELINE) for name in names if name != BASELINE]
        # The two penalties, with the same settings.
        pairs += [(name, name.replace("unlikelihood", "figa")) for name in names if name.startswith("unlikelihood")]
        replace(RESULTS, f"{task.name} differences", differences(task, values, pairs))
        found = follow_ups(task, best[task])
        compared = scores(task, recipes, planned, [name for name, _, _ in found])
        pairs = [(name, other) for name, _, others in found for other in others]
        replace(RESULTS, f"{task.name} follow-ups", f"{compared}\n\n{differences(task, values, pairs)}")
    replace(EXPERIMENTS / "README.md", "log", log())
