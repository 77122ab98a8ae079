"""Intervals of differences, and their p values. Needs numpy and scipy."""

from dataclasses import dataclass

import numpy
from scipy import stats

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Metric:
    """A ratio of two sums over the records of all seeds."""

    name: str
    digits: int
    # 1 if higher is better, -1 if lower is, 0 if neither.
    better: int
    above: object
    below: object
    # Its name among the scores that are recorded, if it is.
    key: str = ""

    def of(self, result):
        """Its value in one run."""
        if self.key:
            return result["scores"][self.key]
        records = result["records"]
        return float(self.above(records).sum() / self.below(records).sum())

    def __str__(self):
        return self.name + {1: " ↑", -1: " ↓", 0: ""}[self.better]


class Draws:
    """How often each seed and each record is in each draw of the bootstrap. The first draw holds each once.

    All recipes have the same draws, so that a difference of two recipes is one of pairs.
    """

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
    """The value and the percentile interval of the draws of a bootstrap."""
    low, high = numpy.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(values[0]), float(low), float(high)


def p_value(differences):
    """Two-sided, of the draws of a bootstrap: those on the other side of 0."""
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1)))


def over_seeds(one, other):
    """The mean difference of two recipes and its interval over seeds alone, which a paired t-test has."""
    found = stats.ttest_rel(one, other).confidence_interval(LEVEL)
    return float(numpy.mean(numpy.subtract(one, other))), float(found.low), float(found.high)


def shown(found, digits):
    mean, low, high = found
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def excludes_0(found):
    _, low, high = found
    return low > 0 or high < 0
