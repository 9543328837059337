"""SpatialFlow-GRPO (arXiv 2606.26872), our reading: Flow-GRPO with a likelihood ratio for every region.

    loss = mean over trained steps and candidates of ( -sum_r w_r min(A_ir rho_ir, A_ir clip(rho_ir)) + kl_weight * KL )

with rho_ir the exponential of the mean over the tokens of region r (`learner.algorithms.likelihood`) and w_r the
region's share of the tokens, or the same for all (`weighting`), times `credit.weights`.

Public are the abstract, the reward of a region and the judge's protocol; policy loss, normalisation and region weights
are not. Adopted here: advantages are standardised over the group in each region by themselves. The reward of its Eq. 3,
the root of (a region's judged success and preservation) times (the image's perceptual score), is left to
`rewards.weights`: components of the edit region and of the background, or one for each region that the task names.
"""

from __future__ import annotations

from torch import Tensor

from configs.algorithms import SpatialFlowGrpoConfig
from learner.algorithms.base import GroupTensors
from learner.algorithms.likelihood import region_weighting
from learner.algorithms.transitions import ClippedLikelihood


class SpatialFlowGrpo(ClippedLikelihood):
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: SpatialFlowGrpoConfig) -> None:
        super().__init__(config)
        self._weighting = config.weighting

    def regions(self, group: GroupTensors) -> tuple[Tensor, Tensor, Tensor]:
        """Those that rewards belong to."""
        credit = group.regions
        return credit.masks, credit.advantages, credit.weights * region_weighting(credit.masks, self._weighting)
