"""From the scores of a step's groups to what their candidates, or their regions, are credited with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from configs.method_families import AdvantageConfig, MethodConfig, RolloutMethod
from configs.rewards import RewardsConfig
from learner.algorithms.credit import region_advantages, step_advantages
from learner.update.held_group import Credit
from rewards.compose import GroupReward, composed
from rewards.regions import composed_by_region
from rewards.result import GroupScores


def credited_scores(scores: Sequence[GroupScores], rewards: RewardsConfig, method: MethodConfig) -> list[Credit]:
    """The credit of every group, per region too where the method is given it so; given images, which no reward
    compares, have an advantage of 1 each.

    With the advantages' `kind` global_std, or rewards that are normalised over the step, `scores` must be those of the
    whole step.
    """
    combined = composed(scores, rewards)
    if not isinstance(method, RolloutMethod):
        return [Credit(reward, torch.tensor(reward.valid).float()) for reward in combined]
    credits = credited(combined, method.advantage)
    if method.by_region is None or not credits:
        return credits
    by_region = composed_by_region(scores, rewards)
    groups = list(zip(*by_region.values(), strict=True))  # of each, its rewards by region
    reasons = [next((one.filter for one in group if one.filtered), None) for group in groups]
    return [
        replace(
            credit,
            reward=replace(credit.reward, filter=None if bool(advantages.any()) else reason),
            regions=dict(zip(by_region, advantages.unbind(dim=1), strict=True)),
        )
        for credit, advantages, reason in zip(credits, _standardised(groups, method.advantage), reasons, strict=True)
    ]


def credited(rewards: Sequence[GroupReward], config: AdvantageConfig) -> list[Credit]:
    """The credit of every group per candidate; with `kind` global_std, `rewards` must be those of the whole step."""
    found = _standardised([(reward,) for reward in rewards], config)
    return [Credit(reward, advantages[:, 0]) for reward, advantages in zip(rewards, found, strict=True)]


def _standardised(groups: Sequence[Sequence[GroupReward]], config: AdvantageConfig) -> list[Tensor]:
    """float32 [G, R] of groups with R rewards each, one per region, standardised by themselves; zeros where one is
    filtered."""
    if not groups:
        return []
    values = [torch.stack([torch.tensor(one.rewards) for one in group], dim=1) for group in groups]
    valid = [torch.tensor(group[0].valid) for group in groups]  # the same in every region
    kind, p, clip, damping = config.kind, config.p, config.clip, config.damping
    if kind == "global_std":
        columns = [
            step_advantages([one[:, region] for one in values], valid, clip, damping)
            for region in range(len(groups[0]))
        ]
        found = [torch.stack(group, dim=1) for group in zip(*columns, strict=True)]
    else:
        found = [region_advantages(*pair, kind, p, clip, damping) for pair in zip(values, valid, strict=True)]
    kept = [torch.tensor([not one.filtered for one in group]) for group in groups]
    return [torch.where(mask, advantages, 0).float() for advantages, mask in zip(found, kept, strict=True)]
