"""Locus: the end-point direction of a group, and the source-anchored background. Ours.

    loss = mean over trained steps and anchors of mean over mask elements of v . d      learner.algorithms.endpoint
         + preservation terms

Every step is pushed along the difference of the better and the worse end points of the group's trajectories, by the
same amount, where the surrogate of RC-GRPO pulls by the differences of the step's own states, which fade with the
length of the step. The rollout is RC-GRPO's: noise perturbed inside the mask, deterministic ODE.

That is for the weights that made the group. Later updates, and groups of older weights, take `fdfo_loss` instead, whose
gradient is the same at the old velocities and ends where its ratio has moved by `EPSILON`: nothing else would keep a
term that is linear in v from being used beyond what the rollout says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from configs.algorithms import LocusConfig
from learner.algorithms.anchors import anchor_queries
from learner.algorithms.base import SIGNAL, GroupTensors, Queries, Term, Velocities
from learner.algorithms.endpoint import endpoint_direction, endpoint_term, fdfo_loss


@dataclass(frozen=True, eq=False)
class DirectionQueries(Queries):
    """The predecessors of the anchors, the direction [N, C] in which they are pushed, and its weights [N]."""

    direction: Tensor
    edit_mask: Tensor


class Locus:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: LocusConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> DirectionQueries:
        """The predecessors of the anchors at the trained steps; the last kept step leads to the end points."""
        anchors, valid = anchor_queries(group, self._config.trained_steps), group.valid
        advantages = group.advantages if group.credit is None else group.credit.tokens
        direction = endpoint_direction(group.candidates[-1][valid], advantages[valid], group.edit_mask)
        return DirectionQueries(anchors.x, anchors.sigma, direction, group.edit_mask)

    def terms(self, queries: DirectionQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The push."""
        new, old, gain = velocity.new, velocity.given_old, self._config.gain
        if old is None:
            value = endpoint_term(new, queries.direction, queries.edit_mask)
        else:
            value = fdfo_loss(new, old, queries.direction, queries.edit_mask, gain).mean() / (2 * gain)
        return {SIGNAL: Term(value, self._config.weight)}
