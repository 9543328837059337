"""RC-GRPO (arXiv 2604.09386): region-constrained GRPO for editing.

    loss = mean over trained steps and anchors of ( -J + kl_weight * KL )       Eq. 5 and 13-15

with the masked surrogate of `learner.algorithms.surrogate` on the mean-normalised metric, joint over both regions
(Eq. 14) or factored (`learner.algorithms.factored_surrogate`).

An anchor's state is one step from its predecessor, which is the stored one (`anchor_mode` leap, as Neighbor GRPO
trains, arXiv 2511.16955), or integrated anew from the initial noise under the present weights, as Eq. 13 is written.
On-policy all are the same states; the modes differ in later updates, and in how far back the gradient goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from configs.method_families import SurrogateMethod
from configs.reward_regions import BACKGROUND
from learner.algorithms.anchors import AnchorQueries, Way, anchor_queries
from learner.algorithms.base import SIGNAL, GroupTensors, Ratio, Term, Velocities
from learner.algorithms.factored_surrogate import factored_log_policy, factored_objective
from learner.algorithms.surrogate import (
    ClippedObjective,
    categorical_kl,
    clipped_objective,
    log_policy,
    masked_distance,
)


class RcGrpo:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: SurrogateMethod) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> AnchorQueries:
        """The predecessors of the anchors at the trained steps."""
        config, queries = self._config, anchor_queries(group, self._config.trained_steps)
        if not config.restarts:
            return queries
        assert group.start is not None
        full = config.anchor_mode == "reintegrate_full"
        return replace(queries, way=Way(group.start, group.sigmas, config.trained_steps, full))

    def terms(self, queries: AnchorQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The clipped surrogate, and the exact KL where it has a weight."""
        config = self._config
        policy = self._by_region if config.factored else self._joint
        log_new, log_old = velocity.of_both(
            partial(policy, queries, velocity.rows), partial(policy, queries.rolled_out, velocity.rows)
        )
        clipped = self._objective(queries, log_new, log_old)
        ratio = Ratio(clipped.ratio_deviation, clipped.clipped_fraction)
        terms = {SIGNAL: Term(-clipped.objective.mean(), config.weight, ratio)}
        if config.kl_weight:
            kl = categorical_kl(log_old, log_new)
            if config.factored:
                kl = (kl * queries.credit.weights.to(kl)).sum(dim=-1)
            terms["kl"] = Term(kl.mean(), config.kl_weight)
        return terms

    def _objective(self, queries: AnchorQueries, log_new: Tensor, log_old: Tensor) -> ClippedObjective:
        credit, clip = queries.credit, self._config.clip
        if self._config.factored:
            return factored_objective(log_new, log_old, credit.advantages, credit.weights, clip)
        return clipped_objective(log_new, log_old, queries.advantages, clip)

    def _joint(self, queries: AnchorQueries, rows: slice, velocity: Tensor) -> Tensor:
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

    def _by_region(self, queries: AnchorQueries, rows: slice, velocity: Tensor) -> Tensor:
        """log pi^r [b, R, V], region by region; the regions of the task's own have the bandwidth of the edit."""
        config, credit, anchors = self._config, queries.credit, queries.predictions(rows, velocity)
        taus = [config.tau_base if name == BACKGROUND else config.tau_edit for name in credit.names]
        bandwidths = torch.tensor(taus, dtype=anchors.dtype, device=anchors.device) ** config.tau_power
        return torch.stack(
            [
                factored_log_policy(queries.candidates[queries.step_of(pair)], state, credit.masks, bandwidths)
                for pair, state in zip(range(rows.start, rows.stop), anchors, strict=True)
            ]
        )
