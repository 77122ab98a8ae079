"""The grid: recipes, learning rates and seeds, and what follows from the choice of a rate."""

from corrections import Corrections
from house_style_task import HouseStyle
from training import REVERSED, Recipe, Training

CORRECTIONS = Corrections()
HOUSE_STYLE = HouseStyle()

RECIPES = {
    CORRECTIONS: [
        "sft",
        "figa+paper",
        "figa+gamma=0.1+eos=1",
        "figa+gamma=0.3+eos=1",
        "dpo",
        "ddpo",
        "figa-kl",
        "unlikelihood+gamma=0.3+eos=1",
        "sft--figa+gamma=0.3+eos=1",
        "dft",
    ],
    HOUSE_STYLE: [
        "sft",
        "figa+gamma=0.3+eos=0.3",
        "figa-kl+eos=0",
        "figa+paper",
        "figa+paper+eos=0",
        "dpo",
        "ddpo",
        "unlikelihood+gamma=0.3+eos=0.3",
    ],
}
RATES = ["1e-6", "3e-6", "1e-5", "3e-5", "1e-4", "3e-4", "1e-3"]
# A rate at the edge of those compared is not chosen before its neighbour has been tried.
FIRST_RATES = ["1e-5", "3e-5", "1e-4"]
SEEDS = [0, 1, 2]
ROUNDS = 3
# What others are compared with.
BASELINE = "sft"
# What is changed in the best FIGA of a task, at its rate: what is marked and kept where the held-out set is larger, the
# penalty and the controls where FIGA is best.
VARIANTS = {
    CORRECTIONS: ["gamma=0.5", "gamma=1", "granularity=word", "granularity=phrase:2", "aligner=myers"],
    HOUSE_STYLE: ["beta=0", "gate=none", "labels=shuffled", REVERSED],
}
# Whether the default weight of EOS harms corrections, where EOS is much of the reward. A CPU without instructions for
# bf16 was to measure it, so both are in f32 and compared with each other, at the rate that was chosen in bf16.
WEIGHTS_OF_EOS = ["figa+gamma=0.3+eos=0.3", "figa+gamma=0.3+eos=1"]


def rates_of(task, recipe):
    """The trainings on the development set that are done or due, and the best rate once it is known."""
    base = Training(task, Recipe("base"), "", 0, "dev")
    tried = list(FIRST_RATES)
    while True:
        trainings = {rate: Training(task, recipe, rate, SEEDS[0], "dev") for rate in tried}
        missing = [base, *trainings.values()]
        if not all(training.result() for training in missing):
            return missing, None
        scores = base.result()["scores"]
        results = {rate: trainings[rate].result()["scores"] for rate in tried}
        losses = {rate: task.loss(found, scores) if found else float("inf") for rate, found in results.items()}
        best = min(tried, key=lambda rate: losses[rate])
        place = RATES.index(best)
        neighbours = RATES[max(0, place - 1) : place + 2]
        if set(neighbours) <= set(tried):
            return missing, best
        tried = sorted({*tried, *neighbours}, key=RATES.index)


def held_out(task, recipe, rate):
    return [Training(task, recipe, rate, seed, "held-out") for seed in SEEDS]


def weights_of_eos(rate):
    recipes = [Recipe(name) for name in WEIGHTS_OF_EOS]
    return [Training(CORRECTIONS, recipe, rate, seed, "held-out", "f32") for seed in SEEDS for recipe in recipes]


def varied(name, setting):
    """A recipe with another setting in place of its own, or with the answers of each pair exchanged."""
    if setting == REVERSED:
        return f"{REVERSED}{name}"
    key = setting.split("=")[0] + "="
    parts = [setting if part.startswith(key) else part for part in name.split("+")]
    return "+".join(parts if setting in parts else [*parts, setting])


def plan():
    """All experiments that are known to be due, those that are done included, in the order in which they run."""
    return plan_and_best()[0]


def plan_and_best():
    """The plan, and by task and recipe the training on the development set with the best rate, where it is known."""
    trainings, best = [], {task: {} for task in RECIPES}
    trainings += [Training(task, Recipe("base"), "", 0, "held-out") for task in RECIPES]
    # The first recipes of all tasks come first.
    places = [(place, task, name) for task, names in RECIPES.items() for place, name in enumerate(names)]
    for _, task, name in sorted(places, key=lambda place: place[0]):
        compared, rate = rates_of(task, Recipe(name))
        trainings += compared
        if rate:
            trainings += held_out(task, Recipe(name), rate)
            best[task][name] = Training(task, Recipe(name), rate, SEEDS[0], "dev")
    for task in RECIPES:
        for name, rate, _ in follow_ups(task, best[task]):
            trainings += held_out(task, Recipe(name), rate)
    if last := best[CORRECTIONS].get(WEIGHTS_OF_EOS[-1]):
        trainings += weights_of_eos(last.lr)
    return list(dict.fromkeys(trainings)), best


def follow_ups(task, best):
    """What follows once the rates of all recipes are known: name, rate, and the recipes to compare it with.

    These are variants of the best FIGA, and in the house style rounds of the two best recipes.
    """
    if len(best) < len(RECIPES[task]):
        return []
    base = Training(task, Recipe("base"), "", 0, "dev").result()["scores"]
    order = sorted(best, key=lambda name: task.loss(best[name].result()["scores"], base))
    name = next(name for name in order if name.startswith("figa") and "--" not in name)
    found = [(varied(name, setting), best[name].lr, [name, BASELINE]) for setting in VARIANTS[task]]
    if task == HOUSE_STYLE:
        first, second = ("--".join([name] * ROUNDS) for name in order[:2])
        found.append((first, best[order[0]].lr, [order[0]]))
        found.append((second, best[order[1]].lr, [order[1], first]))
    return found
