"""RC-GRPO (arXiv 2604.09386): region-constrained GRPO for editing, composed from the learner's pieces.

    loss = mean over trained steps and anchors of ( -w J + kl_weight * KL )   surrogate, Eq. 5 and 13-15, w = 1
         + unit * background_weight * source-anchored background              adopted; off in the paper's recipe
         + unit * velocity_weight * velocity anchor to the base               adopted; off in the paper's recipe
         + unit * undone_weight * undone edit                                 ours; off in the paper's recipe

with the unit of `learner.algorithms.preservation_unit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from configs.schema import AdvantageConfig, LearnerConfig, PreservationConfig, SurrogateConfig
from editing.flow import Velocity, predicted_clean
from learner.algorithms.anchors import AnchorBatch
from learner.algorithms.credit import group_advantages
from learner.algorithms.loss_terms import Pairs, Term, TermStats, backward_through_velocity, gradient_norms
from learner.algorithms.preservation import source_anchored_background, undone_edit, velocity_anchor
from learner.algorithms.preservation_unit import tells
from learner.algorithms.surrogate import (
    ClippedObjective,
    categorical_kl,
    clipped_objective,
    log_policy,
    masked_distance,
)
from rewards.compose import GroupReward


@dataclass(frozen=True)
class GroupStats:
    """What one group did to the gradient.

    Attributes:
        terms: `surrogate` (-J; at the old weights minus the sum of the advantages, so only its gradient tells),
            `kl`, `background`, `velocity_anchor`, `undone_edit`, those that took part.
        loss: their weighted sum.
        ratio_deviation: largest |rho - 1|; NaN if a ratio is.
        clipped_fraction: share of (pair, candidate) whose gradient the clip removed.
    """

    terms: Mapping[str, TermStats] = field(default_factory=dict)
    loss: float = 0.0
    ratio_deviation: float = 0.0
    clipped_fraction: float = 0.0


def advantages_of(reward: GroupReward, config: AdvantageConfig) -> Tensor:
    """Group-relative advantages float32 [G], zero where invalid, and all zero for a filtered group."""
    if reward.filtered:
        return torch.zeros(len(reward.rewards))
    rewards, valid = torch.tensor(reward.rewards), torch.tensor(reward.valid)
    return group_advantages(rewards, valid, config.kind, config.p, config.clip, config.damping).float()


def accumulate(
    batch: AnchorBatch,
    velocity: Velocity,
    base_velocity: Velocity,
    old: Tensor | None,
    config: LearnerConfig,
    micro_batch: int | None,
    scale: float,
    unit: float,
) -> tuple[GroupStats, Tensor | None]:
    """Adds scale * gradient of the group's loss to the parameters behind `velocity`.

    A zero-variance group, or a surrogate of weight 0, skips the surrogate and keeps the preservation terms; with those
    off it has no gradient and costs no forward.

    Args:
        batch: the group's anchors.
        velocity: (x [b, N, C], sigma [b]) -> v [b, N, C] under the weights that are trained.
        base_velocity: the same without the adapter; only called when `velocity_weight` or `undone_weight` is
            not 0.
        old: one-step predictions [P, N, C] under the weights of the rollout; None = the present weights are
            those, and the old prediction is the stop-gradient of the new one, so that the ratio is exactly 1.
        config: the learner's section of the configuration.
        micro_batch: pairs per forward and backward; None = all.
        scale: factor of the gradient, 1 / groups per step.
        unit: factor of the preservation weights, see `learner.algorithms.preservation_unit`.

    Returns:
        The numbers, and the one-step predictions [P, N, C] under the present weights, detached; None without a forward.
    """
    preservation, surrogate = config.preservation, config.surrogate
    background_weight = unit * preservation.background_weight
    velocity_weight = unit * preservation.velocity_weight
    undone_weight = unit * preservation.undone_weight
    silent = batch.is_zero_variance or surrogate.weight == 0
    if silent and background_weight == velocity_weight == undone_weight == 0:
        return GroupStats(), None
    ratios: list[tuple[int, ClippedObjective]] = []

    def terms_of(pairs: Pairs) -> dict[str, Term]:
        terms = {}
        x, sigma = batch.predecessors[pairs.rows], batch.sigma[pairs.rows]
        if not silent:
            log_new = _log_policy(batch, pairs.rows, pairs.anchors, surrogate)
            log_old = log_new.detach() if old is None else _log_policy(batch, pairs.rows, old[pairs.rows], surrogate)
            clipped = clipped_objective(log_new, log_old, batch.advantages, surrogate.clip)
            ratios.append((len(x), clipped))
            terms["surrogate"] = Term(-clipped.objective.mean(), surrogate.weight)
            if surrogate.kl_weight:
                terms["kl"] = Term(categorical_kl(log_old, log_new).mean(), surrogate.kl_weight)
        if background_weight:
            terms["background"] = Term(_background(batch, pairs, preservation), background_weight)
        if velocity_weight or undone_weight:
            with torch.no_grad():
                base = base_velocity(x, sigma)
            if velocity_weight:
                value = velocity_anchor(pairs.v, base, batch.preservation_mask, preservation.velocity_region)
                terms["velocity_anchor"] = Term(value, velocity_weight)
            if undone_weight:
                value = undone_edit(
                    predicted_clean(x, pairs.v, sigma),
                    predicted_clean(x, base, sigma),
                    batch.source,
                    batch.preservation_mask,
                )
                terms["undone_edit"] = Term(value, undone_weight)
        return terms

    terms, leaped = backward_through_velocity(batch, velocity, terms_of, micro_batch, scale)
    factors = {
        "surrogate": surrogate.weight,
        "kl": surrogate.kl_weight,
        "background": background_weight,
        "velocity_anchor": velocity_weight,
        "undone_edit": undone_weight,
    }
    stats = GroupStats(
        terms,
        loss=sum(factors[name] * term.value for name, term in terms.items()),
        # np.max keeps a NaN, Python's max may lose it.
        ratio_deviation=float(np.max([c.ratio_deviation.item() for _, c in ratios])) if ratios else 0.0,
        clipped_fraction=sum(n * c.clipped_fraction.item() for n, c in ratios) / batch.pairs,
    )
    return stats, leaped


def bare_norms(
    batch: AnchorBatch, velocity: Velocity, config: LearnerConfig, micro_batch: int | None
) -> tuple[float, float, float]:
    """(surrogate, background, 1): both terms' gradient norms at the velocities, at weight 1 and ratio 1, and that the
    group was counted; zeros where they tell nothing of the unit (`learner.algorithms.preservation_unit`). Arguments as
    of `accumulate`."""
    if batch.is_zero_variance:
        return 0.0, 0.0, 0.0

    def terms_of(pairs: Pairs) -> dict[str, Term]:
        log_new = _log_policy(batch, pairs.rows, pairs.anchors, config.surrogate)
        clipped = clipped_objective(log_new, log_new.detach(), batch.advantages, config.surrogate.clip)
        return {
            "surrogate": Term(-clipped.objective.mean(), 1.0),
            "background": Term(_background(batch, pairs, config.preservation), 1.0),
        }

    norms = gradient_norms(batch, velocity, terms_of, micro_batch)
    surrogate, background = norms["surrogate"], norms["background"]
    return (surrogate, background, 1.0) if tells(surrogate, background) else (0.0, 0.0, 0.0)


def _background(batch: AnchorBatch, pairs: Pairs, config: PreservationConfig) -> Tensor:
    clean = predicted_clean(batch.predecessors[pairs.rows], pairs.v, batch.sigma[pairs.rows])
    return source_anchored_background(clean, batch.source, batch.preservation_mask, config.background_tolerance)


def _log_policy(batch: AnchorBatch, rows: slice, states: Tensor, config: SurrogateConfig) -> Tensor:
    """log pi [b, V] of the valid candidates around anchor states [b, N, C] (Eq. 14)."""
    return log_policy(
        torch.stack(
            [
                masked_distance(
                    batch.candidates[batch.step_of(pair)],
                    state,
                    batch.edit_mask,
                    config.tau_edit,
                    config.tau_base,
                    config.tau_power,
                )
                for pair, state in zip(range(rows.start, rows.stop), states, strict=True)
            ]
        )
    )
