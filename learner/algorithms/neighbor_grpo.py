"""Neighbor GRPO (arXiv 2511.16955): a softmax over plain squared distances, no mask, quasi-norm advantages.

    pi(i) = softmax_i( -||x_i - anchor||^2 )    Eq. 8, the sum over all elements; Eq. 9 the clipped objective

The notes on the paper have no factor 1/2 in the exponent (RC-GRPO's Eq. 7, which cites it, does); its code is not
public. The perturbation is global (`algorithm.alpha_base` equal to `alpha_edit`, Eq. 7) and advantages are quasi-norm
(Eq. 11). There, every candidate is perturbed; here candidate 0 is the unperturbed reference as in every group, compared
like the others and never an anchor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from configs.algorithms import NeighborGrpoConfig
from learner.algorithms.anchors import AnchorQueries, anchor_queries
from learner.algorithms.base import SIGNAL, GroupTensors, Ratio, Term, Velocities
from learner.algorithms.surrogate import clipped_objective


class NeighborGrpo:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: NeighborGrpoConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> AnchorQueries:
        """The predecessors of the anchors at the trained steps."""
        return anchor_queries(group, self._config.trained_steps)

    def terms(self, queries: AnchorQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The clipped surrogate."""
        log_new, log_old = velocity.of_both(partial(log_neighbors, queries, velocity.rows))
        clipped = clipped_objective(log_new, log_old, queries.advantages, self._config.clip)
        ratio = Ratio(clipped.ratio_deviation, clipped.clipped_fraction)
        return {SIGNAL: Term(-clipped.objective.mean(), self._config.weight, ratio)}


def log_neighbors(queries: AnchorQueries, rows: slice, velocity: Tensor) -> Tensor:
    """log pi [b, V] of the valid candidates around the anchors that velocities [b, N, C] lead to (Eq. 8)."""
    anchors = queries.predictions(rows, velocity)
    distances = [
        (queries.candidates[queries.step_of(pair)] - anchor).square().sum(dim=(1, 2))
        for pair, anchor in zip(range(rows.start, rows.stop), anchors, strict=True)
    ]
    return torch.log_softmax(-torch.stack(distances), dim=-1)
