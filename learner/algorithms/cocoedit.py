"""CoCoEdit (arXiv 2602.14068): DiffusionNFT with a hinge in either region, one for each implicit policy.

    loss = 5 * (loss of DiffusionNFT) + mean over samples and levels of
           ( r * background_hinge * L_ner+  +  (1 - r) * edit_hinge * L_er- )     learner.algorithms.region_hinges

The good branch keeps the background, the bad branch changes the edit region; r is the optimality, and the factor 5 is
DiffusionNFT's. Released code (langmanbusi/CoCoEdit @ bee04e4) adds the hinges outside that factor and without dividing
by beta, where the paper writes both into the two branches; we follow the code, whose weights these are. Masks are
eroded, with a ring between the regions that counts in both.

Where paper and code differ on what a branch is compared with, either can be chosen. The bad branch: the source, which
is the code's `use_reg_xsrc`, on in its Kontext recipe; off, the rolled-out sample. The good branch: the source in the
paper, always the rolled-out sample in the code. The source is the default here, because a background that is held to
the sample's own preserves whatever the rollout did to it.

The reward is an edit reward and `pixel_consistency` (`rewards.scorers.pixel_consistency`), whose defects in released
code are named there. That code's KL of 1e-4 to the base is `preservation.velocity_weight`, off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from configs.algorithms import CoCoEditConfig
from editing.flow import predicted_clean
from learner.algorithms.base import SIGNAL, GroupTensors, Term, Velocities
from learner.algorithms.final_queries import FinalQueries, final_queries
from learner.algorithms.final_sample import nft_loss, nft_velocities, optimality
from learner.algorithms.region_hinges import HingeRegions, hinge_regions, region_hinges


@dataclass(frozen=True, eq=False)
class HingeQueries(FinalQueries):
    """Final samples noised again, the regions of the hinges, and the clean source latents [N, C]."""

    regions: HingeRegions
    source: Tensor


class CoCoEdit:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: CoCoEditConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> HingeQueries:
        """Final samples, noised again."""
        config, final = self._config, final_queries(group, self._config.samples)
        regions = hinge_regions(group.edit_mask, group.grid, config.erosion, config.ring_weight)
        return HingeQueries(**vars(final), regions=regions, source=group.source)

    def terms(self, queries: HingeQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The loss of both implicit policies and their hinges."""
        config, rows = self._config, velocity.rows
        x0, x, sigma = queries.x0[rows], queries.x[rows], queries.sigma[rows]
        clip = config.advantage.clip
        share = optimality(queries.advantages[rows], clip)
        loss = clip * nft_loss(x0, x, sigma, velocity.new, velocity.old, share, config.beta)
        positive, negative = nft_velocities(velocity.new, velocity.old, config.beta)
        hinges = region_hinges(
            predicted_clean(x, positive, sigma),
            predicted_clean(x, negative, sigma),
            x0 if config.positive_reference == "sample" else queries.source,
            queries.source if config.use_reg_xsrc else x0,
            queries.regions,
            config.tau_positive,
            config.tau_negative,
        )
        held = share * config.background_hinge * hinges.background + (1 - share) * config.edit_hinge * hinges.edit
        return {SIGNAL: Term((loss + held).mean(), config.weight)}
