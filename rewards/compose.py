"""From scores to one reward per candidate: weights, normalisation, and who is left out. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rewards.result import GroupScores

Normalisation = Literal["none", "pooled", "minibatch"]

ROUNDING = 1e-6
"""Values of a group that differ by no more than this part of the largest are equal (float32 keeps 1.2e-7)."""


@dataclass(frozen=True, eq=False)
class GroupReward:
    """The rewards of one group.

    Attributes:
        rewards: float64 [G], finite; exactly 0 where a candidate is not valid.
        valid: bool [G], True where every weighted component has a value.
        silent: components that contributed nothing to any group because they did not vary (their spread is
            zero, so there is no scale to bring them to); always empty without normalisation.
        floored: components whose values vary in this group, but by no more than their floor, so that they count as
            equal.
        filtered: the group teaches nothing although its rewards vary: their spread is below `min_std`.
    """

    rewards: NDArray[np.float64]
    valid: NDArray[np.bool_]
    silent: tuple[str, ...] = ()
    filtered: bool = False
    floored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rewards.ndim != 1 or self.valid.shape != self.rewards.shape:
            raise ValueError(
                f"rewards and valid must both be [G]; seen {self.rewards.shape} and {self.valid.shape}."
            )
        if not np.isfinite(self.rewards).all():
            raise ValueError(f"rewards must be finite; seen {self.rewards.tolist()}.")


def compose(
    scores: Sequence[GroupScores], weights: Mapping[str, float], normalisation: Normalisation, min_std: float = 0.0,
    floors: Mapping[str, float] = MappingProxyType({}),
) -> list[GroupReward]:
    """R_i = sum_c w_c z_c(i) of every group, where z depends on the normalisation.

        none       z = s                                          raw units
        pooled     z = (s - group mean) / pooled within-group std    adopted: method reference, section 1.6
        minibatch  z = (s - mean) / std over all given groups     RC-GRPO-Editing, arXiv 2604.09386 (wording)

    Means and spreads (population, float64) are those of the valid candidates. `pooled` spares the scale of a
    component from what differs between tasks, such as the size of the mask in attention concentration.

        none, w = 2: scores (1, 3, error)  ->  rewards (2, 6, 0), valid (yes, yes, no)

    Args:
        scores: one per group; every group must have each component of non-zero weight. Others are ignored.
        weights: per component; those of weight 0 need not be there.
        normalisation: see above. Except for `none`, the result depends on all given groups, not on their
            order.
        floors: per component, in its own unit, at least 0 (the default). Where its population standard deviation in a
            group is no larger, its values there count as equal: all normalisations would scale its noise to the size
            of a signal. Values that differ by rounding alone always do.
        min_std: see `is_filtered`; in units of the combined reward, so after normalisation and weights.

    Raises:
        ValueError: for an unknown normalisation, or a group that lacks a weighted component.
    """
    if normalisation not in get_args(Normalisation):
        raise ValueError(
            f"normalisation must be one of {', '.join(get_args(Normalisation))}; seen {normalisation!r}."
        )
    names = [name for name, weight in weights.items() if weight != 0]
    if not names:
        raise ValueError(f"weights: expected a component with a weight other than 0; seen {dict(weights)}.")
    valid = [_valid(group, names) for group in scores]
    rewards = [np.zeros(mask.shape) for mask in valid]
    silent, floored = [], [list[str]() for _ in scores]
    for name in names:
        given = [_values(group, name, mask) for group, mask in zip(scores, valid, strict=True)]
        values = [_above(part, floors.get(name, 0.0)) for part in given]
        for found, before, after in zip(floored, given, values, strict=True):
            if after is not before and _varies(before):
                found.append(name)
        largest = max((float(np.abs(part).max()) for part in values if part.size), default=0.0)
        if normalisation == "minibatch":
            values = [part - _mean(values) for part in values]
        elif normalisation == "pooled":
            values = [_within(part) for part in values]
        scale = 1.0
        if normalisation != "none":
            scale = math.sqrt(_mean([np.square(part) for part in values]))
            # Rounding leaves a trace of a constant component; its scale would blow that up to noise.
            if scale <= 1e-9 * largest:
                silent.append(name)
                continue
        for reward, mask, part in zip(rewards, valid, values, strict=True):
            reward[mask] += weights[name] * part / scale
    return [GroupReward(reward, mask, tuple(silent), is_filtered(reward[mask], min_std), tuple(found))
            for reward, mask, found in zip(rewards, valid, floored, strict=True)]


def is_filtered(rewards: NDArray[np.float64], min_std: float) -> bool:
    """Whether the rewards [V] of a group's valid candidates vary, but by less than `min_std` (population std).

    Dividing by a small spread blows the judges' noise up to full-sized advantages. Groups that do not vary at all are
    not counted here: they have zero advantages anyway (`learner.advantages.is_flat`).

        (0.50, 0.52), min_std 0.05  ->  yes        (0.5, 0.5)  ->  no        (0.5, 0.7)  ->  no
    """
    if rewards.size < 2:
        return False
    spread, largest = _spread(rewards)
    return spread > ROUNDING and spread * largest < min_std


def admit(scores: GroupScores, min_valid: int) -> str | None:
    """None when enough candidates are fully scored, otherwise the reason for rejecting the group."""
    seen = sum(scores.valid)
    if seen >= min_valid:
        return None
    why = scores.errors[0] if scores.errors else "the group is smaller than that"
    return (
        f"group {scores.group_id}: {seen} of {len(scores.valid)} candidates are fully scored, "
        f"rewards.min_valid is {min_valid}; first error: {why}"
    )


def streaming(normalisation: Normalisation) -> bool:
    """True when a group's reward needs no other group, so that it can be trained on as it arrives."""
    return normalisation == "none"


