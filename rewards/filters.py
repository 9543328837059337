"""Which groups are left out although their rewards vary: pure functions of the rewards of the valid candidates.

Groups that do not vary at all are not counted here: they have zero advantages anyway
(`learner.algorithms.credit.is_zero_variance`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FilterReason = Literal["edit", "std", "range", "mean"]
"""Why a group is left out: no reward for the edit is above its floor; the rewards vary by less than `min_std`; by less
than `min_range`; their mean is above `max_mean`. Of several the first counts."""

ROUNDING = 1e-6
"""Values of a group that differ by no more than this part of the largest are equal (float32 keeps 1.2e-7)."""


@dataclass(frozen=True)
class Filters:
    """Bounds on the combined reward of a group, in its unit; the defaults leave no group out.

    Attributes:
        min_std: smallest population standard deviation. Dividing by a small spread blows the judges' noise up to
            full-sized advantages.
        min_range: smallest difference of the largest and the smallest reward (Qwen-Image-2.0-RL).
        max_mean: largest mean; None = none. Released code of Edit-R1 keeps groups with a mean below .9
            (PKU-YuanGroup/Edit-R1 @ 4217f25); a group exactly at the bound is kept here.
    """

    min_std: float = 0.0
    min_range: float = 0.0
    max_mean: float | None = None

    def reason(self, rewards: NDArray[np.float64]) -> FilterReason | None:
        """Why a group with these rewards [V] of its valid candidates is left out; None where it is not, or where it
        does not vary.

            (0.50, 0.52), min_std 0.05  ->  std        (0.5, 0.5)  ->  None        (0.5, 0.7)  ->  None
        """
        if not varies(rewards):
            return None
        share, largest = spread(rewards)
        if share * largest < self.min_std:
            return "std"
        if rewards.max() - rewards.min() < self.min_range:
            return "range"
        if self.max_mean is not None and rewards.mean() > self.max_mean:
            return "mean"
        return None


NO_FILTERS = Filters()


def varies(values: NDArray[np.float64], floor: float = 0.0) -> bool:
    """Whether the spread of a group's values [V] is more than `floor`, and than rounding; False for none."""
    if not values.size:
        return False
    share, largest = spread(values)
    return share > ROUNDING and share * largest > floor


def spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Population standard deviation of at least one value as a part of the largest size, and that size."""
    largest = float(np.abs(values).max())
    # Divided first: squares of very small values would underflow.
    return (float(np.std(values / largest)) if largest > 0 else 0.0), largest
