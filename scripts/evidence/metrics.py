"""What is measured: ratios of sums over records. Needs numpy."""

import numpy
from grid import CORRECTIONS, HOUSE_STYLE
from intervals import Metric


def numbers(key):
    return lambda records: numpy.array(records[key], float)


def flags(key):
    return lambda records: numpy.array([flag == "1" for flag in records[key]], float)


def ones(key):
    return lambda records: numpy.ones(len(records[key]))


def both(one, other):
    return lambda records: one(records) * other(records)


def percent(column):
    return lambda records: 100 * column(records)


def total(**factors):
    """A sum of columns, each times its factor."""
    return lambda records: sum(factor * numbers(key)(records) for key, factor in factors.items())


def neither(records):
    return 1 - flags("exact_match")(records) - flags("copied")(records)


def unseen(records):
    return 1 - flags("seen")(records)


def f_half(name, among, key=""):
    # 1.25 P R / (0.25 P + R) with P = correct / made and R = correct / wanted.
    above, below = both(total(correct=1.25), among), both(total(made=1, wanted=0.25), among)
    return Metric(name, 3, 1, above, below, key)


def exact(name, among):
    return Metric(name, 1, 1, percent(both(flags("exact_match"), among)), among)


EACH = ones("margin")
LIKELIER = Metric("revised likelier", 3, 1, lambda r: numbers("margin")(r) > 0, EACH, "revised_likelier")
# The first metric of a task is the one by which its rates are chosen.
METRICS = {
    CORRECTIONS: [
        f_half("F0.5", EACH, "word_edits"),
        Metric("precision %", 1, 1, total(correct=100), total(made=1)),
        Metric("recall %", 1, 1, total(correct=100), total(wanted=1)),
        Metric("F1", 3, 1, total(correct=2), total(made=1, wanted=1)),
        exact("exact %", EACH),
        Metric("copied %", 1, 0, percent(flags("copied")), EACH),
        Metric("neither %", 1, 0, percent(neither), EACH),
        Metric("wrong edits", 2, -1, total(made=1, correct=-1), EACH),
        Metric("edit distance", 2, -1, numbers("edit_distance"), EACH, "edit_distance"),
    ],
    HOUSE_STYLE: [
        Metric("violations", 2, -1, total(violations=100), numbers("words"), "violations"),
        Metric("words", 1, 0, numbers("words"), ones("words"), "words"),
        Metric("distance", 1, 0, total(distance=100), numbers("words_of_base"), "distance"),
        Metric("repeated %", 1, -1, total(repeated=100), numbers("sequences"), "repeated"),
    ],
}
SEEN = flags("seen")
UNSEEN = [
    exact("exact %, unseen", unseen),
    exact("exact %, seen", SEEN),
    f_half("F0.5, unseen", unseen),
    f_half("F0.5, seen", SEEN),
]
