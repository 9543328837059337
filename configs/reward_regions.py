"""Which region each reward belongs to, where credit is given per region (`algorithm.credit.per`)."""

from __future__ import annotations

from configs.method_families import CreditConfig, MethodConfig
from configs.rewards import RewardsConfig

EDIT, BACKGROUND = "edit", "background"
"""The regions that every task has: its edit mask, and the rest."""


def region_weights(rewards: RewardsConfig) -> dict[str, dict[str, float]]:
    """The weights of the components by the region that they reward; regions in the order edit, background, named ones.

    A component rewards the region that `rewards.regions` names. Otherwise that follows from its kind: `edit` and
    `focus` the edit region, `preservation` the background. Components of weight 0 reward nothing.
    """
    kinds = rewards.kinds
    found: dict[str, dict[str, float]] = {EDIT: {}, BACKGROUND: {}}
    for name, weight in rewards.weights.items():
        if weight != 0:
            usual = BACKGROUND if kinds[name] == "preservation" else EDIT
            found.setdefault(rewards.regions.get(name, usual), {})[name] = weight
    return {region: weights for region, weights in found.items() if weights}


def named_regions(method: MethodConfig, rewards: RewardsConfig) -> tuple[str, ...]:
    """The regions of its own that every task of the run must have; none without credit per region."""
    if method.by_region is None:
        return ()
    return tuple(region for region in region_weights(rewards) if region not in (EDIT, BACKGROUND))


def region_fault(credit: CreditConfig | None, rewards: RewardsConfig) -> str | None:
    """What does not agree between `algorithm.credit` and `rewards`, as a sentence that begins with its key."""
    if credit is None:
        if rewards.regions:
            return (
                "rewards.regions: expected only where credit is given per region, got algorithm.credit.per candidate "
                "or a method without it; add --algorithm.credit.per region with --algorithm.type edit_grpo or "
                "spatialflow_grpo"
            )
        return None
    if rewards.composition != "sum":
        return (
            f"rewards.composition: expected sum with algorithm.credit.per region, got {rewards.composition}; the gate "
            "makes one reward of the edit and the background, which have their own here"
        )
    rewarded = tuple(region_weights(rewards))
    for name, weight in credit.weights.items():
        if name not in rewarded:
            return (
                f"algorithm.credit.weights: expected regions that a reward belongs to ({', '.join(rewarded)}), got "
                f"{name!r}; see rewards.regions"
            )
        if not weight >= 0:
            return f"algorithm.credit.weights.{name}: expected a weight of at least 0, got {weight:g}"
    return None
