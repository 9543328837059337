"""Numbers for the operator, computed from scores and measurements. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from configs.components import RANK
from configs.rewards import RewardsConfig
from learner.algorithms.credit import is_zero_variance
from rewards.compose import GroupReward, composed
from rewards.regions import composed_by_region
from rewards.result import GroupScores

REWARD = "reward"
"""Name of the combined reward among the components."""
MIN_TASKS = 8
"""Fewer held-out tasks that have a metric than this have no error or interval to speak of: no alarm uses it, and it is
not called lost."""


@dataclass(frozen=True)
class RewardStatistics:
    """Rewards of one step's groups by component, diagnostics among them, and the combined one as `reward`.

    `mean` is taken over all valid candidates, `std` is the mean over groups of the population standard deviation
    within the group, `zero_std_share` the share of groups that teach nothing because their combined reward does not
    vary, or a filter leaves them out, or it varies by other rewards than those for the edit alone; in the share
    `edit_zero_variance_share` no reward for the edit is above its floor (0 where there is no such reward). `silent`
    components contributed nothing to the whole step; `floored` are those that counted as equal in so many groups
    because they varied by no more than their floor, see `rewards.compose.GroupReward`.
    """

    mean: Mapping[str, float]
    std: Mapping[str, float]
    zero_std_share: float
    edit_zero_variance_share: float
    silent: tuple[str, ...] = ()
    floored: Mapping[str, int] = field(default_factory=dict)


def reward_statistics(
    groups: Sequence[GroupScores], config: RewardsConfig, by_region: bool = False
) -> RewardStatistics:
    """Statistics over the valid candidates of at least one group, each with at least one valid candidate; `by_region`
    where credit is given per region, so that a group teaches something if any of its regions does."""
    combined = composed(groups, config)
    valid = [reward.valid for reward in combined]
    names = {name: None for group in groups for name in (*group.components, *group.diagnostics)}
    values = {
        name: [found for group, ok in zip(groups, valid, strict=True) if (found := _values(group, name, ok))]
        for name in names
    }
    values = {name: found for name, found in values.items() if found}
    values[REWARD] = [reward.rewards[reward.valid].tolist() for reward in combined]
    std = {name: [float(np.std(group)) for group in per_group] for name, per_group in values.items()}
    # As the learner judges it: these are the groups whose advantages are zero.
    trained_on = list(composed_by_region(groups, config).values()) if by_region else [combined]
    given = RANK in config.weights  # images that are learnt from whatever they are worth
    zero_variance = [
        not given and all(_teaches_nothing(reward) for reward in rewards) for rewards in zip(*trained_on, strict=True)
    ]
    return RewardStatistics(
        mean={name: float(np.mean([v for group in per_group for v in group])) for name, per_group in values.items()},
        std={name: float(np.mean(per_group)) for name, per_group in std.items()},
        zero_std_share=sum(zero_variance) / len(zero_variance),
        edit_zero_variance_share=sum(reward.edit_zero_variance for reward in combined) / len(combined),
        silent=combined[0].silent,
        floored=Counter(name for reward in combined for name in reward.floored),
    )


def _teaches_nothing(reward: GroupReward) -> bool:
    return reward.filtered or is_zero_variance(torch.tensor(reward.rewards), torch.tensor(reward.valid))


def _values(group: GroupScores, name: str, valid: NDArray[np.bool_]) -> list[float]:
    """What the valid candidates got; a diagnostic may be missing in some groups."""
    row = group.components.get(name) or group.diagnostics.get(name) or (None,) * len(valid)
    return [
        float(score.value)
        for score, ok in zip(row, valid, strict=True)
        if ok and score is not None and score.value is not None
    ]


def mean_and_error(rows: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard error of the mean per metric, over the rows that have it.

    A metric of a single row has a mean but no error.
    """
    names = sorted({name for row in rows for name in row})
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    mean = {name: float(np.mean(column)) for name, column in columns.items()}
    error = {
        name: float(np.std(column, ddof=1)) / math.sqrt(len(column))
        for name, column in columns.items()
        if len(column) > 1
    }
    return mean, error


def paired_counts(base: Sequence[Mapping[str, float]], final: Sequence[Mapping[str, float]]) -> Counter[str]:
    """On how many tasks both have each metric."""
    return Counter(name for before, after in zip(base, final, strict=True) for name in after if name in before)


def paired_gain(
    base: Sequence[Mapping[str, float]], final: Sequence[Mapping[str, float]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard error of final - base per metric, over the tasks where both have it.

    The two were measured on the same tasks and noise, so the error of the difference is smaller than that of
    either.
    """
    return mean_and_error(
        [
            {name: after[name] - before[name] for name in after if name in before}
            for before, after in zip(base, final, strict=True)
        ]
    )
