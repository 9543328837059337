"""From scores to one reward per candidate: weights, normalisation, and who is left out. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from configs.edit_signal import edit_rewards
from configs.rewards import RewardsConfig
from rewards.filters import NO_FILTERS, ROUNDING, FilterReason, Filters, varies
from rewards.gated import Gate
from rewards.result import GroupScores

Normalisation = Literal["none", "pooled", "minibatch"]


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
        edit_zero_variance: there are rewards for the edit, and none of them contributed to the differences in this
            group.
        filter: why the group teaches nothing although its rewards vary, see `rewards.filters`; None where it does.
            `edit`: the rewards for the edit do not vary. Others are largest where nothing is edited, so that alone they
            would teach to edit nothing.
    """

    rewards: NDArray[np.float64]
    valid: NDArray[np.bool_]
    silent: tuple[str, ...] = ()
    filter: FilterReason | None = None
    floored: tuple[str, ...] = ()
    edit_zero_variance: bool = False

    def __post_init__(self) -> None:
        if self.rewards.ndim != 1 or self.valid.shape != self.rewards.shape:
            raise ValueError(f"rewards and valid must both be [G]; got {self.rewards.shape} and {self.valid.shape}.")
        if not np.isfinite(self.rewards).all():
            raise ValueError(f"rewards must be finite; got {self.rewards.tolist()}.")

    @property
    def filtered(self) -> bool:
        """Whether there is a reason to."""
        return self.filter is not None


def composed(scores: Sequence[GroupScores], config: RewardsConfig) -> list[GroupReward]:
    """The rewards that a run with this configuration trains on; see `compose`. The learner calls it to train, the
    driver to report."""
    return compose(
        scores,
        config.weights,
        config.normalisation,
        Filters(config.min_std, config.min_range, config.max_mean),
        config.noise_floors,
        edit_rewards(config),
        Gate.of(config),
    )


def compose(
    scores: Sequence[GroupScores],
    weights: Mapping[str, float],
    normalisation: Normalisation,
    filters: Filters = NO_FILTERS,
    floors: Mapping[str, float] = MappingProxyType({}),
    edit: Collection[str] = (),
    gate: Gate | None = None,
) -> list[GroupReward]:
    """R_i = sum_c w_c z_c(i) of every group, where z depends on the normalisation; with a gate, the gate's reward.

        none       z = s                                          raw units
        pooled     z = (s - group mean) / pooled within-group std    adopted: method reference, section 1.6;
                   pooled over the groups in which the component is above its floor: the others say nothing of its
                   scale, and with them in it the rest would be blown up by as much as sqrt(number of groups)
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
        filters: in units of the combined reward, so after normalisation and weights.
        edit: the components that reward the edit, each with a weight. Where there are some, a group in which none of
            them is above its floor is filtered; without any, no group is for that reason.
        gate: combines the scores in place of the sum, for all components with a weight; without normalisation.

    Raises:
        ValueError: for an unknown normalisation, one beside a gate, a group that lacks a weighted component, or a
            reward for the edit without a weight.
    """
    if normalisation not in get_args(Normalisation):
        raise ValueError(f"normalisation must be one of {', '.join(get_args(Normalisation))}; got {normalisation!r}.")
    if gate is not None and normalisation != "none":
        raise ValueError(f"normalisation: expected none with a gate, which scales by ranges; got {normalisation!r}.")
    names = [name for name, weight in weights.items() if weight != 0]
    if not names:
        raise ValueError(f"weights: expected a component with a weight other than 0, got {dict(weights)}.")
    unweighted = sorted(set(edit) - set(names))
    if unweighted:
        raise ValueError(f"edit: expected components with a weight ({', '.join(names)}), got {unweighted[0]!r}.")
    valid = [_valid(group, names) for group in scores]
    rewards = [np.zeros(mask.shape) for mask in valid]
    silent, floored = [], [list[str]() for _ in scores]
    gated: list[dict[str, NDArray[np.float64]]] = [{} for _ in scores]
    edit_zero_variance = [len(edit) > 0] * len(scores)
    for name in names:
        given = [_values(group, name, mask) for group, mask in zip(scores, valid, strict=True)]
        if gate is not None:
            given = [gate.within(name, part) for part in given]
        above = [varies(part, floors.get(name, 0.0)) for part in given]
        for found, part, ok in zip(floored, given, above, strict=True):
            if not ok and varies(part):
                found.append(name)
        values = [
            part if ok or not part.size else np.full_like(part, part.mean())
            for part, ok in zip(given, above, strict=True)
        ]
        largest = max((float(np.abs(part).max()) for part in values if part.size), default=0.0)
        if normalisation == "minibatch":
            values = [part - _mean(values) for part in values]
        elif normalisation == "pooled":
            values = [_within(part) for part in values]
        scale = 1.0
        if normalisation != "none":
            scaling = [part for part, ok in zip(values, above, strict=True) if ok or normalisation == "minibatch"]
            scale = math.sqrt(_mean([np.square(part) for part in scaling]))
            # Rounding leaves a trace of a constant component; its scale would blow that up to noise.
            if scale <= 1e-9 * largest:
                silent.append(name)
                continue
        if name in edit:
            edit_zero_variance = [unvaried and not ok for unvaried, ok in zip(edit_zero_variance, above, strict=True)]
        for reward, mask, part, parts in zip(rewards, valid, values, gated, strict=True):
            reward[mask] += weights[name] * part / scale
            parts[name] = part
    if gate is not None:
        for reward, mask, parts in zip(rewards, valid, gated, strict=True):
            reward[mask] = gate.reward(parts)
    return [
        GroupReward(reward, mask, tuple(silent), _filter(reward[mask], unvaried, filters), tuple(found), unvaried)
        for reward, mask, found, unvaried in zip(rewards, valid, floored, edit_zero_variance, strict=True)
    ]


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


def _valid(group: GroupScores, names: Sequence[str]) -> NDArray[np.bool_]:
    missing = [name for name in names if name not in group.components]
    if missing:
        raise ValueError(
            f"group {group.group_id} has no scores for {missing[0]!r}, which rewards.weights asks for; "
            f"got {sorted(group.components)}."
        )
    return np.array(
        [all(s.value is not None for s in row) for row in zip(*(group.components[n] for n in names), strict=True)],
        dtype=bool,
    )


def _filter(rewards: NDArray[np.float64], edit_zero_variance: bool, filters: Filters) -> FilterReason | None:
    """Why a group with these rewards [V] of its valid candidates is left out."""
    if edit_zero_variance:
        return "edit" if varies(rewards) else None
    return filters.reason(rewards)


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
