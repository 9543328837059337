"""Means over seeds with Student-t intervals. Pure functions on plain numbers, no libraries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean over `count` values and its confidence interval [low, high]; (None, None) for a single value."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        """Half the interval's length: mean ± half_width."""
        return None if self.high is None else self.high - self.mean

    @property
    def sign(self) -> int:
        """1 when the interval lies above zero, -1 when below; 0 when it holds zero or there is none."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """One metric before and after training: means over seeds, and the difference within each seed.

    The difference is paired: a seed's base and final were measured on the same held-out tasks and noise.
    """

    base: float
    final: float
    difference: Interval


def student_probability(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's t distribution with an integer number of degrees of freedom.

    The finite sums of Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even).

    Raises:
        ValueError: for t < 0 or degrees < 1.
    """
    if not (t >= 0 and degrees >= 1):
        raise ValueError(f"expected t of at least 0 and degrees of at least 1, got {t} and {degrees}.")
    angle = math.atan2(t, math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    # Even: 1 + (1/2) c^2 + (1*3)/(2*4) c^4 + ...; odd: c * (1 + (2/3) c^2 + (2*4)/(3*5) c^4 + ...).
    term, total = 1.0, 0.0
    for k in range(degrees // 2):
        total += term
        term *= square * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
    return math.sin(angle) * total


def student_quantile(confidence: float, degrees: int) -> float:
    """t with P(|T| <= t) = confidence: a mean of n values lies within ± t · s / √n, degrees = n - 1.

    Example: confidence .95 with 2 degrees of freedom (three seeds) gives 4.3027.

    Raises:
        ValueError: for a confidence outside (0, 1) or degrees < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a value in (0, 1), got {confidence}.")
    low, high = 0.0, 1.0
    while student_probability(high, degrees) < confidence:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        if student_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return high


def student_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values, one per seed, and its Student-t interval.

    Raises:
        ValueError: for no values, or one that is not finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected at least one value, all finite, got {list(values)}.")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_quantile(confidence, count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def compare(
    base: Sequence[Mapping[str, float]], final: Sequence[Mapping[str, float]], metrics: Sequence[str]
) -> dict[str, Comparison]:
    """Each metric's comparison over the seeds that have it on both sides, which `difference.count` counts; metrics that
    no seed has are left out.

    Args:
        base: one mapping per seed, mean over the held-out tasks per metric, before training.
        final: after training, in the same order of seeds.
        metrics: the names wanted, in this order.

    Raises:
        ValueError: when the numbers of seeds differ.
    """
    found = {}
    for name in metrics:
        pairs = [
            (before[name], after[name])
            for before, after in zip(base, final, strict=True)
            if name in before and name in after
        ]
        if not pairs:
            continue
        found[name] = Comparison(
            base=math.fsum(before for before, _ in pairs) / len(pairs),
            final=math.fsum(after for _, after in pairs) / len(pairs),
            difference=student_interval([after - before for before, after in pairs]),
        )
    return found


@dataclass(frozen=True)
class Spread:
    """Repeated timings: median, and the quartiles around it; all in the unit of the values."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (linear interpolation) of at least one value.

    Raises:
        ValueError: for no values.
    """
    if not values:
        raise ValueError("expected at least one value.")
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

    return Spread(median=at(0.5), low=at(0.25), high=at(0.75), count=len(ordered))


def paired_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Median and quartiles of the ratios of timings taken one right after the other.

    Interleaved pairs see the same load of the machine, so their ratio is steadier than the ratio of medians.
    """
    return spread([n / d for n, d in zip(numerators, denominators, strict=True)])
