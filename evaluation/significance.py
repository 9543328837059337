"""Paired comparisons of rows, corrected for their number. Pure functions on plain numbers, no libraries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.statistics import Interval, student_interval, student_probability

LEVEL = 0.05
"""A difference is told from none where its corrected probability is below this."""

Gains = Mapping[str, float]
"""Gains over the base per metric of one seed; empty where the run has none."""


@dataclass(frozen=True)
class RowDifference:
    """How far one row's gains in a metric lie above another's, over the seeds that both have.

    Attributes:
        metric: its name.
        before: the row that is subtracted; None for the base, whose gain is 0.
        after: the other row.
        difference: mean over seeds and its Student-t interval, not corrected.
        p: two-sided probability of the paired t test; None for a single seed.
        corrected: `p` after Holm's correction over the comparisons of this metric in the table; None likewise.
    """

    metric: str
    before: str | None
    after: str
    difference: Interval
    p: float | None
    corrected: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the corrected test tells the difference from none; 0 where it does not."""
        if self.corrected is None or self.corrected >= LEVEL:
            return 0
        return 1 if self.difference.mean > 0 else -1


def paired_probability(values: Sequence[float]) -> float | None:
    """Two-sided probability of the t test that the mean of independent differences is zero; None for a single value.

    Equal values other than zero give 0, zeros give 1.

    Raises:
        ValueError: for no values, or one that is not finite.
    """
    found = student_interval(values)
    if found.count == 1:
        return None
    variance = math.fsum((value - found.mean) ** 2 for value in values) / (found.count - 1)
    if variance == 0:
        return 1.0 if found.mean == 0 else 0.0
    t = abs(found.mean) / math.sqrt(variance / found.count)
    return max(0.0, 1 - student_probability(t, found.count - 1))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number m by Holm's step-down procedure, in the given order.

    The j-th smallest (j = 0, 1, ...) is multiplied by m - j, then made at least as large as those before it, at most 1:
    rejecting those below a level keeps the chance of any false rejection below it, whatever their dependence.

        .01, .04, .03  ->  .03, .06, .06

    Raises:
        ValueError: for one outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in probabilities):
        raise ValueError(f"expected probabilities in [0, 1], got {list(probabilities)}.")
    corrected, largest = [0.0] * len(probabilities), 0.0
    for place, which in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        largest = max(largest, min(1.0, (len(probabilities) - place) * probabilities[which]))
        corrected[which] = largest
    return corrected


def row_differences(
    gains: Mapping[str, Sequence[Gains]], pairs: Sequence[tuple[str | None, str]], metrics: Sequence[str]
) -> list[RowDifference]:
    """The differences of some pairs of rows, metric by metric; a family of Holm's correction is one metric's.

    Args:
        gains: per row, one mapping per seed, in the same order of seeds everywhere.
        pairs: (row before, row after); None before stands for the base.
        metrics: names wanted; pairs without a seed that has the metric on both sides are left out.

    Raises:
        ValueError: when rows have different numbers of seeds.
    """
    found = []
    for metric in metrics:
        family = []
        for before, after in pairs:
            none: Sequence[Gains] = [{metric: 0.0}] * len(gains[after])
            values = [
                second[metric] - first[metric]
                for first, second in zip(none if before is None else gains[before], gains[after], strict=True)
                if metric in first and metric in second
            ]
            if values:
                p = paired_probability(values)
                family.append(RowDifference(metric, before, after, student_interval(values), p))
        corrected = iter(holm([one.p for one in family if one.p is not None]))
        for one in family:
            where = None if one.p is None else next(corrected)
            found.append(RowDifference(one.metric, one.before, one.after, one.difference, one.p, where))
    return found
