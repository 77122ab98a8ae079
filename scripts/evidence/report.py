"""The tables, figures and numbers of docs/results.md, and the log of docs/experiments.

Tables and numbers stand between marks, as page.py has them. Needs numpy, scipy and matplotlib.
"""

from collections import defaultdict

import numpy
from data import DATA
from grid import BASELINE, CORRECTIONS, HOUSE_STYLE, RECIPES, SEEDS, WEIGHTS_OF_EOS, follow_ups, plan_and_best
from holm import holm
from intervals import Draws, excludes_0, interval, over_seeds, p_value, shown
from metrics import LIKELIER, METRICS, UNSEEN, flags
from page import Page
from training import BATCH, EXPERIMENTS, ROOT, RUNS, read_lines

RESULTS = ROOT / "docs/results.md"
DEFAULT = "figa+gamma=0.3+eos=0.3"


# What the table of rules shows: the recipes that follow the rules, and the base model.
OF_RULES = [
    "base",
    BASELINE,
    DEFAULT,
    f"{DEFAULT}+beta=0",
    f"{DEFAULT}+gate=none",
    DEFAULT.replace("figa", "unlikelihood"),
]
# The FIGA of each task whose training the table of the regime describes.
OF_REGIME = {CORRECTIONS: "figa+gamma=0.3+eos=1", HOUSE_STYLE: DEFAULT}
LIKELIHOODS = ["p_added", "p_removed", "p_kept", "ppl_control"]

# The scores in the log.
LOGGED = {
    CORRECTIONS.name: ["word_edits", "exact_match", "copied", "edit_distance", "revised_likelier", "ppl_control"],
    HOUSE_STYLE.name: ["violations", "words", "distance", "repeated", "revised_likelier", "ppl_control"],
}


def load(planned, data):
    """The results of planned experiments on held-out records by task and recipe, those of all seeds, in their order."""
    tasks = {task: {} for task in RECIPES}
    for training in planned:
        if training.set == "held-out":
            result = training.result() or {"scores": None}
            if training.task == CORRECTIONS and result["scores"]:
                result["records"]["seen"] = data[CORRECTIONS][training.seed]["seen"]
            name = training.recipe.name + ("" if training.precision == "bf16" else f", {training.precision}")
            tasks[training.task].setdefault(name, []).append(result)
    return {
        task: {name: results for name, results in recipes.items() if all(result["scores"] for result in results)}
        for task, recipes in tasks.items()
    }


def load_data():
    """What is known of the training pairs, by task and seed."""
    lines = read_lines(DATA)
    return {task: {line["seed"]: line for line in lines if line["task"] == task.name} for task in RECIPES}


def spread(values, digits):
    """Mean and sample standard deviation over the seeds."""
    deviation = f" ± {numpy.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{numpy.mean(values):.{digits}f}{deviation}"


def difference(draws, metric):
    """Bold if the interval does not hold 0."""
    found = interval(draws)
    return f"**{shown(found, metric.digits)}**" if excludes_0(found) else shown(found, metric.digits)


def labelled(name):
    """A recipe as tables name it."""
    name, *precision = name.split(", ")
    first, *others = name.split("--")
    if others and set(others) == {first}:
        return f"`{first}`, {1 + len(others)} rounds"
    return ", ".join([f"`{name}`", *(["the default"] if name == DEFAULT else []), *precision])


