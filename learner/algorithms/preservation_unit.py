"""The unit of the preservation weights, which makes them comparable across editors.

Adam removes the common scale of a gradient, so a weight between two terms says something only as a proportion of their
gradients, and that of the bare terms depends on the editor: on its latents, its steps, how far its background is off.
So `algorithm.preservation` weights count in units of the surrogate's gradient:

    loss = surrogate + unit * (background_weight * background + velocity_weight * velocity anchor + ...)
    unit = mean ||d surrogate / d v|| / mean ||d background / d v||       over the first groups of the run

with weight 1 for both and the weights they had then, and frozen from there on: a background that improves pulls less.
Groups without advantages, or whose background pulls by less than `LEAST_SHARE` of the surrogate, tell nothing, and do
not count towards those of the freeze: a proportion to nearly nothing would be frozen as a factor of any size, on all
preservation terms. So the unit is at most 1 / `LEAST_SHARE`. Until one told something the preservation terms are off
(their scale would stay in Adam's memory): the unit in the step's record is 0, nothing is trained on groups without
advantages alone, and a run in which that lasts says so (`learner.reporting.notifications`). A run without surrogate has
nothing to weigh against, and its unit is 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from configs.method_families import MethodConfig
from learner.algorithms.preservation_terms import preserves

GROUPS = 8
"""Groups after which the unit is frozen; the norms of a single one are off by half."""

LEAST_SHARE = 1e-3
"""A background whose gradient is a smaller share of the surrogate's is as good as none: there is nothing to hold back
yet, and nothing to measure by. On the embedded benchmark the share is .3 to .45 at the start of a run."""


@dataclass(frozen=True)
class Balance:
    """Sums over the informative groups: gradient norms at the velocities, and their number."""

    surrogate: float = 0.0
    background: float = 0.0
    groups: float = 0.0

    def unit(self, config: MethodConfig) -> float:
        """The factor of the preservation weights; 0 while it is not known."""
        if config.weight == 0:
            return 1.0
        return self.surrogate / self.background if self.groups else 0.0

    def wanted(self, config: MethodConfig) -> bool:
        """Whether groups have to be measured before they can be trained on."""
        return weighs(config) and self.groups < GROUPS

    def plus(self, sums: Sequence[float]) -> Balance:
        """With further (surrogate, background, groups)."""
        surrogate, background, groups = sums
        return Balance(self.surrogate + surrogate, self.background + background, self.groups + groups)


def tells(surrogate: float, background: float) -> bool:
    """Whether a group with these gradient norms, at weight 1, says what the unit is.

    8e-3, 3e-3  ->  yes        8e-3, 8e-12  ->  no        0, 3e-3  ->  no        8e-3, NaN  ->  no
    """
    return 0 < surrogate < math.inf and LEAST_SHARE * surrogate < background < math.inf


def weighs(config: MethodConfig) -> bool:
    """Whether preservation terms are weighed against a surrogate."""
    return config.weight > 0 and preserves(config.preservation)
