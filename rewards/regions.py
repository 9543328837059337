"""From scores to one reward per candidate and region. Pure; `rewards.compose` is the same for whole candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from configs.reward_regions import region_weights
from configs.rewards import RewardsConfig
from rewards.compose import GroupReward, compose
from rewards.filters import Filters
from rewards.result import GroupScores, Score

ELSEWHERE = Score(error="another component has no score for this candidate")


def composed_by_region(scores: Sequence[GroupScores], config: RewardsConfig) -> dict[str, list[GroupReward]]:
    """The rewards of every group by region: `compose` of the components that belong to it.

    A candidate without a score of any weighted component has no reward in any region. The filters (`rewards.min_std`
    and its like) and the floors hold in every region by itself: one whose rewards do not vary enough is filtered there,
    and the others are trained. So unlike with whole candidates a group is no loss in which no reward for the edit
    varies: what preservation says then reaches the background alone, and cannot teach to edit nothing.

    Raises:
        ValueError: as `compose`.
    """
    filters = Filters(config.min_std, config.min_range, config.max_mean)
    names = [name for name, weight in config.weights.items() if weight != 0]
    whole = [_wholly_scored(group, names) for group in scores]
    return {
        region: compose(whole, weights, config.normalisation, filters, config.noise_floors)
        for region, weights in region_weights(config).items()
    }


def _wholly_scored(group: GroupScores, names: Sequence[str]) -> GroupScores:
    """The group with an error in every component where a candidate lacks one of them."""
    rows = {name: group.components[name] for name in names if name in group.components}
    valid = [all(score.value is not None for score in column) for column in zip(*rows.values(), strict=True)]
    return replace(
        group,
        components={
            name: tuple(score if ok or score.value is None else ELSEWHERE for score, ok in zip(row, valid, strict=True))
            for name, row in rows.items()
        },
    )
