"""The variance law of RC-GRPO-Editing (arXiv 2604.09386, App. A, as we reconstruct it), and the spread of real groups.

With candidates eps_i = sqrt(1 - a^2) eps_ref + a delta_i in the background, a reward R of it has the within-group
variance a^2 ||dR/d eps||^2 + O(a^4), exactly a^2 ||g||^2 for a linear R = <g, eps>. So perturbing the background by
alpha_base in place of sigma divides the nuisance variance by (sigma / alpha_base)^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editing.noise import NoiseRecipe, standard_normal
from editing.task import PixelMask
from editing.trajectory import derive_seed
from evaluation.statistics import Interval, student_interval


def predicted_ratio(alpha_base: float, sigma: float) -> float:
    """(alpha_base / sigma)^2: the background's reward variance under RDP over that under global perturbation."""
    return (alpha_base / sigma) ** 2


def toy_ratio(
    edit_masks: Sequence[Tensor], channels: int, group_size: int, alpha_base: float, sigma: float, seed: int
) -> Interval:
    """Measured on a linear toy reward: the geometric mean of the ratio over pairs of groups, with its interval.

    Each pair has a task's mask, one random direction g over the background and group noise of its own per group, drawn
    as rollouts draw theirs. The logarithm of a ratio of two sample variances with equally many degrees of freedom has
    the logarithm of the true ratio as its mean.

    Args:
        edit_masks: one per pair, [N] in [0, 1], 1 = editable; all with some background.
        channels: C.
        group_size: G, at least 3.
        alpha_base: strength in the background under RDP.
        sigma: strength of global perturbation, and of RDP inside the mask.
        seed: of everything random.
    """
    logs = []
    for number, mask in enumerate(edit_masks):
        background = (1 - mask)[:, None]
        direction = standard_normal(derive_seed(seed, number), "direction", mask.numel(), channels) * background
        rewards = [
            (NoiseRecipe(derive_seed(seed, number, arm), sigma, base, group_size).draw(mask, channels) * direction)
            .double()
            .sum(dim=(1, 2))
            for arm, base in (("rdp", alpha_base), ("global", sigma))
        ]
        # The reference is no draw of the perturbation.
        variances = [float(values[1:].var(correction=1)) for values in rewards]
        logs.append(math.log(variances[0] / variances[1]))
    return exponentiated(student_interval(logs))


def exponentiated(interval: Interval) -> Interval:
    """The interval of a ratio, from that of its logarithm; the mean becomes the geometric mean."""
    low, high = (None if end is None else math.exp(end) for end in (interval.low, interval.high))
    return Interval(math.exp(interval.mean), low, high, interval.count)


def contains(interval: Interval, value: float) -> bool:
    """Whether the value lies within the interval; never without one."""
    return interval.low is not None and interval.high is not None and interval.low <= value <= interval.high


def background_spread(final: NDArray[np.float32], edit_mask: NDArray[np.float32]) -> float:
    """Mean sample variance of the final latents over candidates, over background elements: the within-group variance
    of a random linear reward of the background, averaged over directions.

    Args:
        final: [G, N, C], the reference first, which is left out.
        edit_mask: [N] in [0, 1], 1 = editable; tokens count by 1 - M.
    """
    variance = torch.from_numpy(final[1:]).double().var(dim=0, correction=1).mean(dim=1).numpy()
    weight = 1.0 - edit_mask.astype(np.float64)
    return float((variance * weight).sum() / weight.sum())


def background_drift(images: NDArray[np.uint8], edit_mask: PixelMask) -> float:
    """Mean |x_i - x_ref| over the background's pixels, channels and candidates i other than the reference (index 0), as
    a share of the range, 0..1; the paper's background drift.

    Args:
        images: [G, H, W, 3].
        edit_mask: bool [H, W], True = editable; not everywhere.
    """
    outside = images[:, ~edit_mask].astype(np.float64) / 255  # [G, pixels, 3]
    return float(np.abs(outside[1:] - outside[0]).mean())