class Task:
    """The tables of a task."""

    def __init__(self, task, recipes, planned, best, page, data):
        self.task, self.recipes, self.planned, self.page, self.data = task, recipes, planned, page, data
        self.draws = Draws(len(SEEDS))
        followed = follow_ups(task, best)
        self.names = [name for name in ["base", *RECIPES[task], *(name for name, _, _ in followed)] if name in recipes]
        # Rounds have a budget of their own, and none of SFT is there to compare them with.
        single = [name for name in self.names[1:] if "rounds" not in labelled(name)]
        self.against_sft = [name for name in single if name != BASELINE]
        self.pairs = [(name, other) for name, _, others in followed for other in others if other != BASELINE]
        self.pairs += [
            (name, name.replace("unlikelihood", "figa")) for name in single if name.startswith("unlikelihood")
        ]
        self.pairs = [pair for pair in self.pairs if set(pair) <= set(recipes)]
        self.known = {}

    def values(self, name, metric):
        """The metric of a recipe in each draw."""
        if (name, metric) not in self.known:
            self.known[name, metric] = self.draws.values(metric, self.recipes[name])
        return self.known[name, metric]

    def minus(self, name, other, metric):
        return self.values(name, metric) - self.values(other, metric)

    def means(self, name, metrics, names, more=lambda results: [], more_head=()):
        """A table of means over the seeds."""
        rows = []
        for recipe in names:
            results = self.recipes[recipe]
            cells = [spread([metric.of(result) for result in results], metric.digits) for metric in metrics]
            rows.append([labelled(recipe), *cells, *more(results)])
        self.page.table(f"{self.task.name} {name}", ["recipe", *map(str, metrics), *more_head], rows)

    def answers(self):
        self.means("answers", METRICS[self.task], self.names)

    def likelihoods(self):
        def more(results):
            scores = [result["scores"] for result in results]
            return [spread([score[key] for score in scores], 3 if key.startswith("p_") else 2) for key in LIKELIHOODS]

        self.means("likelihoods", [LIKELIER], self.names, more, [key.replace("_", " ") for key in LIKELIHOODS])

    def costs(self):
        """What the recipes have seen and computed, and in the house style what that has brought."""
        head = ["recipe", "rate", "pairs", "steps", "tokens", "CPU seconds"]
        metric = METRICS[self.task][0]
        by_amount = self.task == HOUSE_STYLE
        head += ["fewer violations per 100 pairs", "per 10,000 tokens"] if by_amount else []
        rows = []
        for name in self.names[1:]:
            results = self.recipes[name]
            steps, tokens = (numpy.mean([result[key] for result in results]) for key in ("steps", "tokens"))
            seconds = self.cpu_seconds(name)
            row = [labelled(name), results[0]["lr"], f"{BATCH * steps:.0f}", f"{steps:.0f}", f"{tokens / 1000:.1f}k"]
            row.append(spread(seconds, 0) if seconds else "–")
            if by_amount:
                gained = metric.of(self.recipes["base"][0]) - numpy.mean([metric.of(result) for result in results])
                row += [f"{gained / (BATCH * steps / 100):.2f}", f"{gained / (tokens / 10_000):.2f}"]
            rows.append(row)
        self.page.table(f"{self.task.name} costs", head, rows)

    def cpu_seconds(self, name):
        """Of all trainings with a recipe on a CPU in bf16, those to choose a rate included."""
        found = [training.result() for training in self.planned if training.task == self.task and training.result()]
        found = [result for result in found if result["recipe"] == name and not {"gpu", "precision"} & set(result)]
        return [result["cpu_seconds"] for result in found if result["scores"]]

    def differences(self, name, pairs):
        # An answer is exact, copied or neither.
        metrics = [metric for metric in METRICS[self.task] if metric.name not in ("copied %", "edit distance")]
        rows = []
        for one, other in pairs:
            cells = [difference(self.minus(one, other, metric), metric) for metric in metrics]
            low, high = self.over_seeds(one, other)[1:]
            seeds = f"[{low:+.{metrics[0].digits}f}, {high:+.{metrics[0].digits}f}]"
            rows.append([labelled(one), labelled(other), *cells, seeds])
        head = ["recipe", "compared with", *map(str, metrics), f"{metrics[0].name}, seeds alone"]
        self.page.table(f"{self.task.name} {name}", head, rows)

    def over_seeds(self, one, other):
        metric = METRICS[self.task][0]
        return over_seeds(*([metric.of(result) for result in self.recipes[name]] for name in (one, other)))

    def weights_of_eos(self):
        """Both weights of EOS in f32, and the one that ran in bf16 as well."""
        names = [f"{name}, f32" for name in WEIGHTS_OF_EOS] + WEIGHTS_OF_EOS[-1:]
        names = [name for name in names if name in self.recipes]
        self.means("weights of EOS", METRICS[self.task], names)
        self.differences("differences of EOS", list(zip(names, names[1:])))

    def unseen(self):
        """Scores on held-out pairs with and without an edit that the training pairs of the seed have."""
        rows = []
        for name in self.names[1:]:
            cells = [spread([metric.of(result) for result in self.recipes[name]], metric.digits) for metric in UNSEEN]
            change = "–" if name == BASELINE else difference(self.minus(name, BASELINE, UNSEEN[0]), UNSEEN[0])
            rows.append([labelled(name), *cells, change])
        shares = [100 * line["seen"].count("1") / len(line["seen"]) for line in self.data.values()]
        self.page.cells["unseen", "all", "seen %"] = spread(shares, 0)
        self.page.table(
            f"{self.task.name} unseen", ["recipe", *map(str, UNSEEN), "exact %, unseen, less that of SFT"], rows
        )

    def changes(self, one, other):
        """What becomes of the answers of one recipe with another, in all seeds."""
        kinds = ["exact", "copied", "neither"]
        counts = numpy.zeros((3, 3), int)
        for pair in zip(self.recipes[one], self.recipes[other]):
            flagged = [(flags("exact_match")(run["records"]), flags("copied")(run["records"])) for run in pair]
            before, after = (numpy.select([exact == 1, copied == 1], [0, 1], 2) for exact, copied in flagged)
            numpy.add.at(counts, (before, after), 1)
        rows = [[kind, *map(str, row), str(row.sum())] for kind, row in zip(kinds, counts)]
        head = [f"{labelled(one)} ↓, {labelled(other)} →", *kinds, "all"]
        self.page.table(f"{self.task.name} changes", head, rows)

    def rules(self):
        """Violations by rule, in the answers to all held-out prompts: the default's greatest gains first."""
        found = {name: [result["rules"] for result in self.recipes[name]] for name in OF_RULES}
        means = {
            name: {rule: numpy.mean([run[rule] for run in runs]) for rule in runs[0]} for name, runs in found.items()
        }
        order = sorted(means[BASELINE], key=lambda rule: means[DEFAULT][rule] - means[BASELINE][rule])
        groups = [*([rule] for rule in order), order[:3], order[3:], order]
        titles = [*order, "the first three", "the other seven", "all"]
        rows = []
        for title, group in zip(titles, groups):
            values = [[sum(run[rule] for rule in group) for run in found[name]] for name in (DEFAULT, BASELINE)]
            cells = [f"{sum(means[name][rule] for rule in group):.1f}" for name in OF_RULES]
            rows.append([title, *cells, shown(over_seeds(*values), 1)])
        head = ["rule", *map(labelled, OF_RULES), "default less SFT, over seeds"]
        self.page.table(f"{self.task.name} rules", head, rows)

    def bounds(self):
        """In how many of its trainings a recipe keeps, on held-out prompts, the bounds by which rates are chosen."""
        base = self.recipes["base"][0]["scores"]
        rows = []
        for name in self.names[1:]:
            scores = [result["scores"] for result in self.recipes[name]]
            sound = [numpy.isfinite(self.task.loss(score, base)) for score in scores]
            control = [score["ppl_control"] < 1.05 * base["ppl_control"] for score in scores]
            rows.append([labelled(name), f"{sum(control)} of {len(control)}", f"{sum(sound)} of {len(sound)}"])
        self.page.table(f"{self.task.name} bounds", ["recipe", "control text within 5 %", "all bounds kept"], rows)


