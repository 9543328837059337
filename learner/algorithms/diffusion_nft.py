"""DiffusionNFT (arXiv 2509.16117; also the learner of Edit-R1, arXiv 2510.16888).

    loss = 5 * mean over samples and levels of ( r e+ / beta + (1 - r) e- / beta )      learner.algorithms.final_sample

The factor 5 is the clip of the advantages, as in released code (NVlabs/DiffusionNFT @ 24af555): without it the loss
would be five times as small beside its other terms. Rollouts are the behaviour policy's.
"""

from __future__ import annotations

from collections.abc import Mapping

from configs.algorithms import DiffusionNftConfig
from learner.algorithms.base import SIGNAL, GroupTensors, Term, Velocities
from learner.algorithms.final_queries import FinalQueries, final_queries
from learner.algorithms.final_sample import nft_loss, optimality


class DiffusionNft:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: DiffusionNftConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> FinalQueries:
        """Final samples, noised again."""
        return final_queries(group, self._config.samples)

    def terms(self, queries: FinalQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The loss of both implicit policies."""
        config, rows = self._config, velocity.rows
        clip = config.advantage.clip
        loss = nft_loss(
            queries.x0[rows],
            queries.x[rows],
            queries.sigma[rows],
            velocity.new,
            velocity.old,
            optimality(queries.advantages[rows], clip),
            config.beta,
        )
        return {SIGNAL: Term(clip * loss.mean(), config.weight)}
