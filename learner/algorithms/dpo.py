"""Diffusion-DPO on pairs of ranked edits (arXiv 2311.12908 Eq. 14; `learner.algorithms.flow_matching.dpo_loss`).

    loss = 4 / beta * mean over levels of  -log sigmoid(-beta / 2 * ((e(v_w) - e(v_w_ref)) - (e(v_l) - e(v_l_ref))))

The factor is ours: at the base the gradient is that of e(v_w) - e(v_l), whatever beta is, so that the clip of the
gradient and the weights of preservation terms mean the same for every beta. Adam knows no common factor.

w is the preferred edit of a pair, l the other; both have one level and one noise, as in the paper. The reference is the
base: the editor without its adapter. A group is one pair, drawn among all pairs of its task's ranking
(`editing.given`): so each of them is seen in time, where neighbours alone would never be compared with the best.
"""

from __future__ import annotations

from collections.abc import Mapping

from configs.data_methods import DpoConfig
from learner.algorithms.base import SIGNAL, GroupTensors, Term, Velocities
from learner.algorithms.data_queries import DataQueries, data_queries
from learner.algorithms.flow_matching import dpo_loss


class Dpo:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: DpoConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> DataQueries:
        """Both edits of the pair, noised to some levels."""
        return data_queries(group, self._config.samples)

    def terms(self, queries: DataQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The loss."""
        target = queries.noise[velocity.rows] - queries.x0[velocity.rows]
        of_better, of_worse = (
            (velocity.new[place::2], velocity.reference[place::2], target[place::2]) for place in (0, 1)
        )
        loss = dpo_loss(*of_better, *of_worse, self._config.beta)
        return {SIGNAL: Term(4 / self._config.beta * loss.mean(), self._config.weight)}
