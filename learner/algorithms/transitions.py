"""Queries of methods that learn from the likelihood of noisy steps: every (step, candidate) asks for one velocity.

    loss = mean over trained steps and candidates of ( -J + kl_weight * KL to the base )

with the clipped objective of `learner.algorithms.likelihood` over all tokens, or region by region. What the methods
differ in are settings: how noise is added, at which steps, from which initial noise, and how advantages are scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.method_families import LikelihoodMethod
from editing.flow import sde_moments
from learner.algorithms.base import SIGNAL, GroupTensors, Queries, Ratio, Term, Velocities
from learner.algorithms.likelihood import (
    gaussian_kl,
    guarded_log_ratio,
    region_log_ratio,
    region_objective,
    token_log_prob,
)


@dataclass(frozen=True, eq=False)
class TransitionQueries(Queries):
    """P = K * G transitions of a group, step by step.

    Attributes:
        sigma_next: float32 [P], below sigma.
        x_next: float32 [P, N, C], the candidates' states at `sigma_next` as the rollout made them.
        regions: float32 [R, N] in [0, 1], each with a ratio of its own.
        advantages: float32 [P, R]; zero for a candidate without a reward.
        weights: float32 [R], of the regions.
        sigma_max: the grid's second noise level.
    """

    sigma_next: Tensor
    x_next: Tensor
    regions: Tensor
    advantages: Tensor
    weights: Tensor
    sigma_max: float


class ClippedLikelihood:
    """See `learner.algorithms.base.Algorithm`; the methods are its subclasses."""

    def __init__(self, config: LikelihoodMethod) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> TransitionQueries:
        """The states before the trained steps."""
        size = group.candidates.shape[1]
        at = torch.tensor(group.steps, device=group.sigmas.device).repeat_interleave(size)
        masks, advantages, weights = self.regions(group)
        return TransitionQueries(
            x=group.predecessors.flatten(0, 1),
            sigma=group.sigmas[at],
            sigma_next=group.sigmas[at + 1],
            x_next=group.candidates.flatten(0, 1),
            regions=masks,
            advantages=advantages.repeat(len(group.steps), 1),
            weights=weights,
            sigma_max=float(group.sigmas[1]),
        )

    def regions(self, group: GroupTensors) -> tuple[Tensor, Tensor, Tensor]:
        """Masks [R, N], advantages [G, R] and weights [R] of what has a ratio of its own: here all tokens together."""
        everywhere = torch.ones(1, group.edit_mask.shape[0], device=group.edit_mask.device)
        return everywhere, group.advantages[:, None], everywhere[0, :1]

    def terms(self, queries: TransitionQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The clipped objective, and the KL to the base where it has a weight."""
        config, rows = self._config, velocity.rows
        mean, std = self._moments(queries, rows, velocity.new)
        log_new = token_log_prob(queries.x_next[rows], mean, std, config.sde)
        if velocity.given_old is None:
            mean_old, log_old = mean.detach(), log_new.detach()
        else:
            mean_old, _ = self._moments(queries, rows, velocity.given_old)
            log_old = token_log_prob(queries.x_next[rows], mean_old, std, config.sde)
        log_ratio = log_new - log_old
        if config.ratio == "guard":
            log_ratio = guarded_log_ratio(log_new, log_old, mean, mean_old, std)
        log_ratios = region_log_ratio(log_ratio, queries.regions)
        found = region_objective(log_ratios, queries.advantages[rows], queries.weights, config.clip)
        objective = found.objective.sum(dim=1)
        if config.ratio == "guard":  # every step counts alike, however long it is
            objective = objective / (queries.sigma[rows] - queries.sigma_next[rows])
        ratio = Ratio(found.ratio_deviation, found.clipped_fraction)
        terms = {SIGNAL: Term(-objective.mean(), config.weight, ratio)}
        if config.kl_weight:
            of_base, _ = self._moments(queries, rows, velocity.reference)
            sigma, sigma_next = queries.sigma[rows], queries.sigma_next[rows]
            kl = gaussian_kl(mean, of_base, std, config.sde, sigma, sigma_next)
            terms["kl"] = Term(kl.mean(), config.kl_weight)
        return terms

    def _moments(self, queries: TransitionQueries, rows: slice, velocity: Tensor) -> tuple[Tensor, Tensor]:
        return sde_moments(
            queries.x[rows],
            velocity,
            queries.sigma[rows],
            queries.sigma_next[rows],
            self._config.sde,
            self._config.noise_level,
            queries.sigma_max,
        )
