"""Supervised fine-tuning on the tasks' targets: the flow-matching loss (arXiv 2210.02747, linear path).

    loss = mean over levels of  sum_u w_u mean_c (v - (noise - x0))^2 / sum_u w_u,    w = 1 + (edit_weight - 1) mask

x0 are the latents of the target, by default with the source outside the edit mask (`editing.given`). An edit is often
a small part of its image, and to copy the rest is easy; `algorithm.edit_weight` above 1 has it count for more.
"""

from __future__ import annotations

from collections.abc import Mapping

from configs.data_methods import SftConfig
from learner.algorithms.base import SIGNAL, GroupTensors, Term, Velocities
from learner.algorithms.data_queries import DataQueries, data_queries
from learner.algorithms.flow_matching import flow_matching_loss


class Sft:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: SftConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> DataQueries:
        """The target, noised to some levels."""
        return data_queries(group, self._config.samples)

    def terms(self, queries: DataQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The loss."""
        rows = velocity.rows
        weight = 1 + (self._config.edit_weight - 1) * queries.edit_mask
        loss = flow_matching_loss(velocity.new, queries.x0[rows], queries.noise[rows], weight)
        return {SIGNAL: Term(loss.mean(), self._config.weight)}
