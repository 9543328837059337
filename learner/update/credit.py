"""From the scores of a step's groups to what their candidates, or their regions, are credited with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from configs.method_families import AdvantageConfig, MethodConfig, RolloutMethod
from configs.rewards import RewardsConfig
from learner.algorithms.credit import region_advantages, step_advantages
from learner.update.held_group import Credit, credits_of
from rewards.compose import GroupReward, composed
from rewards.regions import composed_by_region
from rewards.result import GroupScores


def credited_scores(scores: Sequence[GroupScores], rewards: RewardsConfig, method: MethodConfig) -> list[Credit]:
    """The credit of every group, per region too where the method is given it so.

    With the advantages' `kind` global_std, or rewards that are normalised over the step, `scores` must be those of the
    whole step.
    """
    credits = credits_of(composed(scores, rewards), method)
    if method.by_region is None or not isinstance(method, RolloutMethod) or not credits:
        return credits
    by_region = composed_by_region(scores, rewards)
    found = _standardised(by_region, method.advantage)
    reasons = [
        next((one.filter for one in group if one.filtered), None) for group in zip(*by_region.values(), strict=True)
    ]
    return [
        replace(
            credit,
            reward=replace(credit.reward, filter=None if bool(advantages.any()) else reason),
            regions=dict(zip(by_region, advantages.unbind(dim=1), strict=True)),
        )
        for credit, advantages, reason in zip(credits, found, reasons, strict=True)
    ]


def _standardised(by_region: Mapping[str, Sequence[GroupReward]], config: AdvantageConfig) -> list[Tensor]:
    """float32 [G, R] of every group, each region by itself; zeros where a region's rewards are filtered."""
    groups = list(zip(*by_region.values(), strict=True))  # of each, its rewards by region
    values = [torch.stack([torch.tensor(one.rewards) for one in group], dim=1) for group in groups]
    valid = [torch.tensor(group[0].valid) for group in groups]  # the same in every region
    kind, p, clip, damping = config.kind, config.p, config.clip, config.damping
    if kind == "global_std":
        columns = [
            step_advantages([one[:, region] for one in values], valid, clip, damping)
            for region in range(len(by_region))
        ]
        found = [torch.stack(group, dim=1) for group in zip(*columns, strict=True)]
    else:
        found = [region_advantages(*pair, kind, p, clip, damping) for pair in zip(values, valid, strict=True)]
    kept = [torch.tensor([not one.filtered for one in group]) for group in groups]
    return [(advantages * mask).float() for advantages, mask in zip(found, kept, strict=True)]
