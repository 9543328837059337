"""RC-GRPO (arXiv 2604.09386): region-constrained GRPO for editing.

    loss = mean over trained steps and anchors of ( -J + kl_weight * KL )       Eq. 5 and 13-15

with the masked surrogate of `learner.algorithms.surrogate` on the mean-normalised metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from configs.algorithms import RcGrpoConfig
from learner.algorithms.anchors import AnchorQueries, anchor_queries
from learner.algorithms.base import SIGNAL, GroupTensors, Ratio, Term, Velocities
from learner.algorithms.surrogate import categorical_kl, clipped_objective, log_policy, masked_distance


class RcGrpo:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: RcGrpoConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> AnchorQueries:
        """The predecessors of the anchors at the trained steps."""
        return anchor_queries(group, self._config.trained_steps)

    def terms(self, queries: AnchorQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The clipped surrogate, and the exact KL where it has a weight."""
        config = self._config
        log_new, log_old = velocity.of_both(partial(self._log_policy, queries, velocity.rows))
        clipped = clipped_objective(log_new, log_old, queries.advantages, config.clip)
        ratio = Ratio(clipped.ratio_deviation, clipped.clipped_fraction)
        terms = {SIGNAL: Term(-clipped.objective.mean(), config.weight, ratio)}
        if config.kl_weight:
            terms["kl"] = Term(categorical_kl(log_old, log_new).mean(), config.kl_weight)
        return terms

    def _log_policy(self, queries: AnchorQueries, rows: slice, velocity: Tensor) -> Tensor:
        """log pi [b, V] of the valid candidates around the anchors (Eq. 14)."""
        config, anchors = self._config, queries.predictions(rows, velocity)
        return log_policy(
            torch.stack(
                [
                    masked_distance(
                        queries.candidates[queries.step_of(pair)],
                        state,
                        queries.edit_mask,
                        config.tau_edit,
                        config.tau_base,
                        config.tau_power,
                    )
                    for pair, state in zip(range(rows.start, rows.stop), anchors, strict=True)
                ]
            )
        )
