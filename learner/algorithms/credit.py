"""From the rewards of one group to advantages that sum to zero over its valid candidates.

`group_advantages` takes one reward per candidate, `region_advantages` one per candidate and region, `step_advantages`
the groups of a whole step, whose spread they share. Which groups are left out, `rewards.filters` says.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Normaliser = Literal["std", "quasi_norm"]

ZERO_VARIANCE_TOLERANCE = 1e-6
"""A spread below this part of the largest |reward| is rounding, not information (float32 keeps 1.2e-7)."""
ROUNDING = 1e-12
"""A deviation from the mean below this part of the largest one is rounding of the mean (float64)."""


def is_zero_variance(rewards: Tensor, valid: Tensor | None = None, tolerance: float = ZERO_VARIANCE_TOLERANCE) -> bool:
    """True when the valid rewards of a group [G] do not differ, or fewer than two are valid.

    Not to differ: population std <= tolerance * max |reward|. Arguments and errors as `group_advantages`.
    """
    if not tolerance >= 0:  # NaN fails too
        raise ValueError(f"expected tolerance >= 0, got {tolerance}.")
    _, values = _valid_rewards(rewards, valid)
    return _is_zero_variance(values, tolerance)


def group_advantages(
    rewards: Tensor,
    valid: Tensor | None = None,
    kind: Normaliser = "std",
    p: float = 0.8,
    clip: float = 5.0,
    damping: float = 0.0,
    tolerance: float = ZERO_VARIANCE_TOLERANCE,
) -> Tensor:
    """Advantages [G]: centred rewards over a measure of their spread; exactly 0 for invalid candidates.

        std         A_i = a_i / (sqrt(mean_k a_k^2) + damping)               arXiv 2604.09386 Eq. 4
        quasi_norm  A_i = a_i / ((sum_k |a_k|^p)^(1/p) / sqrt(G) + damping)  arXiv 2511.16955 Eq. 11 * sqrt(G)

    with a = rewards - mean, G, mean and sums over the valid candidates (population std, no Bessel
    correction). The factor sqrt(G) makes p = 2 equal to `std`; a smaller p scales down groups whose rewards
    are evenly spread and spares groups with a few clear outliers. Zero-variance groups (`is_zero_variance`) give exact
    zeros.

    Invariant: the advantages sum to zero, so the surrogate's gradient is a contrast between candidates. Only
    the clip can break it, and |A| <= sqrt(G - 1): a clip of 5 never acts below 27 candidates.

    A candidate without a valid score keeps its place here with advantage 0, and the mean and spread are those
    of the others; it must also be taken out of the surrogate's softmax (see `learner.algorithms.surrogate`).

        rewards (1, 2, 3, -)  ->  (-1.2247, 0, 1.2247, 0)

    Args:
        rewards: [G], floating point; values of invalid candidates are never read.
        valid: bool [G]; None = all valid.
        kind: "std" or "quasi_norm".
        p: exponent of the quasi-norm, 0 < p <= 2.
        clip: advantages are cut to [-clip, clip]; > 0.
        damping: added to the spread, in reward units, so that groups with little spread count less; >= 0.
        tolerance: see `is_zero_variance`.

    Returns:
        [G] in the dtype of the rewards (at least float32); computed in float64.

    Raises:
        ValueError: for another shape or dtype, a parameter out of range, or a valid reward that is not
        finite.
    """
    if kind not in get_args(Normaliser):
        raise ValueError(f"kind must be one of {', '.join(get_args(Normaliser))}, got {kind!r}.")
    _check_parameters(p, clip, damping, tolerance)
    mask, values = _valid_rewards(rewards, valid)
    advantages = torch.zeros_like(rewards, dtype=torch.promote_types(rewards.dtype, torch.float32))
    if _is_zero_variance(values, tolerance):
        return advantages
    centred = values - values.mean()
    exponent = 2.0 if kind == "std" else p
    # Scaled by the largest deviation, so that powers of tiny rewards do not underflow.
    largest = centred.abs().max()
    share = (centred / largest).abs()
    if exponent == 2:
        norm = largest * share.square().sum().sqrt()
    else:
        # Rounding errors must not count: to the power of a small p they would count like the largest. In
        # logarithms, since the sum to the power 1 / p may be larger than any number.
        share = torch.where(share < ROUNDING, 0, share)
        norm = largest * (torch.logsumexp(p * share.log(), dim=0) / p).exp()
    scaled = centred / (norm / len(values) ** 0.5 + damping)
    advantages[mask] = scaled.clamp(-clip, clip).to(advantages.dtype)
    return advantages


def region_advantages(
    rewards: Tensor,
    valid: Tensor | None = None,
    kind: Normaliser = "std",
    p: float = 0.8,
    clip: float = 5.0,
    damping: float = 0.0,
    tolerance: float = ZERO_VARIANCE_TOLERANCE,
) -> Tensor:
    """Advantages [G, R]: `group_advantages` of each region's rewards by themselves.

    Adopted for Edit-GRPO (arXiv 2605.16951) and SpatialFlow-GRPO (arXiv 2606.26872), whose normalisation is not public.
    Each region sums to zero over the valid candidates; a region whose rewards do not vary gives zeros for itself only.

    Args:
        rewards: [G, R], floating point, R >= 1; rows of invalid candidates are never read.
        valid: bool [G]; None = all valid.
        kind, p, clip, damping, tolerance: see `group_advantages`.

    Raises:
        ValueError: for another shape, and as `group_advantages`.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 1:
        raise ValueError(f"rewards must be one number per candidate and region, [G, R], got {list(rewards.shape)}.")
    columns = [group_advantages(region, valid, kind, p, clip, damping, tolerance) for region in rewards.unbind(1)]
    return torch.stack(columns, dim=1)


