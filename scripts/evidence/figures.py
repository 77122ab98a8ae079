"""The figures of docs/results.md: few and small, on white, so that they can be read on any page."""

import matplotlib
from intervals import interval
from matplotlib import pyplot
from training import ROOT

FIGURES = ROOT / "docs/figures"
GREY, RED, BLUE = "#777777", "#c43d4f", "#00798c"
# The recipes that the figures show, and what they call them.
VIOLATIONS = {
    "base": "before training",
    "figa+paper": "FIGA, the paper's weights",
    "dpo": "DPO",
    "ddpo": "DPO with token weights",
    "sft": "SFT",
    "figa+gamma=0.3+eos=0.3+beta=0": "FIGA without its penalty",
    "figa+gamma=0.3+eos=0.3": "FIGA, the default weights",
    "unlikelihood+gamma=0.3+eos=0.3": "unlikelihood as the penalty",
}
EDITS = {
    "base": "before training",
    "figa+paper": "FIGA, the paper's weights",
    "dpo": "DPO",
    "dft": "DFT",
    "sft": "SFT",
    "figa+gamma=0.1+eos=1": "FIGA, gamma 0.1",
    "figa+gamma=0.3+eos=1": "gamma 0.3",
    "figa+gamma=0.5+eos=1": "gamma 0.5",
}


def colour(name):
    return {"base": GREY, "sft": RED}.get(name, BLUE)


def save(figure, axes, name):
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(FIGURES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def draw(corrections, house_style, metrics):
    # Text stays text: a tenth of the size, in the font of the reader.
    matplotlib.rcParams.update({"svg.hashsalt": "evidence", "svg.fonttype": "none", "font.family": "sans-serif"})
    draw_violations(house_style, metrics[house_style.task][0])
    draw_edits(corrections, *metrics[corrections.task][1:3])


def draw_violations(task, metric):
    figure, axes = pyplot.subplots(figsize=(6.5, 2.6))
    for place, name in enumerate(reversed(VIOLATIONS)):
        mean, low, high = interval(task.values(name, metric))
        axes.plot([low, high], [place, place], color=colour(name), linewidth=1.8)
        axes.plot([mean], [place], "o", color=colour(name), markersize=5)
        axes.annotate(f"{mean:.2f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(VIOLATIONS)), reversed(VIOLATIONS.values()), fontsize=9)
    axes.set_xlim(0, None)
    axes.set_xlabel("rules broken per 100 words of new answers, 95 % intervals (lower is better)", fontsize=9)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    save(figure, axes, "house-style-violations")


def draw_edits(task, precision, recall):
    figure, axes = pyplot.subplots(figsize=(6.5, 3.4))
    for name, label in EDITS.items():
        x, *wide = interval(task.values(name, recall))
        y, *high = interval(task.values(name, precision))
        axes.plot(wide, [y, y], color=colour(name), linewidth=1)
        axes.plot([x, x], high, color=colour(name), linewidth=1)
        axes.plot([x], [y], "o", color=colour(name), markersize=5)
        # Three are on one height.
        offset = {"base": (-70, 4), "dpo": (-9, -18)}.get(name, (5, 4))
        axes.annotate(label, (x, y), offset, textcoords="offset points", fontsize=8)
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.set_xlabel("recall: wanted edits that are made, %", fontsize=9)
    axes.set_ylabel("precision: edits that are wanted, %", fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    save(figure, axes, "corrections-edits")
