"""Quality of a score as a measurement: noise, reliability, dynamic range, agreement. Pure formulas on float64 arrays.

Passes are repeated responses of a judge to the same request. What a group-relative method learns from is the difference
between candidates of the same source, so that is the signal; what passes differ by is the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

WANTED_SNR = 2.0
"""Signal over noise at which two candidates are put in the right order in 85 of 100 cases: 1/2 + arctan(SNR)/pi where
both are normally distributed."""


@dataclass(frozen=True)
class Range:
    """Where values lie: extremes, the 5th and 95th percentile (linear interpolation), and the mean."""

    mean: float
    low: float
    p5: float
    p95: float
    high: float


def value_range(values: Values) -> Range:
    """The range of values [n], n >= 1."""
    p5, p95 = np.percentile(values, [5, 95])
    return Range(float(values.mean()), float(values.min()), float(p5), float(p95), float(values.max()))


def noise_variance(passes: Values) -> float | None:
    """Variance of a single pass around its edit's expectation, pooled over edits; None with a single pass.

        sum_i sum_p (x_ip - mean_i)^2 / (n (P - 1))

    Args:
        passes: [n, P], one row per edit.
    """
    if passes.shape[1] < 2 or len(passes) == 0:
        return None
    return float(passes.var(axis=1, ddof=1).mean())


def reliability(passes: Values) -> float | None:
    """ICC(1,1), one-way random effects (Shrout and Fleiss 1979): the share of a single pass's variance that is
    between edits and not between passes; 1 is free of noise, 0 nothing but noise.

        (MSB - MSW) / (MSB + (P - 1) MSW)

    It is an estimate, and below zero where passes differ more than edits do. None with a single pass, fewer than two
    edits, or values that do not vary at all.

    Args:
        passes: [n, P], one row per edit.
    """
    count, times = passes.shape
    within = noise_variance(passes)
    if within is None or count < 2:
        return None
    between = times * float(passes.mean(axis=1).var(ddof=1))
    total = between + (times - 1) * within
    return (between - within) / total if total > 0 else None


def averaged(single: float, times: int) -> float:
    """The reliability of the mean of `times` passes, from that of a single one (Spearman-Brown).

        .5 with 4 passes  ->  .8

    Negative estimates of reliability say that there is none, and averaging does not change that.
    """
    return single if single <= 0 else times * single / (1 + (times - 1) * single)


def candidate_variance(groups: Sequence[Values]) -> float | None:
    """Variance between candidates of the same source, pooled over sources; None when no source has two.

        sum_s sum_i (m_si - mean_s)^2 / sum_s (n_s - 1)

    Args:
        groups: one array [n_s] per source.
    """
    freedom = sum(len(group) - 1 for group in groups if len(group))
    if freedom < 1:
        return None
    return math.fsum(float(np.square(group - group.mean()).sum()) for group in groups if len(group)) / freedom


@dataclass(frozen=True)
class DynamicRange:
    """Whether a judge tells candidates of the same source apart.

    Attributes:
        signal: standard deviation between candidates of the same source, freed of the passes' noise.
        snr: signal over the noise of the mean that is the score; None where no noise was seen.
        passes_needed: the passes whose mean reaches `WANTED_SNR`; None when there is no signal at all.
    """

    signal: float
    snr: float | None
    passes_needed: int | None


def dynamic_range(between: float, noise: float, passes: int) -> DynamicRange:
    """The dynamic range from the candidates' variance (of scores that are means over passes) and a pass's variance.

        signal^2 = between - noise / passes,   snr = signal / sqrt(noise / passes)

        between .05, noise .04, 4 passes  ->  signal .2, snr 2, 4 passes needed

    Args:
        between: see `candidate_variance`.
        noise: see `noise_variance`.
        passes: how many a score is the mean of.
    """
    signal = math.sqrt(max(0.0, between - noise / passes))
    # What is left of equal numbers after rounding is not a signal.
    if signal <= 1e-9 * math.sqrt(between + noise):
        signal = 0.0
    if signal == 0:
        return DynamicRange(0.0, 0.0, None)
    if noise == 0:
        return DynamicRange(signal, None, 1)
    needed = math.ceil(noise * (WANTED_SNR / signal) ** 2 - 1e-9)
    return DynamicRange(signal, signal / math.sqrt(noise / passes), max(1, needed))


@dataclass(frozen=True)
class Agreement:
    """How far two judges order edits alike; None where it cannot be said (ties, too few).

    Attributes:
        spearman: correlation of ranks over all edits.
        kendall: Kendall's tau-b over all edits.
        same_order: share of the pairs of candidates of one source that both order alike, of `pairs` that both order.
        edits: how many edits both have a value for.
    """

    spearman: float | None
    kendall: float | None
    same_order: float | None
    pairs: int
    edits: int


def agreement(first: Values, second: Values, sources: Sequence[int]) -> Agreement:
    """How far the values [n] of two judges order n edits alike.

    Args:
        first, second: in the same order of edits.
        sources: which source each edit was made of.

    Raises:
        ValueError: when the lengths differ.
    """
    if not len(first) == len(second) == len(sources):
        raise ValueError(f"expected one value per source, got {len(first)}, {len(second)}, {len(sources)}.")
    alike, against = _pairs_within(first, second, np.asarray(sources))
    return Agreement(
        spearman=spearman(first, second),
        kendall=kendall(first, second),
        same_order=alike / (alike + against) if alike + against else None,
        pairs=alike + against,
        edits=len(first),
    )


def spearman(first: Values, second: Values) -> float | None:
    """Pearson's correlation of ranks, ties sharing the mean of theirs; None for a constant or fewer than two."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else None


def ranks(values: Values) -> Values:
    """Ranks [n] from 1, ties sharing the mean of theirs: (3, 1, 3) -> (2.5, 1, 2.5)."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count).astype(np.float64)
    ranked: Values = (last - (count - 1) / 2)[place.reshape(-1)]
    return ranked


def kendall(first: Values, second: Values) -> float | None:
    """Kendall's tau-b: (alike - against) / sqrt(pairs not tied in first × pairs not tied in second); None for a
    constant or fewer than two."""
    balance = untied_first = untied_second = 0
    for i in range(len(first) - 1):  # row by row: all pairs at once would not fit for some ten thousand edits
        a, b = np.sign(first[i + 1 :] - first[i]), np.sign(second[i + 1 :] - second[i])
        balance += int((a * b).sum())
        untied_first += int(np.count_nonzero(a))
        untied_second += int(np.count_nonzero(b))
    scale = math.sqrt(untied_first) * math.sqrt(untied_second)
    return balance / scale if scale > 0 else None


def _pairs_within(first: Values, second: Values, sources: NDArray[np.int_]) -> tuple[int, int]:
    """Pairs of candidates of one source that both order, alike and against each other."""
    alike = against = 0
    for source in np.unique(sources):
        a, b = first[sources == source], second[sources == source]
        for i in range(len(a) - 1):
            product = np.sign(a[i + 1 :] - a[i]) * np.sign(b[i + 1 :] - b[i])
            alike += int((product > 0).sum())
            against += int((product < 0).sum())
    return alike, against