def _valid(group: GroupScores, names: Sequence[str]) -> NDArray[np.bool_]:
    missing = [name for name in names if name not in group.components]
    if missing:
        raise ValueError(
            f"group {group.group_id} has no scores for {missing[0]!r}, which rewards.weights asks for; "
            f"seen {sorted(group.components)}."
        )
    return np.array(
        [all(s.value is not None for s in row) for row in zip(*(group.components[n] for n in names), strict=True)],
        dtype=bool,
    )


def _above(values: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """The values [V] of a group, or their mean in all places where their spread is at most `floor`, or rounding."""
    if not values.size:
        return values
    spread, largest = _spread(values)
    return values if spread > ROUNDING and spread * largest > floor else np.full_like(values, values.mean())


def _varies(values: NDArray[np.float64]) -> bool:
    """Whether values [V] differ by more than rounding."""
    return values.size > 0 and _spread(values)[0] > ROUNDING


def _spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Population standard deviation as a part of the largest size, and that size."""
    largest = float(np.abs(values).max())
    # Divided first: squares of very small values would underflow.
    return (float(np.std(values / largest)) if largest > 0 else 0.0), largest


def _values(group: GroupScores, name: str, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    chosen = (s.value for s, ok in zip(group.components[name], valid, strict=True) if ok)
    return np.array([value for value in chosen if value is not None], dtype=np.float64)


def _within(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A group's values less their mean; exact zeros where they differ by rounding only, which can still be told here
    but not from the small numbers that are left."""
    centred = values - _mean([values])
    if values.size and np.abs(centred).max() <= ROUNDING * np.abs(values).max():
        return np.zeros_like(centred)
    return centred


def _mean(parts: Sequence[NDArray[np.float64]]) -> float:
    """Mean over all parts, correctly rounded, so that it does not depend on their order; 0 for none."""
    count = sum(part.size for part in parts)
    return math.fsum(value for part in parts for value in part.tolist()) / count if count else 0.0