def compare(tasks, page):
    """All comparisons with SFT on the main metric, as one family."""
    values, rows = {}, []
    for task in tasks:
        metric = METRICS[task.task][0]
        for name in task.against_sft:
            values[task, name] = p_value(task.minus(name, BASELINE, metric))
    adjusted = holm(values)
    for (task, name), p in values.items():
        metric = METRICS[task.task][0]
        seeds = [[metric.of(result) for result in task.recipes[one]] for one in (name, BASELINE)]
        low, high = task.over_seeds(name, BASELINE)[1:]
        apart = [f"{one - other:+.{metric.digits}f}" for one, other in zip(*seeds)]
        text = f"{adjusted[task, name]:.3f}"
        rows.append([
            f"{task.task.name}: {labelled(name)}",
            shown(interval(task.minus(name, BASELINE, metric)), metric.digits),
            f"[{low:+.{metric.digits}f}, {high:+.{metric.digits}f}]",
            ", ".join(apart),
            f"{p:.4f}",
            f"**{text}**" if adjusted[task, name] < 0.05 else text,
        ])  # fmt: skip
    head = ["recipe, less SFT", "seeds and records", "seeds alone", "each seed", "p", "p, Holm"]
    page.table("comparisons", head, rows)
    # What sentences say of the whole table.
    page.cells["comparisons", "all", "number"] = str(len(rows))


