"""A reward in which preservation counts only as far as the edit was made (FIRM, arXiv 2603.12247)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.components import ComponentRange
from configs.rewards import RewardsConfig


def gated_reward(
    execution: NDArray[np.float64], consistency: NDArray[np.float64], w1: float = 0.6, w2: float = 0.4
) -> NDArray[np.float64]:
    """FIRM's R = E (w1 + w2 C) / (w1 + w2), in [0, 1], of any shape.

    Consistency counts only as far as the edit was executed: an image that was left alone (E = 0, C = 1) is worth 0,
    where the sum w1 E + w2 C would give it w2. Divided by w1 + w2, as there, so that R is 1 where both are.

        E, C = (0, 1), (1, 0), (1, 1)  ->  R = 0, 0.6, 1

    Args:
        execution: E in [0, 1], how well the edit was done; values of valid candidates only.
        consistency: C in [0, 1], how well the rest was kept; the same shape.
        w1, w2: > 0 and >= 0.

    Raises:
        ValueError: for mismatched shapes or values out of range (NaN included).
    """
    if consistency.shape != execution.shape:
        raise ValueError(
            "execution and consistency must have the same shape, got "
            f"{list(execution.shape)} and {list(consistency.shape)}."
        )
    if not (0 < w1 < math.inf and 0 <= w2 < math.inf):
        raise ValueError(f"expected w1 above 0 and w2 not negative, got {w1} and {w2}.")
    for name, scores in (("execution", execution), ("consistency", consistency)):
        if not ((scores >= 0) & (scores <= 1)).all():  # NaN fails too
            raise ValueError(
                f"{name}: expected scores in [0, 1], got {scores.tolist()!s:.60}. "
                "Divide scores by their range, and take candidates without a valid score out first."
            )
    return execution * (w1 + w2 * consistency) / (w1 + w2)


@dataclass(frozen=True)
class Gate:
    """How components become E and C: weighted means of their scores, each scaled to [0, 1] by its range.

    Attributes:
        edit, preservation: the weight, above 0, of each component of that kind; at least one of either.
        ranges: of them all. A score beyond its range counts as its end.
        w1, w2: see `gated_reward`.
    """

    edit: Mapping[str, float]
    preservation: Mapping[str, float]
    ranges: Mapping[str, ComponentRange]
    w1: float
    w2: float

    @classmethod
    def of(cls, config: RewardsConfig) -> Gate | None:
        """The configuration's; None where its composition is not gated."""
        if config.composition != "gated":
            return None
        kinds = config.kinds
        edit, preservation = (
            {name: weight for name, weight in config.weights.items() if weight > 0 and kinds[name] == kind}
            for kind in ("edit", "preservation")
        )
        return cls(edit, preservation, config.ranges, config.w1, config.w2)

    def within(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values of a component, cut to its range, in its own unit."""
        return np.clip(values, self.ranges[name].low, self.ranges[name].high)

    def reward(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """R [V] of the values [V] of every component, each within its range."""
        return gated_reward(self._mean(self.edit, values), self._mean(self.preservation, values), self.w1, self.w2)

    def _mean(self, weights: Mapping[str, float], values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        total = sum(weights.values())
        scaled = [
            weight / total * (values[name] - self.ranges[name].low) / self.ranges[name].width
            for name, weight in weights.items()
        ]
        mean: NDArray[np.float64] = np.clip(np.sum(scaled, axis=0), 0.0, 1.0)  # rounding may leave the range
        return mean