def step_advantages(
    groups: Sequence[Tensor],
    valid: Sequence[Tensor | None] | None = None,
    clip: float = 5.0,
    damping: float = 0.0,
    tolerance: float = ZERO_VARIANCE_TOLERANCE,
) -> list[Tensor]:
    """Advantages [G] of each group of a step: rewards centred in the group, over the spread of the whole step.

        A_gi = (r_gi - mean_g) / (std of all valid rewards of the step + damping)

    Flow-GRPO's "global std" (arXiv 2505.05470; released code, yifan123/flow_grpo, with damping 1e-4): the population
    std around the mean of all rewards, so the differences between groups are part of it. A group in which little
    differs counts less than one in which much does. Zero-variance groups (`is_zero_variance`) give exact zeros. Each
    group sums to zero unless the clip acts, which it may in groups of any size: one group that varies among many that
    do not.

    Args:
        groups: rewards [G] of each group, floating point, groups of any size; invalid ones are never read.
        valid: bool [G] or None (all valid) for each group; None = all valid.
        clip, damping, tolerance: see `group_advantages`.

    Returns:
        [G] for each group, in the dtype of its rewards (at least float32); computed in float64.

    Raises:
        ValueError: as `group_advantages`, or for another number of masks than groups.
    """
    _check_parameters(1.0, clip, damping, tolerance)
    masks = [None] * len(groups) if valid is None else valid
    if len(masks) != len(groups):
        raise ValueError(f"expected one mask of valid candidates per group, {len(groups)}, got {len(masks)}.")
    checked = [_valid_rewards(rewards, mask) for rewards, mask in zip(groups, masks, strict=True)]
    advantages = [
        torch.zeros_like(rewards, dtype=torch.promote_types(rewards.dtype, torch.float32)) for rewards in groups
    ]
    varied = [not _is_zero_variance(values, tolerance) for _, values in checked]
    if any(varied):
        step = torch.cat([values.cpu() for _, values in checked])
        centred = step - step.mean()
        # Scaled by the largest deviation, so that squares of tiny rewards do not underflow.
        largest = centred.abs().max().item()
        spread = largest * (centred / largest).square().mean().sqrt().item() + damping
        for group, (mask, values) in enumerate(checked):
            if varied[group]:
                scaled = (values - values.mean()) / spread
                advantages[group][mask] = scaled.clamp(-clip, clip).to(advantages[group].dtype)
    return advantages


def _check_parameters(p: float, clip: float, damping: float, tolerance: float) -> None:
    if not (0 < p <= 2 and clip > 0 and damping >= 0 and tolerance >= 0):  # NaN fails too
        raise ValueError(
            f"expected 0 < p <= 2, clip > 0, damping >= 0 and tolerance >= 0, got p={p}, clip={clip}, "
            f"damping={damping}, tolerance={tolerance}."
        )


def _is_zero_variance(values: Tensor, tolerance: float) -> bool:
    if len(values) < 2:
        return True
    largest = values.abs().max()
    # Divided first: squares of very small rewards would underflow and look flat.
    return bool(largest == 0) or bool((values / largest).std(correction=0) <= tolerance)


def _valid_rewards(rewards: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """(bool mask [G], the valid rewards in float64), checked."""
    if rewards.ndim != 1 or not rewards.is_floating_point():
        raise ValueError(
            f"rewards must be one floating-point number per candidate, [G], got {rewards.dtype} {list(rewards.shape)}."
        )
    if valid is None:
        mask = torch.ones_like(rewards, dtype=torch.bool)
    elif valid.dtype == torch.bool and valid.shape == rewards.shape:
        mask = valid.to(rewards.device)
    else:
        raise ValueError(f"valid must be bool {list(rewards.shape)}, got {valid.dtype} {list(valid.shape)}.")
    values = rewards[mask].double()
    if not bool(values.isfinite().all()):
        bad = (mask & ~rewards.isfinite()).nonzero().flatten().tolist()
        raise ValueError(
            f"valid rewards must be finite, got {rewards[bad].tolist()} at candidate(s) {bad}. "
            "A scorer that failed must mark the candidate invalid instead of returning a number."
        )
    return mask, values