def regime(tasks, page):
    """What the trainings are: the pairs of a first stage, and how many of them recipes have seen."""
    columns = []
    for task in tasks:
        lines = list(task.data.values())

        def mean(of, form, lines=lines):
            return f"{numpy.mean([of(line) for line in lines]):{form}}" if lines else "–"

        def each(*kinds):
            """The tokens of these kinds, of a pair."""
            return lambda line: sum(line["tokens"][kind] for kind in kinds) / line["pairs"]

        def eos_of(added, kept, eos):
            """The share of EOS in the reward, in per cent, with these weights."""

            def of(line):
                rewards = added * line["tokens"]["added"], kept * line["tokens"]["kept"], eos * line["tokens"]["eos"]
                return 100 * rewards[-1] / sum(rewards)

            return of

        def seen_by(name, task=task):
            steps = numpy.mean([result["steps"] for result in task.recipes[name]])
            return f"{BATCH * steps:.0f} in {steps:.0f} steps"

        columns.append(
            {
                "pairs counted": mean(lambda line: line["pairs"], ".0f"),
                "pairs that SFT sees": seen_by(BASELINE),
                "pairs that FIGA sees, gamma 0.3": seen_by(OF_REGIME[task.task]),
                "tokens of a revised answer, with EOS": mean(each("added", "kept", "eos"), ".1f"),
                "of them added by the revision": mean(each("added"), ".2f"),
                "tokens removed from the original answer": mean(each("removed"), ".2f"),
                "% of the revised answers that have EOS": mean(lambda line: 100 * each("eos")(line), ".0f"),
                "% of the reward that is for EOS, paper's weights": mean(eos_of(1, 0, 1), ".0f"),
                "% of the reward that is for EOS, default weights": mean(eos_of(1, 0.3, 0.3), ".1f"),
                "% of the pairs that reward EOS alone, paper's weights": mean(
                    lambda line: 100 * line["eos_alone"] / line["pairs"], ".1f"
                ),
            }
        )
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    page.table("regime", ["", *(task.task.name for task in tasks)], rows)


def left_out(page):
    """What a sentence says of runs that are in no table."""
    runs = [run for run in RUNS.all() if "left_out" in run and run["recipe"] == "base" and run["set"] == "held-out"]
    [run] = runs
    page.cells["left out", "base", "violations"] = f"{run['scores']['violations']:.2f}"


def log(page):
    """A line for each run, the failed ones included."""
    rows = []
    for run in RUNS.all():
        name = f"{run['task']}: `{run['recipe']}`"
        if "lr" in run:
            name += f" at {run['lr']}, seed {run['seed']}"
        name += f", {run['precision']}" if "precision" in run else ""
        name += ", to choose a rate" if run["set"] == "dev" else ", held out"
        outcome = run.get("diverged", "")
        if scores := run["scores"]:
            outcome = ", ".join(
                f"{key.replace('_', ' ')} {scores[key]}" for key in LOGGED[run["task"]] if key in scores
            )
        if "left_out" in run:
            outcome += f" (left out: {run['left_out']})"
        rows.append([run["date"], name, outcome])
    rows.sort(key=lambda row: row[:2])
    page.table("log", ["date", "run", "outcome"], rows, ["---"] * 3)
    groups = defaultdict(int)
    for run in RUNS.all():
        groups["runs"] += 1
        groups["gpu"] += "gpu" in run
        groups["left out"] += "left_out" in run
    page.cells.update({("runs", "all", name): str(count) for name, count in groups.items()})


def write():
    from figures import draw

    page, data = Page(RESULTS), load_data()
    planned, best = plan_and_best()
    tasks = [Task(task, found, planned, best[task], page, data[task]) for task, found in load(planned, data).items()]
    for task in tasks:
        task.answers()
        task.likelihoods()
        task.costs()
        task.differences("differences", [(name, BASELINE) for name in task.against_sft])
        task.differences("other differences", task.pairs)
    corrections, house_style = tasks
    corrections.unseen()
    corrections.weights_of_eos()
    corrections.changes(BASELINE, OF_REGIME[CORRECTIONS])
    house_style.rules()
    house_style.bounds()
    compare(tasks, page)
    regime(tasks, page)
    left_out(page)
    page.write()
    draw(corrections, house_style, METRICS)
    page = Page(EXPERIMENTS / "README.md")
    log(page)
    page.write()
